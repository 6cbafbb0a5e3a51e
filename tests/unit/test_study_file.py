"""Studies as users write them: what is understood, and what is said of what isn't."""

import contextlib
import importlib.resources
import io
import sys
from pathlib import Path
from random import Random

import pytest

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import (
    LARGEST_FILE_BYTES,
    STANDARD_INPUT,
    PlacedViolation,
    parse_document,
    read_document,
    read_study,
)
from synthmix.service_kit.errors import FieldViolation, InvalidArgument, NotFound
from synthmix.service_kit.yaml_text import to_yaml

STUDY = """\
name: six-phenotypes
dataset: mitocheck-six            # or datasets/<id>
split: {test: 0.25, validation: 0.15, seed: 7}
adapters:
  base_model: builtin
  method: [lora, dora]
  rank: [4, 16]
  targets: attention
  images_seen: 4800
  learning_rate: 1e-4
synthesis: {prompt: "an image of a {label} nucleus", steps: 25, guidance_scale: 3.0, per_class: 200}
selection: {class_consistency: 0.5}
mixtures:
  mode: append
  ratios:
    - 0
    - 0.10
    - 0.25
  synthetic_only: true
  controls: [duplicated_real]
classifier: {architecture: tf_efficientnet_lite0, pretrained: true, image_size: 64, match: steps}
seeds: 10
claim: {margin: 0.02, confidence: 0.95}
"""


def parse(text: str, source: str = "study.yaml") -> studies_pb2.StudySpec:
    return parse_document(text, studies_pb2.StudySpec, source).message


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    return caught.value.message.splitlines()


def test_reads_the_study_of_the_design() -> None:
    spec = parse(STUDY)
    assert (spec.name, spec.dataset, spec.seeds) == ("six-phenotypes", "mitocheck-six", 10)
    assert [(item.method, item.rank) for item in spec.adapters] == [
        ("lora", 4),
        ("lora", 16),
        ("dora", 4),
        ("dora", 16),
    ]
    assert {(item.targets, item.images_seen, item.learning_rate) for item in spec.adapters} == {
        ("attention", 4800, 1e-4)
    }
    assert list(spec.mixtures.ratios) == [0.0, 0.1, 0.25]
    assert spec.mixtures.synthetic_only
    assert [item.class_consistency for item in spec.selection] == [0.5]
    assert [item.prompt for item in spec.synthesis] == ["an image of a {label} nucleus"]


def test_reads_the_packaged_sample_study() -> None:
    spec = parse(importlib.resources.files("synthmix.examples").joinpath("demo.yaml").read_text())
    assert (spec.name, spec.dataset, spec.seeds) == ("demo", "sim-cells", 3)
    assert list(spec.mixtures.ratios) == [0, 0.10, 0.25, 0.50, 0.75]


def test_what_is_written_reads_back() -> None:
    spec = parse(STUDY)
    assert parse(to_yaml(spec)) == spec


def test_json_with_its_own_spelling_of_keys_is_understood() -> None:
    text = '{\n\t"name": "a",\n\t"synthesis": {"guidanceScale": 2.5, "perClass": "200", "seed": "7"}\n}'
    [synthesis] = parse(text, "study.json").synthesis
    assert (synthesis.guidance_scale, synthesis.per_class, synthesis.seed) == (2.5, 200, 7)


def test_presence_of_a_zero_is_kept() -> None:
    assert parse("adapters: {caption_dropout: 0}").adapters[0].HasField("caption_dropout")
    assert not parse("adapters: {rank: 4}").adapters[0].HasField("caption_dropout")


def test_sections_may_be_absent_or_empty() -> None:
    spec = parse("name: a\nadapters:\nsplit:\n  # seed: 7\n")
    assert not spec.adapters
    assert not spec.HasField("split")


@pytest.mark.parametrize(
    ("text", "name"), [("2024", "2024"), ("1.10", "1.10"), ("2024-05-01", "2024-05-01"), ("'true'", "true")]
)
def test_text_is_taken_as_it_is_written(text: str, name: str) -> None:
    assert parse(f"name: {text}").name == name


