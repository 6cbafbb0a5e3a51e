"""The report's data, collected from the artifacts that the study's steps made; a task on a worker."""

import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data import generators
from synthmix.image_data.autoencoder_checks import CheckRequest, check_of, check_warnings, find_check
from synthmix.image_data.image_table import read_images
from synthmix.image_data.image_to_image import has_strength
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.seen_images import SEEN_COUNT
from synthmix.image_data.selection_rules import images_made, is_selection
from synthmix.image_data.sources.source_account import sentence
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_data.synthetic_images import open_image_set
from synthmix.image_data.trial_files import TRIAL_RESULTS
from synthmix.service_kit import message_json
from synthmix.service_kit.adapter_payloads import LOSSES, PREVIEWS, images_seen_of, in_folder
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload, write_payload
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import DATASETS, PARTS, STUDIES, ArtifactName, PartName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.settings_messages import from_canonical, in_words
from synthmix.service_kit.yaml_text import to_yaml
from synthmix.study_control.datasets import account_of_name, display_names, name_shown
from synthmix.study_control.leakage import leakage_checks
from synthmix.study_control.report import data as page
from synthmix.study_control.report.render import (
    render_csv,
    render_html,
    render_json,
    render_run_json,
    render_search_json,
)
from synthmix.study_control.report_selections import (
    missing_warnings,
    names_of_candidates,
    rejected_galleries,
    selection_of,
)
from synthmix.study_control.search.outcome import cost_of, made_by, scores_in, search_of

GALLERY_IMAGES = 8
GALLERY_SIZE_PX = 96
# Of what an adapter made on its way: at how many times, and how many pictures of a class at each.
PREVIEW_TIMES, PREVIEWS_SHOWN = 8, 2
COMPARED_SIZE_PX = 64
# The share of an image set's images from which on it is said that they are near copies of what they begin from.
NEAR_SOURCE_WARNING = 0.5
NEAREST_DISTANCE = (
    f"root mean square difference of grey values (0 to 255) at {COMPARED_SIZE_PX} x {COMPARED_SIZE_PX} pixels"
)


def make_report(target: str, report: Callable[[int], None], threads: int, **study: Any) -> dict[str, Any]:
    """Writes the report's payloads, and returns them and the verdict for the manifest.

    Args:
        target: The study's name.
        study: The other arguments of `collect`.
    """
    store = open_object_store()
    data = collect(store, target, **study)
    artifact = ArtifactName.parse(target, field="target", collection=STUDIES)
    texts = {
        "report.html": render_html(data),
        "report.json": render_json(data),
        "results.csv": render_csv(data),
        "run.json": render_run_json(data),
    }
    if data.search is not None:
        texts["search.json"] = render_search_json(data)
    payloads = [write_payload(store, artifact, name, text.encode()) for name, text in texts.items()]
    report(1)
    return {"payloads": [payload.__dict__ for payload in payloads], "verdict": data.verdict_sentence}


