"""Bad requests to the services: each is a clear error with field, value and remedy, and nothing half-written."""

import asyncio
import copy
import json
import re
import shutil
import socket
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message

from bad_requests import DATASET, NO_ID, SPEC, Act, Case, World, check_case, spec_of
from bad_requests import finished_world as finished_world
from bad_requests import world as world
from synthmix import GroupRule
from synthmix.adapter_training.front_end import AdapterService
from synthmix.adapter_training.model_service import BaseModelService
from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from synthmix.api.base_models.v1 import base_models_pb2, base_models_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.client.study_file import read_study
from synthmix.image_data.import_bounds import import_bounds
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.service_kit.environment import ADAPTER_TRAINING, STUDY_CONTROL, ObjectStoreSettings
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from synthmix.service_kit.interceptors import interceptors
from synthmix.service_kit.s3_object_store import S3ObjectStore
from synthmix.service_kit.tokens import StaticTokens
from synthmix.service_kit.transport import error_of
from synthmix.study_control.artifact_service import ArtifactService
from synthmix.study_control.dataset_service import DatasetService

# Studies


def study(**changes: Any) -> Act:
    """Submits SPEC with some of its fields changed, down to single keys."""

    def submit(world: World) -> Any:
        spec = copy.deepcopy(SPEC)
        for path, value in changes.items():
            section, _, key = path.partition("__")
            if callable(value):
                value = value(world)
            if key:
                spec.setdefault(section, {})[key] = value
            else:
                spec[section] = value
        return world.client.submit_study(spec_of(spec))

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
        "a preset that there is not",
        study(synthesis__preset="da-fusoin"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("da-fusoin", "did you mean 'da-fusion'", "use one of"),
        ("synthesis[0].preset",),
    ),
    Case(
        "a preset that cannot be had",
        study(preset="diffusemix"),
        InvalidArgument,
        "PRESET_UNAVAILABLE",
        ("diffusemix", "8 channels", "use diff-aug"),
        ("preset",),
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
        ("adapters[0].base_model",),
    ),
    Case(
        "a base model's folder that is empty",
        study(adapters__base_model=model_folder()),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        (r"is an empty folder: it has no model_index\.json", "diffusers layout"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a base model's folder without its parts",
        study(adapters__base_model=model_folder(index={})),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        ("lacks unet, vae, text_encoder, tokenizer, scheduler", "diffusers layout"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a base model with pickled weights",
        study(adapters__base_model=model_folder(index={}, weights="pytorch_model.bin")),
        InvalidArgument,
        "BASE_MODEL_NOT_SAFETENSORS",
        ("no safetensors weights in unet, vae, text_encoder", "convert them; pickled weights are never loaded"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a base model whose index names no parts",
        study(adapters__base_model=model_folder(index={}, weights="model.safetensors", unet={})),
        InvalidArgument,
        "BASE_MODEL_INCOMPLETE",
        (r"no unet by its model_index\.json", "give a whole model"),
        ("adapters[0].base_model",),
    ),
    Case(
        "an inpainting base model",
        study(adapters__base_model=changed_model("unet/config.json", in_channels=17)),
        InvalidArgument,
        "BASE_MODEL_INCONSISTENT",
        ("17 input channels", "8 latent channels", "inpainting", "use the text-to-image model"),
        ("adapters[0].base_model",),
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
        ("adapters[0].base_model",),
    ),
    Case(
        "an SD3 base model",
        study(adapters__base_model=model_folder(index={"_class_name": "StableDiffusion3Pipeline"})),
        Unimplemented,
        "BASE_MODEL_UNSUPPORTED",
        ("StableDiffusion3Pipeline", r"SD 1\.x, SD 2\.x or SDXL"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a base model by a relative path",
        study(adapters__base_model="./models/sd15"),
        InvalidArgument,
        "BASE_MODEL_NOT_FOUND",
        ("'./models/sd15' is a relative path", "write the absolute path"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a prompt of which the text encoder loses the class",
        study(synthesis__prompt="a microscopy image " * 12 + "of a {label} cell"),
        InvalidArgument,
        "PROMPTS_EQUAL",
        ("same tokens for the classes", "keeps 48", "shorten the prompt"),
        ("synthesis[0].prompt",),
    ),
    Case(
        "SDXL's refiner",
        study(
            adapters__base_model=model_folder(
                index={
                    "_class_name": "StableDiffusionXLImg2ImgPipeline",
                    "text_encoder": [None, None],
                    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                }
            )
        ),
        Unimplemented,
        "BASE_MODEL_UNSUPPORTED",
        (r"adapters\[0\]\.base_model", "is SDXL's refiner", "use SDXL's base model"),
        ("adapters[0].base_model",),
    ),
    Case(
        "a hub model whose name can't be one",
        study(adapters__base_model="owner/na me"),
        InvalidArgument,
        "BASE_MODEL_NOT_FOUND",
        ("'owner/na me'", "neither a folder here nor the name of a hub's model", "owner/name@revision"),
        ("adapters[0].base_model",),
    ),
    Case(
        "an unknown method",
        study(adapters__method="lorra"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'lorra'", "did you mean 'lora'?"),
        ("adapters[0].method",),
    ),
    Case(
        "unknown targets",
        study(adapters__targets="atention"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'atention'", "did you mean 'attention'?"),
        ("adapters[0].targets",),
    ),
    Case(
        "rank 0",
        study(adapters__rank=0),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("0 is out of range", "between 1 and 1024"),
        ("adapters[0].rank",),
    ),
    Case(
        "an adapter's image size that the autoencoder can't halve",
        study(adapters__image_size=60),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("60 is not a multiple of 8", "use 64"),
        ("adapters[0].image_size",),
    ),
    Case(
        "a prompt without its class",
        study(synthesis__prompt="a cell"),
        InvalidArgument,
        "PROMPT_WITHOUT_LABEL",
        ("'a cell'", r"put \{label\} where the class belongs"),
        ("synthesis[0].prompt",),
    ),
    Case(
        "guidance out of range",
        study(synthesis__guidance_scale=51.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"51\.0 is out of range", "between 0 and 50"),
        ("synthesis[0].guidance_scale",),
    ),
    Case(
        "a further prompt without its class",
        study(synthesis__more_prompts=["a {label} nucleus", "a cell"]),
        InvalidArgument,
        "PROMPT_WITHOUT_LABEL",
        ("'a cell'", r"put \{label\} where the class belongs"),
        ("synthesis[0].more_prompts[1]",),
    ),
    Case(
        "a further prompt with captions, where there are none",
        study(synthesis__more_prompts=["{caption}"]),
        InvalidArgument,
        "PROMPT_WITHOUT_CAPTIONS",
        (r"has \{caption\}, and adapters\[0\] has no captions", "set its caption_column"),
        ("synthesis[0].more_prompts[0]",),
    ),
    Case(
        "an adapter's scale out of range",
        study(synthesis__adapter_scale=-1.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"-1\.0 is out of range", "between 0 and 4"),
        ("synthesis[0].adapter_scale",),
    ),
    Case(
        "a scale of learned tokens",
        study(adapters={"method": "none", "class_tokens": 2}, synthesis__adapter_scale=0.5),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.5 is of what an adapter changes in weights, and adapters\[0\] is learned class tokens", "leave it out"),
        ("synthesis[0].adapter_scale",),
    ),
    Case(
        "a negative prompt without guidance",
        study(synthesis__guidance_scale=1.0, synthesis__negative_prompt="blurred"),
        InvalidArgument,
        "INVALID_FIELD",
        ("'blurred' is of guidance, and with a guidance_scale of 1 there is none", "above 1"),
        ("synthesis[0].negative_prompt",),
    ),
    Case(
        "a range of guidance that is none",
        study(synthesis__guidance_least_noise=0.8, synthesis__guidance_most_noise=0.2),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.8 is not below guidance_most_noise, which is 0\.2: no step is guided", "smaller of two"),
        ("synthesis[0].guidance_least_noise",),
    ),
    Case(
        "the prompt once more",
        study(synthesis__prompt="a {label}", synthesis__more_prompts=["one {label}", "a {label}"]),
        InvalidArgument,
        "DUPLICATE_VALUE",
        (r"'a \{label\}' is the prompt too", "leave one of them out"),
        ("synthesis[0].more_prompts[1]",),
    ),
    Case(
        "a sampler's name with a mistake",
        study(synthesis__sampler="EulerDiscretScheduler"),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'EulerDiscretScheduler' is not one of the choices", "did you mean 'EulerDiscreteScheduler'"),
        ("synthesis[0].sampler",),
    ),
    Case(
        "a sampler of other models",
        study(synthesis__sampler="FlowMatchEulerDiscreteScheduler"),
        InvalidArgument,
        "SAMPLER_UNSUPPORTED",
        ("is of models with noise levels of their own", "use one of: DDIMScheduler, "),
        ("synthesis[0].sampler",),
    ),
    Case(
        "a sampler that cannot begin at noise alone",
        study(synthesis__sampler="HeunDiscreteScheduler"),
        InvalidArgument,
        "SAMPLER_UNSUPPORTED",
        ("'HeunDiscreteScheduler' begins a little below noise alone", "use one of: DDIMScheduler, "),
        ("synthesis[0].sampler",),
    ),
    Case(
        "a sampler that has to begin at noise",
        study(synthesis__sampler="LMSDiscreteScheduler", synthesis__strength=0.5),
        InvalidArgument,
        "SAMPLER_UNSUPPORTED",
        (r"0\.5 begins in the midst of the steps, and LMSDiscreteScheduler has to begin at noise", "another sampler"),
        ("synthesis[0].strength",),
    ),
    Case(
        "options of a sampler that is not named",
        study(synthesis__solver_order=3, synthesis__eta=0.5),
        InvalidArgument,
        "SEVERAL_FIELDS",
        ("3 is an option of a sampler, and none is named", "set sampler, such as DPMSolverMultistepScheduler"),
        ("synthesis[0].solver_order", "synthesis[0].eta"),
    ),
    Case(
        "an option of another sampler",
        study(synthesis__sampler="EulerDiscreteScheduler", synthesis__eta=0.5),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.5 is no option of EulerDiscreteScheduler", "or use one of: DDIMScheduler, DDIMParallelScheduler, TCD"),
        ("synthesis[0].eta",),
    ),
    Case(
        "an order beyond what is known",
        study(synthesis__sampler="UniPCMultistepScheduler", synthesis__solver_order=4),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("4 is out of range; use a value between 1 and 3",),
        ("synthesis[0].solver_order",),
    ),
    Case(
        "an order that has no equation",
        study(
            synthesis__sampler="DPMSolverMultistepScheduler",
            synthesis__solver_algorithm="sde-dpmsolver++",
            synthesis__solver_order=3,
        ),
        InvalidArgument,
        "INVALID_FIELD",
        (r"3 is not defined for sde-dpmsolver\+\+", "use at most 2"),
        ("synthesis[0].solver_order",),
    ),
    Case(
        "steps beyond those of a distilled model",
        study(synthesis__sampler="LCMScheduler", synthesis__steps=60),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("60 is out of range; use a value between 1 and 50",),
        ("synthesis[0].steps",),
    ),
    Case(
        "a strength of no step",
        study(synthesis__strength=0.02),
        InvalidArgument,
        "NO_STEPS",
        (r"0\.02 of 4 steps is less than one step", r"use at least 0\.25, or more steps"),
        ("synthesis[0].strength",),
    ),
    Case(
        "a range of strengths that ends before it begins",
        study(synthesis__strength=0.5, synthesis__largest_strength=0.3),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.3 is not above strength, which is 0\.5", "smallest one as strength"),
        ("synthesis[0].largest_strength",),
    ),
    Case(
        "images of each source that begin as noise",
        study(synthesis__images_per_source=5),
        InvalidArgument,
        "INVALID_FIELD",
        ("5 is of images that begin from train images", r"set strength, such as 0\.5"),
        ("synthesis[0].images_per_source",),
    ),
    Case(
        "two ways to begin from images",
        study(synthesis__strength=0.5, synthesis__inversion_steps=9),
        InvalidArgument,
        "INVALID_FIELD",
        ("9 says how images begin from train images, and so does strength", "leave one of the two out"),
        ("synthesis[0].inversion_steps",),
    ),
    Case(
        "a switch between one prompt",
        study(synthesis__prompt_switch=0.3),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.3 is how long one of more_prompts is used before prompt", "set more_prompts, or leave it out"),
        ("synthesis[0].prompt_switch",),
    ),
    Case(
        "latents of noise that a classifier is to move",
        study(synthesis__latent_guidance_radius=0.1),
        InvalidArgument,
        "INVALID_FIELD",
        (r"0\.1 is of images that begin from train images, by a classifier of these", r"set strength, such as 0\.3"),
        ("synthesis[0].latent_guidance_radius",),
    ),
    Case(
        "two numbers of images",
        study(synthesis__strength=0.5, synthesis__images_per_source=5, synthesis__per_class=40),
        InvalidArgument,
        "INVALID_FIELD",
        ("5 says how many images there are, and so does (per_class|class_images)", "leave one of the two out"),
        ("synthesis[0].images_per_source",),
    ),
    Case(
        "options of guidance without any",
        study(synthesis__guidance_scale=0.0, synthesis__guidance_rescale=0.7, synthesis__guidance_most_noise=0.5),
        InvalidArgument,
        "SEVERAL_FIELDS",
        (r"0\.5 is of guidance", r"0\.7 is of guidance"),
        ("synthesis[0].guidance_most_noise", "synthesis[0].guidance_rescale"),
    ),
    Case(
        "a negative prompt of captions",
        study(synthesis__negative_prompt="not {caption}"),
        InvalidArgument,
        "INVALID_FIELD",
        (r"has \{caption\}", "what no image shall show"),
        ("synthesis[0].negative_prompt",),
    ),
    Case(
        "a negative prompt that is a text",
        study(synthesis__negative_prompt="x" * 1001),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("has 1001 characters", "use at most 1000"),
        ("synthesis[0].negative_prompt",),
    ),
    Case(
        "no denoising steps",
        study(synthesis__steps=0),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("0 is out of range", "between 1 and 1000"),
        ("synthesis[0].steps",),
    ),
    Case(
        "too few images for the largest mixture",
        study(synthesis__per_class=2),
        InvalidArgument,
        "TOO_FEW_SYNTHETIC_IMAGES",
        ("2 is too small for the largest mixture", r"use at least \d+", "smaller ratios"),
        ("synthesis[0].per_class",),
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
        "an unknown control",
        study(mixtures__controls=["duplicate_real"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'duplicate_real'", "did you mean 'duplicated_real'?"),
        ("mixtures.controls[0]",),
    ),
    Case(
        "a selection without a rule",
        study(selection__keep="best"),
        InvalidArgument,
        "FIELD_MISSING",
        (r"selection\[0\] is required", "class_consistency, top_k", "`none`"),
        ("selection[0]",),
    ),
    Case(
        "a probability above 1",
        study(selection__class_consistency=50.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"50\.0 is out of range", "between 0 and 1"),
        ("selection[0].class_consistency",),
    ),
    Case(
        "a share that leaves fewer than are wanted",
        study(selection__drop_lowest=0.6),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"0\.6 leaves too few of 2 times as many", r"make at least 2\.5 times as many"),
        ("selection[0].drop_lowest",),
    ),
    Case(
        "a selection of images that no mixture takes",
        study(selection__top_k=1, mixtures__ratios=[0.0], mixtures__synthetic_only=False),
        InvalidArgument,
        "SELECTION_WITHOUT_IMAGES",
        ("chooses among synthetic images", "give ratios above 0"),
        ("selection",),
    ),
    Case(
        "an oversample beside a number of images of each source",
        study(
            selection__top_k=1,
            selection__oversample=3.0,
            synthesis__strength=0.5,
            synthesis__images_per_source=50,
        ),
        InvalidArgument,
        "INVALID_FIELD",
        (r"3\.0 says how many images are made, and so does images_per_source", "leave one of the two out"),
        ("selection[0].oversample",),
    ),
    Case(
        "a search among one adapter",
        study(search__budget_seconds=600.0),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("1 leaves nothing to choose: `adapters` makes 1 combination", "leave `search` out"),
        ("search.keep",),
    ),
    Case(
        "a search without a budget",
        study(search__keep=2, adapters=[{"rank": 4}, {"rank": 8}, {"rank": 16}]),
        InvalidArgument,
        "FIELD_MISSING",
        ("search.budget_seconds is required", "such as 7200"),
        ("search.budget_seconds",),
    ),
    Case(
        "a split that leaves nothing to train on",
        study(split__test=0.6, split__validation=0.4),
        InvalidArgument,
        "OUT_OF_RANGE",
        (r"0\.6", "leave nothing to train on", "a sum below 1"),
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
        "a feature network that is none",
        study(measures__feature_network="dinov2"),
        InvalidArgument,
        "UNKNOWN_ARCHITECTURE",
        ("'dinov2' is not an architecture of timm", "did you mean"),
        ("measures.feature_network",),
    ),
    Case(
        "a feature network in a folder that is none",
        study(measures__feature_network="/no/such/folder"),
        InvalidArgument,
        "FEATURE_NETWORK_NOT_FOUND",
        ("is no folder that this server offers", "give the absolute path"),
        ("measures.feature_network",),
    ),
    Case(
        "images that the feature network cannot cut",
        study(measures__feature_network="vit_small_patch14_dinov2", measures__image_size=64),
        InvalidArgument,
        "IMAGE_SIZE_UNSUPPORTED",
        ("64 cannot be cut into the patches of 14 pixels", "such as 56 or 70"),
        ("measures.image_size",),
    ),
    Case(
        "images too small for any feature network",
        study(measures__image_size=8),
        InvalidArgument,
        "OUT_OF_RANGE",
        ("8 is out of range", "between 16 and 1024"),
        ("measures.image_size",),
    ),
    Case(
        "several faults",
        study(
            name="Bad",
            seeds=0,
            adapters__rank=0,
            adapters__targets="atention",
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
            "adapters[0].rank",
            "adapters[0].targets",
            "synthesis[0].steps",
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
        return world.client.adapters.create(adapters_pb2.Adapter(**given))

    return create


def imported_images(**seen: Any) -> Act:
    """Asks for an import past the client's own checks."""
    return lambda world: world.client.image_sets.create(
        image_sets_pb2.ImageSet(
            imported=image_sets_pb2.ImportedImages(
                upload=f"uploads/{2 * NO_ID}", seen=image_sets_pb2.SeenImages(**seen) if seen else None
            )
        )
    )


def evaluation_with_another_split(world: World) -> Any:
    split = world.client.create_split(world.study.dataset, test=0.25, validation=0.15, seed=8)
    return world.client.evaluations.create(
        evaluations_pb2.Evaluation(
            split=split.name,
            image_sets=world.study.image_sets,
            mixtures=evaluations_pb2.MixtureSettings(ratios=[0.25]),
            seeds=1,
        )
    )


def evaluation_of(ratio: float) -> Act:
    return lambda world: world.client.evaluations.create(
        evaluations_pb2.Evaluation(
            split=world.study.split,
            image_sets=world.study.image_sets,
            mixtures=evaluations_pb2.MixtureSettings(ratios=[ratio]),
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
        (f"splits/{NO_ID}", "does not exist"),
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
        lambda world: world.client.image_sets.create(image_sets_pb2.ImageSet(adapter=f"adapters/{NO_ID}")),
        NotFound,
        "ARTIFACT_NOT_FOUND",
        (r"image_set\.adapter", f"adapters/{NO_ID} does not exist", "create it first"),
    ),
    Case(
        "an image set of a class that isn't there",
        lambda world: world.client.image_sets.create(
            image_sets_pb2.ImageSet(
                adapter=world.study.adapters[0],
                class_images=[image_sets_pb2.ClassImages(label="nobody", images=1)],
            )
        ),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'nobody'", "use one of: "),
        ("image_set.class_images[0].label",),
    ),
    Case(
        "images of another program without a word of what it saw",
        imported_images(),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", r"--saw\)", r"--saw-list\)", r"--saw-none\)"),
        ("image_set.imported.seen",),
    ),
    Case(
        "images of another program that saw some and none",
        imported_images(none=True, all_of=[f"datasets/{NO_ID}"]),
        InvalidArgument,
        "SEEN_CONTRADICTED",
        ("True says that the generator saw no real image", "leave one of them out"),
        ("image_set.imported.seen.none",),
    ),
    Case(
        "images of another program that saw a model",
        imported_images(all_of=[f"models/{NO_ID}"]),
        InvalidArgument,
        "INVALID_RESOURCE_NAME",
        (f"'models/{NO_ID}' has no images", r"use splits/\{digest\}/parts/train"),
        ("image_set.imported.seen.all_of[0]",),
    ),
    Case(
        "an image set of an adapter and of another program",
        lambda world: world.client.image_sets.create(
            image_sets_pb2.ImageSet(
                adapter=world.study.adapters[0],
                imported=image_sets_pb2.ImportedImages(
                    upload=f"uploads/{2 * NO_ID}", seen=image_sets_pb2.SeenImages(none=True)
                ),
            )
        ),
        InvalidArgument,
        "IMPORTED_ALREADY",
        ("is given beside imported", "leave it out"),
        ("image_set.adapter",),
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
        (
            r"too few images for the grid, of .* \(needs \d+, has \d+\)",
            "make a larger image set, or ask for smaller ratios",
        ),
        ("evaluation.image_sets[0]",),
    ),
    *(
        Case(
            f"the name {name}",
            lambda world, name=name, method=method: attrgetter(method)(world.client)(name),
            InvalidArgument,
            "INVALID_RESOURCE_NAME",
            (re.escape(repr(name)), "32 hexadecimal digits"),
            ("name",),
        )
        for method, name in (
            ("adapters.get", "adapters/latest"),
            ("adapters.get", f"image-sets/{NO_ID}"),
            ("get_split", f"splits/{NO_ID.upper()}x"),
            ("evaluations.get", f"evaluations/{NO_ID}/../{NO_ID}"),
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
        (f"adapters/{NO_ID} does not exist",),
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
        ("does not exist", "UploadFile"),
    ),
]


@pytest.mark.parametrize("case", [*STUDIES, *CALLS], ids=lambda case: case.name)
def test_it_is_a_clear_error_and_leaves_nothing(case: Case, world: World) -> None:
    world.client.create_split(world.study.dataset, test=0.25, validation=0.15, seed=8)  # a split that one case uses
    check_case(case, world)


# Object storage that is down


TOKEN = "correct horse"
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
DOWN: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "ListDatasets": (datasets_pb2_grpc.DatasetServiceStub, datasets_pb2.ListDatasetsRequest()),
    "GetDataset": (datasets_pb2_grpc.DatasetServiceStub, datasets_pb2.GetDatasetRequest(name=f"datasets/{NO_ID}")),
    "CreateSplit": (
        datasets_pb2_grpc.DatasetServiceStub,
        datasets_pb2.CreateSplitRequest(split=datasets_pb2.Split(dataset=DATASET)),
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
        adapters_pb2.CreateAdapterRequest(adapter=adapters_pb2.Adapter(train_split=f"splits/{NO_ID}/parts/train")),
    ),
    "GetBaseModel": (
        base_models_pb2_grpc.BaseModelServiceStub,
        base_models_pb2.GetBaseModelRequest(name="models/tiny"),
    ),
    "CreateBaseModel": (
        base_models_pb2_grpc.BaseModelServiceStub,
        base_models_pb2.CreateBaseModelRequest(
            base_model=base_models_pb2.BaseModel(
                files=[base_models_pb2.BaseModelFile(path="model_index.json", sha256="0" * 64, size_bytes=1)]
            )
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
        server = grpc.aio.server(interceptors=interceptors("test", StaticTokens.of(TOKEN)))
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(DatasetService(store, nothing, import_bounds()), server)
        artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(store, import_bounds()), server)
        adapters_pb2_grpc.add_AdapterServiceServicer_to_server(AdapterService(store, nothing), server)
        base_models_pb2_grpc.add_BaseModelServiceServicer_to_server(BaseModelService(store, nothing), server)
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
