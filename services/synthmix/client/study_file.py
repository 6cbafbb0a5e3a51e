"""Files that people write, studies above all: YAML or JSON into a message, strictly, errors with their lines.

A file is the proto's JSON form: keys are the proto's (`guidance_scale`, or `guidanceScale`), one value may
stand for a list of one, a section may be left out. Where a study has a list of settings, such as of adapters, any value
of them may be a list: it stands for as many settings, and several lists for every combination. Whatever the proto
doesn't know is an error that names the nearest thing it does know. All the problems of a file are reported together.
"""

import difflib
import itertools
import math
import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import yaml
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.user_files import LARGEST_FILE_BYTES, check_size, read_user_file
from synthmix.service_kit.errors import MOST_LISTED, FieldViolation, InvalidArgument, SynthMixError, printable
from synthmix.service_kit.settings_messages import has_rules, is_map, path_of_key

STANDARD_INPUT = Path("-")
LARGEST_DEPTH = 32
MOST_ALIASES = 100
LONGEST_NUMBER = 40  # Python refuses to read thousands of digits
LONGEST_KEY = 80
MOST_COMBINATIONS = 4096  # what a study may have of them is for the server to say

# In place of settings, `none` says that there are none, to compare with; of those of which this means something.
NONE = "none"
_NONE_FOR = {image_sets_pb2.SelectionSettings.DESCRIPTOR.full_name}

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*(_\d+)*)", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PERCENTAGE = re.compile(r"([+-]?\d+(\.\d+)?)\s*%")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {
    _TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
}
_INTEGER_BITS = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_INT64: 63}

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class PlacedViolation(FieldViolation):
    """A violation and where in the user's file it is, such as study.yaml:7."""

    place: str


@dataclass(frozen=True)
class Document(Generic[M]):
    """What a file says.

    Attributes:
        source: The file's name, for messages.
        message: The file as a message.
        lines: The line, from 1, of each field that the file gives, by its path in the message, such as
            mixtures.ratios[2] or adapters[3].rank.
        written: Paths as the file has them, such as adapters.rank[1], by those in the message, where they differ.
    """

    source: str
    message: M
    lines: dict[str, int]
    written: dict[str, str] = field(default_factory=dict)

    def locate(self, error: SynthMixError) -> SynthMixError:
        """The same error, with the fields and lines of this file. Fields may begin with `spec.`."""
        message, placed = error.message, []
        for item in error.violations:
            written = self._written(item.field)
            message = message.replace(item.field, written) if item.field else message
            placed.append(PlacedViolation(written, item.description, self._place(item.field)))
        if len(placed) > 1:  # of a grid, what is written once may be said of several settings
            message = "\n".join(dict.fromkeys(message.splitlines()))
        violations = list(dict.fromkeys(placed))
        return type(error)(message, reason=error.reason, violations=violations, metadata=error.metadata)

    def _place(self, path: str) -> str:
        known = self._known(path, self.lines)
        return f"{self.source}:{self.lines[known]}" if known else self.source

    def _written(self, path: str) -> str:
        known = self._known(path, self.written)
        return path.replace(known, self.written[known]) if known else path

    def _known(self, path: str, paths: Collection[str]) -> str:
        """The longest beginning of a path that is known, or ""."""
        # A server says the path within the request, whose first part is the request's field for this message.
        for candidate in (path, path.partition(".")[2]):
            while candidate:
                if candidate in paths:
                    return candidate
                candidate = candidate[: max(candidate.rfind("."), candidate.rfind("["), 0)]
        return ""


def read_study(path: Path) -> Document[studies_pb2.StudySpec]:
    """A study's specification. Raises InvalidArgument with a PlacedViolation for each problem.

    A base model or a feature network that begins with ./ or ../ is a folder relative to the file's own (to the working
    directory, if the file is standard input), and ~/ is this user's home: services and workers stand elsewhere, so they
    get its absolute path.
    """
    document = read_document(path, studies_pb2.StudySpec)
    beside = Path() if path == STANDARD_INPUT else path.parent
    for adapter in document.message.adapters:
        if adapter.HasField("base_model"):
            adapter.base_model = _absolute(adapter.base_model, beside)
    measures = document.message.measures
    if measures.HasField("feature_network"):
        measures.feature_network = _absolute(measures.feature_network, beside)
    return document