def test_numbers_are_taken_as_they_are_meant() -> None:
    adapters = parse("adapters: {alpha: [1e-4, .5, 5., 1_000.0], images_seen: [4_800, '12']}").adapters
    assert list(dict.fromkeys(item.alpha for item in adapters)) == [1e-4, 0.5, 5.0, 1000.0]
    assert list(dict.fromkeys(item.images_seen for item in adapters)) == [4800, 12]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("'{label} x'", [["{label} x"]]),
        ("['{label} x', '{label} y']", [["{label} x", "{label} y"]]),
        ("[['{label} x'], ['{label} y', '{label} z'], []]", [["{label} x"], ["{label} y", "{label} z"], []]),
        ("[]", [[]]),
    ],
)
def test_a_field_that_holds_a_list_is_a_grid_by_lists_within_it(value: str, expected: list[list[str]]) -> None:
    spec = parse(f"adapters: {{rank: [2, 4], more_prompts: {value}}}")
    found = [(item.rank, list(item.more_prompts)) for item in spec.adapters]
    assert found == [(rank, prompts) for rank in (2, 4) for prompts in expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{round: 100, '7': 20}", [{"round": 100, "7": 20}]),
        ("[{round: 100}, {round: 200, flat: 1}]", [{"round": 100}, {"round": 200, "flat": 1}]),
        ("{}", [{}]),
    ],
)
def test_values_by_keys_are_mappings(value: str, expected: list[dict[str, int]]) -> None:
    spec = parse(f"synthesis: {{steps: [10, 20], class_images: {value}}}")
    assert [dict(item.class_images) for item in spec.synthesis] == expected * 2
    assert parse(to_yaml(spec)) == spec
    assert dict(parse("synthesis: {strengths_by_images: {16: 0.15, 1: 0.5}}").synthesis[0].strengths_by_images) == {
        1: 0.5,
        16: 0.15,
    }


def test_faults_of_values_by_keys_are_where_they_are_written() -> None:
    assert problems("synthesis:\n  class_images:\n    round: many\n    flat: 2\n    flat: 3\n") == [
        "study.yaml:3: synthesis.class_images.round: expects a whole number (at most 2147483647), but has 'many'",
        "study.yaml:5: synthesis.class_images.flat: is given twice; keep one of the two",
    ]
    [fault] = problems("synthesis: {class_images: 100}")
    assert "expects keys below it, each text, and of each a whole number (at most 2147483647), but has '100'" in fault
    [fault] = problems("synthesis: {strengths_by_images: {few: 0.5}}")
    assert "expects a whole number" in fault
    text = "synthesis:\n  steps: [10, 20]\n  class_images:\n    flat: 2\n    round: 1\n"
    document = parse_document(text, studies_pb2.StudySpec, "study.yaml")
    error = document.locate(
        InvalidArgument("x", violations=[FieldViolation("synthesis[1].class_images[round]", "is too small")])
    )
    assert [(item.place, item.field) for item in error.violations] == [("study.yaml:5", "synthesis.class_images.round")]


def test_a_fault_in_a_list_of_a_grid_is_where_it_was_written() -> None:
    text = "adapters:\n  rank: [2, 4]\n  more_prompts: ['{label} x', 'y']\n"
    document = parse_document(text, studies_pb2.StudySpec, "study.yaml")
    error = document.locate(
        InvalidArgument("x", violations=[FieldViolation("adapters[1].more_prompts[1]", "is wrong")])
    )
    assert [item.place for item in error.violations] == ["study.yaml:3"]
    assert error.violations[0].field == "adapters.more_prompts[1]"


