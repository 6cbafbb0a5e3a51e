"""What a base model's small files can tell is told before anything is loaded. Each case changes one of them."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER, resolve
from synthmix.service_kit.errors import InvalidArgument, SynthMixError, Unimplemented

FIELD = "adapter.base_model"
Change = Callable[[Path], object]


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], **header: Any) -> None:
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def write_model(folder: Path) -> Path:
    """The built-in model's small files, with a few of its tensors as zeros."""
    shutil.copytree(BUILTIN_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.md"), dirs_exist_ok=True)
    write_safetensors(folder / "unet/diffusion_pytorch_model.safetensors", {"conv_in.weight": (64, 8, 3, 3)})
    write_safetensors(folder / "vae/diffusion_pytorch_model.safetensors", {"decoder.conv_in.weight": (64, 8, 3, 3)})
    write_safetensors(folder / "text_encoder/model.safetensors", {"text_model.final_layer_norm.weight": (128,)})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def sdxl(model: Path) -> Path:
    """The same with the parts of an SDXL model: a second text encoder of half the width, and what its UNet is told."""
    shutil.copytree(model / "tokenizer", model / "tokenizer_2")
    shutil.copytree(model / "text_encoder", model / "text_encoder_2")
    second = {"hidden_size": 64, "projection_dim": 32, "architectures": ["CLIPTextModelWithProjection"]}
    config("text_encoder_2/config.json", **second)(model)
    tensors = {"text_model.final_layer_norm.weight": (64,), "text_projection.weight": (32, 64)}
    write_safetensors(model / "text_encoder_2/model.safetensors", tensors)
    index(
        _class_name="StableDiffusionXLPipeline",
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
        force_zeros_for_empty_prompt=True,
        scheduler=["diffusers", "EulerDiscreteScheduler"],
    )(model)
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 16}
    unet(cross_attention_dim=192, projection_class_embeddings_input_dim=6 * 16 + 32, **added)(model)
    return model


def refused(folder: Path) -> SynthMixError:
    with pytest.raises((InvalidArgument, Unimplemented)) as raised:
        resolve(str(folder), field=FIELD)
    error: SynthMixError = raised.value
    assert [item.field for item in error.violations] == [FIELD]
    assert "; " in error.message, "what to do"
    assert len(error.message) < 700
    return error


def config(name: str, **values: Any) -> Change:
    """Sets values of a JSON file; those that are ... are removed."""

    def change(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))

    return change


def unet(**values: Any) -> Change:
    return config("unet/config.json", **values)


def vae(**values: Any) -> Change:
    return config("vae/config.json", **values)


def text(**values: Any) -> Change:
    return config("text_encoder/config.json", **values)


def scheduler(**values: Any) -> Change:
    return config("scheduler/scheduler_config.json", **values)


def index(**values: Any) -> Change:
    return config("model_index.json", **values)


def raw(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def cut(name: str, count: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:count])


UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def header(**entry: Any) -> Change:
    return lambda folder: write_safetensors(folder / UNET_WEIGHTS, {}, a=entry)