def _absolute(reference: str, beside: Path) -> str:
    """A folder's absolute path, if a reference begins as a folder's relative one does."""
    if reference.startswith(("./", "../")):
        return os.path.abspath(beside / reference)
    return os.path.expanduser(reference) if reference.startswith("~/") else reference


def read_document(path: Path, kind: type[M]) -> Document[M]:
    """A file as a message of this kind; `-` reads standard input. Raises InvalidArgument."""
    source = "<stdin>" if path == STANDARD_INPUT else str(path)
    if path == STANDARD_INPUT:
        data = _read_standard_input(source)
    else:
        data = read_user_file(path, pipe_remedy="give a file, or `-` for standard input")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{source}:{line}: is not UTF-8 text; save it as UTF-8", reason="FILE_NOT_TEXT") from None
    return parse_document(text, kind, source)


def _read_standard_input(source: str) -> bytes:
    if sys.stdin is None:  # closed by whoever started the process
        raise InvalidArgument("standard input is closed; give a file", reason="FILE_UNREADABLE")
    try:
        return check_size(source, sys.stdin.buffer.read(LARGEST_FILE_BYTES + 1))
    except OSError as error:
        raise InvalidArgument(
            f"standard input cannot be read: {error.strerror}; give a file", reason="FILE_UNREADABLE"
        ) from None


def parse_document(text: str, kind: type[M], source: str) -> Document[M]:
    """YAML or JSON text as a message of this kind. `source` names it in messages. Raises InvalidArgument."""
    if source.endswith(".json"):
        text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML not; inside JSON's strings there are none
    root = _compose(text, source)
    reader = _Reader(source)
    message = kind()
    reader.fill(message, root, "")
    if reader.problems:
        shown = reader.problems[:MOST_LISTED]
        left_out = len(reader.problems) - len(shown)
        lines = [f"{item.place}: {_said(item)}" for item in shown]
        if left_out:
            lines.append(f"{source} has {left_out:,} more faults; fix these first")
        raise InvalidArgument(
            "\n".join(lines),
            reason="FILE_INVALID",
            violations=shown,
            metadata={"left_out": str(left_out)} if left_out else None,
        )
    return Document(source, message, reader.lines, reader.written)


