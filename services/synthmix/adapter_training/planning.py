"""What a CreateAdapter request means: its defaults, its checks, its canonical form and its predicted time."""

import numpy as np

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.latent_diffusion.base_model import BUILTIN, BaseModel, resolve
from synthmix.latent_diffusion.prompts import check_prompt, check_tokens
from synthmix.latent_diffusion.tokens import prompt_tokenizer
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.defaults import set_default
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import (
    FieldViolation,
    Problems,
    Unimplemented,
    check_choice,
    check_range,
    invalid_field,
    missing_field,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName

# Raised whenever the recipe's bytes change: an adapter of another version is another adapter.
RECIPE_VERSION = 1

METHODS = ("lora",)
LATER_METHODS = ("rslora", "dora", "pissa", "olora", "loha", "lokr", "oft", "boft")

# Names of UNet modules in diffusers; PEFT adapts every module whose name ends in one of them.
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention+feedforward": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "attention+feedforward+convolution": (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "ff.net.0.proj",
        "ff.net.2",
        "conv1",
        "conv2",
        "time_emb_proj",
    ),
}

RANGES = (
    ("rank", 1, 1024),
    ("alpha", 1e-3, 1e5),
    ("images_seen", 1, 10**9),
    ("batch_size", 1, 4096),
    ("learning_rate", 1e-8, 1.0),
    ("image_size", 16, 2048),
    ("caption_dropout", 0.0, 0.9),
)

DEFAULT_PROMPT = "a microscopy image of a {label} cell"
# Measured on two cores of a server CPU for the built-in model; a hub model takes about 400 times the work.
SECONDS_PER_IMAGE_SEEN = {True: 0.028, False: 12.0}
START_SECONDS = 10.0


def with_defaults(adapter: adapters_pb2.Adapter, base_model: BaseModel) -> adapters_pb2.Adapter:
    """A copy in which every field that a user may leave out has its value."""
    full = adapters_pb2.Adapter()
    full.CopyFrom(adapter)
    builtin = base_model.reference == BUILTIN
    set_default(full, "method", "lora")
    set_default(full, "rank", 16)
    set_default(full, "alpha", max(1, full.rank))  # a rank of 0 is one fault, not two
    set_default(full, "targets", "attention")
    set_default(full, "images_seen", 4800 if builtin else 20000)
    set_default(full, "batch_size", 16 if builtin else 4)
    # A model of a few million parameters bears, and needs, a larger step than Stable Diffusion's 1e-4: 6e-3 learns
    # faster than 2e-3, and 12e-3 no longer does (decision 13).
    set_default(full, "learning_rate", 6e-3 if builtin else 1e-4)
    set_default(full, "prompt", DEFAULT_PROMPT)
    set_default(full, "image_size", base_model.image_size_px)
    set_default(full, "caption_dropout", 0.1)
    return full


def check(adapter: adapters_pb2.Adapter, base_model: BaseModel) -> None:
    """Raises InvalidArgument for every field that can't be carried out, or Unimplemented."""
    if adapter.method in LATER_METHODS:
        description = f"{adapter.method!r} isn't available in this version; use lora"
        raise Unimplemented(
            f"adapter.method: {description}",
            reason="METHOD_UNAVAILABLE",
            violations=[FieldViolation("adapter.method", description)],
        )
    problems = Problems()
    for field, choices in (("method", METHODS), ("targets", tuple(TARGETS))):
        with problems:
            check_choice(f"adapter.{field}", getattr(adapter, field), choices)
    for field, low, high in RANGES:
        with problems:
            check_range(f"adapter.{field}", getattr(adapter, field), low, high)
    with problems:
        multiple_px = max(8, base_model.latent_factor)  # 8 is diffusers' own rule; factors are powers of 2
        if adapter.image_size % multiple_px:
            raise invalid_field(
                "adapter.image_size",
                adapter.image_size,
                f"isn't a multiple of {multiple_px}",
                f"use {base_model.image_size_px} or another multiple of {multiple_px}",
                reason="OUT_OF_RANGE",
            )
    with problems:
        check_prompt("adapter.prompt", adapter.prompt)
    problems.raise_if_any()


def enlarged_images(store: ObjectStore, train: TrainPart, image_size_px: int) -> list[str]:
    """A warning if train images are smaller than what the adapter is trained on."""
    index = read_index(store, train.manifest, ["width_px", "height_px"])
    sides_px = np.minimum(index["width_px"].to_numpy(), index["height_px"].to_numpy())[list(train.index_rows)]
    small_px = sides_px[sides_px < image_size_px]
    if not len(small_px):
        return []
    return [
        f"{len(small_px)} of {len(train)} train images have a side below {image_size_px} pixels (the smallest "
        f"{small_px.min()}) and are enlarged for the adapter, which learns the blur; a base model that was made for "
        "smaller images wouldn't"
    ]


def plan(store: ObjectStore, adapter: adapters_pb2.Adapter) -> Planned:
    """Checks a request against what exists, without starting anything. Raises SynthMixError."""
    if not adapter.train_split:
        raise missing_field("adapter.train_split", "use splits/{id}/parts/train")
    base_model = resolve(adapter.base_model, field="adapter.base_model", weights=False)
    full = with_defaults(adapter, base_model)
    check(full, base_model)
    train = open_train_part(store, full.train_split, field="adapter.train_split")
    tokenizer = prompt_tokenizer(base_model.folder, base_model.digest)
    warnings = check_tokens("adapter.prompt", full.prompt, train.classes, tokenizer, tokenizer.longest)
    warnings += enlarged_images(store, train, full.image_size)
    request = {
        "train_split": train.digest,
        "base_model": base_model.digest,
        "method": full.method,
        "rank": full.rank,
        "alpha": full.alpha,
        "targets": full.targets,
        "images_seen": full.images_seen,
        "batch_size": full.batch_size,
        "learning_rate": full.learning_rate,
        "prompt": full.prompt,
        "image_size": full.image_size,
        "caption_dropout": full.caption_dropout,
        "seed": full.seed,
        "recipe_version": RECIPE_VERSION,
    }
    names = {"train_split": str(train.name), "base_model": base_model.reference}
    target = ArtifactName(ADAPTERS, digest_of(request))
    done = find_manifest(store, target) is not None
    scale = (full.image_size / base_model.image_size_px) ** 2
    seconds = START_SECONDS + full.images_seen * SECONDS_PER_IMAGE_SEEN[base_model.reference == BUILTIN] * scale
    return Planned(
        request,
        names,
        operations_pb2.Plan(
            target=str(target),
            total=full.images_seen,
            done=full.images_seen if done else 0,
            unit="images seen",
            predicted_seconds=0.0 if done else seconds,
            tasks=0 if done else 1,
            warnings=warnings,
        ),
    )
