"""What a worker's tasks for one adapter work on: the train part and the base model that were asked for."""

from collections.abc import Mapping
from typing import Any

from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.captions import train_captions
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.latent_diffusion import base_model
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.object_store import ObjectStore


def open_inputs(
    store: ObjectStore, names: Mapping[str, str], *, train_split: str, base_model_digest: str
) -> tuple[TrainPart, base_model.BaseModel]:
    """Finds them by their names, and makes sure of their content.

    Args:
        names: An adapter's: train_split, and base_model as its user wrote it.
        train_split: Digest of the train part.
        base_model_digest: Of the base model's files.

    Raises:
        FailedPrecondition: One of them is not what was asked for.
        InvalidArgument: The base model is not to be had any more.
        NotFound: The split is gone.
    """
    part = open_train_part(store, names["train_split"], field="adapter.train_split")
    if part.digest != train_split:
        raise FailedPrecondition(
            f"{part.name} is not the train split that was asked for; split the dataset again, and ask for that one",
            reason="SPLIT_DIFFERS",
        )
    field = "adapter.settings.base_model"
    return part, base_model.resolve_again(names["base_model"], base_model_digest, field=field, store=store)


def open_captions(
    store: ObjectStore, part: TrainPart, settings: AdapterSettings, request: Mapping[str, Any]
) -> tuple[str, ...] | None:
    """The captions of a train part's images that an adapter's canonical request asked for; None if it asked for none.

    Raises:
        FailedPrecondition: They are not what was asked for.
    """
    if not settings.caption_column:
        return None
    captions = train_captions(store, part, settings.caption_column, field="adapter.settings.caption_column")
    if digest_of(captions) != request["captions"]:
        raise FailedPrecondition(
            f"{part.name} does not have the captions that were asked for; split the dataset again, and ask for that "
            "split",
            reason="SPLIT_DIFFERS",
        )
    return captions
