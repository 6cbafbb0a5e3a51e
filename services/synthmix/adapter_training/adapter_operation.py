"""One adapter's operation: a single task, which trains from its checkpoint wherever it is started again, or imports."""

from synthmix.adapter_training.checkpoints import delete_checkpoints
from synthmix.image_data.generators import IMPORTED, recorded_adapter_settings
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName


def run(context: OperationContext) -> ArtifactName:
    """Returns the adapter's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=ADAPTERS)
    if IMPORTED in request:
        function, total, unit, message = "synthmix.adapter_training.import_task:import_adapter", 1, "adapter", "reading"
    else:
        total = recorded_adapter_settings(request).images_seen
        function, unit, message = "synthmix.adapter_training.task:train", "images seen", "training"
    context.update(total=total, unit=unit, message=message)
    if find_manifest(context.store, target) is None:
        [made] = context.run_tasks(
            function,
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
                inputs={role: request[role] for role in ("train_split", "base_model") if role in request},
                request={key: value for key, value in request.items() if key != "recipe_version"},
                recipe_version=request["recipe_version"],
                payloads=tuple(Payload(**payload) for payload in made["payloads"]),
                summary={**names, **made["summary"]},
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.update(done=total)
    delete_checkpoints(context.store, context.record.name)
    return target
