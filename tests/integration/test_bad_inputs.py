"""Bad inputs through the real stack: each is a clear error with field, value and remedy, and nothing half-written."""

import asyncio
import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from PIL import Image

from image_archives import picture, plates, zipped
from studies import FEW, reduced_study
from synthmix import Client, GroupRule
from synthmix.adapter_training.front_end import AdapterService
from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import exit_codes
from synthmix.client.client import result_of
from synthmix.client.study_file import read_study
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.local import Connection
from synthmix.service_kit.artifacts import find_manifest, list_artifacts
from synthmix.service_kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SynthMixError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import RESULT, list_names
from synthmix.service_kit.resource_names import COLLECTIONS, ArtifactName, OperationName
from synthmix.service_kit.s3_object_store import S3ObjectStore
from synthmix.service_kit.settings import ADAPTER_TRAINING, SERVICES, STUDY_CONTROL, ObjectStoreSettings
from synthmix.service_kit.transport import error_of
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.dataset_service import DatasetService

DATASET = FEW
BY_PLATE = r"(?P<group>plate-\d+)"
NO_ID = "0" * 32
# What an error must leave as it was: artifacts, and the names that people gave to some.
KEPT = tuple(f"{collection}/" for collection in COLLECTIONS)
NAMES = ("dataset-names/", "study-names/")

Act = Callable[["World"], Any]


def unfinished(store: ObjectStore) -> list[OperationName]:
    return [
        name for service in SERVICES for name, objects in list_names(store, service).items() if RESULT not in objects
    ]


@dataclass(frozen=True)
class World:
    """What a bad input is given to.

    Attributes:
        study: A study of DATASET that is finished.
        folder: An empty folder.
    """

    stack: Connection
    client: Client
    store: ObjectStore
    study: studies_pb2.Study
    folder: Path

    def call(self, service: str, method: str, stub: Callable[[Any], Any], request: Any, token: str | None = "") -> Any:
        """One call past the client, whose own checks would come first; token None sends none."""
        metadata = () if token is None else (("authorization", f"Bearer {token or self.stack.token}"),)
        address = self.stack.services[service]
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = getattr(stub(channel), method)(request, metadata=metadata, timeout=30)
                return answer if isinstance(answer, Message) else list(answer)
            except grpc.RpcError as error:
                raise error_of(error, service, address) from None

    def import_upload(self, archive: Path, **dataset: Any) -> Any:
        """Imports a ZIP past the client, which refuses some by itself."""
        described = {"display_name": "bad", "group_rule": {"pattern": BY_PLATE}} | dataset
        request = datasets_pb2.CreateDatasetRequest(
            upload=self.client.upload(archive).name,
            dataset=json_format.ParseDict(described, datasets_pb2.Dataset()),
        )
        operation = self.call(STUDY_CONTROL, "CreateDataset", datasets_pb2_grpc.DatasetServiceStub, request)
        return result_of(self.client.wait(operation.name), datasets_pb2.Dataset)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "synthmix", "--home", str(self.stack.home), *arguments],
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )


@dataclass(frozen=True)
class Case:
    """A bad input and the error that it deserves.

    Attributes:
        says: Patterns that the message has: the value, what is wrong with it, and the remedy.
        fields: Paths that BadRequest names.
    """

    name: str
    act: Act
    error: type[SynthMixError]
    reason: str
    says: tuple[str, ...]
    fields: tuple[str, ...] = ()


@pytest.fixture
def world(stack: Connection, client: Client, store: ObjectStore, finished: studies_pb2.Study, tmp_path: Path) -> World:
    return World(stack, client, store, finished, tmp_path)


def check_error(error: SynthMixError, case: Case) -> None:
    assert type(error) is case.error, error.message
    assert error.reason == case.reason
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", error.reason)
    assert {violation.field for violation in error.violations} >= set(case.fields)
    for pattern in case.says:
        assert re.search(pattern, error.message), f"{pattern!r} isn't in: {error.message}"
    for violation in error.violations:
        assert violation.field
        assert violation.description


def kept(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("") if item.key.startswith((*KEPT, *NAMES))}


def check_nothing_is_half_written(store: ObjectStore, before: set[str]) -> None:
    assert kept(store) == before
    assert unfinished(store) == []


# Studies


def study(**changes: Any) -> Act:
    """Submits the reduced study with some of its fields changed, down to single keys."""

    def submit(world: World) -> Any:
        spec: dict[str, Any] = json_format.MessageToDict(
            reduced_study("bad", DATASET), preserving_proto_field_name=True
        )
        for path, value in changes.items():
            section, _, key = path.partition("__")
            if callable(value):
                value = value(world)
            if key:
                spec.setdefault(section, {})[key] = value
            else:
                spec[section] = value
        return world.client.submit_study(json_format.ParseDict(spec, studies_pb2.StudySpec()))

    return submit


def study_text(text: str) -> Act:
    """Reads a study's file, as the command line does."""

    def read(world: World) -> Any:
        path = world.folder / "study.yaml"
        path.write_text(text)
        return read_study(path)

    return read


def model_folder(*, index: dict[str, Any] | None = None, weights: str = "", unet: dict[str, Any] | None = None) -> Act:
    """The path of a folder that has some of what a base model has."""

    def write(world: World) -> str:
        folder = world.folder / "model"
        folder.mkdir()
        if index is not None:
            (folder / "model_index.json").write_text(json.dumps(index))
        for component in ("unet", "vae", "text_encoder", "tokenizer", "scheduler") if weights else ():
            (folder / component).mkdir()
            (folder / component / weights).write_bytes(b"weights")
            (folder / component / "config.json").write_text(json.dumps(unet if component == "unet" else {}))
        return str(folder)

    return write


def changed_model(name: str, **values: Any) -> Act:
    """The path of a copy of the built-in base model, with values of one of its JSON files changed."""

    def write(world: World) -> str:
        folder = Path(shutil.copytree(BUILTIN_FOLDER, world.folder / "model"))
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return str(folder)

    return write


