"""What goes wrong outside of SynthMix, said with its remedy. Only what is left is a fault of ours."""

import errno
import socket

from synthmix.service_kit.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    SynthMixError,
    Unavailable,
    printable,
)

# What an operating system says of a path that a user gave, and what to do about it.
_PATH_REMEDIES = {
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "give another path, or move what is there",
    errno.ENOTEMPTY: "give another path, or move what is there",
    errno.EACCES: "give a path that you may read and write, or change its permissions",
    errno.EPERM: "give a path that you may read and write, or change its permissions",
    errno.EROFS: "give a path on a file system that can be written to",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "give a path whose links lead somewhere",
    errno.EINVAL: "give another path",
    errno.EILSEQ: "give a path of characters that this file system knows",
    errno.ENXIO: "give a file, not a device or socket",
    errno.ENODEV: "give a file, not a device or socket",
    errno.ESPIPE: "give a file, not a pipe or device",
    errno.ETXTBSY: "give a file that no other program is using",
}
_MACHINE_REMEDIES = {
    errno.ENOSPC: "free some disk space, or write elsewhere",
    errno.EDQUOT: "free some of your disk quota, or write elsewhere",
    errno.EFBIG: "write to a file system that takes larger files",
    errno.ENOMEM: "close other programs, or use a machine with more memory",
    errno.EMFILE: "allow more open files with `ulimit -n`, or close other programs",
    errno.ENFILE: "close other programs: this machine has too many open files",
    errno.EAGAIN: "allow more processes with `ulimit -u`, or close other programs",
    errno.EIO: "check the disk or the network share that it lies on",
    errno.ESTALE: "check the network share that it lies on",
    errno.EBADF: "check that standard input, output and error are open",
}
_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


def as_known(error: BaseException) -> SynthMixError:
    """Any error as one whose message helps a user."""
    if isinstance(error, SynthMixError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return FailedPrecondition(
            f"Python's module {error.name!r} is not installed; `synthmix doctor` lists what is missing",
            reason="PACKAGE_MISSING",
        )
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError):
        return FailedPrecondition(
            "this machine's memory is not enough; close other programs, or use a machine with more",
            reason="MEMORY_EXHAUSTED",
        )
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return InvalidArgument(
            f"{printable(error.object)!r} is not UTF-8 text; type it anew, or rename the file",
            reason="ARGUMENT_NOT_TEXT",
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return InvalidArgument("a path has a NUL; give one without", reason="ARGUMENT_NOT_TEXT")
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return InvalidArgument(
            "the home folder of this user is not known; set HOME, or say where with --home",
            reason="HOME_UNKNOWN",
        )
    said = printable(" ".join(str(error).split()), longest=400)
    return Internal(
        f"unexpected {type(error).__name__}: {said}; set SYNTHMIX_DEBUG=1 for the stack trace and report it",
        reason="INTERNAL",
    )


def _of_system(error: OSError) -> SynthMixError:
    names = [printable(str(name)) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' to '.join(names)}: " if names else ""
    said = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.errno in _PATH_REMEDIES and not isinstance(error, socket.gaierror):
        return InvalidArgument(f"{where}{said}; {_PATH_REMEDIES[error.errno]}", reason="PATH_UNUSABLE")
    if error.errno in _NETWORK or isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return Unavailable(
            f"{where}{said}; check the network and the address, then try again", reason="NETWORK_UNREACHABLE"
        )
    remedy = _MACHINE_REMEDIES.get(error.errno or 0, "this machine refuses it; fix that, then try again")
    return FailedPrecondition(f"{where}{said}; {remedy}", reason="OPERATING_SYSTEM")
