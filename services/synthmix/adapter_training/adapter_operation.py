"""One adapter's operation: a single training task, which resumes from its checkpoint wherever it is started again."""

from synthmix.adapter_training.checkpoints import delete_checkpoints
from synthmix.image_data.generators import recorded_adapter_settings
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName


def run(context: OperationContext) -> ArtifactName:
    """Returns the adapter's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=ADAPTERS)
    images_seen = recorded_adapter_settings(request).images_seen
    context.update(total=images_seen, unit="images seen", message="training")
    if find_manifest(context.store, target) is None:
        [trained] = context.run_tasks(
            "synthmix.adapter_training.task:train",
            [
                {
                    "operation": str(context.record.name),
                    "target": str(target),
                    "request": request,
                    "names": names,
                }
            ],
        )
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={"train_split": request["train_split"], "base_model": request["base_model"]},
                request={key: value for key, value in request.items() if key != "recipe_version"},
                recipe_version=request["recipe_version"],
                payloads=tuple(Payload(**payload) for payload in trained["payloads"]),
                summary={**names, **trained["summary"]},
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.update(done=images_seen)
    delete_checkpoints(context.store, context.record.name)
    return target