def test_the_folder_that_the_cases_change_is_a_model(model: Path) -> None:
    found = resolve(str(model), field=FIELD)
    assert (found.image_size_px, found.latent_factor, found.schedule.train_timesteps) == (64, 4, 1000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # channels
        (unet(in_channels=17), "17 input channels"),
        (unet(in_channels=17), "inpainting"),
        (unet(in_channels=16), "instruct-pix2pix"),
        (unet(in_channels=11), "upscaler"),
        (unet(in_channels=9), "depth-to-image"),
        (unet(in_channels=3), "3 input channels"),
        (unet(in_channels=...), "4 input channels"),
        (unet(in_channels="8"), 'in_channels "8"'),
        (unet(in_channels=None), "in_channels null"),
        (unet(out_channels=16), "16 output channels"),
        (vae(latent_channels=16), "16 latent channels"),
        (vae(latent_channels=0), "latent_channels 0"),
        # widths
        (unet(cross_attention_dim=768), "width 768"),
        (unet(cross_attention_dim=...), "width 1280"),
        (unet(cross_attention_dim=[128, 128, 256]), "width [128, 128, 256]"),
        (unet(cross_attention_dim=[]), "cross_attention_dim []"),
        (text(hidden_size=1024), "width 1024"),
        (text(hidden_size=...), "width 512"),
        (text(hidden_size=-1), "hidden_size -1"),
        # image size
        (unet(sample_size=None), "no sample_size"),
        (unet(sample_size=...), "no sample_size"),
        (unet(sample_size=[16, 24]), "sample_size [16, 24]"),
        (unet(sample_size=[16]), "sample_size [16]"),
        (unet(sample_size=[16, 16, 16]), "sample_size [16, 16, 16]"),
        (unet(sample_size=[None, None]), "sample_size [null, null]"),
        (unet(sample_size=0), "sample_size 0"),
        (unet(sample_size=-64), "sample_size -64"),
        (unet(sample_size="64"), 'sample_size "64"'),
        (unet(sample_size=64.0), "sample_size 64.0"),
        (unet(sample_size=True), "sample_size true"),
        (unet(sample_size={}), "sample_size {}"),
        (unet(sample_size=10**9), "at most 2048 pixels"),
        # autoencoder
        (vae(scaling_factor=None), "scaling_factor null"),
        (vae(scaling_factor=0), "scaling_factor 0"),
        (vae(scaling_factor=-0.18), "scaling_factor -0.18"),
        (vae(scaling_factor="0.18"), 'scaling_factor "0.18"'),
        (vae(shift_factor=0.1159), "SD3 and FLUX"),
        (vae(in_channels=1), "in_channels 1"),
        (vae(out_channels=4), "out_channels 4"),
        (vae(block_out_channels=[]), "block_out_channels []"),
        (vae(block_out_channels=None), "block_out_channels null"),
        (vae(block_out_channels="64"), 'block_out_channels "64"'),
        # conditions
        (unet(addition_embed_type="text_time"), "SDXL"),
        (unet(class_embed_type="timestep"), "class_embed_type"),
        (unet(num_class_embeds=1000), "num_class_embeds 1000"),
        (unet(encoder_hid_dim_type="text_image_proj"), "text_image_proj"),
        (unet(down_block_types=["DownBlock2D"]), "down_block_types"),
        (unet(block_out_channels=None, up_block_types="UpBlock2D"), "down_block_types"),
        # text encoder
        (text(vocab_size=100), "tokens up to 674"),
        (text(max_position_embeddings=32), "keeps 48 tokens"),
        (text(model_type="t5"), 'the kind "t5"'),
        (text(model_type="xlm-roberta"), 'the kind "xlm-roberta"'),
        # scheduler
        (without("scheduler/scheduler_config.json"), "has no scheduler/scheduler_config.json"),
        (scheduler(prediction_type="flow_prediction"), "flow_prediction"),
        (scheduler(prediction_type="learned"), "DDIMScheduler knows epsilon, v_prediction, sample"),
        (scheduler(prediction_type=None), "prediction_type null"),
        (scheduler(_class_name="FlowMatchEulerDiscreteScheduler"), "flow-matching"),
        (scheduler(_class_name="NoSuchScheduler"), "NoSuchScheduler"),
        (scheduler(num_train_timesteps=0), "num_train_timesteps 0"),
        (scheduler(num_train_timesteps="1000"), 'num_train_timesteps "1000"'),
        (scheduler(beta_start=-1), "beta_start -1"),
        (scheduler(beta_end=1.5), "beta_end 1.5"),
        (scheduler(beta_start=0.02, beta_end=0.01), "must not be above beta_end"),
        (scheduler(beta_schedule="exp"), 'beta_schedule "exp"'),
        (scheduler(trained_betas=[0.1, 0.2]), "1000 numbers"),
        (scheduler(timestep_spacing="log"), 'timestep_spacing "log"'),
        (index(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]), "flow-matching"),
        (index(scheduler=["diffusers", "EDMEulerScheduler"]), "EDMEulerScheduler"),
        (index(scheduler=["diffusers", "DDIMInverseScheduler"]), "DDIMInverseScheduler"),
        (index(scheduler=["diffusers", "PNDMScheduler"]), None),
        (index(scheduler=[None, None]), "no scheduler by its model_index.json"),
        # classes of parts
        (index(unet=["diffusers", "UNet3DConditionModel"]), "UNet3DConditionModel"),
        (index(unet=...), "no unet by its model_index.json"),
        (index(unet="UNet2DConditionModel"), "not a library and a class"),
        (index(unet=[1, 2]), "not a library and a class"),
        (index(unet=["my_unet", "UNet2DConditionModel"]), 'names ["my_unet", "UNet2DConditionModel"] for "unet"'),
        (index(text_encoder=["diffusers", "CLIPTextModel"]), "code of a model is never run"),
        (index(extra=["my_code", "Extra"]), 'names ["my_code", "Extra"] for "extra" in its model_index.json'),
        (index(extra={"a": 1}), 'for "extra"'),
        (index(safety_checker=["my_code", "StableDiffusionSafetyChecker"]), 'for "safety_checker"'),
        (index(image_encoder=["transformers", "Pix2StructVisionModel"]), "no class of those that are loaded"),
        (index(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]), None),
        (index(feature_extractor=["transformers", "CLIPFeatureExtractor"]), None),
        (index(extra=[None, None]), None),
        (unet(_class_name="UNetMotionModel"), "UNetMotionModel"),
        (index(vae=["diffusers", "AutoencoderTiny"]), "AutoencoderTiny"),
        (index(vae=["diffusers", "VQModel"]), "VQModel"),
        (index(vae=["diffusers", "AsymmetricAutoencoderKL"]), "AsymmetricAutoencoderKL"),
        (vae(_class_name="ConsistencyDecoderVAE"), "ConsistencyDecoderVAE"),
        (index(text_encoder=["transformers", "T5EncoderModel"]), "T5EncoderModel"),
        (index(text_encoder=["transformers", "CLIPTextModelWithProjection"]), "CLIPTextModelWithProjection"),
        (index(tokenizer=["transformers", "T5Tokenizer"]), "T5Tokenizer"),
        # files
        (raw("unet/config.json", b"[1]"), "holds a list where a JSON object belongs"),
        (raw("unet/config.json", b"7"), "holds a number"),
        (raw("vae/config.json", b"null"), "holds null"),
        (raw("vae/config.json", b'"text"'), "holds a text"),
        (raw("unet/config.json", b""), "is empty"),
        (raw("unet/config.json", b'{"a": 1'), "is not valid JSON (line 1"),
        (raw("unet/config.json", b'{"a": "\xff"}'), "is not UTF-8 text"),
        (raw("unet/config.json", b'{"sample_size": 16, "sample_size": 32}'), 'the key "sample_size" twice'),
        (raw("vae/config.json", b'{"scaling_factor": NaN}'), "holds NaN"),
        (raw("vae/config.json", b'{"scaling_factor": 1e999}'), "no finite number"),
        (raw("unet/config.json", b"[" * 100_000), "nested too deeply"),
        (raw("unet/config.json", b'{"a": "' + b"x" * (1 << 20) + b'"}'), "larger than 1 MiB"),
        (raw("model_index.json", b"{}"), "no unet by its model_index.json"),
        (raw("model_index.json", b"[]"), "model_index.json holds a list"),
        (without("unet/config.json"), "has no unet/config.json"),
        (without("text_encoder/config.json"), "has no text_encoder/config.json"),
        (without("tokenizer/tokenizer_config.json"), "has no tokenizer/tokenizer_config.json"),
        (raw("tokenizer/tokenizer.json", b"{}"), "no byte-pair vocabulary"),
        # weights
        (cut(UNET_WEIGHTS, 200), "is not a whole safetensors file"),
        (cut(UNET_WEIGHTS, 0), "is not a whole safetensors file"),
        (cut("vae/diffusion_pytorch_model.safetensors", -1), "file not fully covered"),
        (cut("text_encoder/model.safetensors", -100), "text_encoder/model.safetensors is not a whole"),
        (lambda folder: (folder / UNET_WEIGHTS).open("ab").write(b"xx"), "is not a whole safetensors file"),
        (raw(UNET_WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
        (raw(UNET_WEIGHTS, b"\xff" * 64), "header has 18446744073709551615 bytes, more than 8 MiB"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 9 << 20) + bytes(9 << 20)), "bytes, more than 8 MiB"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 100) + b"{}"), "its header has 100 bytes, more than follow"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 4) + b"oops"), "a header that is not valid JSON"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 2) + b"[]"), "a header that is not a JSON object"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 100_000) + b"[" * 100_000), "a header that is nested too deeply"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 14) + b'{"a":1,"a":{}}'), "a header with the same key twice"),
        (raw(UNET_WEIGHTS, struct.pack("<Q", 2) + b"{}"), "holds no tensors"),
        (header(dtype="F32", shape=[2], data_offsets=[0, 4]), "invalid shape, data type, or offset"),
        (lambda folder: write_safetensors(folder / UNET_WEIGHTS, {"conv_in.weight": (64, 9, 3, 3)}), "[64, 9, 3, 3]"),
        (lambda folder: (folder / UNET_WEIGHTS).rename(folder / "unet/weights.safetensors"), "name the weights"),
    ],
)  # fmt: skip
def test_what_the_small_files_say_is_told(change: Change, said: str | None, model: Path) -> None:
    change(model)
    if said is None:
        resolve(str(model), field=FIELD)
    else:
        assert said in refused(model).message


