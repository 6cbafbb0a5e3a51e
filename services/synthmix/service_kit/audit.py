"""The audit: who changed what. One line of the log for each call that is not a read, also for one that is refused.

What an operation deletes later, by itself, has a line of its own: whose host does it writes it.

    audit {"caller": "ada", "code": "OK", "method": "/synthmix.studies.v1.StudyService/DeleteStudy", ...}

    caller      whom the token belongs to; "" if it is nobody's
    owner       for whom a service asks, where that is another
    method      the gRPC method
    operation   in its place, where an operation changes something by itself: caller and request_id are then those of
                the call that asked for the operation
    resource    what it is about: what was made, or else what was named
    named       what was named, where something else was made of it
    deleted     of a deletion, what went
    code        how it ended, as gRPC names it
    request_id  what the caller gave as x-request-id, or a random one; errors say it in their metadata

Each value is a caller's or a name that a caller gave: JSON leaves no line break in it.
"""

import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from google.longrunning import operations_pb2
from google.rpc import code_pb2

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.service_kit.errors import MOST_LISTED, SynthMixError, printable
from synthmix.service_kit.incidents import LOG_FORMAT, log_handler
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_records import OperationRecord

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_current: ContextVar[str] = ContextVar("request_id", default="")


@dataclass
class Call:
    """One call, as far as it has come.

    Attributes:
        method: /package.Service/Method
        request: As it came; of a stream, what yields it.
        is_change: Whether it may change something.
        caller: Whom the token belongs to.
        owner: For whom it is made.
        operation: What changes something instead of a method.
    """

    method: str
    request_id: str
    request: Any
    is_change: bool
    caller: str = ""
    owner: str = ""
    response: Any = None
    operation: str = ""

    def write(self, code: str) -> None:
        """Writes the line, once the call has ended with this code, if it may have changed something."""
        if not self.is_change:
            return
        line: dict[str, Any] = {
            "caller": self.caller,
            **({"operation": self.operation} if self.operation else {"method": self.method}),
            "resource": printable(_resource(self.request, self.response)),
            "code": code,
            "request_id": self.request_id,
        }
        if self.owner != self.caller:
            line["owner"] = self.owner
        named = printable(str(getattr(self.request, "name", "")))
        if named and named != line["resource"]:
            line["named"] = named
        if isinstance(self.response, artifacts_pb2.Deletion):
            line["deleted"] = [item.name for item in self.response.deleted[:MOST_LISTED]]
            line["deleted_count"] = len(self.response.deleted)
        if getattr(self.request, "validate_only", False):
            line["validate_only"] = True
        log.info("audit %s", json.dumps(line))


def begin(method: str, metadata: Iterable[tuple[str, Any]], request: Any, *, is_change: bool) -> Call:
    """The call that this task answers from now on."""
    given = dict(metadata).get(REQUEST_ID_KEY, "")
    is_usable = isinstance(given, str) and _REQUEST_ID.fullmatch(given)
    call = Call(method, given if is_usable else uuid.uuid4().hex, request, is_change)
    _current.set(call.request_id)
    return call


@contextmanager
def change_by(record: OperationRecord, request: Any) -> Iterator[Call]:
    """A change that an operation makes by itself, as if the request were a call of whoever asked for the operation."""
    owner = record.requested_by.owner
    call = Call("", record.request_id, request, True, owner, owner, operation=str(record.name))
    code = code_pb2.UNKNOWN
    try:
        yield call
        code = code_pb2.OK
    except SynthMixError as error:
        code = error.code
        raise
    finally:
        call.write(code_pb2.Code.Name(code))


def log_from_host(service: str) -> None:
    """Lets the lines of this process, which is Ray's, be read where those of front ends are."""
    handler = log_handler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT.format(service=service)))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def current_request_id() -> str:
    """Of the call that is being answered."""
    return _current.get()


def _resource(request: Any, response: Any) -> str:
    if isinstance(response, operations_pb2.Operation):
        return metadata_of(response).target or response.name or _named(request)
    return str(getattr(response, "name", "")) or _named(request)


def _named(request: Any) -> str:
    """What a request says of what it is about."""
    for path in ("name", "worker_group", "dataset.display_name", "spec.name"):
        value = request
        for part in path.split("."):
            value = getattr(value, part, "")
        if isinstance(value, str) and value:
            return value
    return ""
