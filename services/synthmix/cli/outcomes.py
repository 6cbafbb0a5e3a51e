"""The exit code of a command or operation that ended with an error."""

from synthmix.cli.exit_codes import CANCELLED, FAILED, INVALID, NOT_FOUND, UNREACHABLE
from synthmix.service_kit import errors

_BY_ERROR: tuple[tuple[type[errors.SynthMixError], int], ...] = (
    (errors.InvalidArgument, INVALID),
    (errors.AlreadyExists, INVALID),
    (errors.Unimplemented, INVALID),
    (errors.NotFound, NOT_FOUND),
    (errors.Unauthenticated, UNREACHABLE),
    (errors.PermissionDenied, UNREACHABLE),
    (errors.Unavailable, UNREACHABLE),
    (errors.Cancelled, CANCELLED),
)


def of_error(error: errors.SynthMixError) -> int:
    """The exit code of a command that ends with this error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)


def of_outcome(error: errors.SynthMixError) -> int:
    """The exit code for an operation that ended with this error: it failed or was cancelled."""
    return CANCELLED if isinstance(error, errors.Cancelled) else FAILED