def collect(
    store: ObjectStore,
    target: str,
    create_time: str,
    spec: dict[str, Any],
    split: str,
    owner: str,
    adapters: Sequence[str],
    image_sets: Sequence[str],
    evaluation: str,
    costs: Sequence[dict[str, Any]],
    imported_sets: Sequence[str] = (),
    presets: Sequence[Mapping[str, Any]] = (),
    search: dict[str, Any] | None = None,
) -> page.ReportData:
    """Everything that the report says.

    Args:
        target: The study's name.
        create_time: When it was submitted, RFC 3339.
        spec: The study's specification in its canonical form.
        owner: Whose study it is, and whose names of the dataset are shown.
        image_sets: Those that the study made.
        costs: For each step its display name, tasks, reused tasks and predicted seconds.
        imported_sets: Those that it took as they were.
        presets: What presets_applied.with_image_sets says.
        search: What the study's search did, as search.outcome takes it.

    Raises:
        NotFound, DataLoss: An artifact is not what it was.
    """
    split_manifest = read_manifest(store, ArtifactName.parse(split, field="split"))
    dataset = read_manifest(store, ArtifactName(DATASETS, split_manifest.inputs["dataset"]))
    adapter_manifests = [read_manifest(store, ArtifactName.parse(name, field="adapter")) for name in adapters]
    made = [read_manifest(store, ArtifactName.parse(name, field="image_set")) for name in image_sets]
    imported = [read_manifest(store, ArtifactName.parse(name, field="image_set")) for name in imported_sets]
    image_set_manifests = [*made, *imported]
    evaluation_manifest = read_manifest(store, ArtifactName.parse(evaluation, field="evaluation"))
    comparison = message_json.from_value(evaluation_manifest.summary["comparison"], evaluations_pb2.Comparison)
    fidelity = evaluation_manifest.summary["fidelity"]
    measured = message_json.from_value(fidelity, evaluations_pb2.Fidelity) if fidelity else None
    results = message_json.from_bytes(
        read_payload(store, evaluation_manifest, TRIAL_RESULTS), evaluations_pb2.TrialResults
    )
    train = open_train_part(store, str(PartName(split_manifest.name, "train")), field="split")
    adapter_names = dict(
        zip((item.name.id for item in adapter_manifests), generators.adapter_names(adapter_manifests), strict=True)
    )
    set_names = {
        result.mixture.image_set: result.mixture.image_set_label
        for result in comparison.mixtures
        if result.mixture.image_set
    }
    evaluated = [name for name in (*image_sets, *imported_sets) if name in set_names]
    of_image_sets = set_names | names_of_candidates(image_set_manifests, set_names)
    message = from_canonical(spec, studies_pb2.StudySpec)
    for item in message.selection:
        if not is_selection(item):
            item.Clear()  # `none`, which has no defaults
    classifier = from_canonical(evaluation_manifest.request["settings"], evaluations_pb2.Evaluation).classifier
    searched = made_by(store, search) if search is not None else []
    shown = {set_names[name]: name for name in evaluated}
    galleries, real_examples = gallery(store, train, shown)
    with_strength = {str(item.name) for item in made if has_strength(generators.synthesis_settings(item))}
    return page.ReportData(
        study=page.Study(message.name, target, datetime.fromisoformat(create_time), to_yaml(message)),
        dataset=_dataset(store, dataset, split_manifest, owner, message.dataset),
        class_names=train.classes,
        base_model=", ".join(dict.fromkeys(item.summary["base_model"] for item in adapter_manifests)) or "none",
        autoencoder_checks=autoencoder_checks(store, adapter_manifests),
        adapters=tuple(_adapter(store, adapter_names[item.name.id], item) for item in adapter_manifests),
        image_sets=(
            *(
                _image_set(
                    of_image_sets[str(item.name)],
                    "; ".join(adapter_names[name.id] for name in generators.adapters_of(item)),
                    item,
                )
                for item in made
            ),
            *(_imported_set(of_image_sets[str(item.name)], item) for item in imported),
        ),
        fidelity=measured,
        galleries=galleries,
        real_examples=real_examples,
        nearest_distance=NEAREST_DISTANCE,
        classifier=in_words(classifier),
        comparison=comparison,
        metrics=tuple(results.metrics),
        trials=tuple(results.trials),
        leakage=leakage_checks(
            store, split, adapter_manifests, image_set_manifests, comparison, results, scores_in(searched)
        ),
        costs=(
            *([cost_of(search, searched, message.search.budget_seconds)] if search is not None else ()),
            *_costs(costs, [*adapter_manifests, *made, evaluation_manifest]),
        ),
        provenance=_provenance(dataset, split_manifest, adapter_manifests, made, imported, evaluation_manifest),
        warnings=(
            *(near_source_warnings(measured, set_names, with_strength) if measured else ()),
            *missing_warnings(image_set_manifests, set_names),
        ),
        search=search_of(message.search, search, searched) if search is not None else None,
        presets=tuple(_preset(item, set_names) for item in presets),
        rejected=rejected_galleries(store, shown, lambda png: _png(_fitted(png, GALLERY_SIZE_PX))),
        near_pairs=near_pairs(store, train, measured, set_names) if measured else (),
    )


