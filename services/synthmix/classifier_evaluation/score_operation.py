"""One image-set score's operation: one task."""

from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import IMAGE_SET_SCORES, ArtifactName

TASK = "synthmix.classifier_evaluation.image_set_score:measure"


def run(context: OperationContext) -> ArtifactName:
    """Returns the score's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=IMAGE_SET_SCORES)
    context.update(total=1, unit="image sets", message="judging images")
    if find_manifest(context.store, target) is None:
        [score] = context.run_tasks(
            TASK,
            [{"split": names["split"], "image_set": request["image_set"]}],
            # What it finds made or makes of the split's own images is the same for all image sets beside it.
            makes=[f"features of {names['split']}"],
        )
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={
                    **{f"{part}_split": digest for part, digest in request["parts"].items()},
                    "image_set": request["image_set"],
                },
                request={key: value for key, value in request.items() if key != "recipe_version"},
                recipe_version=request["recipe_version"],
                payloads=(),
                summary={"split": names["split"], "score": score},
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.update(done=1)
    return target
