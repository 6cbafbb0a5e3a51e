"""The whole system on one machine: object storage, Ray and the four services, as children of one process.

with embedded_stack(Path("~/.synthmix").expanduser()) as connection:
    print(connection.services["study-control"])
"""

from synthmix.embedded.connection import Connection, read_connection
from synthmix.embedded.stack import Stack, embedded_stack, run_stack, start_stack

__all__ = ["Connection", "Stack", "embedded_stack", "read_connection", "run_stack", "start_stack"]
