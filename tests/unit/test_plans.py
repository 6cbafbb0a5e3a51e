"""What validate says of an adapter and an image set before anything is started: prompts, sizes, base models."""

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from image_archives import dataset, encoded, noise, plates
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import optimizers
from synthmix.adapter_training import planning as adapters
from synthmix.adapter_training.stopped import key_of
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.autoencoder_checks import CheckRequest, write_check
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.reconstruction_quality import ReconstructionQuality
from synthmix.image_data.split_parts import open_train_part
from synthmix.image_synthesis import planning as image_sets
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER, resolve
from synthmix.latent_diffusion.schedulers import SCHEDULERS
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, list_artifacts, write_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.study_control.planning import StudySteps
from synthmix.study_control.split import create_split
from synthmix.study_control.steps import Step

ADAPTER = ArtifactName("adapters", "e" * 32)
LONG = "a microscopy image of " * 10


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return MemoryObjectStore.created()


def adapter(
    store: MemoryObjectStore,
    tmp_path: Path,
    files: dict[str, bytes] | None = None,
    import_options: dict[str, Any] | None = None,
    **fields: Any,
) -> Any:
    imported = dataset(store, tmp_path, files or plates(), **(import_options or {}))
    split = create_split(store, imported, SplitSettings(test=0.3, validation=0.2, seed=1))
    request = adapters_pb2.Adapter(train_split=f"{split}/parts/train", settings=adapters_pb2.AdapterSettings(**fields))
    return adapters.plan(store, request).plan


def of_classes(first: str, second: str, side: int = 64) -> dict[str, bytes]:
    import numpy as np

    random = np.random.default_rng(0)
    return {
        f"{label}/plate-{plate}_{number}.png": encoded(random.integers(0, 255, (side, side), np.uint8))
        for label in (first, second)
        for plate in range(6)
        for number in range(2)
    }


@pytest.mark.parametrize(
    ("first", "second", "prompt", "said"),
    [
        ("alpha", "beta", LONG + "{label}", "cut off"),
        ("Alive", "alive-", "{label}", None),
    ],
)
def test_an_adapter_s_prompts(
    first: str, second: str, prompt: str, said: str | None, store: MemoryObjectStore, tmp_path: Path
) -> None:
    files = of_classes(first, second)
    if said is None:
        assert list(adapter(store, tmp_path, files, prompt=prompt).warnings) == []
        return
    with pytest.raises(InvalidArgument, match=said) as raised:
        adapter(store, tmp_path, files, prompt=prompt)
    assert [item.field for item in raised.value.violations] == ["adapter.settings.prompt"]