def nest_text_config(folder: Path) -> None:
    """As a folder has it that was written from the whole of CLIP."""
    path = folder / "text_encoder/config.json"
    path.write_text(json.dumps({"model_type": "clip", "text_config": json.loads(path.read_text())}))


def test_a_change_of_a_file_is_seen(model: Path) -> None:
    """Answers are kept by the files' sizes and times: each adapter of a grid asks."""
    resolve(str(model), field=FIELD)
    for name in ("unet/config.json", "model_index.json"):
        before = (model / name).read_bytes()
        (model / name).write_bytes(b"[]")
        assert "holds a list" in refused(model).message
        (model / name).write_bytes(before)
        resolve(str(model), field=FIELD)


@pytest.mark.parametrize(
    ("change", "size_px"),
    [
        (unet(sample_size=[32, 32]), 128),
        (unet(sample_size=1), 4),
        (unet(cross_attention_dim=[128, 128, 128]), 64),
        (unet(encoder_hid_dim=128, cross_attention_dim=64), 64),
        (vae(scaling_factor=...), 64),
        (vae(shift_factor=None), 64),
        (scheduler(prediction_type=...), 64),
        (scheduler(prediction_type="sample"), 64),
        (scheduler(num_train_timesteps=2, trained_betas=[0.1, 0.2]), 64),
        (index(scheduler=["diffusers", "UniPCMultistepScheduler"]), 64),
        (index(tokenizer=["transformers", "CLIPTokenizerFast"]), 64),
        (index(_class_name="StableDiffusionImg2ImgPipeline"), 64),
        (index(_class_name="StableDiffusionInpaintPipeline"), 64),
        (lambda folder: nest_text_config(folder), 64),
    ],
)  # fmt: skip
def test_what_can_be_used_is_not_refused(change: Change, size_px: int, model: Path) -> None:
    change(model)
    assert resolve(str(model), field=FIELD).image_size_px == size_px


