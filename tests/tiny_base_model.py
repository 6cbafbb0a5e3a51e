"""Base models of a few thousand random weights in the diffusers layout: enough to run all of training and sampling."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pretraining.text import build_tokenizer


def write_tiny_base_model(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Writes a model of Stable Diffusion's kind, the same each time, and returns the folder."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    text_encoder = CLIPTextModel(_text_config(tokenizer, hidden_size=16, num_hidden_layers=1))
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = _autoencoder()
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_sdxl(folder: Path, *, force_zeros_for_empty_prompt: bool = True) -> Path:
    """Writes a model of SDXL's kind, the same each time, and returns the folder.

    Its UNet has SDXL's three levels of two layers each, the first without attention, so that its layers have the places
    that SDXL's have.
    """
    torch.manual_seed(0)
    tokenizer, second = _tokenizer(), _tokenizer()
    second.pad_token = "!"  # as SDXL's second one has it
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(force_upcast=True, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config(tokenizer, hidden_size=16, num_hidden_layers=2)),
        text_encoder_2=CLIPTextModelWithProjection(
            _text_config(second, hidden_size=24, num_hidden_layers=3, projection_dim=20, hidden_act="gelu")
        ),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16, 16),
            layers_per_block=2,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            cross_attention_dim=40,
            attention_head_dim=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer() -> Any:
    # Not the built-in model's: golden losses must not change whenever that is trained anew.
    with tempfile.TemporaryDirectory() as words:
        return build_tokenizer(["a microscopy image of a round cell"], merge_count=20, folder=Path(words))


def _text_config(tokenizer: Any, **sizes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        intermediate_size=32,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )


def _autoencoder(**others: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        **others,
    )
