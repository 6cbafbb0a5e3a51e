"""What synthetic images were made with: the settings that manifests record, and short names by what differs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings, SynthesisSettings
from synthmix.service_kit.adapter_payloads import WITHOUT_ADAPTER
from synthmix.service_kit.artifacts import IMPORTED, Manifest, read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.service_kit.settings_messages import (
    differing_fields,
    distinguishing_names,
    fill_left_out,
    from_canonical,
)

# What the summary of an adapter of SDXL has besides: its base model's kind, and the side that its train images had
# before they were resized.
BASE_MODEL_KIND, ORIGINAL_PX = "base_model_kind", "original_px"
# What the canonical request of an image set has that was chosen from another one.
_CHOSEN = "selection"
# What that of one has which was made with several adapters: the ids of all but the first.
MORE_ADAPTERS = "more_adapters"
# What has an adapter of its own, as `per` of an adapter's settings says it.
DATASET, CLASS, IMAGE = "dataset", "class", "image"


@dataclass(frozen=True)
class AdapterPart:
    """One of an artifact's adapters.

    Attributes:
        folder: Of its files among the payloads; "" for the only one.
        label: The class that it is for; "" for all.
        image: The sha256 of the only image that it was trained on; "" if there are more.
    """

    folder: str = ""
    label: str = ""
    image: str = ""


def adapter_parts(adapter: Manifest) -> list[AdapterPart]:
    """An artifact's adapters: one for all classes, one for each, or one for each train image."""
    adapters = adapter.summary.get("adapters", [{}])  # which earlier versions do not list
    return [AdapterPart(item.get("folder", ""), item.get("label", ""), item.get("image", "")) for item in adapters]


def classes_made(adapter: Manifest) -> list[str]:
    """The classes that an artifact has an adapter for: all, or those that had train images for one of their own."""
    labels = dict.fromkeys(part.label for part in adapter_parts(adapter) if part.label)
    return [*labels] or list(adapter.summary["classes"])


def recorded_adapter_settings(request: Mapping[str, Any]) -> AdapterSettings:
    """The settings of an adapter's canonical request, with their defaults."""
    settings = from_canonical(request["settings"], AdapterSettings)
    if not settings.HasField("block_size") and settings.method not in WITHOUT_ADAPTER:  # which have no rank
        fill_left_out(settings, "rank")
    fill_left_out(settings, "learning_rate_schedule")
    return settings


def is_imported(made: Manifest) -> bool:
    """Whether another program trained an adapter, or made an image set."""
    return IMPORTED in made.request


def adapter_settings(adapter: Manifest) -> AdapterSettings:
    """An adapter's settings, with the base model by the name under which it was asked for.

    Of an imported one these are base model, prompt and image size, and what its file says of its form.
    """
    settings = recorded_adapter_settings(adapter.request)
    if is_imported(adapter):
        settings = AdapterSettings(prompt=settings.prompt, image_size=settings.image_size, **adapter.summary["form"])
    settings.base_model = adapter.summary["base_model"]
    return settings


def adapters_of(image_set: Manifest) -> list[ArtifactName]:
    """The adapters that an image set was made with; none if it was imported."""
    if is_imported(image_set):
        return []
    ids = [image_set.inputs["adapter"], *image_set.request.get(MORE_ADAPTERS, ())]
    return [ArtifactName(ADAPTERS, item) for item in ids]


def _adapters_in_common(store: ObjectStore, image_set: Manifest) -> AdapterSettings:
    """The settings of an image set's adapter, or what those of several have in common."""
    return in_common([adapter_settings(read_manifest(store, name)) for name in adapters_of(image_set)])


def in_common(settings: Sequence[AdapterSettings]) -> AdapterSettings:
    """What several have in common: the other fields are not set."""
    common = AdapterSettings()
    common.CopyFrom(settings[0])
    for field, _ in differing_fields(settings):
        common.ClearField(field.name)
    return common


def synthesis_settings(image_set: Manifest) -> SynthesisSettings:
    return from_canonical(image_set.request["settings"], SynthesisSettings)


def _distinguishing_selections(image_sets: Sequence[Manifest]) -> list[SelectionSettings]:
    """What each image set was chosen by, without what all that were chosen have in common; empty if it was not."""
    selections = [SelectionSettings() for _ in image_sets]
    chosen = [
        (item, settings) for item, settings in zip(image_sets, selections, strict=True) if _CHOSEN in item.request
    ]
    for item, settings in chosen:
        settings.CopyFrom(from_canonical(item.request[_CHOSEN], SelectionSettings))
    for field in ("keep", "oversample"):
        if len({getattr(settings, field) for _, settings in chosen}) == 1:
            for _, settings in chosen:
                settings.ClearField(field)
    return selections


def adapter_names(adapters: Sequence[Manifest]) -> list[str]:
    """Such as "rank 4" beside "rank 16"."""
    return distinguishing_names([(adapter_settings(adapter),) for adapter in adapters], alone="adapter")


def image_set_names(store: ObjectStore, image_sets: Sequence[Manifest]) -> list[str]:
    """Such as "rank 4, steps 25": what differs of the adapters, of how images are made with them, and are chosen.

    Imported ones are named by where they are from, and by their digest too if several are from there.
    """
    made = [item for item in image_sets if not is_imported(item)]
    selections = _distinguishing_selections(made)
    names = iter(
        distinguishing_names(
            [
                (_adapters_in_common(store, item), synthesis_settings(item), selection)
                for item, selection in zip(made, selections, strict=True)
            ],
            alone="no selection" if any(item.ListFields() for item in selections) else "synthetic images",
        )
    )
    origins = Counter(origin_of(item) for item in image_sets if is_imported(item))
    return [_imported_name(item, origins) if is_imported(item) else next(names) for item in image_sets]


def origin_of(image_set: Manifest) -> str:
    """Where an imported image set is from."""
    origin: str = image_set.summary["origin"]
    return origin


def _imported_name(image_set: Manifest, origins: Counter[str]) -> str:
    origin = origin_of(image_set)
    return origin if origins[origin] == 1 else f"{origin} ({image_set.name.id[:8]})"
