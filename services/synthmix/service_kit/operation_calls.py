"""What callers of a service do with its operations: wait for them, and unpack what they say.

The client uses it, and so does study control, whose studies consist of the other services' operations.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from google.longrunning import operations_pb2, operations_proto_pb2
from google.protobuf.message import Message

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit import errors

# How long one goes on asking a service that answered before: it may be restarting.
PATIENCE_S = 120.0
LONGEST_POLL_S = 30.0
POLL_WITH_PROGRESS_S = 1.0
LONGEST_PAUSE_S = 5.0

M = TypeVar("M", bound=Message)


def metadata_of(operation: operations_proto_pb2.Operation) -> progress_pb2.OperationMetadata:
    """An operation's state and progress."""
    metadata = progress_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def result_of(operation: operations_proto_pb2.Operation, kind: type[M]) -> M:
    """What an operation made. Raises the error that it ended with, or FailedPrecondition if it has not ended."""
    if not operation.done:
        raise errors.FailedPrecondition(
            f"{operation.name} is not finished; wait for it first", reason="OPERATION_RUNNING"
        )
    if operation.HasField("error"):
        raise failure_of(operation)
    result: M = kind()
    if not operation.response.Unpack(result):
        raise errors.Internal(
            f"{operation.name or 'the server'} answers {operation.response.type_url or 'nothing'} instead "
            f"of {kind.DESCRIPTOR.full_name}; are client and server of the same version?",
            reason="RESPONSE_UNEXPECTED",
        )
    return result


def state_word(state: int) -> str:
    """A state as people read it, such as running."""
    return str(progress_pb2.State.Name(state)).removeprefix("STATE_").lower()


def failure_of(operation: operations_proto_pb2.Operation) -> errors.SynthMixError:
    """The error that an operation ended with."""
    return errors.from_status(operation.error)


def wait_for(
    operation: operations_proto_pb2.Operation,
    ask: Callable[[operations_pb2.WaitOperationRequest, float], operations_proto_pb2.Operation],
    *,
    timeout_s: float | None = None,
    progress: Callable[[progress_pb2.OperationMetadata], None] | None = None,
) -> operations_proto_pb2.Operation:
    """Returns the operation once it is done, whether or not it succeeded; `result_of` says which.

    Args:
        ask: WaitOperation of the service that has it, with the call's deadline in seconds from now.
        timeout_s: Returns the unfinished operation after this time; waits for ever if not given.
        progress: Called with the operation's metadata about once a second.

    Raises:
        Unavailable: The service was lost for more than two minutes.
    """
    end_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    longest_s = LONGEST_POLL_S if progress is None else POLL_WITH_PROGRESS_S
    patience = Patience()
    patience.renew()
    while True:
        if progress is not None:
            progress(metadata_of(operation))
        left_s = end_s - time.monotonic()
        if operation.done or left_s <= 0:
            return operation
        poll_s = min(left_s, longest_s)
        request = operations_pb2.WaitOperationRequest(name=operation.name)
        request.timeout.FromMilliseconds(int(poll_s * 1000))
        start_s = time.monotonic()
        try:
            operation = ask(request, poll_s)
            patience.renew()
        except errors.Unavailable as error:
            patience.spend(error)
        else:
            if not operation.done:
                # A server may answer at once; asking again at once would be a busy loop.
                time.sleep(max(0.0, min(poll_s, 0.5) - (time.monotonic() - start_s)))


class Patience:
    """How long a service that was reached may stay away: a first contact that fails is an error at once."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._pause_s = 0.0

    def renew(self) -> None:
        """The service answered."""
        self._until_s, self._pause_s = time.monotonic() + PATIENCE_S, 0.1

    def spend(self, error: errors.Unavailable) -> None:
        """Waits, longer each time. Raises the error once patience is at its end."""
        if time.monotonic() + self._pause_s > self._until_s:
            raise error
        time.sleep(self._pause_s)
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
