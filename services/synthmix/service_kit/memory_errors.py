"""A worker's memory that is not enough: a fault of what was asked for, so it is said at a field."""

from collections.abc import Iterator
from contextlib import contextmanager

from synthmix.service_kit.errors import FailedPrecondition, unmet_precondition

OUT_OF_MEMORY = "OUT_OF_MEMORY"


@contextmanager
def memory_told_at(field: str, what: str, remedy: str) -> Iterator[None]:
    """Raises FailedPrecondition at the field if what is in the block takes more memory than there is.

    Args:
        what: What does not fit, such as "batches of 16 images of 512 pixels".
        remedy: What to do, as a clause.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(field, what, remedy) from error


def out_of_memory(field: str, what: str, remedy: str) -> FailedPrecondition:
    description = f"the worker's memory is not enough for {what}; {remedy}, or use a GPU or a machine with more"
    return unmet_precondition(field, description, reason=OUT_OF_MEMORY)


def is_out_of_memory(error: Exception) -> bool:
    """Python's own, torch's of a GPU (known by name: torch is not imported here), and torch's of a CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
