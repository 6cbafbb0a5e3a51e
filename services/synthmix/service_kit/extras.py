"""What `pip install synthmix` leaves out: packages of tens of megabytes that few callers need."""

from collections.abc import Iterator
from contextlib import contextmanager

from synthmix.service_kit.errors import FailedPrecondition


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Around the imports that need an extra of the distribution.

    Args:
        name: The extra, as pyproject.toml has it.
        purpose: What needs it, for the message.

    Raises:
        FailedPrecondition: A package is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"{purpose} needs Python's module {error.name!r}, which is not installed; install it with "
            f"`pip install 'synthmix[{name}]'`",
            reason="PACKAGE_MISSING",
        ) from error