def test_a_list_of_settings_holds_grids_of_its_own() -> None:
    spec = parse("adapters:\n  - {rank: [4, 16], seed: 1}\n  - {method: lora}\nsynthesis: {steps: [10, 20]}\n")
    assert [(item.rank, item.seed, item.method) for item in spec.adapters] == [(4, 1, ""), (16, 1, ""), (0, 0, "lora")]
    assert [item.steps for item in spec.synthesis] == [10, 20]
    assert parse(to_yaml(spec)) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nnmae: b", "study.yaml:2: nmae: is not a known key; did you mean `name`?"),
        (
            "mixtures:\n  mode: append\n  ratoi: [0]",
            "study.yaml:3: mixtures.ratoi: is not a known key; did you mean `ratios`?",
        ),
        (
            "classifier: {batchSze: 4}",
            "study.yaml:1: classifier.batchSze: is not a known key; did you mean `batch_size`?",
        ),
        (
            "rank: 4",
            "study.yaml:1: rank: is not a known key here; it belongs below `adapters:`, indented",
        ),
        (
            "image_size: 4",
            "study.yaml:1: image_size: is not a known key here; "
            "it belongs below `adapters:`, `classifier:` or `measures:`, indented",
        ),
        (
            "split: {zebra: 1}",
            "study.yaml:1: split.zebra: is not a known key; known are test, validation, seed",
        ),
        ("name: a\n\nname: b", "study.yaml:3: name: is given twice, first in line 1; keep one of the two"),
        (
            "synthesis:\n  guidance_scale: 2\n  guidanceScale: 3",
            "study.yaml:3: synthesis.guidance_scale: is given twice, first in line 2; keep one of the two",
        ),
        ("seeds: 1.5", "study.yaml:1: seeds: expects a whole number (at most 2147483647), but has '1.5'"),
        ("seeds: 3000000000", "expects a whole number (at most 2147483647), but has '3000000000'"),
        ("seeds: 010", "expects a whole number"),  # 8 to YAML 1.1, 10 to people
        ("seeds: [1, 2]", "study.yaml:1: seeds: expects a whole number (at most 2147483647), but has a list"),
        ("claim: {margin: 2%}", "study.yaml:1: claim.margin: expects a number, but has '2%'; write 0.02"),
        ("claim: {margin: .nan}", "claim.margin: expects a number, but has '.nan'"),
        ("claim: {margin: 1e999}", "claim.margin: expects a number, but has '1e999'"),
        (
            "adapters:\n  rank:\n    - 4\n    - four",
            "study.yaml:4: adapters.rank[1]: expects a whole number (at most 2147483647), but has 'four'",
        ),
        ("adapters:\n  rank:\n", "study.yaml:2: adapters.rank: has no value; give a whole number"),
        ("name: true", "study.yaml:1: name: expects text, but has 'true'; put it in quotes if it is meant"),
        ("mixtures: {synthetic_only: 'true'}", "expects true or false, without quotes, but has 'true'"),
        (
            "split: 0.25",
            "study.yaml:1: split: expects keys below it (test, validation, seed), but has '0.25'",
        ),
        ("adapters: [lora]", "study.yaml:1: adapters[0]: expects keys below it"),
        ("adapters: lora", "study.yaml:1: adapters: expects keys below it"),
        (
            "adapters:\n  rank:\n    - 4\n    - 4",
            "study.yaml:4: adapters.rank[1]: 4 stands twice in the list; remove one of them",
        ),
        ("adapters: {rank: []}", "adapters.rank: is an empty list; give a whole number"),
        (
            "adapters:\n"
            + "".join(f"  {key}: [1, 2, 3, 4, 5, 6, 7, 8]\n" for key in ("rank", "alpha", "seed"))
            + "  images_seen: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n",
            "study.yaml:2: adapters: makes 4,608 combinations; shorten its lists to at most 4096",
        ),
        ("synthesis: {guidance_scale: [2, 200%]}", "synthesis.guidance_scale[1]: expects a number, but has '200%'"),
        ("classifier: {epochs: [1, 2]}", "classifier.epochs: expects a whole number"),
        ("name: {a: b}", "study.yaml:1: name: expects text, but has keys below it"),
        ("name: !!python/object:os.system x", "has the tag '!!python/object:os.system', which is not allowed"),
        ("name: !secret x", "has the tag '!secret', which is not allowed"),
        ('name: "\\ud83d"', "name: expects text"),
        ("a: &a {name: b}\n<<: *a", "study.yaml:2: <<: merging is not supported; write the keys plainly"),
        ("? [a]\n: b", "study.yaml:1: a key must be text, not a list"),
        (
            "name: a: b",
            "study.yaml:1:8: is not YAML: mapping values are not allowed here; is the line indented",
        ),
        ("name: 'a", "is not YAML: found unexpected end of stream"),
        ("mixtures:\n\tmode: append", "study.yaml:2:1: is not YAML: found character '\\t' that cannot start"),
        ("name: a\n---\nname: b", "study.yaml:2:1: is not YAML: has a second document"),
        ("name: a\x00", "study.yaml:1: has the character '\\x00', which YAML forbids"),
        ("", "study.yaml:1: is empty"),
        ("# nothing yet\n", "study.yaml:1: is empty"),
        ("- name: a", "study.yaml:1: expects keys with values, such as `name: my-study`, but is a list"),
        ("just text", "study.yaml:1: expects keys with values, such as `name: my-study`, but is 'just text'"),
        ("[" * 2000, "study.yaml:1: nests deeper than 32 levels"),
        ("a: &a 1\n" + "b: [" + "*a, " * 101 + "]", "study.yaml:2: has more than 100 aliases"),
    ],
)
def test_says_where_and_what_is_wrong(text: str, said: str) -> None:
    assert said in "\n".join(problems(text))