def test_a_prediction_type_that_the_scheduler_does_not_know(model: Path) -> None:
    index(scheduler=["diffusers", "PNDMScheduler"])(model)
    scheduler(prediction_type="sample")(model)
    assert "PNDMScheduler knows epsilon, v_prediction" in refused(model).message


@pytest.mark.parametrize("pipeline", ["StableCascadeCombinedPipeline", "FluxPipeline", "AnimateDiffPipeline"])
def test_another_kind_of_model_is_called_by_its_name(pipeline: str, model: Path) -> None:
    index(_class_name=pipeline)(model)
    shutil.rmtree(model / "unet")
    error = refused(model)
    assert isinstance(error, Unimplemented)
    assert f'is a model of the kind "{pipeline}"' in error.message


def test_a_part_that_stable_diffusion_has_not_tells_another_kind(model: Path) -> None:
    index(transformer=["diffusers", "SD3Transformer2DModel"])(model)
    error = refused(model)
    assert isinstance(error, Unimplemented)
    assert "is a model with a transformer" in error.message


def test_sdxl_under_stable_diffusions_name_is_told_its_own(model: Path) -> None:
    index(text_encoder_2=["transformers", "CLIPTextModelWithProjection"])(model)
    assert "write StableDiffusionXLPipeline there" in refused(model).message
    index(text_encoder_2=[None, None])(model)
    assert resolve(str(model), field=FIELD).kind.name == "Stable Diffusion 1.x or 2.x"


