"""What a CreateAdapter request means that names no train split, but an adapter that another program trained."""

from collections.abc import Sequence
from typing import Any

from synthmix.adapter_training.planning import check_image_size
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.prompts import check_prompt, check_tokens
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import IMPORTED, find_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import NotFound, Problems, invalid_field, missing_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, UploadName
from synthmix.service_kit.settings_messages import canonical, check, set_default, with_defaults

# Raised whenever the same upload becomes other payloads.
RECIPE_VERSION = 1
FIELD = "adapter.imported.upload"
# Rank 1024 in every layer of Stable Diffusion 1.5 takes 1.9 GB in float32.
LARGEST_BYTES = 2 << 30
MOST_CLASSES = 10_000
LONGEST_LABEL = 200
# Of AdapterSettings: what is said of images that are made. All else is of a training, or is in the file.
TAKEN = ("base_model", "prompt", "image_size")
SECONDS = 20.0


def plan(store: ObjectStore, adapter: adapters_pb2.Adapter) -> Planned:
    """Checks a request against what exists, without reading the upload. Raises SynthMixError."""
    problems = Problems()
    with problems:
        if adapter.train_split:
            raise invalid_field(
                "adapter.train_split",
                adapter.train_split,
                "is given beside imported",
                "leave it out: an imported adapter was trained on other images; or leave imported out, to train one",
            )
    for field, value in adapter.settings.ListFields():
        with problems:
            if field.name not in TAKEN:
                raise invalid_field(
                    f"adapter.settings.{field.name}",
                    value,
                    "cannot be set of an imported adapter, whose training is over",
                    f"leave it out: only {', '.join(TAKEN)} may be given",
                    reason="IMPORTED_ALREADY",
                )
    _check_classes(adapter.imported.classes, problems)
    with problems:
        upload = UploadName.parse(adapter.imported.upload, field=FIELD)
    with problems:
        if not adapter.settings.base_model:
            raise missing_field(
                "adapter.settings.base_model",
                "name the base model that the adapter was trained on: builtin, a folder in the diffusers layout, or "
                "owner/name@revision",
            )
    problems.raise_if_any()
    _check_upload(store, upload)
    base_model = resolve(adapter.settings.base_model, field="adapter.settings.base_model", weights=False, store=store)
    given = adapters_pb2.AdapterSettings(prompt=with_defaults(adapter.settings).prompt)
    if adapter.settings.HasField("image_size"):
        given.image_size = adapter.settings.image_size
    set_default(given, "image_size", base_model.image_size_px)
    check(given, "adapter.settings", problems)
    with problems:
        check_image_size(given, base_model)
    with problems:
        check_prompt("adapter.settings.prompt", given.prompt)
    problems.raise_if_any()
    classes = sorted(adapter.imported.classes)
    warnings = check_tokens("adapter.settings.prompt", given.prompt, classes, base_model.tokenizers())
    request = {
        "settings": canonical(given),
        IMPORTED: {"upload": upload.sha256, "classes": classes, "grey": adapter.imported.grey},
        "base_model": base_model.digest,
        "recipe_version": RECIPE_VERSION,
    }
    target = ArtifactName(ADAPTERS, digest_of(request))
    done = find_manifest(store, target) is not None
    return Planned(
        request,
        {"base_model": base_model.reference},
        operations_pb2.Plan(
            target=str(target),
            total=1,
            done=int(done),
            unit="adapter",
            predicted_seconds=0.0 if done else SECONDS,
            tasks=0 if done else 1,
            warnings=[
                *warnings,
                "it is not known on which images an imported adapter was trained, so that evaluations and studies "
                "refuse image sets that are made with it",
            ],
        ),
    )


def imported_message(imported: dict[str, Any]) -> adapters_pb2.ImportedAdapter:
    """What a canonical request says of where an adapter is from."""
    return adapters_pb2.ImportedAdapter(
        upload=str(UploadName(imported["upload"])), classes=imported["classes"], grey=imported["grey"]
    )


def _check_upload(store: ObjectStore, upload: UploadName) -> None:
    found = store.stat(str(upload))
    if found is None:
        raise NotFound(
            f"{FIELD}: {upload} does not exist; send the file with UploadFile first", reason="UPLOAD_NOT_FOUND"
        )
    if found.size_bytes > LARGEST_BYTES:
        raise invalid_field(
            FIELD,
            str(upload),
            f"has {byte_size(found.size_bytes)}, and an adapter at most {byte_size(LARGEST_BYTES)}",
            "import an adapter of a smaller rank; a whole model is no adapter",
            reason="OUT_OF_RANGE",
        )


def _check_classes(classes: Sequence[str], problems: Problems) -> None:
    field = "adapter.imported.classes"
    with problems:
        if not classes:
            raise missing_field(field, "say what {label} in prompts may be: the labels of the images to be made")
    with problems:
        if len(classes) > MOST_CLASSES:
            raise invalid_field(
                field, len(classes), "are too many", f"give at most {MOST_CLASSES:,}", reason="OUT_OF_RANGE"
            )
    for index, label in enumerate(classes[:MOST_CLASSES]):
        with problems:
            if not label.strip() or label != label.strip() or not label.isprintable() or len(label) > LONGEST_LABEL:
                raise invalid_field(
                    f"{field}[{index}]",
                    label,
                    "cannot be a label",
                    f"use 1 to {LONGEST_LABEL} characters that can be printed, without blanks around them",
                )
    seen: set[str] = set()
    for index, label in enumerate(classes[:MOST_CLASSES]):
        with problems:
            if label in seen:
                raise invalid_field(
                    f"{field}[{index}]", label, "is there twice", "leave one out", reason="DUPLICATE_VALUE"
                )
        seen.add(label)
