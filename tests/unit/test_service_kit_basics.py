"""Errors, digests, resource names, pages, settings and defaults: what everything else stands on."""

import pickle
from pathlib import Path

import pytest

from synthmix.service_kit import errors, pages
from synthmix.service_kit.digests import canonical_json, digest_of
from synthmix.service_kit.environment import (
    KubernetesSettings,
    kubernetes_settings,
    object_store_settings,
    worker_settings,
)
from synthmix.service_kit.machine_memory import available_memory_bytes
from synthmix.service_kit.quantities import byte_size, duration, plural
from synthmix.service_kit.resource_names import (
    COLLECTIONS,
    ArtifactName,
    OperationName,
    PartName,
    UploadName,
    check_display_name,
    collection_of,
    operations_of,
    qualified,
    service_of_parent,
    unqualified,
)
from synthmix.service_kit.seeds import derived_seed

ID = "0123456789abcdef" * 2


def test_an_error_survives_the_wire() -> None:
    error = errors.invalid_field(
        "mixtures.ratios[2]", 12.0, "is out of range", "use a value between 0 and 10", reason="OUT_OF_RANGE"
    )
    back = errors.from_status(errors.to_status(error))
    assert type(back) is errors.InvalidArgument
    assert (back.message, back.reason, back.violations) == (error.message, "OUT_OF_RANGE", error.violations)
    assert back.violations[0].field == "mixtures.ratios[2]"
    assert "12.0" in back.message
    assert "between 0 and 10" in back.message


def test_an_error_survives_ray() -> None:
    error = errors.NotFound("gone", reason="ARTIFACT_NOT_FOUND", metadata={"artifact": "adapters/x"})
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.message, back.reason, back.metadata) == (
        errors.NotFound,
        "gone",
        "ARTIFACT_NOT_FOUND",
        error.metadata,
    )


def test_every_error_class_has_its_own_code() -> None:
    kinds = [
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.FailedPrecondition,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.Unavailable,
        errors.Cancelled,
        errors.DataLoss,
        errors.Unimplemented,
        errors.Internal,
    ]
    for kind in kinds:
        assert type(errors.from_json(errors.to_json(kind("x", reason="R")))) is kind


def test_a_choice_names_the_nearest() -> None:
    with pytest.raises(errors.InvalidArgument, match="did you mean 'attention'"):
        errors.check_choice("adapter.targets", "atention", ["attention", "attention+feedforward"])


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_range_refuses_what_is_outside(value: float) -> None:
    with pytest.raises(errors.InvalidArgument, match="seeds"):
        errors.check_range("seeds", value, 0.0, 1.0)


