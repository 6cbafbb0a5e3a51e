"""One adapter's operation: a look at what the base model can show, and a training, each a task; or an import.

What the base model cannot show of the images is said before the training, in the operation's warnings, and stops
nothing. The training resumes from its checkpoint wherever it is started again.
"""

from dataclasses import asdict

from synthmix.adapter_training.checkpoints import delete_checkpoints
from synthmix.adapter_training.stopped import end_of
from synthmix.image_data.autoencoder_checks import CheckRequest, check_warnings, find_check
from synthmix.image_data.generators import recorded_adapter_settings
from synthmix.service_kit.artifacts import IMPORTED, Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName


def run(context: OperationContext) -> ArtifactName:
    """Returns the adapter's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=ADAPTERS)
    settings = recorded_adapter_settings(request)
    if IMPORTED in request:
        function, total, unit, message = "synthmix.adapter_training.import_task:import_adapter", 1, "adapter", "reading"
    else:
        function, total = "synthmix.adapter_training.task:train", end_of(settings)
        unit, message = "images seen", "training"
    context.update(total=total, unit=unit, message=message)
    if find_manifest(context.store, target) is None:
        if IMPORTED not in request:
            _check_autoencoder(
                context, CheckRequest(request["base_model"], request["train_split"], settings.image_size)
            )
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


def _check_autoencoder(context: OperationContext, check: CheckRequest) -> None:
    """Warns of what the base model's autoencoder loses of train images, which is measured unless it is known."""
    names = context.record.request["names"]
    if find_check(context.store, check) is None:
        context.update(message="measuring what the autoencoder leaves of train images")
        context.run_tasks(
            "synthmix.adapter_training.autoencoder_check:measure",
            [{"check": asdict(check), "names": names}],
            makes=[str(check.name)],
        )
        context.update(message="training")
    quality = find_check(context.store, check)
    if quality is not None:  # unless the split, and all that was made from it, was deleted meanwhile
        warnings = check_warnings(quality, base_model=names["base_model"], image_size=check.image_size)
        context.update(warnings=warnings)
