"""What a report says of selections: what each kept and left out, with pictures of what it left out."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings
from synthmix.image_data.image_table import read_images
from synthmix.image_data.selection_rules import CANDIDATES, NOT_NEEDED, SELECTED
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings_messages import from_canonical, in_words
from synthmix.study_control.report import data as page

# Of each class and selection.
PICTURES = 8


def selection_of(image_set: Manifest) -> page.Selection | None:
    """What an image set was chosen by, and what was left out; None if it was not chosen."""
    selected = image_set.summary.get(SELECTED)
    if selected is None:
        return None
    left_out: Counter[str] = Counter()
    for item in selected["rejections"]:
        left_out[rule_in_words(item["rule"])] += item["images"]
    return page.Selection(
        settings=in_words(from_canonical(image_set.request["selection"], SelectionSettings)),
        candidates=selected["candidates"],
        left_out=dict(left_out),
        missing=selected["missing"],
    )


def rule_in_words(rule: str) -> str:
    return "not needed" if rule == NOT_NEEDED else rule.replace("_", " ")


def names_of_candidates(image_sets: Sequence[Manifest], set_names: Mapping[str, str]) -> dict[str, str]:
    """Image sets that only selections were made of, by resource name, with a name for each.

    Args:
        set_names: Resource name -> short name of those that classifiers were trained with.
    """
    chosen: dict[str, list[str]] = {}
    for item in image_sets:
        if SELECTED in item.summary:
            candidates = str(ArtifactName(IMAGE_SETS, item.inputs["candidates"]))
            chosen.setdefault(candidates, []).append(set_names[str(item.name)])
    return {
        candidates: f"candidates of {', and of '.join(names)}"
        for candidates, names in chosen.items()
        if candidates not in set_names
    }


def missing_warnings(image_sets: Sequence[Manifest], set_names: Mapping[str, str]) -> list[str]:
    """Selections that found fewer images than were wanted."""
    warnings = []
    for item in image_sets:
        for label, missing in item.summary.get(SELECTED, {}).get("missing", {}).items():
            kept = item.summary[SELECTED]["kept"][label]
            warnings.append(
                f"{set_names[str(item.name)]} holds {plural(kept, 'image')} of the class {label!r} of "
                f"{kept + missing:,} that were wanted: no more passed the selection; more candidates, or a weaker "
                "rule, give more"
            )
    return warnings


def rejected_galleries(
    store: ObjectStore, image_sets: Mapping[str, str], picture: Callable[[bytes], bytes]
) -> tuple[page.RejectedGallery, ...]:
    """The first images of each class that each rule left out, in turn.

    Args:
        image_sets: Short name -> resource name.
        picture: Makes of an image's bytes what is shown.
    """
    galleries = []
    for short, name in image_sets.items():
        manifest = read_manifest(store, ArtifactName.parse(name, field="image_set"))
        if SELECTED not in manifest.summary:
            continue
        table = pq.read_table(io.BytesIO(read_payload(store, manifest, CANDIDATES))).to_pylist()
        candidates = read_manifest(store, ArtifactName(IMAGE_SETS, manifest.inputs["candidates"]))
        of_class: dict[str, list[dict[str, Any]]] = {}
        for row in table:
            if row["rule"] and row["rule"] != NOT_NEEDED:
                of_class.setdefault(row["label"], []).append(row)
        for label, rows in of_class.items():
            shown = _in_turn(rows)[:PICTURES]
            pictures = dict(read_images(store, candidates, [row["index"] for row in shown]))
            examples = tuple(
                page.Rejected(
                    picture(pictures[row["index"]]),
                    rule_in_words(row["rule"]),
                    row["score"],
                )
                for row in shown
            )
            galleries.append(page.RejectedGallery(short, label, examples))
    return tuple(galleries)


def _in_turn(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each rule, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    placed = []
    for row in rows:
        placed.append((seen[row["rule"]], row))
        seen[row["rule"]] += 1
    return [row for _, row in sorted(placed, key=lambda item: item[0])]