def near_source_warnings(
    fidelity: evaluations_pb2.Fidelity, set_names: Mapping[str, str], with_strength: Collection[str]
) -> list[str]:
    """Image sets that are little else than the train images that they begin from.

    Args:
        set_names: Resource name -> short name.
        with_strength: Resource names of those whose images begin from train images by a strength.
    """
    return [
        f"{100 * source.near_source_share:.0f} % of the images of {set_names[source.image_set]} are near copies of the "
        "train image that they begin from, or whose adapter made them: they add little that duplicates would not"
        + ("; a greater strength leads away from it" if source.image_set in with_strength else "")
        for source in fidelity.sources
        if source.near_source_share > NEAR_SOURCE_WARNING
    ]


def near_pairs(
    store: ObjectStore, train: TrainPart, fidelity: evaluations_pb2.Fidelity, set_names: Mapping[str, str]
) -> tuple[page.NearPair, ...]:
    """The images of each image set that come the nearest to a train image, beside it, the nearest first.

    Args:
        set_names: Resource name -> short name.
    """
    display = pixels(store, train, GALLERY_SIZE_PX)
    found = []
    for source in fidelity.sources:
        if not source.nearest_pairs:
            continue
        images = open_image_set(store, source.image_set, classes=train.classes, field="image_set")
        rows = [images.sha256s.index(pair.image) for pair in source.nearest_pairs]
        pngs = dict(read_images(store, images.manifest, rows))
        for row, pair in zip(rows, source.nearest_pairs, strict=True):
            real = Image.fromarray(np.asarray(display[train.sha256s.index(pair.train_image)]))
            shown = _png(_fitted(pngs[row], GALLERY_SIZE_PX))
            found.append(page.NearPair(set_names[source.image_set], pair.class_name, shown, _png(real), pair.distance))
    return tuple(found)


def gallery(
    store: ObjectStore, train: TrainPart, image_sets: dict[str, str]
) -> tuple[tuple[page.Gallery, ...], dict[str, tuple[bytes, ...]]]:
    """The first synthetic images of each class beside the train images nearest to them, and some real ones.

    Args:
        image_sets: Short name -> resource name.
    """
    display = pixels(store, train, GALLERY_SIZE_PX)

    @cache
    def real_png(row: int) -> bytes:
        return _png(Image.fromarray(np.asarray(display[row])))

    grey = pixels(store, train, COMPARED_SIZE_PX).astype(np.float32).mean(axis=-1).reshape(len(train), -1)
    examples: dict[tuple[str, str], list[page.SyntheticExample]] = {}
    for short, name in image_sets.items():
        images = open_image_set(store, name, classes=train.classes, field="image_set")
        rows = [row for label in range(len(train.classes)) for row in _first_of(label, images.labels)]
        for row, png in read_images(store, images.manifest, rows):
            sources = _rows_of(images.sources[row], train) if images.sources else []
            values = np.asarray(_fitted(png, COMPARED_SIZE_PX).convert("L"), dtype=np.float32).reshape(-1)
            distances = np.sqrt(np.mean((grey - values) ** 2, axis=1))
            distances[sources] = np.inf
            nearest = int(np.argmin(distances))
            shown = page.SyntheticExample(
                _png(_fitted(png, GALLERY_SIZE_PX)),
                real_png(nearest),
                float(distances[nearest]),
                tuple(real_png(source) for source in sources),
            )
            examples.setdefault((short, train.classes[images.labels[row]]), []).append(shown)
    return (
        tuple(page.Gallery(short, label, tuple(shown)) for (short, label), shown in examples.items()),
        {
            label: tuple(real_png(row) for row in _first_of(index, train.labels))
            for index, label in enumerate(train.classes)
        },
    )


def _rows_of(sources: Sequence[str], train: TrainPart) -> list[int]:
    """The train rows of what an image is a child of. What imported images name may be images of no dataset here."""
    return [train.sha256s.index(sha256) for sha256 in sources if sha256 in train.sha256s]


def _first_of(label: int, labels: Sequence[int]) -> list[int]:
    """The rows of the first images of a class."""
    rows: list[int] = np.flatnonzero(np.asarray(labels) == label)[:GALLERY_IMAGES].tolist()
    return rows


