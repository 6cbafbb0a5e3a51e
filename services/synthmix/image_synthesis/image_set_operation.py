"""One image set's operation: a task for each shard that is not in object storage yet, then index and manifest."""

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.captions import adapter_captions
from synthmix.image_data.generators import MORE_ADAPTERS, adapter_parts, is_imported
from synthmix.image_data.image_table import SOURCE_LABEL, SOURCES
from synthmix.image_data.image_to_image import is_of_any_class
from synthmix.image_data.split_parts import open_train_part
from synthmix.image_synthesis import import_operation
from synthmix.image_synthesis.selection_operation import select
from synthmix.image_synthesis.shard_ranges import shard_count, shard_range
from synthmix.image_synthesis.shards import finished_shards, image_count, write_index
from synthmix.image_synthesis.source_images import source_images
from synthmix.service_kit.artifacts import IMPORTED, Manifest, find_manifest, read_manifest, write_manifest
from synthmix.service_kit.errors import Unavailable
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings_messages import from_canonical


def run(context: OperationContext) -> ArtifactName:
    """Returns the image set's name."""
    if "selection" in context.record.request["request"]:
        return select(context)
    request, names = context.record.request["request"], context.record.request["names"]
    if IMPORTED in request:
        return import_operation.run(context)
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
                | names
                for number in missing
            ],
            count,
        )
        shards = finished_shards(context.store, context.record.name, target)
        if len(shards) < shard_count(total):
            raise Unavailable(f"a shard of {target} is no longer in object storage; try again", reason="PAYLOAD_GONE")
        adapter = read_manifest(context.store, ArtifactName(ADAPTERS, request["adapter"]))
        parts, captions = adapter_parts(adapter), adapter_captions(context.store, adapter)
        settings, sources = from_canonical(request["settings"], SynthesisSettings), {}
        if names:
            train = open_train_part(context.store, names["train_split"], field="image_set.train_split")
            sources = source_images(train)
        payloads = write_index(context.store, target, request, shards, parts, captions, sources)
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={
                    **{key: request[key] for key in ("adapter", "train_split") if key in request},
                    **{f"adapter-{place}": id_ for place, id_ in enumerate(request.get(MORE_ADAPTERS, ()), 1)},
                },
                request={key: value for key, value in request.items() if key != "recipe_version"},
                recipe_version=request["recipe_version"],
                payloads=tuple(payloads),
                summary={
                    "image_count": total,
                    "imported_adapter": is_imported(adapter),
                    # Whether the index says of which train images each one is a child.
                    **({SOURCES: True} if parts[0].image or sources else {}),
                    # Whether it says of which class these are, as that may be another than the child's.
                    **({SOURCE_LABEL: True} if is_of_any_class(settings) else {}),
                    **names,
                },
                seconds=context.worker_seconds,
                gpu_seconds=context.gpu_seconds,
            ),
        )
    context.store.delete_prefix(context.record.name.checkpoints)
    context.update(total=total, done=total, unit="images")
    return target
