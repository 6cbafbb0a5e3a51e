"""Group patterns: what they find, that none keeps anyone busy, and what is said of those that RE2 does not know."""

import subprocess
import sys

import pytest

from synthmix.image_data.sources.group_patterns import check_pattern, find_groups, pattern_span
from synthmix.service_kit.errors import InvalidArgument

FIELD = "dataset.group_rule.pattern"
# A regular expression of this depth takes the `regex` package longer than anyone waits, to compile alone.
NESTED = "(?P<group>" + "(" * 72 + "a*" + ")*" * 72 + ")"
GREEDY = "(?P<group>(?:a|aa)+)$"
PATIENCE_SECONDS = 60.0


def refused(pattern: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check_pattern(pattern)
    return caught.value


def test_a_group_is_found_where_the_pattern_matches_first() -> None:
    paths = ["alpha/plate-1_0.png", "alpha/plate-22_1.png", "alpha/well.png"]
    assert find_groups(r"plate-(?P<group>\d+)", paths) == ["1", "22", ""]
    assert find_groups(r"plate-(?P<group>x*)", paths) == ["", "", ""]
    assert find_groups(r"(plate)-(\d)(?P<group>\d)?", paths) == ["", "2", ""]


def test_letters_of_all_alphabets_count_as_characters() -> None:
    assert pattern_span(r"(?P<group>\pL+)\.png")("zürich/Ärzte.png") == (7, 12)
    assert find_groups("(?P<group>é+)", ["aéé"]) == ["éé"]
    assert pattern_span("x(?P<group>y)?")("x") is None


@pytest.mark.parametrize("pattern", [NESTED, GREEDY], ids=["nested", "greedy"])
def test_no_pattern_keeps_anyone_busy(pattern: str) -> None:
    """In a process of its own, which could be ended: neither compiling nor searching lets go of the interpreter."""
    code = (
        "import sys; from synthmix.image_data.sources.group_patterns import find_groups; "
        "find_groups(sys.argv[1], ['a' * 500 + '!'] * 1000)"
    )
    subprocess.run([sys.executable, "-c", code, pattern], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("pattern", "construct", "remedy"),
    [
        (r"(?<=plate-)(?P<group>\d+)", "has look-behind ((?<=), which RE2 does not have", "outside the named group"),
        (r"(?<!x)(?P<group>\d+)", "has look-behind ((?<!)", "outside the named group"),
        (r"(?P<group>\d+)(?=_)", "has look-ahead ((?=)", "outside the named group"),
        (r"(?P<group>\d+)(?!_)", "has look-ahead ((?!)", "outside the named group"),
        (r"(?P<group>\d+)_(?P=group)", "has a back-reference ((?P=)", "once more, or name the group"),
        (r"(?P<group>\d+)_\1", r"has a back-reference (\1)", "a column of a manifest"),
        (r"(?P<group>a)\k<group>", r"has a back-reference (\k)", "a column of a manifest"),
        (r"(?P<group>a)?(?(group)b|c)", "has a condition ((?()", "use alternatives"),
        (r"(?>a)(?P<group>b)", "has an atomic group ((?>)", "use a plain repetition"),
        (r"(?P<group>a++)", "has a possessive repetition (++)", "use a plain repetition"),
        (r"(?P<group>a)\Z", r"has \Z", r"use \z, or $"),
        (r"(?#plate)(?P<group>a)", "has a comment", "leave it out"),
        (r"(?P<group>[^/]{900}[^x]{900}\pL{900})", "is too large", "repeat less in it"),
        ("(?P<group>(?:a{9}){900})", "is not a regular expression (invalid repetition size", "use one with"),
        ("(", "is not a regular expression", "use one with a named group"),
        ("(?P<group>\ud800)", "is not Unicode text", "use one with a named group"),
        ("(plate)", "has no named group", "use one with a named group"),
        ("(?P<group>" + "a" * 500 + ")", "is longer than 500 characters", "use one with a named group"),
    ],
)
def test_what_cannot_be_a_group_pattern_is_refused(pattern: str, construct: str, remedy: str) -> None:
    error = refused(pattern)
    assert (error.reason, error.violations[0].field) == ("INVALID_PATTERN", FIELD)
    assert construct in error.message
    assert remedy in error.message


def test_a_pattern_is_required() -> None:
    assert refused("").reason == "FIELD_MISSING"
