"""One import's operation: a single task, which downloads the upload and imports it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from image_data.pixel_rules import PixelRule
from service_kit.coordinator import OperationContext
from service_kit.object_store import ObjectStore
from service_kit.resource_names import DATASETS, ArtifactName, UploadName
from service_kit.settings import object_store_settings
from service_kit.storage_space import writing_to
from study_control.datasets import claim_name
from study_control.image_import.importer import import_archive
from synthmix_api.datasets.v1 import datasets_pb2


def coordinate(context: OperationContext) -> ArtifactName:
    """Returns the dataset's name."""
    request = context.record.request["request"]
    context.update(unit="steps", message="importing")
    [name] = context.run_tasks(
        "study_control.image_import.coordinator:import_upload",
        [
            {
                "upload": request["upload"],
                "group_rule": request["group_rule"],
                "classes": request["classes"],
                "simulated": request["simulated"],
                "pixels": request.get("pixels", {}),
            }
        ],
    )
    dataset = ArtifactName.parse(name, field="dataset", collection=DATASETS)
    claim_name(
        context.store,
        request["display_name"],
        dataset,
        replace=context.record.request["replace_display_name"],
    )
    return dataset


def import_upload(
    upload: str,
    group_rule: dict[str, Any],
    classes: list[str],
    simulated: bool,
    pixels: dict[str, Any],
    report: Callable[[int, int], None],
    threads: int,
) -> str:
    """Imports an upload on a worker and returns the dataset's name."""
    store = ObjectStore(object_store_settings())
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="synthmix-import-") as folder:
        archive = Path(folder) / "upload.zip"
        store.get_file(str(UploadName(upload)), archive)
        return str(
            import_archive(
                store,
                archive,
                group_rule=json_format.ParseDict(group_rule, datasets_pb2.GroupRule()),
                classes=classes,
                simulated=simulated,
                progress=report,
                pixel_rule=PixelRule.from_json(pixels),
                white_level=pixels.get("white_level", 0),
            )
        )