def test_an_optimizer_whose_package_is_missing(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(optimizers, "version", missing)
    monkeypatch.setenv("SYNTHMIX_RAY_ADDRESS", "ray://head:10001")
    files = of_classes("alpha", "beta")
    assert list(adapter(store, tmp_path, files, optimizer="adamw").warnings) == []
    [warning] = adapter(store, tmp_path, files, optimizer="prodigy").warnings
    assert "of the Python package prodigyopt" in warning
    monkeypatch.setenv("SYNTHMIX_RAY_ADDRESS", "127.0.0.1:6379")
    assert list(adapter(store, tmp_path, files, optimizer="adamw").warnings) == []
    with pytest.raises(FailedPrecondition, match="install it where they are") as raised:
        adapter(store, tmp_path, files, optimizer="prodigy")
    assert [item.field for item in raised.value.violations] == ["adapter.settings.optimizer"]


def test_prior_preservation_is_in_the_predicted_time(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = of_classes("alpha", "beta")
    plain, of_train, of_base = (
        adapter(store, tmp_path, files, images_seen=1000, **options).predicted_seconds - adapters.START_SECONDS
        for options in (
            {},
            {"prior_preservation": 1.0, "prior_preservation_source": "train"},
            {"prior_preservation": 1.0, "prior_images": 30},
        )
    )
    assert of_train == pytest.approx(2 * plain)
    # Two classes of 30 images, 25 steps of two answers each, a third of an image seen.
    assert of_base - of_train == pytest.approx(plain / 1000 * 2 * 30 * 25 * 2 / 3)
    with pytest.raises(InvalidArgument, match="cut off") as raised:
        adapter(store, tmp_path, files, prior_preservation=1.0, prior_prompt=LONG + "{label}")
    assert [item.field for item in raised.value.violations] == ["adapter.settings.prior_prompt"]


def test_what_is_left_of_a_training_is_in_the_predicted_time(store: MemoryObjectStore, tmp_path: Path) -> None:
    imported = dataset(store, tmp_path, of_classes("alpha", "beta"))
    split = create_split(store, imported, SplitSettings(test=0.3, validation=0.2, seed=1))

    def planned(**options: Any) -> Planned:
        settings = adapters_pb2.AdapterSettings(images_seen=1000, held_out=0.2, **options)
        return adapters.plan(store, adapters_pb2.Adapter(train_split=f"{split}/parts/train", settings=settings))

    def seconds(**options: Any) -> float:
        return planned(**options).plan.predicted_seconds - adapters.START_SECONDS

    whole = seconds()
    assert planned(stop_at=100).plan.total == 100
    assert seconds(stop_at=100) == pytest.approx(whole / 10)
    # As it is after seven batches of 16: it goes with the checkpoints of the training without a stop.
    key = key_of(planned(stop_at=100).request, 112)
    assert key.startswith(OperationName(ADAPTER_TRAINING, planned().id).checkpoints)
    store.put_bytes(key, b"")
    assert seconds(stop_at=500) == pytest.approx(whole * 0.388)
    assert seconds() == pytest.approx(whole * 0.888)
    assert seconds(stop_at=90) == pytest.approx(whole * 0.09), "which it is beyond"
    assert seconds(stop_at=500, seed=1) == pytest.approx(whole / 2), "of another training"


def test_warnings_of_an_adapter_s_plan(store: MemoryObjectStore, tmp_path: Path) -> None:
    cut, small = adapter(
        store, tmp_path, of_classes("alpha", "beta", side=32), prompt="{label}: " + "a cell " * 40
    ).warnings
    assert "of the class 'beta'" in cut and "gets 48" in cut and "is cut off" in cut
    assert "below 64 pixels (the smallest 32)" in small


def in_colour(shape: tuple[int, ...] = (64, 64, 3)) -> dict[str, bytes]:
    return {name: encoded(noise(seed, *shape)) for seed, name in enumerate(plates())}


def checked(store: MemoryObjectStore, quality: ReconstructionQuality, image_size: int = 64) -> None:
    """Writes what was measured of the built-in base model with the train part of `adapter`."""
    [split] = list_artifacts(store, "splits")
    train = open_train_part(store, f"{split}/parts/train", field="x")
    write_check(store, CheckRequest(resolve("builtin", field="x").digest, train.digest, image_size), quality)


GREY = ReconstructionQuality(32, 24.0, 15.0, 9.1, 0.4)


def test_a_plan_says_that_it_is_not_known_yet_whether_colour_can_be_shown(
    store: MemoryObjectStore, tmp_path: Path
) -> None:
    [doubt] = adapter(store, tmp_path, in_colour()).warnings
    assert doubt.startswith("12 of 12 train images are stored in colour, and whether the base model builtin can show ")
    assert "it is measured before the first adapter is trained" in doubt


def test_of_grey_images_a_plan_has_no_doubt(store: MemoryObjectStore, tmp_path: Path) -> None:
    assert list(adapter(store, tmp_path, in_colour((64, 64))).warnings) == []


def test_a_channel_of_colour_images_is_grey(store: MemoryObjectStore, tmp_path: Path) -> None:
    options = {"pixel_rule": PixelRule(channels=(2,))}
    assert list(adapter(store, tmp_path, in_colour(), import_options=options).warnings) == []


def test_a_plan_warns_of_what_was_measured(store: MemoryObjectStore, tmp_path: Path) -> None:
    adapter(store, tmp_path, in_colour())
    checked(store, GREY)
    [lost] = adapter(store, tmp_path, in_colour(), rank=2).warnings
    assert "keeps 4 % of the chroma (mean CIELAB C*ab 9.1 before and 0.4 after)" in lost
    [other, small] = sorted(adapter(store, tmp_path, in_colour(), image_size=128).warnings)
    assert "is not known yet" in other and "below 128 pixels" in small, "at another size it is another question"


def test_a_plan_says_how_far_what_comes_back_is_if_that_was_measured(store: MemoryObjectStore, tmp_path: Path) -> None:
    adapter(store, tmp_path, in_colour())
    flat = ReconstructionQuality(32, 12.0, 15.0, 0.0, 0.0)
    checked(store, flat)
    [lost] = adapter(store, tmp_path, in_colour(), rank=2).warnings
    assert "would do); what is lost there" in lost, "an earlier version's figures are read as they are"
    far = ReconstructionQuality(32, 12.0, 15.0, 0.0, 0.0, 2.5, 2.25, 2.75, 0.125, "some net")
    checked(store, far, image_size=128)
    [lost, _] = sorted(adapter(store, tmp_path, in_colour(), image_size=128).warnings, key=len, reverse=True)
    assert (
        "would do), and with a kernel inception distance of 2.50 (95 % interval 2.25 to 2.75; chance gives up to "
        "0.12); what is lost there"
    ) in lost


def test_a_plan_says_nothing_of_what_comes_back_well(store: MemoryObjectStore, tmp_path: Path) -> None:
    adapter(store, tmp_path, in_colour())
    checked(store, ReconstructionQuality(32, 30.0, 15.0, 9.1, 8.9))
    assert list(adapter(store, tmp_path, in_colour()).warnings) == []


def test_an_adapter_that_is_there_is_not_said_to_be_measured_for(store: MemoryObjectStore, tmp_path: Path) -> None:
    target = ArtifactName.parse(adapter(store, tmp_path, in_colour()).target, field="x")
    write_manifest(store, Manifest(target, {}, {}, 1, ()))
    assert list(adapter(store, tmp_path, in_colour()).warnings) == []


def trained(store: MemoryObjectStore, base_model: str) -> None:
    write_manifest(
        store,
        Manifest(
            ADAPTER,
            {"base_model": resolve(base_model, field="x").digest},
            {"settings": {"prompt": "a {label} cell"}},
            1,
            (),
            summary={"base_model": base_model, "classes": ["alpha", "beta"]},
        ),
    )


def image_set(
    store: MemoryObjectStore,
    *,
    validate_only: bool = True,
    class_images: dict[str, int] | None = None,
    base_model: str = "",
    **fields: Any,
) -> Any:
    request = image_sets_pb2.ImageSet(
        adapter=str(ADAPTER),
        base_model=base_model,
        settings=image_sets_pb2.SynthesisSettings(**fields),
        class_images=[
            image_sets_pb2.ClassImages(label=label, images=images) for label, images in (class_images or {}).items()
        ],
    )
    return image_sets.plan(store, request, validate_only=validate_only).plan


@pytest.mark.parametrize("validate_only", [True, False])
def test_an_image_set_s_prompts(validate_only: bool, store: MemoryObjectStore) -> None:
    trained(store, "builtin")
    assert list(image_set(store, validate_only=validate_only).warnings) == []
    with pytest.raises(InvalidArgument, match="'alpha', 'beta'") as raised:
        image_set(store, validate_only=validate_only, prompt=LONG + "{label}")
    assert [item.field for item in raised.value.violations] == ["image_set.settings.prompt"]
    [warning] = image_set(store, validate_only=validate_only, prompt="{label} " + LONG).warnings
    assert "is cut off (2 classes' prompts are cut)" in warning
    with pytest.raises(InvalidArgument, match="cut off"):
        image_set(store, validate_only=validate_only, prompt=LONG + "{label}", class_images={"beta": 3})


@pytest.mark.parametrize("validate_only", [True, False])
def test_an_image_set_s_further_and_negative_prompts(validate_only: bool, store: MemoryObjectStore) -> None:
    trained(store, "builtin")
    with pytest.raises(InvalidArgument, match="'alpha', 'beta'") as raised:
        image_set(store, validate_only=validate_only, more_prompts=["one {label}", LONG + "{label}"])
    assert [item.field for item in raised.value.violations] == ["image_set.settings.more_prompts[1]"]
    plan = image_set(store, validate_only=validate_only, negative_prompt="not a {label} " + LONG)
    [warning] = plan.warnings
    assert warning.startswith("the negative prompt has ") and "the text encoder gets 48: its rest is cut" in warning
    assert plan.target != image_set(store, validate_only=validate_only).target


def test_steps_without_guidance_take_half_the_time(store: MemoryObjectStore) -> None:
    trained(store, "builtin")
    start = image_sets.START_SECONDS
    plain = image_set(store).predicted_seconds - start
    assert image_set(store, guidance_scale=1.0).predicted_seconds - start == pytest.approx(plain / 2)
    part = image_set(store, guidance_least_noise=0.25, guidance_most_noise=0.75).predicted_seconds - start
    assert part == pytest.approx(0.75 * plain)


def test_more_steps_than_the_base_model_has_noise_levels(store: MemoryObjectStore, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 100}))
    trained(store, str(folder))
    image_set(store, steps=100)
    with pytest.raises(InvalidArgument, match="101 is out of range; use a value between 1 and 100") as raised:
        image_set(store, steps=101)
    assert [item.field for item in raised.value.violations] == ["image_set.settings.steps"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 1000}))
    with pytest.raises(FailedPrecondition, match="its files differ"):
        image_set(store)


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_sampler_has_to_fit_the_base_model(store: MemoryObjectStore, is_trained: bool) -> None:
    """The built-in one's last noise level is noise alone. Of an adapter that is not trained a study names the model."""
    if is_trained:
        trained(store, "builtin")

    def planned(**settings: Any) -> operations_pb2.Plan:
        base_model = "" if is_trained else "builtin"
        return image_set(store, base_model=base_model, prompt="a {label}", class_images={"alpha": 3}, **settings)

    assert planned().target == planned(steps=25).target != planned(sampler="DDIMScheduler").target
    for name, sampler in SCHEDULERS.items():
        if sampler.zero_terminal_snr:
            assert not planned(sampler=name, steps=20).warnings
            continue
        with pytest.raises(InvalidArgument, match="noise alone, which is the last noise level of this base") as raised:
            planned(sampler=name, steps=20)
        assert [item.field for item in raised.value.violations] == ["image_set.settings.sampler"]
    [warning] = planned(sampler="EulerDiscreteScheduler", timestep_spacing="leading").warnings
    assert "another brightness; trailing does not" in warning
    with pytest.raises(InvalidArgument, match="endless at the last noise level") as raised:
        planned(sampler="EulerDiscreteScheduler", sigma_spacing="karras")
    assert [item.field for item in raised.value.violations] == ["image_set.settings.sigma_spacing"]


