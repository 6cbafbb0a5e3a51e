"""Message classes of a later version: the same protos with an option more, in a descriptor pool of their own."""

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from synthmix.api.options.v1 import field_rules_pb2
from synthmix.api.studies.v1 import studies_pb2


def upgraded(changes: dict[str, Callable[[descriptor_pb2.DescriptorProto], None]]) -> Callable[[Message], Any]:
    """A function that gives a message as the same message of the later version.

    Args:
        changes: By a message's full name, what changes in it.
    """
    pool = descriptor_pool.DescriptorPool()
    _add(pool, studies_pb2.DESCRIPTOR, changes, set())

    def convert(message: Message) -> Any:
        later = message_factory.GetMessageClass(pool.FindMessageTypeByName(message.DESCRIPTOR.full_name))
        return later.FromString(message.SerializeToString())

    return convert


def with_option(name: str, default: str) -> Callable[[descriptor_pb2.DescriptorProto], None]:
    """Adds an optional double with a declared default."""

    def change(message: descriptor_pb2.DescriptorProto) -> None:
        field = message.field.add(
            name=name,
            json_name=name,
            number=max(item.number for item in message.field) + 1,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            proto3_optional=True,
            oneof_index=len(message.oneof_decl),
        )
        message.oneof_decl.add(name=f"_{name}")
        field.options.Extensions[field_rules_pb2.rules].default.append(default)

    return change


def _add(
    pool: descriptor_pool.DescriptorPool,
    file: FileDescriptor,
    changes: dict[str, Callable[[descriptor_pb2.DescriptorProto], None]],
    added: set[str],
) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, changes, added)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        change = changes.get(f"{proto.package}.{message.name}")
        if change is not None:
            change(message)
    pool.AddSerializedFile(proto.SerializeToString())
