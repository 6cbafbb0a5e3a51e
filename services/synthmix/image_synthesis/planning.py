"""What a CreateImageSet request means: its defaults, its checks, its canonical form and its predicted time."""

from typing import Any

from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_synthesis.shard_ranges import shard_count
from synthmix.latent_diffusion.base_model import resolve, verify
from synthmix.latent_diffusion.prompts import check_prompt, check_tokens
from synthmix.latent_diffusion.tokens import prompt_tokenizer
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest
from synthmix.service_kit.defaults import set_default
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import NotFound, Problems, check_choice, check_range
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName

# Raised whenever the recipe's bytes change: an image set of another version is another image set.
RECIPE_VERSION = 1

# Measured on one core of a server CPU with the built-in model, for one denoising step of one image with guidance.
SECONDS_PER_IMAGE_STEP = 0.028
START_SECONDS = 10.0
MOST_STEPS = 1000


def plan(store: ObjectStore, image_set: image_sets_pb2.ImageSet, *, validate_only: bool) -> Planned:
    """Checks a request against what exists, without starting anything.

    A request that is only validated may name an adapter that isn't trained yet, if it gives prompt and labels.
    """
    adapter = ArtifactName.parse(image_set.adapter, field="image_set.adapter", collection=ADAPTERS)
    manifest = find_manifest(store, adapter)
    if manifest is None and not (validate_only and image_set.prompt and image_set.labels):
        raise NotFound(
            f"image_set.adapter: {adapter} doesn't exist; create it first",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(adapter)},
        )
    labels = _labels(image_set, manifest)
    full = image_sets_pb2.ImageSet()
    full.CopyFrom(image_set)
    set_default(full, "steps", 25)
    set_default(full, "guidance_scale", 2.0)
    set_default(full, "per_class", 200)
    request: dict[str, Any] = {
        "adapter": adapter.id,
        "prompt": image_set.prompt or (manifest.request["prompt"] if manifest else ""),
        "labels": labels,
        "steps": full.steps,
        "guidance_scale": full.guidance_scale,
        "per_class": full.per_class,
        "seed": image_set.seed,
        "recipe_version": RECIPE_VERSION,
    }
    problems = Problems()
    with problems:
        check_prompt("image_set.prompt", request["prompt"])
    for field, low, high in (("steps", 1, MOST_STEPS), ("guidance_scale", 0.0, 50.0), ("per_class", 1, 1_000_000)):
        with problems:
            check_range(f"image_set.{field}", request[field], low, high)
    problems.raise_if_any()
    target = ArtifactName(IMAGE_SETS, digest_of(request))
    total = len(labels) * request["per_class"]
    done = total if find_manifest(store, target) is not None else 0
    warnings = _check_base_model(manifest, request) if manifest is not None and not done else []
    seconds = START_SECONDS + total * request["steps"] * SECONDS_PER_IMAGE_STEP
    return Planned(
        request,
        {},
        operations_pb2.Plan(
            target=str(target),
            total=total,
            done=done,
            unit="images",
            predicted_seconds=0.0 if done else seconds,
            tasks=0 if done else shard_count(total),
            warnings=warnings,
        ),
    )


def _check_base_model(adapter: Manifest, request: dict[str, Any]) -> list[str]:
    """What the adapter's base model makes of the prompts and steps. Returns warnings, raises InvalidArgument."""
    model = resolve(adapter.summary["base_model"], field="adapter.base_model", weights=False)
    verify(model, adapter.inputs["base_model"])
    check_range("image_set.steps", request["steps"], 1, min(MOST_STEPS, model.train_timesteps))
    tokenizer = prompt_tokenizer(model.folder, model.digest)
    # All of the adapter's classes, also those that the set leaves out: an image of one might be any other's.
    classes = adapter.summary["classes"]
    return check_tokens("image_set.prompt", request["prompt"], classes, tokenizer, tokenizer.longest)


def _labels(image_set: image_sets_pb2.ImageSet, manifest: Manifest | None) -> list[str]:
    labels = sorted(image_set.labels)
    if manifest is None:
        return labels
    for index, label in enumerate(labels):
        check_choice(f"image_set.labels[{index}]", label, manifest.summary["classes"])
    return labels or list(manifest.summary["classes"])
