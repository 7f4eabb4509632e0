"""Sana, FLUX.2 and Z-Image: the rollout is the pipeline's to the bit, they train, and their adapters load."""

import re
from functools import partial

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from test_families import check_adapter, check_trains, saved, tiny_vae, word_tokenizer
from test_families import draw as draw_prompts
from test_trainer import make_config, make_trainer
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from advantageflow.config import ModelSettings
from advantageflow.models import adapter_of, load_model, picture_size
from advantageflow.policy import Policy
from advantageflow.seeding import Stream, noise

PROMPTS = ["a red circle", "two blue rings and a red circle"]
STEPS = 3
LANGUAGE = {
    "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 8,
}  # fmt: skip


def chatting_tokenizer():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }} and"
    return tokenizer


def build_sana():
    return SanaPipeline(
        transformer=SanaTransformer2DModel(
            sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
            attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            caption_channels=16,
        ),
        vae=AutoencoderDC(
            latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(4, 8),
            decoder_block_out_channels=(4, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
            downsample_block_type="conv", upsample_block_type="interpolate", scaling_factor=0.4,
            decoder_norm_types=["rms_norm", "rms_norm"], decoder_act_fns=["silu", "silu"],
        ),
        text_encoder=Gemma2Model(Gemma2Config(**LANGUAGE, num_hidden_layers=1)), tokenizer=word_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def build_klein():
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=32
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=16, guidance_embeds=False,
        ),
        vae=vae, tokenizer=chatting_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**LANGUAGE, num_hidden_layers=27)),
    )  # fmt: skip


def build_z_image():
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
            axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
        ),
        vae=tiny_vae(), tokenizer=chatting_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**LANGUAGE, num_hidden_layers=2)),
    )  # fmt: skip


SIZES = {"sana": (32, 64), "klein": (64, 32), "z_image": (64, 32)}