def test_two_answers_a_step_take_twice_the_time(store: MemoryObjectStore, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_betas_zero_snr": False}))
    trained(store, str(folder))
    start = image_sets.START_SECONDS
    plain = image_set(store).predicted_seconds - start
    assert image_set(store, sampler="HeunDiscreteScheduler").predicted_seconds - start == pytest.approx(2 * plain)
    assert image_set(store, sampler="LMSDiscreteScheduler").predicted_seconds - start == pytest.approx(plain)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    other = MemoryObjectStore.created()
    trained(other, str(folder))
    with pytest.raises(InvalidArgument, match="v_prediction, and the base model's UNet answers with sample"):
        image_set(other, sampler="KDPM2DiscreteScheduler")


def test_a_study_s_plan_has_the_warnings_of_its_steps_once() -> None:
    def step(*warnings: str) -> Step:
        return Step("", "", None, operations_pb2.Plan(warnings=warnings), {})

    steps = StudySteps(
        studies_pb2.StudySpec(),
        datasets_pb2.Dataset(warnings=["near duplicates"]),
        datasets_pb2.Split(),
        (step("cut", "small"), step("cut"), step("cut"), step("weights")),
        {},
    )
    assert list(steps.plan().warnings) == ["near duplicates", "cut", "small", "weights"]


@pytest.mark.parametrize(("blocks", "multiple"), [([16, 32, 64, 64, 64], 16), ([16] * 6, 32)])
def test_an_image_size_is_a_multiple_of_what_the_autoencoder_halves(
    blocks: list[int], multiple: int, store: MemoryObjectStore, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "model"))
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": blocks}))
    with pytest.raises(InvalidArgument, match=f"is not a multiple of {multiple}") as raised:
        adapter(store, tmp_path, base_model=str(folder), image_size=multiple * 4 + 8)
    assert [item.field for item in raised.value.violations] == ["adapter.settings.image_size"]
