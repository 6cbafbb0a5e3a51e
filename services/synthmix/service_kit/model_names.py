"""What callers call base models that are in object storage: models/{digest}, or models/{name} by a name of their own.

    model-names/{name}/{owner}.json   which model an owner means by a name

A name is claimed when an import is asked for, and means nothing while the model is not there. The id of a model is the
digest of its files (synthmix.latent_diffusion.base_model), so that whoever has the same files means the same model.
"""

from collections.abc import Collection
from dataclasses import dataclass

from synthmix.service_kit.artifacts import MANIFEST
from synthmix.service_kit.errors import AlreadyExists, NotFound, did_you_mean
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.owners import key_of_owner, meant_by, owner_of_key
from synthmix.service_kit.resource_names import MODELS, ArtifactName, check_display_name, is_id, unqualified
from synthmix.service_kit.stored_records import find_record, read_each, reading

_NAMES = "model-names/"
_SCHEMA = 1


@dataclass(frozen=True, order=True)
class ModelName:
    """An owner's name, and the model that it means."""

    owner: str
    name: str
    model: ArtifactName


def is_stored(reference: str) -> bool:
    """Whether a reference to a base model means one in object storage, whose name has no dot, as files' have."""
    return reference.startswith(f"{MODELS}/") and "." not in reference


def check_free(store: ObjectStore, owner: str, name: str, model: ArtifactName, *, replace: bool, field: str) -> None:
    """Raises InvalidArgument if it can be no name, and AlreadyExists if the owner means another model by it."""
    check_display_name(field, name)
    holder = _find(store, _key(owner, name))
    if holder is not None and holder != model and not replace and _exists(store, holder):
        raise AlreadyExists(
            f"{field}: {name!r} is your name of {holder}, which has other files than the new {model}; choose another "
            "name, or pass --replace to move the name",
            reason="DISPLAY_NAME_TAKEN",
            metadata={"model": str(holder)},
        )


def claim(store: ObjectStore, owner: str, name: str, model: ArtifactName, *, replace: bool, field: str) -> None:
    """Makes a name of the owner's mean a model. Raises as check_free does."""
    key = _key(owner, name)
    claimed = False
    while not claimed:  # again only if the owner claimed it elsewhere since it was read
        found, version = store.find_json_with_version(key)
        check_free(store, owner, name, model, replace=replace, field=field)
        value = {"model": str(model)}
        claimed = value == found or store.put_json_if(key, value, version=version)


def release(store: ObjectStore, model: ArtifactName, owners: Collection[str]) -> None:
    """Forgets what these owners call a model, and without owners what anybody does.

    What is left is not deleted but written over, and only as it was read: someone may be claiming the name right now.
    """
    for item in store.list(_NAMES):
        owner, _ = _owner_and_name(item.key)
        if owners and owner not in owners:
            continue
        try:
            found, version = store.find_json_with_version(item.key)
        except ValueError:  # a damaged one means nothing
            continue
        if isinstance(found, dict) and found.get("model") == str(model):
            store.put_json_if(item.key, {"released": True}, version=version)


def all_names(store: ObjectStore) -> dict[ArtifactName, list[ModelName]]:
    """What each model is called, in the order of owners and names."""
    found, _ = read_each((item.key for item in store.list(_NAMES)), lambda key: (key, _find(store, key)))
    names: dict[ArtifactName, list[ModelName]] = {}
    for key, model in sorted(found):
        if model is not None:
            names.setdefault(model, []).append(ModelName(*_owner_and_name(key), model))
    return {model: sorted(held) for model, held in names.items()}


def resolve(store: ObjectStore, name: str, *, owner: str, field: str) -> ArtifactName:
    """The model that an owner means by models/{digest}, models/{name} or the name alone.

    A name is the owner's, or that of the only other who has it. Whether a digest is there is not looked at.

    Raises:
        InvalidArgument: It can be no name, or several others mean different models by it.
        NotFound: Nobody has a model of this name.
    """
    short = unqualified(MODELS, name)
    if is_id(short):
        return ArtifactName(MODELS, short)
    check_display_name(field, short)
    found = {}
    for item in store.list(f"{_NAMES}{short}/"):
        model = _find(store, item.key)
        if model is not None and _exists(store, model):
            found[_owner_and_name(item.key)[0]] = model
    meant = meant_by(found, owner, field=field, name=short)
    if meant is None:
        raise NotFound(
            f"{field}: there is no model {short!r} in object storage; {remedy(store, short)}",
            reason="MODEL_NOT_FOUND",
            metadata={"model": short},
        )
    return meant


def remedy(store: ObjectStore, name: str) -> str:
    """What to do where a name means no model, as the end of a sentence."""
    there = (held for model, held in all_names(store).items() if _exists(store, model))
    known = sorted({item.name for held in there for item in held})
    return (
        f"{did_you_mean(unqualified(MODELS, name), known)}import it with `synthmix models import`, or use one of: "
        f"{', '.join(known) or 'none yet'}"
    )


def _exists(store: ObjectStore, model: ArtifactName) -> bool:
    return store.stat(f"{model}/{MANIFEST}") is not None


def _find(store: ObjectStore, key: str) -> ArtifactName | None:
    """The model that a name means; None if its owner has left it."""
    found = find_record(store, key, _SCHEMA)
    if found is None or found.get("released"):
        return None
    with reading(key):
        return ArtifactName.parse(found["model"], field="model", collection=MODELS)


def _key(owner: str, name: str) -> str:
    return f"{_NAMES}{name}/{key_of_owner(owner)}.json"


def _owner_and_name(key: str) -> tuple[str, str]:
    name, _, owner = key.removeprefix(_NAMES).removesuffix(".json").partition("/")
    return owner_of_key(owner), name