@pytest.fixture(scope="module", params=["sana", "klein", "z_image"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    pipeline = {"sana": build_sana, "klein": build_klein, "z_image": build_z_image}[request.param]()
    return saved(pipeline, tmp_path_factory.mktemp(request.param) / "pipeline")


def settings_of(folder):
    return {"resolution": SIZES[folder.parent.name.rstrip("0123456789")], "max_sequence_length": 12}


def load(folder):
    return load_model(str(folder), **settings_of(folder))


draw = partial(draw_prompts, prompts=PROMPTS, steps=STEPS)


def draw_plainly(model, guidance_scale):
    """The pipeline's own calls on our noise."""
    height, width = model.picture_size
    options = {"height": height, "width": width, "num_inference_steps": STEPS, "output_type": "pt"}
    if model.family == "SanaPipeline":
        options["use_resolution_binning"] = False
    if model.family == "Flux2Pipeline":  # its scale is told to the network
        guidance_scale = model.settings.distilled_guidance
    counted_from = 1 if model.family == "ZImagePipeline" else 0
    return torch.cat(
        [
            model.pipeline(
                prompt=prompt, latents=noise(model.latent_shape, Stream.EVALUATION, (0, 0), [index]),
                guidance_scale=guidance_scale - counted_from, max_sequence_length=12, **options,
            ).images
            for index, prompt in enumerate(PROMPTS)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_rollout_is_the_pipelines_to_the_bit(folder, guidance_scale):
    model = load(folder)
    ours = draw(model, guidance_scale)
    assert ours.shape[2:] == model.settings.resolution
    assert torch.equal(ours, draw_plainly(model, guidance_scale))


@pytest.mark.parametrize(("objective", "targets"), [("advantageflow", "attention"), ("nft", "linear")])
def test_it_trains_and_the_adapter_loads(folder, objective, targets, tmp_path):
    few = {"prompts_per_iteration": 1, "images_per_prompt": 3}
    policy = {"lora_targets": targets}
    config = make_config(objective={"name": objective}, model=settings_of(folder), rollout=few, policy=policy)
    trainer = make_trainer(config, tmp_path / "run", folder)
    check_trains(trainer)
    trainer.model.save_lora(tmp_path / "lora", trainer.policy.lora_state_dict("average"))
    check_adapter(trainer, partial(load, folder), draw, tmp_path / "lora", tmp_path / "lora")


def test_a_batch_of_prompts_of_different_lengths_is_masked(folder):
    model = load(folder)
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        together = model.velocity(model.transformer, x, t, model.encode(PROMPTS))
        alone = [
            model.velocity(model.transformer, x[i : i + 1], t[i : i + 1], model.encode([PROMPTS[i]])) for i in range(2)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_images_are_encoded_to_what_is_decoded(folder, monkeypatch):
    """With an encoder that undoes its decoder, latents come back."""
    model = load(folder)
    vae, handed = model.pipeline.vae, []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, return_dict: (handed.append(z), decode(z, return_dict=return_dict))[1])
    latents = torch.randn(2, *model.latent_shape)
    images = model.decode(latents)

    class Encoded:
        latent = property(lambda self: handed[0])
        latent_dist = property(lambda self: self)
        mode = lambda self: handed[0]  # noqa: E731

    monkeypatch.setattr(vae, "encode", lambda pixels: Encoded())
    torch.testing.assert_close(model.encode_images(images), latents)


def test_every_adapted_layer_of_flux2_and_z_image_is_one_of_attention(folder, tmp_path):
    """FLUX.2's blocks of one stream have two fused ones; elsewhere they are q, k, v and the output."""
    model = load(folder)
    names = Policy(model.transformer, lora_rank=2, targets=model.lora_targets["attention"]).names
    layers = {re.sub(r"\d+", "i", name.partition(".lora_")[0]) for name in names}
    usual = {f"to_{layer}" for layer in ("q", "k", "v", "out.i")}
    if model.family == "SanaPipeline":
        expected = {f"transformer_blocks.i.attni.{layer}" for layer in usual}
    elif model.family == "ZImagePipeline":
        blocks = ("layers", "noise_refiner", "context_refiner")
        expected = {f"{block}.i.attention.{layer}" for block in blocks for layer in usual}
    else:
        text = {f"add_{layer}_proj" for layer in "qkv"} | {"to_add_out"}
        expected = {f"transformer_blocks.i.attn.{layer}" for layer in usual | text}
        expected |= {f"single_transformer_blocks.i.attn.{layer}" for layer in ("to_qkv_mlp_proj", "to_out")}
    assert layers == expected


class Chat:
    """A chat tokenizer of few words, which pads as it is told."""

    def apply_chat_template(self, messages, max_length, **ignored):
        rows = [[3 + len(word) for word in message[-1]["content"][0]["text"].split()] for message in messages]
        masks = [[1] * len(row) + [0] * (max_length - len(row)) for row in rows]
        ids = [row + [0] * (max_length - len(row)) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


def test_flux2_dev_is_told_its_guidance_as_the_pipeline_does():
    torch.manual_seed(0)
    klein = build_klein()
    text = {**LANGUAGE, "num_hidden_layers": 30, "model_type": "mistral"}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Mistral3Config(text_config=text, vision_config={**vision, "model_type": "pixtral"})
    pipeline = Flux2Pipeline(
        transformer=Flux2Transformer2DModel(**{**klein.transformer.config, "guidance_embeds": True}),
        vae=klein.vae, scheduler=klein.scheduler, tokenizer=Chat(),
        text_encoder=Mistral3ForConditionalGeneration(config),
    )  # fmt: skip
    settings = ModelSettings(resolution=(64, 32), max_sequence_length=12, distilled_guidance=2.5)
    model = adapter_of("Flux2Pipeline").load(settings, "cpu", pipeline)
    ours = draw(model)
    assert torch.equal(ours, draw_plainly(model, 1.0))
    model.settings = settings.model_copy(update={"distilled_guidance": 4.0})
    assert not torch.equal(draw(model), ours)


class Unrounded(DPMSolverMultistepScheduler):
    """With the time steps of its noise levels, which it rounds to integers."""

    def set_timesteps(self, *arguments, **options):
        super().set_timesteps(*arguments, **options)
        self.timesteps = 1000 * self.sigmas[:-1]


def test_the_published_sampler_of_sana_is_dpm2_but_for_rounded_time_steps(folder):
    model = load(folder)
    if model.family != "SanaPipeline":
        return
    published = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    model.pipeline.scheduler = Unrounded(**published)
    torch.testing.assert_close(draw(model, 4.0, "dpm2"), draw_plainly(model, 4.0), atol=1e-5, rtol=0)


def test_its_size_is_known_before_it_is_loaded(folder):
    model = load(folder)
    if model.family == "SanaPipeline":  # whose configuration tells
        assert picture_size(ModelSettings(path=str(folder))) == (8, 8)
        assert load_model(str(folder)).picture_size == (8, 8)