def _fitted(png: bytes, size_px: int) -> Image.Image:
    return Image.open(io.BytesIO(png), formats=["PNG"]).resize((size_px, size_px), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _dataset(store: ObjectStore, dataset: Manifest, split: Manifest, owner: str, asked: str) -> page.Dataset:
    [(rule, value)] = dataset.summary["group_rule"].items()
    shown = name_shown(display_names(store), dataset.name, owner, asked)
    account = account_of_name(store, dataset, shown)
    return page.Dataset(
        display_name=shown.name if shown else asked,
        digest=dataset.name.id,
        simulated=dataset.summary["simulated"],
        group_rule=None if rule == "none" else f'{rule} "{value}"',
        parts=tuple(
            page.SplitPart(
                part,
                split.summary["parts"][part]["group_count"],
                {label: count["images"] for label, count in split.summary["parts"][part]["class_counts"].items()},
            )
            for part in PARTS
        ),
        warnings=(*account["warnings"], *split.summary["warnings"]),
        left_out=tuple(sentence(row) for row in account["left_out"]),
    )


def autoencoder_checks(store: ObjectStore, adapters: Sequence[Manifest]) -> tuple[page.AutoencoderCheck, ...]:
    """What is known of the base models' autoencoders, once for each base model and size of images."""
    named = {check_of(adapter): adapter.summary["base_model"] for adapter in adapters}
    return tuple(_autoencoder_check(store, check, base_model) for check, base_model in named.items())


def _autoencoder_check(store: ObjectStore, check: CheckRequest, base_model: str) -> page.AutoencoderCheck:
    quality = find_check(store, check)
    warnings = check_warnings(quality, base_model=base_model, image_size=check.image_size) if quality else []
    return page.AutoencoderCheck(base_model, check.image_size, quality, tuple(warnings))


def _adapter(store: ObjectStore, name: str, manifest: Manifest) -> page.Adapter:
    settings, summary = generators.adapter_settings(manifest), manifest.summary
    losses = _mean_course(_courses(store, manifest))
    return page.Adapter(
        name=name,
        settings=in_words(settings),
        parameter_count=summary["parameter_count"],
        final_loss=summary["final_loss"],
        loss_curve=tuple(page.LossPoint(step * settings.batch_size, loss) for step, loss in losses),
        seconds=manifest.seconds,
        gpu_seconds=manifest.gpu_seconds,
        # Adapters of earlier versions say neither.
        held_out=tuple(page.LossPoint(seen, loss) for seen, loss in summary.get("held_out_losses", ())),
        images_seen=summary.get("images_seen", 0),
        previews=previews(store, manifest),
        of_images=sum(bool(part.image) for part in generators.adapter_parts(manifest)),
    )


def _courses(store: ObjectStore, manifest: Manifest) -> list[list[tuple[int, float]]]:
    """The loss of each of an artifact's adapters, by its own steps."""
    parts = generators.adapter_parts(manifest)
    if parts[0].image:  # which have theirs in one file
        courses: list[list[tuple[int, float]]] = json.loads(read_payload(store, manifest, LOSSES))
        return courses
    return [json.loads(read_payload(store, manifest, in_folder(part.folder, LOSSES))) for part in parts]


def previews(store: ObjectStore, manifest: Manifest) -> dict[str, tuple[page.Previews, ...]]:
    """What an adapter made of each class on its way: some pictures, at times that are evenly spread to the last."""
    side_px = generators.adapter_settings(manifest).image_size
    found: dict[str, list[page.Previews]] = {}
    for adapter in manifest.summary.get("adapters", ()):  # which earlier versions do not list
        start = in_folder(adapter["folder"], PREVIEWS)
        for name in _spread(sorted(item.name for item in manifest.payloads if item.name.startswith(start))):
            sheet = Image.open(io.BytesIO(read_payload(store, manifest, name)), formats=["PNG"])
            for row, label in enumerate(adapter["labels"]):
                shown = page.Previews(images_seen_of(name), _pictures(sheet, row, side_px))
                found.setdefault(label, []).append(shown)
    return {label: tuple(of_label) for label, of_label in found.items()}


def _spread(names: Sequence[str]) -> list[str]:
    """PREVIEW_TIMES of them from the first to the last, or all if they are no more."""
    positions = {round(at) for at in np.linspace(0, len(names) - 1, PREVIEW_TIMES)} if names else set()
    return [names[position] for position in sorted(positions)]


def _pictures(sheet: Image.Image, row: int, side_px: int) -> tuple[bytes, ...]:
    """The first pictures of a row of a sheet, as PNGs."""
    boxes = [(left, row * side_px, left + side_px, (row + 1) * side_px) for left in range(0, sheet.width, side_px)]
    cut = [sheet.crop(box).resize((GALLERY_SIZE_PX,) * 2, Image.Resampling.BICUBIC) for box in boxes[:PREVIEWS_SHOWN]]
    return tuple(_png(picture) for picture in cut)


def _mean_course(courses: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The loss of an artifact's adapters by the steps that they have taken together: the mean of those still trained.

    A point stands for the steps since the one before, and those that ended early have points of fewer steps.
    """
    longest = max(courses, key=lambda course: course[-1][0])
    mean = []
    for step, _ in longest:
        at_step = [next((loss for end, loss in course if end >= step), None) for course in courses]
        losses = [loss for loss in at_step if loss is not None]
        mean.append((len(courses) * step, sum(losses) / len(losses)))
    return mean


def _preset(value: Mapping[str, Any], set_names: Mapping[str, str]) -> page.Preset:
    """A preset with the short names of its image sets that classifiers were trained with."""
    return page.Preset(
        name=value["name"],
        variant=value["variant"],
        title=value["title"],
        citation=value["citation"],
        sections=tuple(value["sections"]),
        image_sets=tuple(set_names[name] for name in value["image_sets"] if name in set_names),
        changes=tuple(value["changes"]),
        deviations=tuple(value["deviations"]),
        assumptions=tuple(value["assumptions"]),
    )


def _image_set(name: str, adapter: str, manifest: Manifest) -> page.ImageSet:
    settings = generators.synthesis_settings(manifest)
    return page.ImageSet(
        name=name,
        adapter=adapter,
        images=images_made(manifest),
        settings=in_words(settings),
        seconds=manifest.seconds,
        gpu_seconds=manifest.gpu_seconds,
        selection=selection_of(manifest),
    )


def _imported_set(name: str, manifest: Manifest) -> page.ImageSet:
    summary = manifest.summary
    return page.ImageSet(
        name=name,
        adapter="",
        images=images_made(manifest),
        settings={
            "Imported from": generators.origin_of(manifest),
            "Image size": f"{summary['image_size']} pixels",
            "Seen by its generator": f"{plural(summary[SEEN_COUNT], 'real image')}, as was stated",
        },
        seconds=0.0,
        gpu_seconds=0.0,
    )


def _costs(costs: Sequence[dict[str, Any]], manifests: Sequence[Manifest]) -> tuple[page.StepCost, ...]:
    """What this study spent: nothing for a step whose work had all been done for another."""
    return tuple(
        page.StepCost(
            name=cost["name"],
            tasks=cost["tasks"] - cost["reused"],
            reused_tasks=cost["reused"],
            seconds=manifest.seconds if cost["reused"] < cost["tasks"] else 0.0,
            gpu_seconds=manifest.gpu_seconds if cost["reused"] < cost["tasks"] else 0.0,
            predicted_seconds=cost["predicted_seconds"] or None,
        )
        for cost, manifest in zip(costs, manifests, strict=True)
    )


def _provenance(
    dataset: Manifest,
    split: Manifest,
    adapters: Sequence[Manifest],
    image_sets: Sequence[Manifest],
    imported: Sequence[Manifest],
    evaluation: Manifest,
) -> page.Provenance:
    made_by = {
        "adapter": ("adapter training", adapters),
        "image set": ("image synthesis", image_sets),
        "imported image set": ("import of images", imported),
        "evaluation": ("classifier evaluation", [evaluation]),
    }
    of_kind = {"dataset": [dataset], "split": [split]} | {kind: manifests for kind, (_, manifests) in made_by.items()}
    artifacts = [
        page.Artifact(kind, str(item.name), item.name.id) for kind, manifests in of_kind.items() for item in manifests
    ]
    base_models = dict.fromkeys((item.summary["base_model"], item.inputs["base_model"]) for item in adapters)
    artifacts += [page.Artifact("base model", name, digest) for name, digest in base_models]
    recipes = {step: str(manifests[0].recipe_version) for step, manifests in made_by.values() if manifests}
    return page.Provenance(tuple(artifacts), recipes, evaluation.software)
