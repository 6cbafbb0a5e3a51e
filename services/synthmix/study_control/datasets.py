"""What requests about datasets and splits mean, and their resources as messages."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.image_data.captions import caption_columns
from synthmix.image_data.pixel_rules import MOST_CHANNELS, PixelRule
from synthmix.image_data.sources import group_patterns
from synthmix.image_data.sources.folder_layout import doubtful_layout
from synthmix.image_data.sources.manifests import LABEL_COLUMN, PATH_COLUMN, check_caption_columns
from synthmix.image_data.sources.source_account import (
    MOST_EXAMPLES,
    MOST_ROWS,
    REASONS,
    from_json,
    merged,
    to_json,
    vanished,
)
from synthmix.image_data.sources.user_text import normalised
from synthmix.service_kit.artifact_collection import payload_messages
from synthmix.service_kit.artifacts import MANIFEST, Manifest, described, list_artifacts, read_manifest
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import (
    AlreadyExists,
    NotFound,
    check_choice,
    check_range,
    did_you_mean,
    invalid_field,
    missing_field,
)
from synthmix.service_kit.message_json import from_value
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import REQUEST, RESULT
from synthmix.service_kit.owners import key_of_owner, meant_by, owner_of_key
from synthmix.service_kit.references import unfinished_operations
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import (
    DATASETS,
    PARTS,
    SPLITS,
    ArtifactName,
    OperationName,
    UploadName,
    check_display_name,
    is_id,
    operations_of,
    unqualified,
)
from synthmix.service_kit.settings_messages import from_canonical
from synthmix.service_kit.stored_records import find_readable, find_record, read_each, reading
from synthmix.study_control import split as splitting
from synthmix.study_control.image_import import importer, white_levels
from synthmix.study_control.image_import.groups import check_rule

_NAMES = "dataset-names/"
_NAMES_SCHEMA = 1


def import_request(request: datasets_pb2.CreateDatasetRequest, owner: str) -> dict[str, Any]:
    """The canonical request of an import, which is its owner's as its name is. Raises InvalidArgument."""
    dataset = request.dataset
    check_display_name("dataset.display_name", dataset.display_name)
    rule = check_rule(dataset.group_rule)
    columns = {
        field: column.strip()
        for field, column, default in (
            ("label_column", request.label_column, LABEL_COLUMN),
            ("path_column", request.path_column, PATH_COLUMN),
        )
        if column.strip() not in ("", default)
    }
    return (
        columns
        | {
            "upload": UploadName.parse(request.upload, field="upload").sha256,
            "display_name": dataset.display_name,
            "group_rule": {rule: getattr(dataset.group_rule, rule)},
            "classes": sorted(normalised(label) for label in dataset.classes),
            "simulated": dataset.simulated,
            "recipe_version": importer.RECIPE_VERSION,
            "white_level_rule": white_levels.RULE_VERSION,
        }
        | ({"pattern_syntax": group_patterns.SYNTAX} if rule == "pattern" else {})
        | ({"owner": owner} if owner != LOCAL else {})
        | _pixels_request(dataset.pixels)
        | ({"caption_columns": check_caption_columns(dataset.caption_columns)} if dataset.caption_columns else {})
    )


def _pixels_request(rule: datasets_pb2.PixelRule) -> dict[str, Any]:
    """What the request says of pixels, without what it leaves to the default. Raises InvalidArgument."""
    field = "dataset.pixels.channels"
    channels = list(rule.channels)
    if len(channels) > 3 or len(set(channels)) != len(channels):
        raise invalid_field(
            field, channels, "is not one to three different channels", "give one for grey, or up to three for colours"
        )
    for position, channel in enumerate(channels):
        check_range(f"{field}[{position}]", channel, 1, MOST_CHANNELS)
    check_range("dataset.pixels.plane", rule.plane, 0, 2**31 - 1)
    check_range(white_levels.FIELD, rule.white_level, 0, 65535)
    chosen = PixelRule(tuple(channels), rule.plane).to_json() | (
        {"white_level": rule.white_level} if rule.white_level else {}
    )
    return {"pixels": chosen} if chosen else {}


def left_out_of(request: datasets_pb2.CreateDatasetRequest) -> list[dict[str, Any]]:
    """What the caller says that it left out, as JSON. Raises InvalidArgument if it is more than a caller may say."""
    if len(request.left_out) > MOST_ROWS:
        raise invalid_field(
            "left_out", f"{len(request.left_out):,} entries", f"are more than {MOST_ROWS}", "add small ones together"
        )
    for position, row in enumerate(request.left_out):
        field = f"left_out[{position}]"
        check_choice(f"{field}.reason", row.reason, REASONS)
        if row.count < 0:
            raise invalid_field(f"{field}.count", row.count, "is negative", "use 0 or more", reason="OUT_OF_RANGE")
        if len(row.examples) > MOST_EXAMPLES:
            raise invalid_field(
                f"{field}.examples", len(row.examples), f"are more than {MOST_EXAMPLES} examples", "leave some out"
            )
    return to_json(merged(request.left_out))


