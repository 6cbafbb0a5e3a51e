"""The whole system on one machine: object storage, Ray and the four services, on loopback, as children of one process.

    with local_stack(Path("~/.synthmix").expanduser()) as connection:
        print(connection.services["study-control"])

Every command line reads where a stack runs, few start one: what starts it is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from synthmix.local.connection import Connection, read_connection
from synthmix.service_kit.extras import extra

if TYPE_CHECKING:
    from synthmix.local.stack import Stack, local_stack, run_stack, start_stack

__all__ = ["Connection", "Stack", "local_stack", "read_connection", "run_stack", "start_stack"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extra("local", "a stack on this machine"):
        from synthmix.local import stack

    return getattr(stack, name)
