"""One selection's operation: one task that judges, chooses and stores, then the manifest."""

from synthmix.image_data.generators import MORE_ADAPTERS
from synthmix.image_data.image_table import SOURCE_LABEL, SOURCES
from synthmix.image_data.selection_rules import SELECTED
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName

TASK = "synthmix.image_synthesis.selected_images:select"


def select(context: OperationContext) -> ArtifactName:
    """Returns the image set's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=IMAGE_SETS)
    candidates = read_manifest(context.store, ArtifactName(IMAGE_SETS, request["candidates"]))
    context.update(total=1, unit="image sets", message="choosing among images")
    if find_manifest(context.store, target) is None:
        [made] = context.run_tasks(
            TASK,
            [{"target": str(target), "request": request, **names}],
            # What it finds made or makes of the train images is the same for all selections beside it.
            makes=[f"features of {names['train_split']}"],
        )
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={
                    **candidates.inputs,
                    "candidates": request["candidates"],
                    "train_split": request["train_split"],
                },
                # How the images were made, the candidates say.
                request={
                    **{
                        key: candidates.request[key]
                        for key in ("settings", "adapter", MORE_ADAPTERS)
                        if key in candidates.request
                    },
                    **{key: value for key, value in request.items() if key != "recipe_version"},
                },
                recipe_version=request["recipe_version"],
                payloads=tuple(Payload(**payload) for payload in made["payloads"]),
                summary={
                    "image_count": sum(made["selected"]["kept"].values()),
                    "imported_adapter": candidates.summary.get("imported_adapter", False),
                    **{key: True for key in (SOURCES, SOURCE_LABEL) if candidates.summary.get(key)},
                    **names,
                    SELECTED: made["selected"],
                },
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.update(done=1)
    return target
