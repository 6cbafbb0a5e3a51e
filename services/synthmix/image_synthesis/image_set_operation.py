"""One image set's operation: a task for each shard that is not in object storage yet, then index and manifest."""

from synthmix.image_data.captions import adapter_captions
from synthmix.image_data.generators import adapter_parts, is_imported
from synthmix.image_data.image_table import SOURCES
from synthmix.image_synthesis.shard_ranges import shard_count, shard_range
from synthmix.image_synthesis.shards import finished_shards, image_count, write_index
from synthmix.service_kit.artifacts import Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName


def run(context: OperationContext) -> ArtifactName:
    """Returns the image set's name."""
    request = context.record.request["request"]
    target = ArtifactName.parse(context.record.target, field="target", collection=IMAGE_SETS)
    total = image_count(request)
    if find_manifest(context.store, target) is None:
        finished = finished_shards(context.store, context.record.name, target)
        missing = [number for number in range(shard_count(total)) if number not in finished]
        done = total - sum(len(shard_range(total, number)) for number in missing)
        context.note_reused(done)
        context.update(total=total, done=done, unit="images", message="synthesising")

        def count(index: int, made: int) -> None:
            nonlocal done
            done += made
            context.update(done=done)

        context.run_tasks(
            "synthmix.image_synthesis.sampling:synthesise_shard",
            [
                {"operation": str(context.record.name), "target": str(target), "request": request, "number": number}
                for number in missing
            ],
            count,
        )
        shards = finished_shards(context.store, context.record.name, target)
        if len(shards) < shard_count(total):
            raise Unavailable(f"a shard of {target} is no longer in object storage; try again", reason="PAYLOAD_GONE")
        adapter = read_manifest(context.store, ArtifactName(ADAPTERS, request["adapter"]))
        parts, captions = adapter_parts(adapter), adapter_captions(context.store, adapter)
        payloads = write_index(context.store, target, request, shards, parts, captions)
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={"adapter": request["adapter"]},
                request={key: value for key, value in request.items() if key != "recipe_version"},
                recipe_version=request["recipe_version"],
                payloads=tuple(payloads),
                summary={
                    "image_count": total,
                    "imported_adapter": is_imported(adapter),
                    # Whether the index says of which train images each one is a child.
                    **({SOURCES: True} if parts[0].image else {}),
                },
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.store.delete_prefix(context.record.name.checkpoints)
    context.update(total=total, done=total, unit="images")
    return target
