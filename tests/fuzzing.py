"""Random, mutated and extreme calls of every gRPC method that servers' reflection names.

Run it (`make fuzz`) for as many calls as there is time for. A call depends on the seed, its number and the methods
alone, so that one that fails can be made again: `--seed S --first NUMBER --calls 1`.
"""

import argparse
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from synthmix.local import local_stack

DEADLINE_SECONDS = 20.0
# A stream that goes on until its caller leaves, and a call that waits for as long as it is told.
MAY_STAY_OPEN = ("/Watch", "/WatchStudy", "/ServerReflectionInfo", "/WaitOperation")
STREAM_DEADLINE_SECONDS = 2.0
NO_ID = "0" * 32
# A dataset of this name, if it is there, lets calls get further.
DATASET = "fuzzed"
# Half the time, so that what is behind these fields is reached.
LIKELY_TEXTS = {
    "dataset": DATASET,
    "base_model": "builtin",
    "prompt": "a {label} cell",
    "name": "a-study",
    "mode": "append",
}
FAULTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)

TEXTS = (
    "",
    "a",
    "six-phenotypes",
    "builtin",
    "a {label} cell",
    "{label}" * 200,
    "lora",
    "attention",
    "append",
    "x" * 70_000,
    "\0",
    "/etc\0/passwd",
    "\n\r\t\x1b[31m",
    "\U0001f9ea" * 3_000,
    "\u202e\ufeff\u0301",
    "%s%n{0}{}",
    "'; DROP TABLE",
    "../../../etc",
    "/",
    "/srv/" + "y" * 300,
    "~nobody-of-this-name/x",
    "(" * 400,
    "(?P<group>a{99999999999})",
    "djE6",
    "djE6YQ==",
    "====",
    f"datasets/{NO_ID}",
    f"splits/{NO_ID}",
    f"splits/{NO_ID}/parts/train",
    f"models/{NO_ID}",
    "models/tiny",
    "model_index.json",
    "unet/\0.json",
    "0" * 64,
    f"adapters/{NO_ID}",
    f"image-sets/{NO_ID}",
    f"studies/{NO_ID}",
    f"uploads/{'0' * 64}",
    f"operations/study-control/{NO_ID}",
    f"operations/adapter-training/{NO_ID}",
    f"operations/../{NO_ID}",
    f"operations/\0/{NO_ID}",
    f"operations/{'z' * 70_000}/{NO_ID}",
    "grpc.health.v1.Health",
)
FLOATS = (0.0, -0.0, 1.0, 0.2, 0.3, 0.5, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, 10.0)
TOKENS = ("", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer " + "t" * 4_000, "~" * 200)


@dataclass(frozen=True)
class Method:
    """A method that a server at an address offers."""

    address: str
    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def request_class(self) -> type[Message]:
        return message_factory.GetMessageClass(self.descriptor.input_type)


@dataclass(frozen=True)
class Call:
    """One call, as its bytes.

    Attributes:
        number: Which one; with the seed it tells all the rest.
        kind: How the bytes came to be.
        authorization: None sends none.
    """

    number: int
    method: Method
    kind: str
    messages: tuple[bytes, ...]
    authorization: str | None

    def __str__(self) -> str:
        shown = ", ".join(
            data.hex() if len(data) <= 500 else f"{data[:500].hex()}... ({len(data)})" for data in self.messages
        )
        return f"call {self.number}, {self.kind}: {self.method.path} at {self.method.address}: [{shown}]"


def methods_of(addresses: Sequence[str]) -> list[Method]:
    """Every method at these addresses, in one order."""
    found = []
    for address in addresses:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            for service in sorted(database.get_services()):
                found += [Method(address, method) for method in pool.FindServiceByName(service).methods]
    return found


def make_call(methods: Sequence[Method], token: str, seed: int, number: int) -> Call:
    """The call of this number: methods take turns, so that a few hundred calls reach each several times."""
    rng = random.Random(f"{seed}-{number}")
    method = methods[number % len(methods)]
    kind = rng.choice(list(KINDS))
    count = rng.choice((0, 1, 1, 1, 2, 5)) if method.descriptor.client_streaming else 1
    messages = tuple(KINDS[kind](rng, method.request_class) for _ in range(count))
    authorization = f"Bearer {token}" if rng.random() < 0.9 else rng.choice((None, *TOKENS))
    return Call(number, method, kind, messages, authorization)


def fault_of(call: Call, channels: dict[str, grpc.Channel]) -> tuple[grpc.StatusCode, str]:
    """Makes the call. Returns its code, and what is wrong with that: "" if nothing is."""
    channel = channels[call.method.address]
    described = call.method.descriptor
    form = "_".join(
        "stream" if streams else "unary" for streams in (described.client_streaming, described.server_streaming)
    )
    invoke = getattr(channel, form)(call.method.path)
    metadata = () if call.authorization is None else (("authorization", call.authorization),)
    stays_open = call.method.path.endswith(MAY_STAY_OPEN)
    request = iter(call.messages) if described.client_streaming else call.messages[0]
    timeout = STREAM_DEADLINE_SECONDS if stays_open else DEADLINE_SECONDS
    try:
        answer = invoke(request, metadata=metadata, timeout=timeout)
        if described.server_streaming:
            next(answer, None)  # the next may be long in coming
            answer.cancel()
        elif described.output_type.full_name == "google.longrunning.Operation":
            _end(channel, operations_pb2.Operation.FromString(answer), metadata)
        return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code in FAULTS or "metadata size" in details:
            return code, f"{code.name}: {details[:1000]}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not stays_open:
            return code, f"no answer within {timeout:g} s"
        return code, ""


def _end(channel: grpc.Channel, operation: operations_pb2.Operation, metadata: Any) -> None:
    """Cancels what a call has begun: the fuzzer is for what is refused."""
    if operation.name and not operation.done:
        request = operations_pb2.CancelOperationRequest(name=operation.name)
        operations_pb2_grpc.OperationsStub(channel).CancelOperation(
            request, metadata=metadata, timeout=DEADLINE_SECONDS
        )


def fuzz(
    services: Mapping[str, str], token: str, *, seed: int, calls: int, first: int = 0
) -> tuple[Counter[str], list[str]]:
    """Makes calls of every method of services, given by their addresses.

    Returns:
        How many calls ended with each code, and the faults: a line for each.
    """
    addresses = [services[name] for name in sorted(services)]
    methods = methods_of(addresses)
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_metadata_size", 8192)]
    channels = {address: grpc.insecure_channel(address, options) for address in addresses}
    codes: Counter[str] = Counter()
    faults = []
    try:
        for number in range(first, first + calls):
            call = make_call(methods, token, seed, number)
            code, fault = fault_of(call, channels)
            codes[code.name] += 1
            if fault:
                faults.append(f"seed {seed}, {call}\n  {fault}")
        for address, channel in channels.items():
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS
            )
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                faults.append(f"{address} no longer serves")
    finally:
        for channel in channels.values():
            channel.close()
    return codes, faults


