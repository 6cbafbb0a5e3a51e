"""One import of images that another program made: a single task, and then the manifest."""

from synthmix.service_kit.artifacts import IMPORTED, Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName


def run(context: OperationContext) -> ArtifactName:
    """Returns the image set's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=IMAGE_SETS)
    context.update(unit="images", message="importing")
    manifest = find_manifest(context.store, target)
    if manifest is None:
        [made] = context.run_tasks(
            "synthmix.image_synthesis.import_task:import_images",
            [{"operation": str(context.record.name), "target": str(target), "request": request, "names": names}],
        )
        seen = request[IMPORTED]["seen"]
        manifest = write_manifest(
            context.store,
            Manifest(
                name=target,
                # What its generator learnt from: whoever removes real images from these has to remove it as well.
                inputs={
                    f"seen-{index}": digest
                    for index, digest in enumerate([*seen.get("parts", ()), *seen.get("datasets", ())])
                },
                request={IMPORTED: request[IMPORTED], "class_images": made["class_images"]},
                recipe_version=request["recipe_version"],
                payloads=tuple(Payload(**payload) for payload in made["payloads"]),
                summary={"origin": names["origin"], "all_of": names["all_of"], **made["summary"]},
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    count = manifest.summary["image_count"]
    context.update(total=count, done=count)
    return target
