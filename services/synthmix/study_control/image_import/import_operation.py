"""One import's operation: a single task, which downloads the upload and imports it; and a removal's."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.decoder_process import DecoderProcess
from synthmix.image_data.import_bounds import import_bounds
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.sources.manifests import LABEL_COLUMN, PATH_COLUMN
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.owners import claim
from synthmix.service_kit.resource_names import DATASETS, ArtifactName, UploadName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.storage_space import writing_to
from synthmix.study_control import image_removal
from synthmix.study_control.datasets import claim_name, find_left_out, with_left_out, write_account
from synthmix.study_control.image_import.importer import import_archive


def run(context: OperationContext) -> ArtifactName:
    """Returns the dataset's name."""
    if "removal" in context.record.request:
        return image_removal.run(context)
    request = context.record.request["request"]
    context.update(unit="steps", message="importing")
    [imported] = context.run_tasks(
        "synthmix.study_control.image_import.import_operation:import_upload",
        [{"request": request, "accept_layout": context.record.request.get("accept_layout", False)}],
    )
    dataset = ArtifactName.parse(imported["name"], field="dataset", collection=DATASETS)
    owner = context.record.requested_by.owner
    write_account(context.store, context.record.name.id, imported["account"])
    claim(context.store, dataset, owner)
    claim_name(
        context.store,
        owner,
        request["display_name"],
        dataset,
        account=with_left_out(imported["account"], find_left_out(context.store, context.record.name.id)),
        replace=context.record.request["replace_display_name"],
    )
    if find_manifest(context.store, dataset) is None:
        raise Unavailable(f"{dataset} was deleted while it was imported again; try again", reason="ARTIFACT_GONE")
    return dataset


def import_upload(
    request: dict[str, Any], accept_layout: bool, report: Callable[[int, int], None], threads: int
) -> dict[str, Any]:
    """Imports an upload on a worker and returns the dataset's name and account.

    Args:
        request: What datasets.import_request made of the caller's.
    """
    pixels = request.get("pixels", {})
    store = open_object_store()
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="synthmix-import-") as folder:
        archive = Path(folder) / "upload.zip"
        store.get_file(str(UploadName(request["upload"])), archive)
        imported = import_archive(
            store,
            archive,
            group_rule=json_format.ParseDict(request["group_rule"], datasets_pb2.GroupRule()),
            classes=request["classes"],
            simulated=request["simulated"],
            accept_layout=accept_layout,
            label_column=request.get("label_column", LABEL_COLUMN),
            path_column=request.get("path_column", PATH_COLUMN),
            caption_columns=request.get("caption_columns", []),
            progress=report,
            pixel_rule=PixelRule.from_json(pixels),
            white_level=pixels.get("white_level", 0),
            limits=import_bounds().of_archives,
            decoder=lambda path, _: DecoderProcess(path),
        )
        return {"name": str(imported.name), "account": imported.account()}