STUDIES = [
    Case(
        "an unknown key",
        study_text("name: bad\ndataset: sim-few\nsynthesis:\n  guidance_scal: 3\n"),
        InvalidArgument,
        "FILE_INVALID",
        (r"study\.yaml:4", "guidance_scal", "not a known key", r"did you mean `guidance_scale`\?"),
        ("synthesis.guidance_scal",),
    ),
    Case(
        "a ratio that is not a number",
        study_text("name: bad\ndataset: sim-few\nmixtures:\n  ratios: [0, .nan]\n"),
        InvalidArgument,
        "FILE_INVALID",
        (r"study\.yaml:4", "expects a number", r"'\.nan'"),
        ("mixtures.ratios[1]",),
    ),
    Case(
        "a percentage",
        study_text("name: bad\ndataset: sim-few\nmixtures:\n  ratios: [0, 25%]\n"),
        InvalidArgument,
        "FILE_INVALID",
        (r"study\.yaml:4", "25%", r"write 0\.25"),
        ("mixtures.ratios[1]",),
    ),
    *(
        Case(
            f"a ratio of {value}",
            study(mixtures__ratios=[0, 0.25, value]),
            InvalidArgument,
            "OUT_OF_RANGE",
            (r"mixtures\.ratios\[2\]", shown, "out of range", "between 0 and 10"),
            ("mixtures.ratios[2]",),
        )
        for value, shown in ((-0.1, r"-0\.1"), (11, r"11\.0"), ("NaN", "nan"), ("Infinity", "inf"))
    ),
    Case(
        "a ratio twice",
        study(mixtures__ratios=[0, 0.25, 0.25]),
        InvalidArgument,
        "DUPLICATE_VALUE",
        (r"0\.25", "twice", "leave one of them out"),
        ("mixtures.ratios[2]",),
    ),
    Case("no seeds", study(seeds=0), InvalidArgument, "OUT_OF_RANGE", ("seeds", "0", "between 1 and 1000"), ("seeds",)),
    Case(
        "an unknown dataset",
        study(dataset="sim-fwe"),
        NotFound,
        "DATASET_NOT_FOUND",
        ("^dataset:", "'sim-fwe'", "did you mean 'sim-few'?", "synthmix datasets import"),
    ),
    Case(
        "no dataset",
        study(dataset=""),
        InvalidArgument,
        "FIELD_MISSING",
        ("dataset is required", "synthmix datasets list"),
        ("dataset",),
    ),
    Case("no name", study(name=""), InvalidArgument, "FIELD_MISSING", ("name is required", "lower-case"), ("name",)),
    Case(
        "an invalid name",
        study(name="Six Phenotypes"),
        InvalidArgument,
        "INVALID_NAME",
        ("'Six Phenotypes'", "lower-case letters, digits and hyphens"),
        ("name",),
    ),
    Case(
        "a base model's folder that isn't there",
        study(adapters__base_model="/no/such/model"),
        InvalidArgument,
        "BASE_MODEL_NOT_FOUND",
        ("'/no/such/model'", "neither a folder here nor the name of a hub's model", "use builtin"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model's folder that is empty",
        study(adapters__base_model=model_folder()),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        (r"is an empty folder: it has no model_index\.json", "diffusers layout"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model's folder without its parts",
        study(adapters__base_model=model_folder(index={})),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        ("lacks unet, vae, text_encoder, tokenizer, scheduler", "diffusers layout"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model with pickled weights",
        study(adapters__base_model=model_folder(index={}, weights="pytorch_model.bin")),
        InvalidArgument,
        "BASE_MODEL_NOT_SAFETENSORS",
        ("no safetensors weights in unet, vae, text_encoder", "convert them; pickled weights are never loaded"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model whose index names no parts",
        study(adapters__base_model=model_folder(index={}, weights="model.safetensors", unet={})),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        (r"no unet by its model_index\.json", "give a whole model"),
        ("adapters.base_model",),
    ),
    Case(
        "an inpainting base model",
        study(adapters__base_model=changed_model("unet/config.json", in_channels=17)),
        InvalidArgument,
        "BASE_MODEL_INCONSISTENT",
        ("17 input channels", "8 latent channels", "inpainting", "use the text-to-image model"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model with a flow-matching scheduler",
        study(
            adapters__base_model=changed_model(
                "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]
            )
        ),
        InvalidArgument,
        "BASE_MODEL_UNSUPPORTED",
        ("FlowMatchEulerDiscreteScheduler", "flow-matching", "such as DDIMScheduler"),
        ("adapters.base_model",),
    ),
    Case(
        "an SD3 base model",
        study(adapters__base_model=model_folder(index={"_class_name": "StableDiffusion3Pipeline"})),
        Unimplemented,
        "BASE_MODEL_UNSUPPORTED",
        (r"a Stable Diffusion 3 \(SD3\) model", r"SD 1\.x or 2\.x"),
        ("adapters.base_model",),
    ),
    Case(
        "a base model by a relative path",
        study(adapters__base_model="./models/sd15"),
        InvalidArgument,
        "BASE_MODEL_NOT_FOUND",
        ("'./models/sd15' is a relative path", "write the absolute path"),
        ("adapters.base_model",),
    ),
    Case(
        "a prompt of which the text encoder loses the class",
        study(synthesis__prompt="a microscopy image " * 12 + "of a {label} cell"),
        InvalidArgument,
        "PROMPTS_EQUAL",
        ("same tokens for the classes", "keeps 48", "shorten the prompt"),
        ("synthesis.prompt",),
    ),
    Case(
        "an SDXL base model",
        study(adapters__base_model=model_folder(index={"text_encoder_2": []})),
        Unimplemented,
        "BASE_MODEL_UNSUPPORTED",
        (r"adapters\.base_model", "SDXL", r"SD 1\.x or 2\.x"),
        ("adapters.base_model",),
    ),
    Case(
        "a hub model whose name can't be one",
        study(adapters__base_model="owner/na me"),
        InvalidArgument,
        "BASE_MODEL_NOT_FOUND",
        ("'owner/na me'", "neither a folder here nor the name of a hub's model", "owner/name@revision"),
        ("adapters.base_model",),
    ),
    Case(
        "an unknown method",
        study(adapters__method=["lorra"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'lorra'", "did you mean 'lora'?"),
        ("adapters.method",),
    ),
    Case(
        "a method of a later version",
        study(adapters__method=["dora"]),
        Unimplemented,
        "METHOD_UNAVAILABLE",
        (r"adapters\.method", "'dora'", "use lora"),
        ("adapters.method",),
    ),
    Case(
        "unknown targets",
        study(adapters__targets=["atention"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'atention'", "did you mean 'attention'?"),
        ("adapters.targets",),
    ),
    Case(
        "rank 0",
        study(adapters__rank=[0]),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("0 is out of range", "between 1 and 1024"),
        ("adapters.rank",),
    ),
    Case(
        "a rank twice",
        study(adapters__rank=[4, 4]),
        InvalidArgument,
        "DUPLICATE_VALUE",
        ("4 stands twice", "remove one"),
        ("adapters.rank[1]",),
    ),
    Case(
        "an adapter's image size that the autoencoder can't halve",
        study(adapters__image_size=60),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("60 isn't a multiple of 8", "use 64"),
        ("adapters.image_size",),
    ),
    Case(
        "a prompt without its class",
        study(synthesis__prompt="a cell"),
        InvalidArgument,
        "PROMPT_WITHOUT_LABEL",
        ("'a cell'", r"put \{label\} where the class belongs"),
        ("synthesis.prompt",),
    ),
    Case(
        "guidance out of range",
        study(synthesis__guidance_scale=51.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"51\.0 is out of range", "between 0 and 50"),
        ("synthesis.guidance_scale",),
    ),
    Case(
        "no denoising steps",
        study(synthesis__steps=0),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("0 is out of range", "between 1 and 1000"),
        ("synthesis.steps",),
    ),
    Case(
        "too few images for the largest mixture",
        study(synthesis__per_class=2),
        InvalidArgument,
        "TOO_FEW_SYNTHETIC_IMAGES",
        ("2 is too small for the largest mixture", r"use at least \d+", "smaller ratios"),
        ("synthesis.per_class",),
    ),
    Case(
        "an unknown architecture",
        study(classifier__architecture="resnet5O"),
        InvalidArgument,
        "UNKNOWN_ARCHITECTURE",
        ("'resnet5O'", "did you mean .*resnet50"),
        ("classifier.architecture",),
    ),
    Case(
        "an architecture without weights",
        study(classifier__architecture="efficientnet_b7"),
        InvalidArgument,
        "NO_PRETRAINED_WEIGHTS",
        ("no weights for efficientnet_b7", "use tf_efficientnet_b7", "set it to false"),
        ("classifier.pretrained",),
    ),
    Case(
        "a classifier's image size out of range",
        study(classifier__image_size=8),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("8 is out of range", "between 16 and 1024"),
        ("classifier.image_size",),
    ),
    Case(
        "an unknown mode",
        study(mixtures__mode="apend"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'apend'", "did you mean 'append'?"),
        ("mixtures.mode",),
    ),
    Case(
        "a mode of a later version",
        study(mixtures__mode="share"),
        Unimplemented,
        "MODE_UNAVAILABLE",
        (r"mixtures\.mode", "'share'", "use append"),
        ("mixtures.mode",),
    ),
    Case(
        "an unknown control",
        study(mixtures__controls=["duplicate_real"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'duplicate_real'", "did you mean 'duplicated_real'?"),
        ("mixtures.controls[0]",),
    ),
    Case(
        "selection, which comes later",
        study(selection__class_consistency=0.5),
        Unimplemented,
        "SELECTION_UNAVAILABLE",
        (r"selection\.class_consistency", "leave `selection` out"),
        ("selection.class_consistency",),
    ),
    Case(
        "a split that leaves nothing to train on",
        study(split__test=0.6, split__validation=0.4),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"0\.6", "leave nothing to train on", "sum smaller than 1"),
        ("split.test",),
    ),
    Case(
        "a split without a test part",
        study(split__test=0.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"0\.0 is out of range", "strictly between 0 and 1"),
        ("split.test",),
    ),
    Case(
        "a margin of 0",
        study(claim__margin=0.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"0\.0 is out of range", "strictly between 0 and 1"),
        ("claim.margin",),
    ),
    Case(
        "certainty",
        study(claim__confidence=1.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"1\.0 is out of range", r"between 0\.5 and 0\.9999"),
        ("claim.confidence",),
    ),
    Case(
        "several faults",
        study(
            name="Bad",
            seeds=0,
            adapters__rank=[0],
            adapters__targets=["atention"],
            synthesis__steps=0,
            mixtures__controls=["duplicate_real"],
            classifier__architecture="resnet5O",
            claim__margin=0.0,
            claim__confidence=1.0,
        ),
        InvalidArgument,
        "SEVERAL_FIELDS",
        ("'Bad'", "did you mean 'attention'", "resnet50"),
        (
            "name",
            "seeds",
            "adapters.rank",
            "adapters.targets",
            "synthesis.steps",
            "mixtures.controls[0]",
            "classifier.architecture",
            "claim.margin",
            "claim.confidence",
        ),
    ),
    Case(
        "several faults that nothing can be planned with",
        study(name="Bad", split__test=0.0, mixtures__ratios=["NaN", 11]),
        InvalidArgument,
        "SEVERAL_FIELDS",
        ("'Bad'", r"11\.0 is out of range"),
        ("name", "split.test", "mixtures.ratios[0]", "mixtures.ratios[1]"),
    ),
]


# The services, called directly


def adapter(**fields: Any) -> Act:
    def create(world: World) -> Any:
        given = {key: value(world) if callable(value) else value for key, value in fields.items()}
        return world.client.create_adapter(adapters_pb2.Adapter(base_model="builtin", **given))

    return create


def evaluation_with_another_split(world: World) -> Any:
    split = world.client.create_split(world.study.dataset, test=0.25, validation=0.15, seed=8)
    return world.client.create_evaluation(
        evaluations_pb2.Evaluation(
            split=split.name,
            image_sets=world.study.image_sets,
            mixtures=evaluations_pb2.Mixtures(ratios=[0.25]),
            seeds=1,
        )
    )


def evaluation_of(ratio: float) -> Act:
    return lambda world: world.client.create_evaluation(
        evaluations_pb2.Evaluation(
            split=world.study.split,
            image_sets=world.study.image_sets,
            mixtures=evaluations_pb2.Mixtures(ratios=[ratio]),
            seeds=1,
        )
    )


def list_datasets(token: str | None = "", **fields: Any) -> Act:
    return lambda world: world.call(
        STUDY_CONTROL,
        "ListDatasets",
        datasets_pb2_grpc.DatasetServiceStub,
        datasets_pb2.ListDatasetsRequest(**fields),
        token,
    )


CALLS = [
    *(
        Case(
            f"an adapter of {what}",
            adapter(train_split=name),
            InvalidArgument,
            "TRAIN_SPLIT_REQUIRED",
            (problem, "must not reach a generator", "use splits/{id}/parts/train"),
            ("adapter.train_split",),
        )
        for what, name, problem in (
            ("a dataset", lambda world: world.study.dataset, "whole dataset"),
            ("a split", lambda world: world.study.split, "whole split"),
            ("a test part", lambda world: f"{world.study.split}/parts/test", "held out"),
            ("a validation part", lambda world: f"{world.study.split}/parts/validation", "held out"),
        )
    ),
    Case(
        "an adapter of a split that isn't there",
        adapter(train_split=f"splits/{NO_ID}/parts/train"),
        NotFound,
        "ARTIFACT_NOT_FOUND",
        (f"splits/{NO_ID}", "doesn't exist"),
    ),
    Case(
        "an adapter of nothing",
        adapter(),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", "splits/{id}/parts/train"),
        ("adapter.train_split",),
    ),
    Case(
        "an image set of an adapter that isn't there",
        lambda world: world.client.create_image_set(image_sets_pb2.ImageSet(adapter=f"adapters/{NO_ID}")),
        NotFound,
        "ARTIFACT_NOT_FOUND",
        (r"image_set\.adapter", f"adapters/{NO_ID} doesn't exist", "create it first"),
    ),
    Case(
        "an image set of a class that isn't there",
        lambda world: world.client.create_image_set(
            image_sets_pb2.ImageSet(adapter=world.study.adapters[0], labels=["nobody"])
        ),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'nobody'", "use one of: "),
        ("image_set.labels[0]",),
    ),
    Case(
        "an evaluation with images of another split's adapter",
        evaluation_with_another_split,
        FailedPrecondition,
        "TRAIN_SPLITS_DIFFER",
        ("another train split", "may have seen this one's test images", "train an adapter on this split"),
        ("evaluation.image_sets[0]",),
    ),
    Case(
        "an evaluation that needs more images than there are",
        evaluation_of(5.0),
        FailedPrecondition,
        "TOO_FEW_SYNTHETIC_IMAGES",
        (r"the grid needs \d+", "make a larger image set, or ask for smaller ratios"),
        ("evaluation.image_sets[0]",),
    ),
    *(
        Case(
            f"the name {name}",
            lambda world, name=name, method=method: getattr(world.client, method)(name),
            InvalidArgument,
            "INVALID_RESOURCE_NAME",
            (re.escape(repr(name)), "32 hexadecimal digits"),
            ("name",),
        )
        for method, name in (
            ("get_adapter", "adapters/latest"),
            ("get_adapter", f"image-sets/{NO_ID}"),
            ("get_split", f"splits/{NO_ID.upper()}x"),
            ("get_evaluation", f"evaluations/{NO_ID}/../{NO_ID}"),
            ("get_operation", "operations/study-control"),
        )
    ),
    Case(
        "a study that isn't there",
        lambda world: world.client.get_study("nobody-wrote-this"),
        NotFound,
        "STUDY_NOT_FOUND",
        ("'nobody-wrote-this'", "synthmix studies list"),
    ),
    Case(
        "a page token of nobody",
        list_datasets(page_token="bm9ib2R5"),
        InvalidArgument,
        "INVALID_PAGE_TOKEN",
        ("'bm9ib2R5'", "start again without one"),
        ("page_token",),
    ),
    Case(
        "a page of less than nothing",
        list_datasets(page_size=-1),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("-1 is negative", "1 to 1000"),
        ("page_size",),
    ),
    Case(
        "an operation that isn't there",
        lambda world: world.client.get_operation(f"operations/study-control/{NO_ID}"),
        NotFound,
        "OPERATION_NOT_FOUND",
        (NO_ID, "synthmix operations list"),
    ),
    Case(
        "cancelling an operation that isn't there",
        lambda world: world.client.cancel(f"operations/adapter-training/{NO_ID}"),
        NotFound,
        "OPERATION_NOT_FOUND",
        (NO_ID, "synthmix operations list"),
    ),
    Case(
        "an operation of an unknown service",
        lambda world: world.client.get_operation(f"operations/study-contrl/{NO_ID}"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'study-contrl'", "did you mean 'study-control'?"),
        ("name",),
    ),
    Case(
        "an operation's name of another form, past the client",
        lambda world: world.call(
            ADAPTER_TRAINING,
            "CancelOperation",
            operations_pb2_grpc.OperationsStub,
            operations_pb2.CancelOperationRequest(name="operations/../studies"),
        ),
        InvalidArgument,
        "INVALID_RESOURCE_NAME",
        (r"'operations/\.\./studies'", "32 hexadecimal digits"),
        ("name",),
    ),
    Case("no token", list_datasets(None), Unauthenticated, "TOKEN_MISSING", ("no token", "SYNTHMIX_TOKEN")),
    Case("a wrong token", list_datasets("guessed"), Unauthenticated, "TOKEN_WRONG", ("token", "SYNTHMIX_TOKEN")),
    Case(
        "a payload that isn't there",
        lambda world: world.call(
            STUDY_CONTROL,
            "DownloadPayload",
            artifacts_pb2_grpc.ArtifactServiceStub,
            artifacts_pb2.DownloadPayloadRequest(artifact=world.study.name, payload="../secrets"),
        ),
        NotFound,
        "PAYLOAD_NOT_FOUND",
        (r"'\.\./secrets'", r"it has .*report\.html"),
    ),
    Case(
        "a payload of an artifact that isn't there",
        lambda world: world.call(
            STUDY_CONTROL,
            "DownloadPayload",
            artifacts_pb2_grpc.ArtifactServiceStub,
            artifacts_pb2.DownloadPayloadRequest(artifact=f"adapters/{NO_ID}", payload="weights"),
        ),
        NotFound,
        "ARTIFACT_NOT_FOUND",
        (f"adapters/{NO_ID} doesn't exist",),
    ),
    Case(
        "an empty upload",
        lambda world: world.call(STUDY_CONTROL, "UploadFile", artifacts_pb2_grpc.ArtifactServiceStub, iter(())),
        InvalidArgument,
        "FIELD_MISSING",
        ("at least one byte",),
        ("chunk",),
    ),
    Case(
        "a dataset of an upload that isn't there",
        lambda world: world.call(
            STUDY_CONTROL,
            "CreateDataset",
            datasets_pb2_grpc.DatasetServiceStub,
            datasets_pb2.CreateDatasetRequest(
                upload=f"uploads/{'0' * 64}",
                dataset=datasets_pb2.Dataset(display_name="bad", group_rule=GroupRule(none=True)),
            ),
        ),
        NotFound,
        "UPLOAD_NOT_FOUND",
        ("doesn't exist", "UploadFile"),
    ),
]


# Datasets


def folder_of(files: dict[str, bytes], **options: Any) -> Act:
    """Imports a folder with these files."""

    def run(world: World) -> Any:
        source = world.folder / "images"
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        given = {"group": GroupRule(pattern=BY_PLATE)} | options
        return world.client.import_dataset(source, "bad", **given)

    return run


def archive_of(data: bytes, **dataset: Any) -> Act:
    """Imports a ZIP, past the client."""

    def run(world: World) -> Any:
        path = world.folder / "images.zip"
        path.write_bytes(data)
        return world.import_upload(path, **dataset)

    return run


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED, links: tuple[str, ...] = ()) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc/passwd")
    return data.getvalue()


def bomb_header() -> bytes:
    """A PNG of 60,000 x 60,000 pixels that its few bytes don't hold."""
    data = io.BytesIO()
    Image.new("L", (1, 1)).save(data, "PNG")
    whole = data.getvalue()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    return whole[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def manifest(rows: list[str], header: str = "path,label,plate") -> dict[str, bytes]:
    """Images beside a manifest of these rows, after those of whole ones."""
    images = plates()
    described = [f"{name},{name.split('/')[0]},{name.split('/')[1].split('_')[0]}" for name in images]
    return {"manifest.csv": "\n".join([header, *described, *rows]).encode(), **images}


def split_parts() -> dict[str, bytes]:
    """A dataset that somebody has split already."""
    return {
        f"{part}/{label}/plate-{plate}.png": picture(900 + 10 * plate + 3 * first + second)
        for first, part in enumerate(("train", "test"))
        for second, label in enumerate(("alpha", "beta"))
        for plate in range(3)
    }


def group_rule(rule: dict[str, Any]) -> Act:
    return archive_of(zip_of(plates()), group_rule=rule)


def taken_name(world: World) -> Any:
    """Other images under the name of DATASET."""
    source = zipped(world.folder / "images.zip", plates(plate_count=7))
    return world.client.import_dataset(source, DATASET, group=GroupRule(pattern=BY_PLATE))


GROUP_FIELD = "dataset.group_rule.pattern"
FIRST = "alpha/plate-0_0.png"

DATASETS = [
    Case(
        "a class that isn't there",
        folder_of(plates(), classes=["alpha", "betta"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'betta'", "did you mean 'beta'?"),
        ("dataset.classes[1]",),
    ),
    Case(
        "a class of one image",
        folder_of(plates() | {"gamma/plate-0_0.png": picture(1000)}),
        InvalidArgument,
        "CLASS_TOO_SMALL",
        ("gamma has 1 images in 1 groups", "at least 3 groups", "add images"),
        ("upload",),
    ),
    Case(
        "a single class",
        folder_of(plates(("alpha",))),
        InvalidArgument,
        "SINGLE_CLASS",
        ("alpha", "at least two"),
        ("dataset.classes",),
    ),
    Case(
        "no group rule",
        folder_of(plates(), group=GroupRule()),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", "a pattern, a column, or none"),
        ("dataset.group_rule",),
    ),
    Case(
        "none that isn't stated",
        group_rule({"none": False}),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", "none: true"),
        ("dataset.group_rule",),
    ),
    Case(
        "a pattern that doesn't compile",
        group_rule({"pattern": "(?P<group>"}),
        InvalidArgument,
        "INVALID_PATTERN",
        (re.escape("'(?P<group>'"), "not a regular expression", "named group"),
        (GROUP_FIELD,),
    ),
    Case(
        "a pattern without a named group",
        group_rule({"pattern": r"(plate-\d+)"}),
        InvalidArgument,
        "INVALID_PATTERN",
        ("has no named group", re.escape("(?P<group>[^/]+)_")),
        (GROUP_FIELD,),
    ),
    Case(
        "a pattern that doesn't match",
        group_rule({"pattern": r"(?P<group>well-\d+)"}),
        InvalidArgument,
        "PATTERN_UNMATCHED",
        ("24 of 24 images get no group", re.escape(FIRST), "matches the path of every image"),
        (GROUP_FIELD,),
    ),
    Case(
        "a corrupt PNG",
        folder_of(plates() | {FIRST: picture(0)[:60]}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "damaged", "leave them out"),
        ("upload",),
    ),
    Case(
        "a text that calls itself PNG",
        folder_of(plates() | {FIRST: b"no image"}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "is not a PNG, JPEG, TIFF, BMP or WebP image", "convert it"),
        ("upload",),
    ),
    Case(
        "a decompression bomb of an image",
        folder_of(plates() | {FIRST: bomb_header()}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "larger than 64 megapixels", "smaller fields"),
        ("upload",),
    ),
    Case(
        "a truncated ZIP",
        archive_of(zip_of(plates())[:-500]),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "a ZIP without its beginning",
        archive_of(zip_of(plates())[500:]),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "not a ZIP",
        archive_of(b"no archive" * 100),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "a ZIP of nothing",
        archive_of(zip_of({})),
        InvalidArgument,
        "NO_IMAGES",
        ("hold no class folder", "one folder for each class"),
        ("upload",),
    ),
    *(
        Case(
            f"a path traversal by {name}",
            archive_of(zip_of(plates() | {name: picture(1000)})),
            InvalidArgument,
            "ARCHIVE_UNSAFE",
            (problem, "without links, passwords or absolute paths"),
            ("upload",),
        )
        for name, problem in (
            ("alpha/../../escaped.png", "leads out of the archive"),
            ("..\\escaped.png", "leads out of the archive"),
            ("/escaped.png", "is an absolute path"),
        )
    ),
    Case(
        "a symbolic link",
        archive_of(zip_of(plates(), links=("alpha/plate-0_9.png",))),
        InvalidArgument,
        "ARCHIVE_UNSAFE",
        (re.escape("alpha/plate-0_9.png is a symbolic link"), "without links"),
        ("upload",),
    ),
    Case(
        "a decompression bomb of a ZIP",
        archive_of(zip_of(plates() | {"alpha/bomb.png": bytes(80 * 2**20)}, zipfile.ZIP_DEFLATED)),
        InvalidArgument,
        "ARCHIVE_TOO_LARGE",
        ("80 MiB", "more than 200 times its own size", "fewer or smaller images"),
        ("upload",),
    ),
    Case(
        "one image in two groups",
        folder_of(plates() | {"alpha/plate-9_0.png": picture(0)}),
        InvalidArgument,
        "DUPLICATE_ACROSS_GROUPS",
        (re.escape(FIRST), re.escape("alpha/plate-9_0.png"), "keep one of each"),
        ("upload",),
    ),
    Case(
        "one image in two classes",
        folder_of(plates() | {"beta/plate-0_9.png": picture(0)}),
        InvalidArgument,
        "DUPLICATE_LABELS",
        (re.escape(FIRST), re.escape("beta/plate-0_9.png"), "keep each image in one class"),
        ("upload",),
    ),
    Case(
        "a manifest without labels",
        archive_of(zip_of(manifest([], "path,class,plate")), group_rule={"column": "plate"}),
        InvalidArgument,
        "MANIFEST_COLUMN_MISSING",
        (r"'label' is not a column of manifest\.csv", "the columns are path, class, plate"),
        ("upload",),
    ),
    Case(
        "a manifest without the group's column",
        folder_of(manifest([]), group=GroupRule(column="chip")),
        InvalidArgument,
        "MANIFEST_COLUMN_MISSING",
        (r"'chip' is not a column of manifest\.csv", "the columns are path, label, plate"),
        ("dataset.group_rule.column",),
    ),
    Case(
        "a manifest's image that isn't in the archive",
        archive_of(zip_of(manifest(["alpha/lost.png,alpha,plate-1"])), group_rule={"column": "plate"}),
        InvalidArgument,
        "MANIFEST_INVALID",
        (r"row 26: alpha/lost\.png is not in the source", "mend the manifest"),
        ("upload",),
    ),
    Case(
        "a manifest's image that isn't in the folder",
        folder_of(manifest(["alpha/lost.png,alpha,plate-1"]), group=GroupRule(column="plate")),
        InvalidArgument,
        "MANIFEST_INVALID",
        (r"row 26: alpha/lost\.png", "relative to its folder"),
        ("source",),
    ),
    Case(
        "parts of a split as classes, in a folder",
        folder_of(split_parts()),
        InvalidArgument,
        "LAYOUT_DOUBTFUL",
        ("'test', 'train' are named like parts of a split", "whose sub-folders are the classes", "--yes"),
        ("source",),
    ),
    Case(
        "an account of what was left out that is longer than any",
        lambda world: world.call(
            STUDY_CONTROL,
            "CreateDataset",
            datasets_pb2_grpc.DatasetServiceStub,
            datasets_pb2.CreateDatasetRequest(
                upload=f"uploads/{'0' * 64}",
                dataset=datasets_pb2.Dataset(display_name="bad", group_rule=GroupRule(none=True)),
                left_out=[datasets_pb2.LeftOut(reason="NOT_AN_IMAGE")] * 101,
            ),
        ),
        InvalidArgument,
        "INVALID_FIELD",
        ("101 entries", "more than 100"),
        ("left_out",),
    ),
    Case(
        "a folder that isn't there",
        lambda world: world.client.import_dataset(world.folder / "nothing", "bad", group=GroupRule(none=True)),
        InvalidArgument,
        "SOURCE_NOT_FOUND",
        ("nothing' doesn't exist", "folder of class folders"),
        ("source",),
    ),
    Case(
        "a dataset's name that can't be one",
        lambda world: world.client.import_dataset(world.folder, "Bad Name", group=GroupRule(none=True)),
        InvalidArgument,
        "INVALID_NAME",
        ("'Bad Name'", "lower-case letters"),
        ("name",),
    ),
]


@pytest.mark.parametrize("case", [*STUDIES, *CALLS, *DATASETS], ids=lambda case: case.name)
def test_it_is_a_clear_error_and_leaves_nothing(case: Case, world: World) -> None:
    world.client.create_split(world.study.dataset, test=0.25, validation=0.15, seed=8)  # a split that one case uses
    before = kept(world.store)
    with pytest.raises(SynthMixError) as raised:
        case.act(world)
    check_error(raised.value, case)
    check_nothing_is_half_written(world.store, before)


def test_there_are_enough_cases() -> None:
    cases = [*STUDIES, *CALLS, *DATASETS]
    assert len(cases) >= 30
    assert len({case.name for case in cases}) == len(cases)


def test_a_name_that_is_taken_stays_until_it_is_moved(world: World) -> None:
    """The images are imported by then: what is refused is the name, and moving it costs nothing more."""
    before = {item.key: item.size_bytes for item in world.store.list("dataset-names/")}
    held = world.client.get_dataset(DATASET).name
    with pytest.raises(SynthMixError) as raised:
        taken_name(world)
    check_error(
        raised.value,
        Case(
            "",
            taken_name,
            AlreadyExists,
            "DISPLAY_NAME_TAKEN",
            (repr(DATASET), held, "choose another name, .*--replace"),
        ),
    )
    assert {item.key: item.size_bytes for item in world.store.list("dataset-names/")} == before
    assert world.client.get_dataset(DATASET).name == held
    assert unfinished(world.store) == []
    for name in {ArtifactName("datasets", item.key.split("/")[1]) for item in world.store.list("datasets/")}:
        assert find_manifest(world.store, name) is not None  # whole, or not there

    with pytest.raises(AlreadyExists):  # again, and not because the first refusal is remembered
        taken_name(world)
    count = len(list_artifacts(world.store, "datasets"))
    try:
        moved = world.client.import_dataset(
            world.folder / "images.zip", DATASET, group=GroupRule(pattern=BY_PLATE), replace=True
        )
        assert world.client.get_dataset(DATASET).name == moved.name != held
        assert len(list_artifacts(world.store, "datasets")) == count
    finally:
        world.store.put_json(f"dataset-names/{DATASET}.json", {"dataset": held})


def test_what_was_left_out_is_said_each_time_under_each_name(world: World) -> None:
    source = world.folder / "images"
    for name, data in (plates() | {"alpha/notes.txt": b"x", "gamma/readme.txt": b"x"}).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    before = {item.key for item in world.store.list("")}

    def imported(name: str, *paths: str) -> None:
        dataset = world.client.import_dataset(source, name, group=GroupRule(pattern=BY_PLATE))
        assert dataset == world.client.get_dataset(name)
        assert dataset.display_name == name
        assert [path for row in dataset.left_out for path in row.examples] == list(paths)
        assert [("'gamma' is not a class" in warning) for warning in dataset.warnings] == [True]

    try:
        imported("left-out", "alpha/notes.txt", "gamma/readme.txt")
        imported("left-out", "alpha/notes.txt", "gamma/readme.txt")
        (source / "alpha" / "notes.txt").unlink()
        imported("left-out", "gamma/readme.txt")  # the same upload from another source
        imported("left-out-too", "gamma/readme.txt")
        names = world.client.get_dataset("left-out").display_names
        assert {"left-out", "left-out-too"} <= set(names)
    finally:
        for key in {item.key for item in world.store.list("")} - before:
            world.store.delete(key)


def test_a_layout_that_was_refused_is_imported_once_it_is_accepted(world: World) -> None:
    archive = zipped(world.folder / "images.zip", split_parts())
    before = {item.key for item in world.store.list("")}
    given: dict[str, Any] = {"group": GroupRule(pattern=r"(?P<group>[^/]+/plate-\d+)")}
    try:
        with pytest.raises(InvalidArgument, match="parts of a split"):
            world.client.import_dataset(archive, "parts", **given)
        accepted = world.client.import_dataset(archive, "parts", **given, accept_layout=True)
        assert [item.label for item in accepted.class_counts] == ["test", "train"]
        with pytest.raises(InvalidArgument, match="parts of a split"):
            world.import_upload(archive, display_name="parts", group_rule={"pattern": given["group"].pattern})
    finally:
        for key in {item.key for item in world.store.list("")} - before:
            world.store.delete(key)


def study_yaml(world: World, **changes: Any) -> str:
    value = json_format.MessageToDict(reduced_study("bad", DATASET), preserving_proto_field_name=True)
    path = world.folder / "study.yaml"
    path.write_text(yaml.safe_dump(value | changes, sort_keys=False, default_flow_style=False))
    return path.name


def truncated(world: World) -> str:
    (world.folder / "images.zip").write_bytes(zip_of(plates())[:-500])
    return "images.zip"


def whole(world: World) -> str:
    (world.folder / "images.zip").write_bytes(zip_of(plates()))
    return "images.zip"


@dataclass(frozen=True)
class Command:
    """A command that must end with this exit code and say this."""

    name: str
    arguments: Callable[[World], list[str]]
    code: int
    says: tuple[str, ...]


COMMANDS = [
    Command(
        "an unknown key",
        lambda world: ["studies", "submit", study_yaml(world, seed=3)],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: seed: is not a known key; did you mean `seeds`\?",),
    ),
    Command(
        "a ratio out of range, found by the server",
        lambda world: ["studies", "validate", study_yaml(world, mixtures={"ratios": [0, 0.25, 11]})],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: mixtures\.ratios\[2\]: 11\.0 is out of range; use a value between 0 and 10",),
    ),
    Command(
        "a method of a later version",
        lambda world: ["studies", "submit", study_yaml(world, adapters={"method": ["dora"]})],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: adapters\.method: 'dora' isn't available in this version; use lora",),
    ),
    Command(
        "an unknown dataset",
        lambda world: ["studies", "submit", study_yaml(world, dataset="sim-fwe")],
        exit_codes.NOT_FOUND,
        ("'sim-fwe'", "did you mean 'sim-few'"),
    ),
    Command(
        "a study that isn't there",
        lambda world: ["studies", "show", "nobody-wrote-this"],
        exit_codes.NOT_FOUND,
        ("'nobody-wrote-this'", "synthmix studies list"),
    ),
    Command(
        "cancelling an operation that isn't there",
        lambda world: ["operations", "cancel", f"operations/adapter-training/{NO_ID}"],
        exit_codes.NOT_FOUND,
        ("doesn't exist",),
    ),
    Command(
        "a truncated ZIP",
        lambda world: ["datasets", "import", truncated(world), "--name", "bad", "--group-pattern", BY_PLATE],
        exit_codes.INVALID,
        ("not a whole ZIP archive", "pack and upload it again"),
    ),
    Command(
        "a pattern that no image has: the sentence, the remedy, then the files",
        lambda world: ["datasets", "import", whole(world), "--name", "bad", "--group-pattern", r"(?P<group>chip-\d+)"],
        exit_codes.INVALID,
        (
            r"\nerror: dataset\.group_rule\.pattern: \d+ of \d+ images get no group from '\(\?P<group>chip-\\\\d\+\)'; "
            r"change the pattern so that it matches the path of every image\n  alpha/plate-0_0\.png\n",
            r"\n  and \d+ more\n$",
        ),
    ),
    Command(
        "a study's file that is a device",
        lambda world: ["studies", "submit", "/dev/zero"],
        exit_codes.INVALID,
        ("/dev/zero is a device, not a file; give a file, or `-` for standard input",),
    ),
    Command(
        "a name that isn't text",
        lambda world: ["studies", "cancel", os.fsdecode(b"caf\xe9")],
        exit_codes.INVALID,
        ("isn't UTF-8 text, so no service knows it; type it anew",),
    ),
    Command(
        "cancelling no study at all",
        lambda world: ["studies", "cancel", ""],
        exit_codes.INVALID,
        ("name: '' is not a valid name; use 1 to 63",),
    ),
    Command(
        "no group rule",
        lambda world: ["datasets", "import", truncated(world), "--name", "bad"],
        exit_codes.INVALID,
        ("--group-pattern", "--no-groups"),
    ),
    Command(
        "a wrong token",
        lambda world: ["--token", "guessed", "studies", "list"],
        exit_codes.UNREACHABLE,
        ("token", "SYNTHMIX_TOKEN"),
    ),
    Command(
        "no stack",
        lambda world: ["--home", str(world.folder), "studies", "list"],
        exit_codes.UNREACHABLE,
        ("synthmix up",),
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_says_what_is_wrong(command: Command, world: World) -> None:
    before = kept(world.store)
    ended = world.command(*command.arguments(world))
    assert ended.returncode == command.code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    for pattern in command.says:
        assert re.search(pattern, ended.stderr), f"{pattern!r} isn't in: {ended.stderr}"
    check_nothing_is_half_written(world.store, before)


# Object storage that is down


TOKEN = "correct horse"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
DOWN: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "ListDatasets": (datasets_pb2_grpc.DatasetServiceStub, datasets_pb2.ListDatasetsRequest()),
    "GetDataset": (datasets_pb2_grpc.DatasetServiceStub, datasets_pb2.GetDatasetRequest(name=f"datasets/{NO_ID}")),
    "CreateSplit": (
        datasets_pb2_grpc.DatasetServiceStub,
        datasets_pb2.CreateSplitRequest(split=datasets_pb2.Split(dataset=DATASET, test=0.25, validation=0.15)),
    ),
    "CreateDataset": (
        datasets_pb2_grpc.DatasetServiceStub,
        datasets_pb2.CreateDatasetRequest(
            upload=f"uploads/{'0' * 64}",
            dataset=datasets_pb2.Dataset(display_name="bad", group_rule=GroupRule(none=True)),
        ),
    ),
    "UploadFile": (artifacts_pb2_grpc.ArtifactServiceStub, iter([artifacts_pb2.UploadFileRequest(chunk=b"bytes")])),
    "DownloadPayload": (
        artifacts_pb2_grpc.ArtifactServiceStub,
        artifacts_pb2.DownloadPayloadRequest(artifact=f"datasets/{NO_ID}", payload="images.parquet"),
    ),
    "CreateAdapter": (
        adapters_pb2_grpc.AdapterServiceStub,
        adapters_pb2.CreateAdapterRequest(
            adapter=adapters_pb2.Adapter(base_model="builtin", train_split=f"splits/{NO_ID}/parts/train")
        ),
    ),
}


def free_address() -> tuple[socket.socket, str]:
    """A port that is taken, by a socket that doesn't listen: whoever connects is refused."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder, f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.mark.parametrize("method", DOWN)
def test_object_storage_that_is_down_is_unavailable(method: str) -> None:
    """Front ends in this process, on object storage at a port where nobody listens."""
    stub, request = DOWN[method]
    nobody, endpoint = free_address()
    nothing: Any = None  # operations and collections, which come after object storage
    store = S3ObjectStore(ObjectStoreSettings(f"http://{endpoint}", "key", "secret", "synthmix"), attempts=1)

    def call(address: str) -> Any:
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = getattr(stub(channel), method)(request, metadata=AUTHORIZED, timeout=30)
                return answer if isinstance(answer, Message) else list(answer)
            except grpc.RpcError as error:
                return error_of(error, "test", address)

    async def answered() -> Any:
        server = grpc.aio.server(interceptors=interceptors("test", TOKEN))
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(store, nothing), server)
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(store), server)
        adapters_pb2_grpc.add_AdapterServiceServicer_to_server(AdapterService(store, nothing), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await asyncio.to_thread(call, f"127.0.0.1:{port}")
        finally:
            await server.stop(None)

    with nobody:
        error = asyncio.run(answered())
    assert isinstance(error, Unavailable), error
    assert error.reason == "OBJECT_STORAGE_UNAVAILABLE"
    assert f"http://{endpoint}" in error.message
    assert "check that it runs and is reachable, then try again" in error.message
