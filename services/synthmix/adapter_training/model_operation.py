"""One base model's import: uploads become payloads, within object storage, and then the manifest is written."""

from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, payload_key, write_manifest
from synthmix.service_kit.errors import NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.references import unfinished_operations
from synthmix.service_kit.resource_names import MODELS, ArtifactName, UploadName

# Of the manifest: a model's id is the digest of its files, whatever is written beside them.
RECIPE_VERSION = 1


def run(context: OperationContext) -> ArtifactName:
    """Returns the model's name."""
    request, names = context.record.request["request"], context.record.request["names"]
    target = ArtifactName.parse(context.record.target, field="target", collection=MODELS)
    payloads = [Payload(path, sha256, names["sizes"][path]) for path, sha256 in sorted(request.items())]
    total = sum(payload.size_bytes for payload in payloads)
    context.update(total=total, unit="bytes", message="importing")
    if find_manifest(context.store, target) is None:
        done = 0
        for payload in payloads:
            context.raise_if_cancelled()
            _store(context.store, target, payload)
            done += payload.size_bytes
            context.update(done=done)
        write_manifest(
            context.store,
            Manifest(
                name=target,
                inputs={},
                request=request,
                recipe_version=RECIPE_VERSION,
                payloads=tuple(payloads),
                summary={"source": names["source"], "image_size": names["image_size"]},
            ),
        )
    context.update(done=total)
    _forget_uploads(context, payloads)
    return target


def _store(store: ObjectStore, target: ArtifactName, payload: Payload) -> None:
    """Writes a payload, unless an attempt that was interrupted has: no sweep takes it while the operation goes on."""
    key = payload_key(target, payload)
    found = store.stat(key)
    if found is not None and found.size_bytes == payload.size_bytes:
        return
    if not payload.size_bytes:
        store.put_bytes(key, b"")
        return
    upload = UploadName(payload.sha256)
    try:
        store.copy(str(upload), key)
    except NotFound as error:
        raise NotFound(
            f"base_model.files: {upload} is gone; import the model again: what is there is not sent again",
            reason="UPLOAD_NOT_FOUND",
        ) from error


def _forget_uploads(context: OperationContext, payloads: list[Payload]) -> None:
    """Deletes the uploads, which hold gigabytes for a week otherwise, but for those that another import waits for."""
    others = {name: text for name, text in unfinished_operations(context.store).items() if name != context.record.name}
    wanted = "".join(others.values())
    for payload in payloads:
        if payload.sha256 not in wanted:
            context.store.delete(str(UploadName(payload.sha256)))