def traces_in(folder: Path, since: dict[Path, int]) -> Iterator[str]:
    """The stack traces that services have logged since their logs had these sizes."""
    for path in sorted(folder.rglob("*.log")):
        with path.open("rb") as file:
            file.seek(since.get(path, 0))
            text = file.read().decode(errors="replace")
        if "Traceback (most recent call last)" in text:
            yield f"{path.name}: {text[text.index('Traceback') :][:2000]}"


def sizes_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*.log")}


def _random_bytes(rng: random.Random, kind: type[Message]) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 10, 100, 5_000)))


def _random_message(rng: random.Random, kind: type[Message]) -> bytes:
    return _filled(rng, kind, share=0.5).SerializeToString()


def _one_field(rng: random.Random, kind: type[Message]) -> bytes:
    return _filled(rng, kind, share=0.1).SerializeToString()


def _every_field(rng: random.Random, kind: type[Message]) -> bytes:
    return _filled(rng, kind, share=1.0).SerializeToString()


def _mutated_bytes(rng: random.Random, kind: type[Message]) -> bytes:
    data = bytearray(_filled(rng, kind, share=0.7).SerializeToString()[:2_000])
    for _ in range(rng.randint(1, 5)):
        position = rng.randrange(len(data) + 1)
        match rng.randrange(3):
            case 0:
                data[position : position + 1] = rng.randbytes(1)
            case 1:
                del data[position:]
            case 2:
                data[position:position] = data[: rng.randint(0, 20)]
    return bytes(data)


