"""What a worker does for an adapter that another program trained: it goes into its base model before it is one here."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from synthmix.adapter_training.imported_files import ImportedFile, read_imported
from synthmix.adapter_training.importing import FIELD
from synthmix.image_data.generators import BASE_MODEL_KIND
from synthmix.latent_diffusion import base_model
from synthmix.latent_diffusion.adapters import adapter_layers, load_adapter
from synthmix.latent_diffusion.kept_models import lend
from synthmix.latent_diffusion.loading import LatentDiffusion, probe
from synthmix.latent_diffusion.model_kinds import SDXL
from synthmix.latent_diffusion.part_layers import UNET, part_layers
from synthmix.service_kit.adapter_payloads import PEFT_CONFIG
from synthmix.service_kit.artifacts import IMPORTED, write_payload
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.errors import DataLoss, InvalidArgument, NotFound, invalid_field
from synthmix.service_kit.resource_names import ArtifactName, UploadName
from synthmix.service_kit.s3_object_store import open_object_store


def import_adapter(
    operation: str,
    target: str,
    request: dict[str, Any],
    names: dict[str, Any],
    report: Callable[[int, int | None, str], None],
    threads: int,
) -> dict[str, Any]:
    """Reads the uploaded adapter, puts it into its base model, and writes its payloads.

    Returns:
        The payloads and the summary for the manifest, which the operation writes.

    Raises:
        InvalidArgument: It is not an adapter of this base model, has weights that are no numbers, or changes nothing.
    """
    torch.set_num_threads(threads)
    store = open_object_store()
    found = base_model.resolve_again(
        names["base_model"], request["base_model"], field="adapter.settings.base_model", store=store
    )
    imported, upload = request[IMPORTED], UploadName(request[IMPORTED]["upload"])
    artifact = ArtifactName.parse(target, field="target")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "upload"
        try:
            store.get_file(str(upload), path)
        except NotFound as error:
            raise NotFound(f"{FIELD}: {upload} is gone; send the file again", reason="UPLOAD_NOT_FOUND") from error
        if sha256_of_file(path) != upload.sha256:
            raise DataLoss(f"{upload} is not what was sent; send the file again", reason="UPLOAD_CORRUPT")
        model = lend(found)
        before = probe(model)
        try:
            read = read_imported(path, part_layers(found, UNET, field="adapter.settings.base_model"))
            folder = _stored(path, read)
            load_adapter(model, folder)
        except ValueError as error:
            raise _unusable(
                upload, f"cannot be used with {found.reference}: {error}", "ADAPTER_UNREADABLE", found.reference
            ) from error
        parameters = _parameters(model)
        _check(upload, found.reference, parameters, changes=not torch.equal(before, probe(model)))
        payloads = [write_payload(store, artifact, file.name, file) for file in sorted(folder.iterdir())]
    return {
        "payloads": [payload.__dict__ for payload in payloads],
        "summary": {
            "classes": imported["classes"],
            "grey": imported["grey"],
            "form": read.form,
            "final_loss": 0.0,
            "images_seen": 0,
            "parameter_count": sum(value.numel() for value in parameters.values()),
            "device": str(model.device),
            **({BASE_MODEL_KIND: found.kind.name} if found.kind is SDXL else {}),
        },
    }


def _stored(path: Path, read: ImportedFile) -> Path:
    """A folder with the files that the adapter is stored as."""
    folder = path.with_name("stored")
    folder.mkdir()
    path.rename(folder / read.weights)
    if read.config_file is not None:
        (folder / PEFT_CONFIG).write_bytes(read.config_file)
    return folder


def _parameters(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """The adapter's, by name."""
    return {
        f"{name}.{part}": value
        for name, layer in adapter_layers(model.unet).items()
        for part, value in layer.named_parameters()
        if not part.startswith("base_layer.")
    }


def _check(upload: UploadName, reference: str, parameters: dict[str, torch.Tensor], *, changes: bool) -> None:
    wrong = [name for name, value in parameters.items() if not torch.isfinite(value).all()]
    if wrong:
        raise _unusable(
            upload,
            f"has weights that are no numbers (NaN or infinite): {wrong[0]}, one of {len(wrong)}",
            "ADAPTER_NOT_FINITE",
            reference,
        )
    if not changes:
        raise _unusable(upload, "changes nothing of what the base model answers", "ADAPTER_WITHOUT_EFFECT", reference)


def _unusable(upload: UploadName, problem: str, reason: str, reference: str) -> InvalidArgument:
    return invalid_field(
        FIELD,
        str(upload),
        problem,
        f"import the adapter that was trained on {reference}, or name its own base model",
        reason=reason,
    )