def test_an_sdxl_model_is_found_with_both_text_encoders(sdxl: Path) -> None:
    found = resolve(str(sdxl), field=FIELD)
    assert found.kind.text_encoders == ("text_encoder", "text_encoder_2")
    assert (found.image_size_px, found.latent_factor) == (64, 4)
    assert [tokenizer.longest for tokenizer in found.tokenizers()] == [48, 48]


@pytest.mark.parametrize("pipeline", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"])
def test_the_parts_of_sdxl_under_the_name_of_another_task_are_those_of_sdxl(pipeline: str, sdxl: Path) -> None:
    index(_class_name=pipeline)(sdxl)
    assert resolve(str(sdxl), field=FIELD).kind.name == "SDXL"


SECOND, SECOND_TOKENIZER = "text_encoder_2/config.json", "tokenizer_2/tokenizer_config.json"
SECOND_WEIGHTS = "text_encoder_2/model.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (index(text_encoder=[None, None], tokenizer=[None, None]), "is SDXL's refiner"),
        (index(text_encoder=[None, None]), "use SDXL's base model"),
        (unet(projection_class_embeddings_input_dim=5 * 16 + 32), "told an aesthetic score"),
        (unet(projection_class_embeddings_input_dim=100), "made for 100 numbers beside a prompt's embeddings"),
        (unet(projection_class_embeddings_input_dim=None), "projection_class_embeddings_input_dim null"),
        (unet(addition_time_embed_dim=32), "would get 224: 6 times 32 of an image's sizes"),
        (unet(addition_time_embed_dim=...), "addition_time_embed_dim null"),
        (config(SECOND, projection_dim=64), "64 of the prompt (text_encoder_2/config.json, projection_dim)"),
        (config(SECOND, projection_dim=...), "512 of the prompt"),
        (config(SECOND, projection_dim="32"), 'projection_dim "32" in its text_encoder_2/config.json'),
        (config(SECOND, hidden_size=128), "and a text encoder of width 128 (text_encoder_2/config.json"),
        (unet(cross_attention_dim=128), "width 128 (unet/config.json, cross_attention_dim)"),
        (config(SECOND, vocab_size=100), "knows 100 (text_encoder_2/config.json, vocab_size)"),
        (config(SECOND, max_position_embeddings=32), "takes 32 (text_encoder_2/config.json"),
        (config(SECOND, model_type="t5"), 'the kind "t5"'),
        (config(SECOND_TOKENIZER, model_max_length=40), "48 (tokenizer/tokenizer_config.json) and 40"),
        (without(SECOND_TOKENIZER), "has no tokenizer_2/tokenizer_config.json"),
        (without(SECOND), "has no text_encoder_2/config.json"),
        (without(SECOND_WEIGHTS), "no safetensors weights in text_encoder_2"),
        (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "lacks tokenizer_2"),
        (index(text_encoder_2=...), "no text_encoder_2 by its model_index.json"),
        (index(text_encoder_2=["transformers", "CLIPTextModel"]), 'a text_encoder_2 of the class "CLIPTextModel"'),
        (index(tokenizer_2=["my_code", "CLIPTokenizer"]), "code of a model is never run"),
        (index(tokenizer_2=["transformers", "T5Tokenizer"]), "T5Tokenizer"),
        (index(force_zeros_for_empty_prompt="yes"), 'force_zeros_for_empty_prompt "yes"'),
        (index(_class_name="StableDiffusionPipeline"), "write StableDiffusionXLPipeline there"),
        (unet(addition_embed_type=...), "says addition_embed_type null"),
        (unet(addition_embed_type="text"), 'addition_embed_type "text" in its unet/config.json, not text_time'),
        (unet(class_embed_type="timestep"), "wants more than SDXL's, which reads a prompt and sizes"),
        (unet(in_channels=17), "inpainting"),
        (
            lambda folder: write_safetensors(folder / UNET_WEIGHTS, {"add_embedding.linear_1.weight": (64, 100)}),
            "add_embedding.linear_1.weight of the shape [64, 100]",
        ),
        (
            lambda folder: write_safetensors(folder / SECOND_WEIGHTS, {"text_projection.weight": (9, 64)}),
            "projection_dim 32 in its text_encoder_2/config.json, and its weights have text_projection.weight",
        ),
    ],
)  # fmt: skip
def test_what_the_small_files_of_an_sdxl_model_say_is_told(change: Change, said: str, sdxl: Path) -> None:
    change(sdxl)
    assert said in refused(sdxl).message


