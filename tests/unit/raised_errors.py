"""Every error that the source raises with a reason, as it would be, with samples in place of what is filled in.

Read from the source itself, so that an error that is added tomorrow is looked at as well.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.image_data.sources.problems import MOST_LISTED, refused_files
from synthmix.service_kit import errors

SERVICES = Path(errors.__file__).parents[1]
# What has a reason of its own although it is given none.
DEFAULT_REASONS = {"invalid_field": "INVALID_FIELD"}
NOT_HELPERS = ("invalid_field", "unmet_precondition", "refused_files")
FILES = [f"alpha/plate-{number}_0.png" for number in range(MOST_LISTED + 4)]


@dataclass(frozen=True)
class Raised:
    """One place in the source.

    Attributes:
        error: None if what is raised there can't be told by reading.
    """

    place: str
    reason: str
    error: errors.SynthMixError | None


def raised_errors() -> list[Raised]:
    return [item for path in sorted(SERVICES.rglob("*.py")) if "api" not in path.parts for item in _of_file(path)]


def _of_file(path: Path) -> Iterator[Raised]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = _constants(tree.body)
    helpers = _helpers(tree)
    for function in [
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))),
    ]:
        nodes = list(_own(function))
        known = module | (_constants(nodes) if function is not tree else {})
        for node in nodes:
            # Texts that another function returns aren't to be read here: test_pixel_kinds has each of the starred ones.
            # A LeftOut has a reason, and is no error.
            if (
                not isinstance(node, ast.Call)
                or getattr(node.func, "id", "") == "LeftOut"
                or any(isinstance(item, ast.Starred) for item in node.args)
            ):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = next((item.value for item in node.keywords if item.arg == "reason"), None)
            inner = helpers.get(name)
            if inner is not None:
                makes, parameters, defaults = inner
                bound = known | defaults | _bound(node, parameters)
                reason = _text(bound["reason"], bound)
                kind = getattr(makes.func, "id", "")
                yield Raised(f"{path.relative_to(SERVICES)}:{node.lineno}", reason, _error(kind, makes, bound, reason))
                continue
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                reason = given.value
            elif given is None and name in DEFAULT_REASONS:
                reason = DEFAULT_REASONS[name]
            else:
                continue
            yield Raised(f"{path.relative_to(SERVICES)}:{node.lineno}", reason, _error(name, node, known, reason))


def _helpers(tree: ast.Module) -> dict[str, tuple[ast.Call, list[str], dict[str, ast.expr]]]:
    """Functions of a file that are given an error's reason: what they make, their parameters, and these' defaults."""
    found = {}
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or "reason" not in (
            item.arg for item in [*function.args.args, *function.args.kwonlyargs]
        ):
            continue
        for node in ast.walk(function):
            given = [item.value for item in getattr(node, "keywords", []) if item.arg == "reason"]
            if isinstance(node, ast.Call) and any(isinstance(item, ast.Name) and item.id == "reason" for item in given):
                everything = [*function.args.args, *function.args.kwonlyargs]
                positional, keywords = function.args.args, function.args.kwonlyargs
                defaults = {
                    item.arg: default
                    for item, default in [
                        *zip(reversed(positional), reversed(function.args.defaults), strict=False),
                        *zip(keywords, function.args.kw_defaults, strict=True),
                    ]
                    if default is not None
                }
                found[function.name] = node, [item.arg for item in everything], defaults
    return {name: item for name, item in found.items() if name not in NOT_HELPERS}


def _bound(call: ast.Call, parameters: list[str]) -> dict[str, ast.expr]:
    given = dict(zip(parameters, call.args, strict=False))
    return given | {item.arg: item.value for item in call.keywords if item.arg is not None}


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, or of a module, without those of the functions in it."""
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending.extend(ast.iter_child_nodes(node))


def _constants(nodes: Any) -> dict[str, ast.expr]:
    """What single names are set to, such as a description that is built before it is raised."""
    return {
        node.targets[0].id: node.value
        for node in nodes
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def _error(name: str, call: ast.Call, known: dict[str, ast.expr], reason: str) -> errors.SynthMixError | None:
    texts = [_text(item, known) for item in call.args]
    if name == "refused_files":
        [field, what, _, remedy] = texts
        return refused_files(field, what, FILES, remedy, reason=reason)
    if name == "invalid_field":
        [field, value, problem, remedy] = texts
        return errors.invalid_field(field, value, problem, remedy, reason=reason)
    if name == "unmet_precondition":
        [field, description] = texts
        return errors.unmet_precondition(field, description, reason=reason)
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SynthMixError)) or len(texts) != 1:
        return None
    violations = [
        errors.FieldViolation(_text(item.args[0], known), _text(item.args[1], known))
        for keyword in call.keywords
        if keyword.arg == "violations"
        for item in ast.walk(keyword.value)
        if isinstance(item, ast.Call) and getattr(item.func, "id", "") == "FieldViolation" and len(item.args) == 2
    ]
    return kind(texts[0], reason=reason, violations=violations)


def _text(node: ast.expr, known: dict[str, ast.expr], depth: int = 0) -> str:
    """What an expression of text gives, with samples for what only running tells."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, known, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, known, depth) + _text(node.right, known, depth)
    if isinstance(node, ast.IfExp):
        return _text(node.body, known, depth)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "listing":
        return errors.listing(FILES)
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "log_tail":
        return "    the last line"
    if isinstance(node, ast.Name) and node.id in known and depth < 3:
        return _text(known[node.id], known, depth + 1)
    return "<" + "".join(character for character in ast.unparse(node) if character not in "\n;")[:20] + ">"