def test_says_everything_that_is_wrong_at_once() -> None:
    assert len(problems("nmae: a\nseeds: x\nmixtures: {ratoi: [0], mode: [a, b]}")) == 4


def test_an_alias_that_holds_itself_ends() -> None:
    assert "name: expects text, but has a list" in problems("name: &a [*a]")[0]


def test_exponential_aliases_cost_nothing() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)
    )
    assert "is not a known key" in problems(bomb + "\nname: *a9")[0]


def test_what_a_service_sets_cannot_be_given() -> None:
    with pytest.raises(InvalidArgument, match=r"a.yaml:2: final_loss: is set by the service"):
        parse_document("rank: 4\nfinal_loss: 0.1\nname: x\n", adapters_pb2.Adapter, "a.yaml")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("./models/sd15", "{folder}/models/sd15"),
        ("../sd15", "{parent}/sd15"),
        ("./models/../sd15", "{folder}/sd15"),
        ("models/sd15", "models/sd15"),
        ("builtin", "builtin"),
        ("/models/sd15", "/models/sd15"),
        ("~/models/sd15", "{parent}/home/models/sd15"),
    ],
)
def test_a_base_model_may_be_relative_to_the_study_s_file(
    written: str, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "study.yaml").write_text(f"name: x\nadapters: {{base_model: {written}}}\n")
    expected = read.format(folder=folder, parent=tmp_path)
    assert read_study(folder / "study.yaml").message.adapters[0].base_model == expected
    monkeypatch.chdir(tmp_path)
    assert read_study(Path("studies/study.yaml")).message.adapters[0].base_model == expected


def test_a_servers_violation_gets_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    document = read_study(path)
    error = NotFound(
        "several",
        reason="R",
        metadata={"a": "b"},
        violations=[
            FieldViolation("spec.mixtures.ratios[2]", "is wrong"),
            FieldViolation("mixtures.ratios[1]", "is wrong"),
            FieldViolation("adapters[1].rank", "is wrong"),
            FieldViolation("adapters[3].rank", "is wrong"),
            FieldViolation("spec.adapters[0].image_size", "is wrong"),
            FieldViolation("spec.synthesis[0].seed", "is wrong"),
            FieldViolation("spec.nothing", "is wrong"),
        ],
    )
    located = document.locate(error)
    assert isinstance(located, NotFound)
    assert (located.message, located.reason, located.metadata) == ("several", "R", {"a": "b"})
    places = [item.place for item in located.violations if isinstance(item, PlacedViolation)]
    assert places == [f"{path}:18", f"{path}:17", f"{path}:7", f"{path}:5", f"{path}:11", str(path)]
    assert [item.field for item in located.violations] == [
        "spec.mixtures.ratios[2]",
        "mixtures.ratios[1]",
        "adapters.rank[1]",  # of both adapters that have it
        "spec.adapters.image_size",
        "spec.synthesis.seed",
        "spec.nothing",
    ]