def _bad_utf8(rng: random.Random, kind: type[Message]) -> bytes:
    fields = [field for field in kind.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_STRING]
    number = rng.choice(fields).number if fields else 1
    text = rng.choice((b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"abc\x80"))
    return bytes([number << 3 | 2, len(text)]) + text


def _nested(rng: random.Random, kind: type[Message]) -> bytes:
    """Unknown groups in groups, which may be deeper than a parser's stack."""
    return b"\xfb\x3e" * rng.choice((5, 101, 50_000))


def _unknown_fields(rng: random.Random, kind: type[Message]) -> bytes:
    return _one_field(rng, kind) + b"\xf8\x3f" + b"\x01" + b"\xf9\x3f" + struct.pack("<d", rng.choice(FLOATS))


KINDS: dict[str, Callable[[random.Random, type[Message]], bytes]] = {
    "random bytes": _random_bytes,
    "random message": _random_message,
    "one field": _one_field,
    "every field": _every_field,
    "mutated bytes": _mutated_bytes,
    "bad UTF-8": _bad_utf8,
    "nested": _nested,
    "unknown fields": _unknown_fields,
}


def _filled(rng: random.Random, kind: type[Message], *, share: float, depth: int = 0) -> Message:
    """A message in which about this share of the fields has a value; it only validates where it may."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name == "validate_only":
            setattr(message, field.name, True)
            continue
        # What the request is about is there more often than its details, or nothing behind it would be reached.
        if depth > 4 or rng.random() > (share if field.message_type is None else max(share, 0.6)):
            continue
        if field.is_repeated:
            _fill_list(rng, message, field, share=share, depth=depth)
        elif field.message_type is not None:
            inner = _filled(rng, message_factory.GetMessageClass(field.message_type), share=share, depth=depth + 1)
            getattr(message, field.name).CopyFrom(inner)
        else:
            setattr(message, field.name, _value(rng, field))
    return message


def _fill_list(rng: random.Random, message: Message, field: FieldDescriptor, *, share: float, depth: int) -> None:
    count = rng.choice((0, 1, 2, 3, 300))
    if field.message_type is None:
        values = [_value(rng, field) for _ in range(3)]
        getattr(message, field.name).extend(rng.choice(values) for _ in range(count))
    elif not field.message_type.GetOptions().map_entry:
        inner = message_factory.GetMessageClass(field.message_type)
        getattr(message, field.name).extend(_filled(rng, inner, share=share, depth=depth + 1) for _ in range(count))


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 1_000)))
            if field.name in LIKELY_TEXTS and rng.random() < 0.5:
                return LIKELY_TEXTS[field.name]
            # Names of a hub's models would have the server ask the hub.
            texts = [text for text in TEXTS if field.name != "base_model" or text.count("/") != 1]
            return rng.choice(texts)
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice((0, 1, 2, -1, 10, 1000, 2**31 - 1, -(2**31)))
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice((0, 1, 7, -1, 2**31, 2**62, 2**63 - 1, -(2**63)))
        case FieldDescriptor.CPPTYPE_UINT32:
            return rng.choice((0, 1, 2, 2**32 - 1))
        case FieldDescriptor.CPPTYPE_UINT64:
            return rng.choice((0, 1, 2**64 - 1))
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice(
                [value for value in FLOATS if abs(value) < 1e38 or value in (float("inf"), float("-inf"))]
            )
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice([item.number for item in field.enum_type.values])
    raise AssertionError(f"no values for {field.full_name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="synthmix-fuzz-") as home,
        local_stack(Path(home)) as connection,
    ):
        logs = sizes_of(Path(connection.home) / "logs")
        codes, faults = fuzz(
            connection.services, connection.token, seed=arguments.seed, calls=arguments.calls, first=arguments.first
        )
        faults += traces_in(Path(connection.home) / "logs", logs)
    print(f"seed {arguments.seed}: {arguments.calls} calls:", ", ".join(f"{code} {n}" for code, n in codes.items()))
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