def with_left_out(account: dict[str, Any], left_out: list[dict[str, Any]]) -> dict[str, Any]:
    """An import's account with what the caller had left out of the upload."""
    return account | {"left_out": to_json(merged([*from_json(account["left_out"]), *from_json(left_out)]))}


def write_account(store: ObjectStore, operation_id: str, account: dict[str, Any]) -> None:
    """Keeps what an import found, for when the same is asked again."""
    store.put_json(f"dataset-accounts/{operation_id}.json", account)


def find_account(store: ObjectStore, operation_id: str) -> dict[str, Any] | None:
    return store.find_json(f"dataset-accounts/{operation_id}.json")


def write_left_out(store: ObjectStore, operation_id: str, left_out: list[dict[str, Any]]) -> None:
    """Keeps what the latest caller of an import had left out: the import may be running for an earlier one."""
    store.put_json(f"dataset-accounts/{operation_id}.left-out.json", {"left_out": left_out})


def find_left_out(store: ObjectStore, operation_id: str) -> list[dict[str, Any]]:
    found = store.find_json(f"dataset-accounts/{operation_id}.left-out.json")
    return list(found["left_out"]) if found else []


def check_layout(account: dict[str, Any], *, accept_layout: bool) -> None:
    """Raises InvalidArgument if an import that is done was accepted in spite of its layout, and this one is not."""
    if account["layout_doubt"] and not accept_layout:
        raise doubtful_layout("upload", account["layout_doubt"])


def claim_name(
    store: ObjectStore,
    owner: str,
    display_name: str,
    dataset: ArtifactName,
    *,
    account: dict[str, Any] | None,
    replace: bool,
) -> None:
    """Makes a display name of the owner's mean a dataset, with the account of the import under this name.

    Raises AlreadyExists if it means another one that is there, and may not be replaced.
    """
    key = _name_key(owner, display_name)
    value = {"dataset": str(dataset)} | ({"account": account} if account is not None else {})
    claimed = False
    while not claimed:  # again only if someone else claimed it since it was read
        holder, version = store.find_json_with_version(key)
        others = holder is not None and holder["dataset"] != str(dataset) and not holder.get("released")
        if holder is not None and others and not replace and _exists(store, holder):
            raise AlreadyExists(
                f"dataset.display_name: {display_name!r} is your name of {holder['dataset']}, which holds other images "
                f"than the new {dataset}; choose another name, or pass --replace to move the name",
                reason="DISPLAY_NAME_TAKEN",
                metadata={"dataset": holder["dataset"]},
            )
        claimed = value == holder or store.put_json_if(key, value, version=version)


def _exists(store: ObjectStore, holder: dict[str, Any]) -> bool:
    """Whether the dataset that a name means has not been deleted."""
    return store.stat(f"{holder['dataset']}/{MANIFEST}") is not None


def release_names(store: ObjectStore, dataset: ArtifactName, owners: Collection[str]) -> None:
    """Leaves the names that these owners have for a dataset to others, without what its imports found.

    Without owners it leaves those of everybody.

    What is left is not deleted but written over, and only as it was read: someone may be claiming the name right now.
    """
    released = {"dataset": str(dataset), "released": True}
    for item in store.list(_NAMES):
        if owners and _owner_and_name(item.key)[0] not in owners:
            continue
        holder, version = _holder_with_version(store, item.key)
        if holder is not None and holder.get("dataset") == str(dataset) and holder != released:
            store.put_json_if(item.key, released, version=version)


def pass_names_on(
    store: ObjectStore, dataset: ArtifactName, successor: ArtifactName, *, but_of: Collection[str] = ()
) -> None:
    """Lets the names of a dataset that was deleted mean another one, but for names of these owners.

    The accounts of their imports stay, without the paths of files, which may be those of images that were removed.
    """
    for item in store.list(_NAMES):
        passed = _owner_and_name(item.key)[0] in but_of
        while not passed:  # again only if someone else claimed it since it was read
            holder, version = _holder_with_version(store, item.key)
            if holder is None or holder.get("dataset") != str(dataset):
                break
            value = holder | {"dataset": str(successor)}
            if "account" in holder:
                account = holder["account"]
                value["account"] = account | {"left_out": without_examples(account["left_out"])}
            passed = store.put_json_if(item.key, value, version=version)