def test_a_servers_message_says_once_what_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("adapters:\n  rank: [0, 4]\n  alpha: [1, 2]\n  seed: 0\n")
    faults = [FieldViolation(f"adapters[{index}].rank", "0 is out of range") for index in (0, 1)]
    error = InvalidArgument("\n".join(f"{item.field}: {item.description}" for item in faults), violations=faults)
    located = read_study(path).locate(error)
    assert located.message == "adapters.rank[0]: 0 is out of range"
    assert [item.place for item in located.violations if isinstance(item, PlacedViolation)] == [f"{path}:2"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        read_study(tmp_path / "absent.yaml")
    with pytest.raises(InvalidArgument, match="is a folder, not a file"):
        read_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: a\nprompt: caf\xe9\n")
    with pytest.raises(InvalidArgument, match=r"latin.yaml:2: is not UTF-8 text"):
        read_study(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (LARGEST_FILE_BYTES + 1))
    with pytest.raises(InvalidArgument, match="larger than 1 MiB"):
        read_study(tmp_path / "large.yaml")


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nseeds: 3\r\n")
    assert read_study(path).message.seeds == 3


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"name: a\nsees: 3\n")))
    with pytest.raises(InvalidArgument, match=r"<stdin>:2: sees: is not a known key; did you mean `seeds`"):
        read_document(STANDARD_INPUT, studies_pb2.StudySpec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: " + "9" * 5000, r"expects a whole number \(at most 2147483647\), but has '9{80}'$"),
        ("seeds: -" + "9" * 5000, "expects a whole number"),
        ("split: {seed: 1_" + "0" * 5000 + "}", "expects a whole number"),
        ("split: {test: " + "9" * 5000 + "}", "expects a number"),
        ("split: {test: 1e99999}", "expects a number"),
        (r'name: "\U00110000"', "has an escape that stands for no character; write the character itself"),
        (r'name: "\UFFFFFFFF"', "has an escape that stands for no character"),
        (r'"\e[31mname": a', r"\\x1b\[31mname: is not a known key"),
        ("x" * 1000 + ": a", r"x+ \.\.\. x+: is not a known key"),
        (
            "name: a\n" + "".join(f"key{number}: 1\n" for number in range(3000)),
            "has 2,980 more faults; fix these first$",
        ),
        ("seeds: \u0663", "expects a whole number"),
        ("? " * 3000, "nests deeper|mapping"),
        ("name: \U0001f9ec\0", "which YAML forbids"),
    ],
)
def test_hostile_files_end_in_short_sentences(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        parse_document(text, studies_pb2.StudySpec, "study.yaml")
    assert len(caught.value.message) < 4000
    assert all(line.isprintable() for line in caught.value.message.splitlines())


def test_no_file_is_a_fault_of_ours() -> None:
    """Mutations of a study: whatever they make of it, it is read or refused."""
    random = Random(1)
    pieces = [*"{}[]:-&*!%#?|>'\"\n\t\0\\", "\x85", "\u2028", "\U0001f9ec", "9" * 50, "<<: ", "!!int ", "---\n", ""]
    for _ in range(300):
        characters = list(STUDY)
        for _ in range(random.randint(1, 12)):
            characters[random.randrange(len(characters))] = random.choice(pieces)
        with contextlib.suppress(InvalidArgument):
            parse_document("".join(characters), studies_pb2.StudySpec, "study.yaml")
