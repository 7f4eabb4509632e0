"""The architectures of published models as their own configuration files state them: numbers, and no weights.

A rehearsal builds them at their true size. Counts of parameters are in tests/test_untrained.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """A network: its class in diffusers or transformers, and what it is called with.

    Args:
        settings: of diffusers' class its arguments, of transformers' those of its configuration.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def maker(self) -> Callable[[], Any]:
        """What makes it."""
        import diffusers
        import transformers

        if hasattr(diffusers, self.kind):
            return lambda: getattr(diffusers, self.kind)(**self.settings)
        network = getattr(transformers, self.kind)
        return lambda: network(network.config_class(**self.settings))


@dataclass(frozen=True)
class Architecture:
    """A pipeline's parts; text encoders and tokenizers by their names in it.

    Args:
        family: the class of the pipeline.
        transformer: or a U-Net.
        tokenizers: arguments of `untrained.StandInTokenizer`.
        others: further arguments of the pipeline.
    """

    family: str
    transformer: Part
    vae: Part
    scheduler: Mapping[str, Any]
    encoders: Mapping[str, Part]
    tokenizers: Mapping[str, Mapping[str, Any]]
    scheduler_class: str = "FlowMatchEulerDiscreteScheduler"
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """What the pipeline calls the transformer."""
        return "unet" if self.transformer.kind.startswith("UNet") else "transformer"


CLIP_TOKENS = {"vocabulary": 49408, "longest": 77, "begin": 49406, "end": 49407}
T5_TOKENS = {"vocabulary": 32128, "longest": 512, "end": 1}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,  # as published; the last token is then found as the largest
}
_CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
    "eos_token_id": 2,
}
_T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_QWEN_VL_7B = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}


def _vae(scaling: float, shift: float | None, channels: int = 16) -> Part:
    """At an eighth of the resolution; the older ones, of 4 channels, have no shift and one more layer at each end."""
    older = shift is None
    return Part(
        "AutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": channels,
            "sample_size": 1024,
            "scaling_factor": scaling,
            "shift_factor": shift,
            "use_quant_conv": older,
            "use_post_quant_conv": older,
            "force_upcast": older,
        },
    )


def _sd35(layers: int, positions: int, dual: int) -> Architecture:
    """Stable Diffusion 3.5: as many heads as layers.

    Args:
        positions: a side of the table of positions, in patches.
        dual: how many of the first layers have a second attention.
    """
    return Architecture(
        family="StableDiffusion3Pipeline",
        transformer=Part(
            "SD3Transformer2DModel",
            {
                "sample_size": 128,
                "patch_size": 2,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": layers,
                "num_attention_heads": layers,
                "attention_head_dim": 64,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 64 * layers,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": positions,
                "dual_attention_layers": tuple(range(dual)),
                "qk_norm": "rms_norm",
            },
        ),
        vae=_vae(1.5305, 0.0609),
        scheduler={"shift": 3.0},
        encoders={
            "text_encoder": Part("CLIPTextModelWithProjection", _CLIP_L),
            "text_encoder_2": Part("CLIPTextModelWithProjection", _CLIP_BIG_G),
            "text_encoder_3": Part("T5EncoderModel", _T5_XXL),
        },
        tokenizers={"tokenizer": CLIP_TOKENS, "tokenizer_2": CLIP_TOKENS, "tokenizer_3": T5_TOKENS},
    )


def _flux(scheduler: Mapping[str, Any], *, guided: bool) -> Architecture:
    """FLUX.1: 19 blocks of two streams and 38 of one.

    Args:
        guided: whether the network is told a guidance scale, as the distilled one is.
    """
    return Architecture(
        family="FluxPipeline",
        transformer=Part(
            "FluxTransformer2DModel",
            {
                "patch_size": 1,
                "in_channels": 64,
                "num_layers": 19,
                "num_single_layers": 38,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "guidance_embeds": guided,
            },
        ),
        vae=_vae(0.3611, 0.1159),
        scheduler={
            "base_image_seq_len": 256,
            "base_shift": 0.5,
            "max_image_seq_len": 4096,
            "max_shift": 1.15,
            **scheduler,
        },
        encoders={
            "text_encoder": Part("CLIPTextModel", _CLIP_L),
            "text_encoder_2": Part("T5EncoderModel", _T5_XXL),
        },
        tokenizers={"tokenizer": CLIP_TOKENS, "tokenizer_2": T5_TOKENS},
    )


_QWEN_IMAGE = Architecture(
    family="QwenImagePipeline",
    transformer=Part(
        "QwenImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "guidance_embeds": False,
            "axes_dims_rope": (16, 56, 56),
        },
    ),
    vae=Part("AutoencoderKLQwenImage"),
    scheduler={
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 8192,
        "max_shift": 0.9,
        "shift": 1.0,
        "shift_terminal": 0.02,
        "use_dynamic_shifting": True,
    },
    encoders={"text_encoder": Part("Qwen2_5_VLForConditionalGeneration", _QWEN_VL_7B)},
    tokenizers={"tokenizer": {"vocabulary": 151643, "longest": 131072, "pad": 151642}},
)

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_SD15 = Architecture(
    family="StableDiffusionPipeline",
    transformer=Part("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
    vae=_vae(0.18215, None, channels=4),
    scheduler={**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False},
    scheduler_class="PNDMScheduler",
    encoders={"text_encoder": Part("CLIPTextModel", _CLIP_L)},
    tokenizers={"tokenizer": CLIP_TOKENS},
    others={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
_SDXL = Architecture(
    family="StableDiffusionXLPipeline",
    transformer=Part(
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    vae=_vae(0.13025, None, channels=4),
    scheduler=_BETAS,
    scheduler_class="EulerDiscreteScheduler",
    encoders={
        "text_encoder": Part("CLIPTextModel", _CLIP_L),
        "text_encoder_2": Part("CLIPTextModelWithProjection", _CLIP_BIG_G),
    },
    tokenizers={"tokenizer": CLIP_TOKENS, "tokenizer_2": CLIP_TOKENS},
)

ARCHITECTURES = {
    "stabilityai/stable-diffusion-3.5-medium": _sd35(24, 384, 13),
    "stabilityai/stable-diffusion-3.5-large": _sd35(38, 192, 0),
    "black-forest-labs/FLUX.1-dev": _flux({"shift": 3.0, "use_dynamic_shifting": True}, guided=True),
    "black-forest-labs/FLUX.1-schnell": _flux({"shift": 1.0}, guided=False),
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD15,
    "stabilityai/stable-diffusion-xl-base-1.0": _SDXL,
}