def test_digests_depend_on_content_only() -> None:
    assert digest_of({"a": 1, "b": [2.5, "é"]}) == digest_of({"b": [2.5, "é"], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_seeds_are_the_same_everywhere() -> None:
    assert derived_seed(7, "image", 3) == 6180935061041264899
    assert derived_seed(7, "image", 4) != derived_seed(7, "image", 3)
    assert 0 <= derived_seed("x") < 2**63


def test_resource_names_round_trip() -> None:
    assert str(ArtifactName.parse(f"adapters/{ID}", field="name")) == f"adapters/{ID}"
    assert str(PartName.parse(f"splits/{ID}/parts/train", field="name")) == f"splits/{ID}/parts/train"
    assert str(OperationName.parse(f"operations/adapter-training/{ID}")) == f"operations/adapter-training/{ID}"
    assert str(UploadName.parse(f"uploads/{ID}{ID}", field="upload")) == f"uploads/{ID}{ID}"


def test_artifact_names_are_in_the_order_of_their_text() -> None:
    texts = sorted(f"{collection}/{digit * 32}" for collection in COLLECTIONS for digit in "9a0")
    names = [ArtifactName.parse(text, field="name") for text in reversed(texts)]
    assert [str(name) for name in sorted(names)] == texts


@pytest.mark.parametrize(
    "text", ["", "adapters", "adapters/", "adapters/XYZ", f"adaptors/{ID}", f"adapters/{ID}/x", f"../{ID}"]
)
def test_a_wrong_resource_name_is_refused_by_field(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"image_set\.adapter"):
        ArtifactName.parse(text, field="image_set.adapter")


def test_a_name_of_another_collection_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="adapters/"):
        ArtifactName.parse(f"studies/{ID}", field="image_set.adapter", collection="adapters")


@pytest.mark.parametrize("name", ["", "Six", "a b", "-a", "a-", "a/b", "..", "x" * 64, ID])
def test_display_names_are_safe_in_keys(name: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="display_name"):
        check_display_name("display_name", name)


def test_pages_visit_every_item_once() -> None:
    items = [f"item-{number:03d}" for number in range(25)]
    times = dict.fromkeys(items, "2026-11-28T12:00:00Z")
    seen: list[str] = []
    token = ""
    while True:
        found, token = pages.newest_first(times, 10, token)
        seen += found
        if not token:
            break
    assert seen == items[::-1]


@pytest.mark.parametrize("token", ["!!", "bm90LWEtdG9rZW4=", "item-003"])
def test_a_token_that_no_listing_gave_is_refused(token: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="page_token"):
        pages.newest_first({"a": "2026-11-28T12:00:00Z"}, 1, token)


def test_settings_name_the_variable_that_is_missing() -> None:
    with pytest.raises(errors.FailedPrecondition, match="SYNTHMIX_OBJECT_STORE_ENDPOINT"):
        object_store_settings({})
    with pytest.raises(errors.FailedPrecondition, match="SYNTHMIX_IMAGE_SYNTHESIS_GPUS is 'two'"):
        worker_settings("image-synthesis", {"SYNTHMIX_IMAGE_SYNTHESIS_GPUS": "two"})


def test_kubernetes_is_used_for_what_is_set_only() -> None:
    assert kubernetes_settings({"SYNTHMIX_NAMESPACE": "lab", "SYNTHMIX_POD_NAME": "pod-1"}) == KubernetesSettings()
    environment = {
        "SYNTHMIX_NAMESPACE": "lab",
        "SYNTHMIX_KUBERNETES_AUDIENCE": "synthmix",
        "SYNTHMIX_ROLE_PREFIX": "lab-synthmix",
        "SYNTHMIX_RAY_CLUSTER": "ray",
    }
    assert kubernetes_settings(environment) == KubernetesSettings(
        namespace="lab", audience="synthmix", role_prefix="lab-synthmix", ray_cluster="ray"
    )


def test_kubernetes_settings_that_cannot_be() -> None:
    with pytest.raises(errors.FailedPrecondition, match="SYNTHMIX_NAMESPACE"):
        kubernetes_settings({"SYNTHMIX_RAY_CLUSTER": "ray"})
    with pytest.raises(errors.FailedPrecondition, match="set the one that the workers are"):
        kubernetes_settings({"SYNTHMIX_RAY_CLUSTER": "ray", "SYNTHMIX_WORKER_DEPLOYMENT_PREFIX": "lab-ray"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (3_565_158, "3.4 MiB"),
        (64 * 2**20, "64 MiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert byte_size(size_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 seeds"), (1, "1 seed"), (1.0, "1 seed"), (2.5, "2.5 seeds"), (1440, "1,440 seeds")]
)
def test_counts(count: float, text: str) -> None:
    assert plural(count, "seed") == text


def test_names_with_and_without_their_collections() -> None:
    assert qualified("datasets", "cells") == "datasets/cells" == qualified("datasets", "datasets/cells")
    assert unqualified("datasets", "cells") == "cells" == unqualified("datasets", "datasets/cells")
    assert collection_of("adapters/0f3c") == "adapters"


def test_an_operation_of_a_key() -> None:
    name = OperationName("adapter-training", "0" * 32)
    assert OperationName.of_key(f"{name}/result.json") == (name, "result.json")
    assert str(name).startswith(f"{operations_of(name.service)}/")
    assert service_of_parent(operations_of(name.service)) == name.service
    assert service_of_parent("") == ""


def test_a_container_s_free_memory_is_that_of_its_limit(tmp_path: Path) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("1000\n")
    used.write_text("400\n")
    assert available_memory_bytes(limit, used) == 600
    limit.write_text("max\n")
    assert available_memory_bytes(limit, used) > 600