def test_a_pipeline_of_the_model_s_own_is_never_run(model: Path) -> None:
    index(_class_name=["pipeline", "MyPipeline"])(model)
    assert "code of a model is never run" in refused(model).message


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is an empty folder"),
        ({"v1-5-pruned.safetensors": ""}, "a single-file checkpoint"),
        ({"model.ckpt": ""}, "from_single_file"),
        ({"model-q4.gguf": ""}, "a single-file checkpoint"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "is an adapter (LoRA)"),
        ({"pytorch_lora_weights.safetensors": ""}, "is an adapter (LoRA)"),
        ({"learned_embeds.safetensors": ""}, "is a textual inversion"),
        ({"unet/model.onnx": "", "vae_decoder/model.onnx": ""}, "is in the ONNX format"),
        ({"config.json": '{"architectures": ["CLIPModel"]}'}, 'transformers library ("CLIPModel")'),
        ({"config.json": '{"model_type": "llama"}'}, 'transformers library ("llama")'),
        ({"config.json": "{}"}, "transformers library,"),
        ({"config.json": '{"_class_name": "ControlNetModel"}'}, '"ControlNetModel" by itself'),
        ({"config.json": '{"_class_name": "UNet2DConditionModel"}'}, '"UNet2DConditionModel" by itself'),
        ({"config.json": "[]"}, "holds a list"),
        ({"unet/config.json": "{}", "vae/config.json": "{}"}, "which says what its parts are"),
        ({"sd15/model_index.json": "{}"}, "give 'sd15' in it"),
        ({"notes.txt": "hello"}, "is not a base model"),
    ],
)
def test_a_folder_that_is_something_else_is_named(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert said in refused(tmp_path).message


def shard(folder: Path, weight_map: object) -> None:
    whole = folder / UNET_WEIGHTS
    whole.rename(folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    (folder / f"{UNET_WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_found_and_missing_ones_named(model: Path) -> None:
    first = "diffusion_pytorch_model-00001-of-00002.safetensors"
    shard(model, {"a": first})
    resolve(str(model), field=FIELD)
    weight_map = {"a": first, "b": first.replace("00001", "00002"), "c": first.replace("00001", "00003")}
    (model / f"{UNET_WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert '00002-of-00002.safetensors" and 1 more, which its' in refused(model).message


@pytest.mark.parametrize("weight_map", [{}, [], None, {"a": 1}, {"a": "../../secret.safetensors"}])
def test_a_map_of_shards_that_is_none(weight_map: object, model: Path) -> None:
    shard(model, weight_map)
    assert "no weight_map of files" in refused(model).message


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("./models/sd15", "write the absolute path"),
        ("../sd15", "write the absolute path"),
        ("/models/v1-5-pruned-emaonly.safetensors", "is a single file by its name"),
        ("models/model.ckpt", "is a single file by its name"),
    ],
)
def test_references_that_name_no_folder(reference: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        resolve(reference, field=FIELD)


def test_a_relative_folder_is_never_found_by_the_server_s_own_place(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    for reference in ("model", "./model"):
        with pytest.raises(InvalidArgument):
            resolve(reference, field=FIELD)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 100_000_001) + bytes(100),
        struct.pack("<Q", 101) + b" " * 100,
        struct.pack("<Q", 1000) + b"[" * 1000,
    ],
    ids=["too large", "beyond the file", "too deep"],
)
def test_the_library_bounds_what_timm_reads_as_well(data: bytes, tmp_path: Path) -> None:
    """The trained weights of classifiers are read by timm, and not looked at before."""
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(SafetensorError):
        safe_open(tmp_path / "model.safetensors", framework="np").__enter__()