def without_examples(left_out: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An account of files that were left out, as JSON, without the paths of any."""
    return [{key: value for key, value in row.items() if key != "examples"} for row in left_out]


def forget_imports(store: ObjectStore, dataset: ArtifactName, owners: Collection[str]) -> None:
    """Deletes what imports found in the sources of a dataset that was deleted, and the uploads that they were of.

    Args:
        owners: Whose imports; everybody's if there are none.
    """
    uploads = set()
    for item in store.list(f"{operations_of(STUDY_CONTROL)}/"):
        operation, leaf = OperationName.of_key(item.key)
        if leaf != RESULT or find_readable(store, item.key).get("target") != str(dataset):
            continue
        record = find_readable(store, f"{operation}/{REQUEST}")
        imported = record.get("request", {}).get("request", {})
        if owners and imported.get("owner", LOCAL) not in owners:
            continue
        for key in (f"dataset-accounts/{operation.id}.json", f"dataset-accounts/{operation.id}.left-out.json"):
            store.delete(key)
        uploads.add(imported.get("upload", ""))
    if uploads:
        wanted = "".join(unfinished_operations(store).values())
        for upload in uploads - {""}:
            if upload not in wanted:
                store.delete(str(UploadName(upload)))


def _holder_with_version(store: ObjectStore, key: str) -> tuple[dict[str, Any] | None, str]:
    """What a name means, as it is stored; None of a damaged one, which means nothing."""
    try:
        holder, version = store.find_json_with_version(key)
    except ValueError:
        return None, ""
    return (holder if isinstance(holder, dict) else None), version


def _find_holder(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """What a name means: the data set, and the account of its import under this name."""
    holder = find_record(store, key, _NAMES_SCHEMA)
    with reading(key):
        return None if holder is None else holder | {"dataset": str(holder["dataset"])}


def _name_key(owner: str, display_name: str) -> str:
    return f"{_NAMES}{display_name}/{key_of_owner(owner)}.json"


def _owner_and_name(key: str) -> tuple[str, str]:
    name, _, owner = key.removeprefix(_NAMES).removesuffix(".json").partition("/")
    return owner_of_key(owner), name


@dataclass(frozen=True, order=True)
class DisplayName:
    """A dataset's name, and whose name for it that is."""

    owner: str
    name: str


def display_names(store: ObjectStore) -> dict[str, list[DisplayName]]:
    """Resource name -> its display names, in their order."""
    names: dict[str, list[DisplayName]] = {}
    held, _ = read_each((item.key for item in store.list(_NAMES)), lambda key: (key, _find_holder(store, key)))
    for key, holder in held:
        if holder is not None and not holder.get("released"):
            names.setdefault(holder["dataset"], []).append(DisplayName(*_owner_and_name(key)))
    return {dataset: sorted(held) for dataset, held in names.items()}


def names_shown(names: Mapping[str, Sequence[DisplayName]], dataset: ArtifactName, owner: str) -> list[DisplayName]:
    """What the owner calls a dataset; what others do if the owner has no name for it. `names` are display_names()."""
    held = names.get(str(dataset), [])
    return [item for item in held if item.owner == owner] or list(held)


def name_shown(
    names: Mapping[str, Sequence[DisplayName]], dataset: ArtifactName, owner: str, asked: str
) -> DisplayName | None:
    """The name that was asked for if it is the dataset's, else its first one."""
    shown, short = names_shown(names, dataset, owner), unqualified(DATASETS, asked)
    return next((item for item in shown if item.name == short), shown[0] if shown else None)


def account_of_name(store: ObjectStore, dataset: Manifest, shown: DisplayName | None) -> dict[str, Any]:
    """The account of the import under a name; of the first import if the name has none, or is not the dataset's."""
    holder = _find_holder(store, _name_key(shown.owner, shown.name)) if shown else None
    known = holder["account"] if holder and holder["dataset"] == str(dataset.name) and "account" in holder else {}
    account = {"warnings": [], "left_out": [], "has_manifest": False} | dataset.summary | known
    rows = from_json(account["left_out"])
    lost = [] if account["has_manifest"] else vanished(rows, dataset.summary["class_counts"])
    return {"warnings": [*lost, *account["warnings"]], "left_out": rows}


def find_dataset(store: ObjectStore, name: str, *, owner: str, field: str) -> Manifest:
    """By datasets/{digest}, datasets/{display name}, or display name. Raises InvalidArgument or NotFound."""
    return read_manifest(store, resolve_dataset(store, name, owner=owner, field=field))


def resolve_dataset(store: ObjectStore, name: str, *, owner: str, field: str) -> ArtifactName:
    """As find_dataset, without reading the dataset. A name is the owner's, or that of the only other who has it."""
    short = unqualified(DATASETS, name)
    if is_id(short):
        return ArtifactName(DATASETS, short)
    check_display_name(field, short)
    found = {}
    for item in store.list(f"{_NAMES}{short}/"):
        holder = _find_holder(store, item.key)
        if holder is not None and not holder.get("released") and _exists(store, holder):
            found[_owner_and_name(item.key)[0]] = ArtifactName.parse(
                holder["dataset"], field=field, collection=DATASETS
            )
    meant = meant_by(found, owner, field=field, name=short)
    if meant is None:
        there = {str(dataset) for dataset in list_artifacts(store, DATASETS)}
        known = sorted(
            {item.name for dataset, names in display_names(store).items() if dataset in there for item in names}
        )
        raise NotFound(
            f"{field}: there is no dataset {short!r}; {did_you_mean(short, known)}import it with "
            f"`synthmix datasets import`, or use one of: {', '.join(known) or 'none yet'}",
            reason="DATASET_NOT_FOUND",
            metadata={"dataset": short},
        )
    return meant


def get_dataset(store: ObjectStore, name: str, *, owner: str, field: str = "dataset") -> datasets_pb2.Dataset:
    manifest = find_dataset(store, name, owner=owner, field=field)
    names = display_names(store)
    return described(manifest, lambda found: dataset_message(store, found, names, owner=owner, asked=name))


def dataset_message(
    store: ObjectStore,
    manifest: Manifest,
    names: Mapping[str, Sequence[DisplayName]],
    *,
    owner: str,
    asked: str = "",
) -> datasets_pb2.Dataset:
    """The resource that a manifest describes.

    Args:
        names: display_names().
        owner: For whom it is shown, under their names if they have any.
        asked: The name that it was asked by: it is shown under this one of its names, with that import's account.
    """
    summary = manifest.summary
    shown = name_shown(names, manifest.name, owner, asked)
    account = account_of_name(store, manifest, shown)
    message = datasets_pb2.Dataset(
        name=str(manifest.name),
        display_name=shown.name if shown else "",
        display_names=dict.fromkeys(item.name for item in names_shown(names, manifest.name, owner)),
        group_rule=from_value(summary["group_rule"], datasets_pb2.GroupRule),
        simulated=summary["simulated"],
        image_count=summary["image_count"],
        group_count=summary["group_count"],
        warnings=account["warnings"],
        left_out=account["left_out"],
        payloads=payload_messages(store, manifest),
        pixels=from_value(summary["pixels"], datasets_pb2.PixelRule) if "pixels" in summary else None,
        white_levels=summary.get("white_levels", [summary["white_level"]] if summary["white_level"] != 255 else []),
        class_counts=_class_counts(summary),
        caption_columns=caption_columns(manifest),
    )
    for row in message.left_out:
        row.description = REASONS.get(row.reason, row.reason)
    message.create_time.FromJsonString(manifest.create_time)
    return message


def create_split(store: ObjectStore, request: datasets_pb2.Split, owner: str) -> datasets_pb2.Split:
    """The split that a request means: the one in storage, or a new one. Raises SynthMixError."""
    if not request.dataset:
        raise missing_field("split.dataset", "name a dataset; `synthmix datasets list` shows them")
    dataset = find_dataset(store, request.dataset, owner=owner, field="split.dataset")
    name = splitting.create_split(store, dataset, request.settings)
    return described(read_manifest(store, name), lambda manifest: split_message(store, manifest))


def get_split(store: ObjectStore, name: str) -> datasets_pb2.Split:
    manifest = read_manifest(store, ArtifactName.parse(name, field="name", collection=SPLITS))
    return described(manifest, lambda manifest: split_message(store, manifest))


def split_message(store: ObjectStore, manifest: Manifest) -> datasets_pb2.Split:
    summary, request = manifest.summary, manifest.request
    return datasets_pb2.Split(
        name=str(manifest.name),
        dataset=str(ArtifactName(DATASETS, manifest.inputs["dataset"])),
        settings=from_canonical(request["settings"], datasets_pb2.SplitSettings),
        warnings=summary["warnings"],
        part_counts=[
            datasets_pb2.PartCount(
                part=part, digest=summary["parts"][part]["digest"], class_counts=_class_counts(summary["parts"][part])
            )
            for part in PARTS
        ],
        payloads=payload_messages(store, manifest),
    )


def _class_counts(summary: dict[str, Any]) -> list[datasets_pb2.ClassCount]:
    return [
        datasets_pb2.ClassCount(label=label, images=counts["images"], groups=counts["groups"])
        for label, counts in sorted(summary["class_counts"].items())
    ]