def _compose(text: str, source: str) -> yaml.MappingNode:
    try:
        _check_size(text, source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(
            f"{source}:{line}", f"has the character {chr(int(error.character))!r}, which YAML forbids"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise _unreadable(place, f"is not YAML: {_advice(error)}") from None
    except (ValueError, OverflowError):  # PyYAML's own, for an escape such as \U00110000
        raise _unreadable(source, "has an escape that stands for no character; write the character itself") from None
    if root is None:
        raise _unreadable(f"{source}:1", "is empty; README.md shows a study")
    if not isinstance(root, yaml.MappingNode):
        raise _unreadable(
            f"{source}:{_line(root)}",
            f"expects keys with values, such as `name: my-study`, but is {_kind(root)}",
        )
    return root


def _check_size(text: str, source: str) -> None:
    """Refuses what takes time or stack out of proportion. Events, unlike nodes, aren't nested."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > LARGEST_DEPTH or aliases > MOST_ALIASES:
            what = (
                f"nests deeper than {LARGEST_DEPTH} levels"
                if depth > LARGEST_DEPTH
                else f"has more than {MOST_ALIASES} aliases"
            )
            mark = event.start_mark
            raise _unreadable(f"{source}:{mark.line + 1}" if mark else source, f"{what}; write it plainly")


def _unreadable(place: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{place}: {problem}", reason="FILE_INVALID")


def _advice(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unknown syntax error"
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return f"{problem}; is the line indented as the one above, and is text with a colon in quotes?"
    if "single document" in (error.context or ""):
        return "has a second document; a file holds one, so remove the `---`"
    return f"{problem} ({error.context})" if error.context and error.problem else problem


@dataclass(frozen=True)
class _Choice:
    """A value that a file gives to a field of a grid, and where.

    Attributes:
        inner: Of a value that holds others: of each the end of its path in the message and in the file, and its line.
    """

    target: FieldDescriptor
    value: Any
    path: str
    line: int
    inner: tuple[tuple[str, str, int], ...] = ()


@dataclass
class _Reader:
    """Fills a message from a node graph and gathers lines and problems on the way."""

    source: str
    lines: dict[str, int] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    problems: list[PlacedViolation] = field(default_factory=list)

    def problem(self, path: str, node: yaml.Node, description: str) -> None:
        self.problems.append(PlacedViolation(path, description, f"{self.source}:{_line(node)}"))

    def fill(self, message: Message, node: yaml.Node, path: str) -> None:
        """The keys of a mapping node into the message's fields."""
        for target, value, field_path in self.keys(cast(Descriptor, message.DESCRIPTOR), node, path):
            message.SetInParent()
            self.assign(message, target, value, field_path)
        if isinstance(node, yaml.MappingNode):
            message.SetInParent()

    def fill_grid(self, message: Message, target: FieldDescriptor, node: yaml.Node, path: str) -> None:
        """A mapping into a list of settings: one for each combination of its lists, of which the last turns fastest."""
        settings, kind = getattr(message, target.name), cast(Descriptor, target.message_type)
        if kind.full_name in _NONE_FOR and isinstance(node, yaml.ScalarNode) and node.value == NONE:
            place = f"{target.name}[{len(settings)}]"
            self.lines[place], self.written[place] = _line(node), path
            settings.add()
            return
        axes: list[list[_Choice]] = []
        for key, value, key_path in self.keys(cast(Descriptor, target.message_type), node, path):
            axes.append(self.choices(key, value, key_path))
        count = math.prod(len(axis) for axis in axes)
        if count > MOST_COMBINATIONS:
            self.problem(path, node, f"makes {count:,} combinations; shorten its lists to at most {MOST_COMBINATIONS}")
            return
        for combination in itertools.product(*axes):
            place = f"{target.name}[{len(settings)}]"
            self.lines[place], self.written[place] = _line(node), path
            one = settings.add()
            for choice in combination:
                one_path = f"{place}.{choice.target.name}"
                self.lines[one_path], self.written[one_path] = choice.line, choice.path
                if is_map(choice.target):
                    getattr(one, choice.target.name).update(choice.value)
                elif choice.target.is_repeated:
                    getattr(one, choice.target.name).extend(choice.value)
                else:
                    setattr(one, choice.target.name, choice.value)
                for in_message, in_file, line in choice.inner:
                    self.lines[one_path + in_message] = line
                    self.written[one_path + in_message] = choice.path + in_file

    def choices(self, target: FieldDescriptor, node: yaml.Node, path: str) -> list["_Choice"]:
        """The values that a list of a grid has, or the one that stands for a list of one.

        A field that holds a list itself has lists for values: of several, each is a list within the list. One that
        holds values by keys has mappings for values.
        """
        holds_list = target.is_repeated and not is_map(target)
        if not isinstance(node, yaml.SequenceNode) or (
            holds_list and not any(isinstance(item, yaml.SequenceNode) for item in node.value)
        ):
            items = {path: node}
        else:
            items = {f"{path}[{index}]": item for index, item in enumerate(node.value)}
            if not items:
                self.problem(path, node, f"is an empty list; give {_expected(target)}, or remove the line")
        found: list[_Choice] = []
        for item_path, item in items.items():
            inner: tuple[tuple[str, str, int], ...] = ()
            value: Any
            if is_map(target):
                value, inner = self.by_keys(target, item, item_path)
            elif target.is_repeated:
                value = self.several(target, item, item_path)
                inner = tuple((f"[{index}]", f"[{index}]", _line(item)) for index in range(len(value or ())))
            else:
                value = self.scalar(target, item, item_path)
            if value is None:
                continue
            if any(choice.value == value for choice in found):
                self.problem(item_path, item, f"{value!r} stands twice in the list; remove one of them")
                continue
            found.append(_Choice(target, value, item_path, _line(item), inner))
        return found

    def by_keys(
        self, target: FieldDescriptor, node: yaml.Node, path: str
    ) -> tuple[dict[Any, Any] | None, tuple[tuple[str, str, int], ...]]:
        """The values of a mapping by its keys, None if one of them is wrong, and where each of them is."""
        entry = cast(Descriptor, target.message_type).fields_by_name
        if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
            self.problem(path, node, f"expects {_expected(target)}, but has {_kind(node)}")
            return None, ()
        values: dict[Any, Any] = {}
        places, sound = [], True
        for key_node, value_node in node.value:
            key = self.scalar(entry["key"], key_node, path)
            if key is None:
                sound = False
                continue
            value_path = _join(path, printable(str(key), longest=LONGEST_KEY))
            if key in values:
                self.problem(value_path, key_node, "is given twice; keep one of the two")
                sound = False
                continue
            values[key] = self.scalar(entry["value"], value_node, value_path)
            places.append((path_of_key("", key), value_path.removeprefix(path), _line(key_node)))
        return values if sound and None not in values.values() else None, tuple(places)

    def several(self, target: FieldDescriptor, node: yaml.Node, path: str) -> tuple[Any, ...] | None:
        """The items of a list, or the one that stands for a list of one; None if one of them is wrong."""
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self.scalar(target, item, f"{path}[{index}]") for index, item in enumerate(items)]
        return None if None in values else tuple(values)

    def keys(
        self, descriptor: Descriptor, node: yaml.Node, path: str
    ) -> Iterator[tuple[FieldDescriptor, yaml.Node, str]]:
        """The fields that a mapping gives, each with its value and its path; of others, it says what is wrong."""
        known = _writable_fields(descriptor)
        if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
            self.problem(
                path,
                node,
                f"expects keys below it ({', '.join(dict.fromkeys(item.name for item in known.values()))}), "
                f"but has {_kind(node)}",
            )
            return
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(path, key, f"a key must be text, not {_kind(key)}")
                continue
            if key.tag == _TAG + "merge":
                self.problem(_join(path, _key(key)), key, "merging is not supported; write the keys plainly")
                continue
            target = known.get(key.value)
            if target is None:
                self.problem(_join(path, _key(key)), key, _unknown_key(key.value, descriptor, path))
                continue
            field_path = _join(path, target.name)
            if target.name in first_lines:
                self.problem(
                    field_path,
                    key,
                    f"is given twice, first in line {first_lines[target.name]}; keep one of the two",
                )
                continue
            first_lines[target.name] = self.lines[field_path] = _line(key)
            yield target, value, field_path

    def assign(self, message: Message, target: FieldDescriptor, node: yaml.Node, path: str) -> None:
        """A node into a field; one value stands for a list of one."""
        if is_map(target):
            entries, places = self.by_keys(target, node, path)
            getattr(message, target.name).update(entries or {})
            for in_message, in_file, line in places:
                self.lines[path + in_message], self.written[path + in_message] = line, path + in_file
        elif target.is_repeated:
            if target.message_type is not None and _is_null(node):
                return  # a section whose lines are all commented out is a section left out
            items = node.value if isinstance(node, yaml.SequenceNode) else [node]
            for index, item in enumerate(items):
                item_path = path if item is node else f"{path}[{index}]"
                if target.message_type is not None and has_rules(target.message_type):
                    self.fill_grid(message, target, item, item_path)
                    continue
                self.lines[f"{path}[{index}]"] = _line(item)
                if target.message_type is not None:
                    self.fill(getattr(message, target.name).add(), item, item_path)
                    continue
                value = self.scalar(target, item, item_path)
                if value is not None:
                    getattr(message, target.name).append(value)
        elif target.message_type is not None:
            if not _is_null(node):  # a section whose lines are all commented out is a section left out
                self.fill(getattr(message, target.name), node, path)
        else:
            value = self.scalar(target, node, path)
            if value is not None:
                setattr(message, target.name, value)

    def scalar(self, target: FieldDescriptor, node: yaml.Node, path: str) -> Any:
        """The node's value for the field, or None after noting what is wrong with it."""
        if not isinstance(node, yaml.ScalarNode):
            self.problem(path, node, f"expects {_expected(target)}, but has {_kind(node)}")
            return None
        if node.tag not in _PLAIN_TAGS:
            self.problem(
                path,
                node,
                f"has the tag {node.tag.replace(_TAG, '!!')!r}, which is not allowed; write the plain value",
            )
            return None
        if _is_null(node):
            self.problem(path, node, f"has no value; give {_expected(target)}, or remove the line")
            return None
        value = _scalar_value(target, node)
        if value is None:
            self.problem(path, node, f"expects {_expected(target)}, but has {node.value[:80]!r}{_remedy(target, node)}")
        return value


def _scalar_value(target: FieldDescriptor, node: yaml.ScalarNode) -> Any:
    """The value of a scalar, read from its text: YAML 1.1 makes 010 an 8, 1:30 a 90 and 1e-4 a text."""
    text, kind = node.value, target.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        # A bare true may be meant as text or not; a bare 7 or 2024-05-01 can only be meant as it is written.
        ambiguous = node.style is None and node.tag == _TAG + "bool"
        return None if ambiguous or _has_surrogate(text) else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _BOOLEANS.get(text.lower()) if node.style is None else None
    if kind in _INTEGER_BITS:
        if not _INTEGER.fullmatch(text) or len(text) > LONGEST_NUMBER:
            return None
        value, limit = int(text), 1 << _INTEGER_BITS[kind]
        return value if -limit <= value < limit else None
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        if not _FLOAT.fullmatch(text):
            return None
        number = float(text)
        return number if math.isfinite(number) else None
    raise NotImplementedError(f"{target.full_name}: files cannot give a field of this type yet")


def _has_surrogate(text: str) -> bool:
    """Half of a pair, as an escape can write it, is no character and can't be sent."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _remedy(target: FieldDescriptor, node: yaml.ScalarNode) -> str:
    percentage = _PERCENTAGE.fullmatch(node.value)
    if percentage and target.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return f"; write {float(percentage[1]) / 100:g}"
    if node.tag == _TAG + "bool" and target.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "; put it in quotes if it is meant as text"
    return ""


def _expected(target: FieldDescriptor) -> str:
    if is_map(target):
        entry = cast(Descriptor, target.message_type).fields_by_name
        return f"keys below it, each {_expected(entry['key'])}, and of each {_expected(entry['value'])}"
    kind = target.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return "text"
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false, without quotes"
    if kind in _INTEGER_BITS:
        return f"a whole number (at most {(1 << _INTEGER_BITS[kind]) - 1})"
    return "a number"


def _writable_fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields that a user may give, by each spelling of their keys."""
    fields = [item for item in descriptor.fields if not _is_output(item)]
    return {**{item.json_name: item for item in fields}, **{item.name: item for item in fields}}


def _is_output(item: FieldDescriptor) -> bool:
    behaviors = item.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return field_behavior_pb2.OUTPUT_ONLY in behaviors or field_behavior_pb2.IDENTIFIER in behaviors


def _unknown_key(key: str, descriptor: Descriptor, path: str) -> str:
    if key in descriptor.fields_by_name:
        return "is set by the service, not by its user; remove it"
    known = list(dict.fromkeys(item.name for item in _writable_fields(descriptor).values()))
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace("-", "_").lower()
    sections = [] if path else [section for section, keys in _sections(descriptor) if snake in keys]
    # A key of a section is meant more likely than one that is like it, as image_size and image_sets, but for a letter.
    nearest = difflib.get_close_matches(snake[:LONGEST_KEY], known, n=1, cutoff=0.85 if sections else 0.6)
    if nearest:
        return f"is not a known key; did you mean `{nearest[0]}`?"
    if sections:
        *others, last = (f"`{item}:`" for item in sections)
        places = f"{', '.join(others)} or {last}" if others else last
        return f"is not a known key here; it belongs below {places}, indented"
    return f"is not a known key; known are {', '.join(known)}"


def _sections(descriptor: Descriptor) -> Iterator[tuple[str, dict[str, FieldDescriptor]]]:
    for item in descriptor.fields:
        if item.message_type is not None and not _is_output(item):
            yield item.name, _writable_fields(item.message_type)


def _said(violation: FieldViolation) -> str:
    return f"{violation.field}: {violation.description}" if violation.field else violation.description


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _key(node: yaml.ScalarNode) -> str:
    return printable(node.value, longest=LONGEST_KEY)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "keys below it"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "no value" if _is_null(node) else repr(node.value[:80])
