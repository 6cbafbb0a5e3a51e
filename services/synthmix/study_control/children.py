"""What a study's images begin from: what adapters cannot be fused or scaled for, and children that mixtures lack.

Faults that lie between `adapters`, `synthesis` and `mixtures`, so that no other service sees them.
"""

from collections.abc import Mapping, Sequence

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.adapter_scale import check_scale
from synthmix.image_data.fused_adapters import check_fusion, is_fused
from synthmix.image_data.generators import IMAGE
from synthmix.image_data.image_table import SOURCE_LABEL
from synthmix.image_data.image_to_image import SAME_CLASS, is_of_any_class, is_of_pairs
from synthmix.image_data.mixture_kinds import KINDS, OWN_CHILD, MixtureKind, leaves_some_out
from synthmix.image_data.paired_sources import check_pairs, pairing_field
from synthmix.image_data.selection_rules import rules_given
from synthmix.image_data.summed_adapters import check_number, check_summed, is_summed
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.study_control.specification import makes_children, part_counts, selections, taken_by_ratios


def check_children(
    spec: studies_pb2.StudySpec, split: datasets_pb2.Split, imported: Sequence[Manifest], problems: Problems
) -> None:
    """Collects adapters that cannot be fused or scaled, and mixtures without the children of train images they need.

    Args:
        spec: With its defaults.
        imported: The image sets that the study takes as they are.
    """
    counts = part_counts(split, "train")
    kind = KINDS.get(spec.mixtures.mode)
    draws_children = kind is not None and kind.drawn_from == OWN_CHILD and any(spec.mixtures.ratios)
    leaving_out = [
        ratio
        for ratio, taken in taken_by_ratios(spec, counts)
        if kind and leaves_some_out(kind, taken, list(counts.values()))
    ]
    for index, synthesis in enumerate(spec.synthesis):
        if is_summed(synthesis):
            field, whats = f"synthesis[{index}]", [f"adapters[{number}]" for number in range(len(spec.adapters))]
            check_number(synthesis, len(spec.adapters), problems, field=field)
            check_summed(synthesis, spec.adapters, problems, field=field, whats=whats)
        for number, adapter in enumerate(spec.adapters):
            what = f"adapters[{number}]"
            check_fusion(synthesis, adapter, counts, problems, field=f"synthesis[{index}]", what=what)
            check_scale(synthesis, adapter, problems, field=f"synthesis[{index}]", what=what)
            _check_judged(spec, counts, index, number, problems)
            check_pairs(synthesis, adapter.per, counts, problems, field=f"synthesis[{index}]", what=what)
            if draws_children and not makes_children(adapter, synthesis):
                problems.found.append(
                    invalid_field(
                        "mixtures.mode",
                        spec.mixtures.mode,
                        f"takes children of the very image, and those of synthesis[{index}] with {what} begin as noise",
                        f"set synthesis[{index}].strength, use adapters with per: image, or the mode sample_global",
                    )
                )
        if is_of_any_class(synthesis):
            _check_any_class(spec, index, problems, kind=kind, leaves_out=bool(leaving_out))
        of_two = [("fused_adapters", is_fused(synthesis)), (pairing_field(synthesis), is_of_pairs(synthesis))]
        for name in (name for name, makes in of_two if makes and leaving_out):
            problems.found.append(
                invalid_field(
                    f"synthesis[{index}].{name}",
                    getattr(synthesis, name),
                    f"makes children of two images, and mixtures of the mode {spec.mixtures.mode} leave real images "
                    "out, so that they may hold few of them",
                    "leave it out, or use the mode append",
                )
            )
    of_any_class = any(map(is_of_any_class, spec.synthesis)) or any(SOURCE_LABEL in item.summary for item in imported)
    if spec.mixtures.HasField("soft_label_gamma") and not of_any_class:
        remedy = "set a strength and source: any_class under synthesis, or leave it out"
        if preset := spec.mixtures.preset:  # which gave it
            remedy = f"leave source under synthesis to the preset {preset} as well, or give mixtures without it"
        problems.found.append(
            invalid_field(
                "mixtures.soft_label_gamma",
                spec.mixtures.soft_label_gamma,
                "is of images that begin from images of another class, and there are none",
                remedy,
            )
        )
    for ratio, taken in taken_by_ratios(spec, counts):
        without = [label for label, real in zip(counts, taken.real, strict=True) if counts[label] and not real]
        children = any(makes_children(adapter, synthesis) for adapter in spec.adapters for synthesis in spec.synthesis)
        if ratio in leaving_out and without and children:
            problems.found.append(
                invalid_field(
                    f"mixtures.ratios[{list(spec.mixtures.ratios).index(ratio)}]",
                    ratio,
                    f"keeps no real image of the class {without[0]!r}, and synthetic images begin from train images, "
                    "or are made with an adapter for each: of those that are left out none is taken",
                    "use a smaller ratio, or adapters with per: class and no strength",
                )
            )


def _check_judged(
    spec: studies_pb2.StudySpec, counts: Mapping[str, int], index: int, number: int, problems: Problems
) -> None:
    """Collects children of a class's only train image, which no selection can judge without it."""
    alone = [label for label, count in counts.items() if count == 1]
    chosen = selections(spec)
    if alone and chosen and makes_children(spec.adapters[number], spec.synthesis[index]):
        problems.found.append(
            invalid_field(
                f"selection[{chosen[0][0]}]",
                ", ".join(rules_given(chosen[0][1])),
                f"judges children of train images, and the class {alone[0]!r} has one alone: without it, no classifier "
                "can judge them",
                "leave it out, or use a split that gives each class two train images",
            )
        )


def _check_any_class(
    spec: studies_pb2.StudySpec, index: int, problems: Problems, *, kind: MixtureKind | None, leaves_out: bool
) -> None:
    """Collects what images cannot be used for that begin from images of any class."""
    source = spec.synthesis[index].source
    field, remedy = f"synthesis[{index}].source", f"use {SAME_CLASS}, or another mode"
    if leaves_out:
        problem = f"makes children of all images, and mixtures of the mode {spec.mixtures.mode} leave real images out"
        problems.found.append(invalid_field(field, source, f"{problem}, so that they may hold few of them", remedy))
    if kind is not None and kind.drawn_from == OWN_CHILD:
        problem = (
            f"makes children of other classes, and the mode {spec.mixtures.mode} puts a child in its source's place"
        )
        problems.found.append(invalid_field(field, source, problem, f"{remedy}, such as sample_global"))
    for number, adapter in enumerate(spec.adapters):
        if adapter.per == IMAGE:
            problem = f"may be another image than that of an adapter, and adapters[{number}] has one for each image"
            problems.found.append(
                invalid_field(field, source, problem, f"use {SAME_CLASS}, or adapters with per: class")
            )
