"""Stable Diffusion 1.5 and XL: U-Nets of noise or v on a tabulated path, drawn as diffusers' DDIM draws."""

from functools import partial

import pytest
import torch
from command_line import command_line
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from test_families import PROMPTS, check_adapter, check_trains, draw
from test_trainer import make_config, make_trainer
from transformers import CLIPTextModel

from advantageflow import building
from advantageflow.adapter_formats import KOHYA_FILE, write_kohya
from advantageflow.config import ModelSettings
from advantageflow.models import CURVED, FAMILIES, adapter_of, load_model, picture_size
from advantageflow.models.architectures import ARCHITECTURES
from advantageflow.models.unet import UNetModel
from advantageflow.seeding import Stream, noise
from advantageflow.worlds.scenes.model import build_text_encoder, build_tokenizer

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PUBLISHED = {**BETAS, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
STEPS = 4


def tiny_unet(width, **settings):
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, norm_num_groups=4, **settings,
    )  # fmt: skip


def tiny_vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
        scaling_factor=0.18215,
    )  # fmt: skip


def build(family, scheduler):
    clip = build_tokenizer()
    text = build_text_encoder(clip)
    if family == "sd15":
        return StableDiffusionPipeline(
            unet=tiny_unet(64, attention_head_dim=2), vae=tiny_vae(), text_encoder=CLIPTextModel(text.config),
            tokenizer=clip, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    unet = tiny_unet(
        128, attention_head_dim=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=64 + 6 * 8,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        unet=unet, vae=tiny_vae(), text_encoder=CLIPTextModel(text.config), tokenizer=clip,
        text_encoder_2=build_text_encoder(clip), tokenizer_2=clip, scheduler=scheduler,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param) / "pipeline"
    build(request.param, DDIMScheduler(**PUBLISHED)).save_pretrained(path)
    return path


def load(folder, scheduler=None):
    model = load_model(str(folder))
    if scheduler:
        model.pipeline.scheduler = scheduler
        model = type(model)(model.pipeline, model.settings)
    return model


def draw_plainly(model, guidance_scale):
    """The pipeline's own calls on our noise."""
    latents = noise(model.latent_shape, Stream.EVALUATION, (0, 0), range(2))
    settings = {"num_inference_steps": STEPS, "guidance_scale": guidance_scale, "output_type": "pt"}
    calls = [model.pipeline(prompt, latents=x[None], **settings) for prompt, x in zip(PROMPTS, latents, strict=True)]
    return torch.cat([call.images for call in calls])


SCHEDULERS = {
    "published": {},
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "to the image": {"set_alpha_to_one": True},
    "zero terminal SNR": {
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "guidance_scale"), [("published", 1.0), *((kind, 4.0) for kind in SCHEDULERS)])
def test_the_rollout_is_the_pipelines_with_ddim_to_the_bit(folder, kind, guidance_scale):
    model = load(folder, DDIMScheduler(**{**PUBLISHED, **SCHEDULERS[kind]}))
    assert torch.equal(draw(model, guidance_scale), draw_plainly(model, guidance_scale))


def test_it_is_eulers_up_to_rounding(folder):
    scheduler = EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    model = load(folder, scheduler)
    torch.testing.assert_close(draw(model, 4.0), draw_plainly(model, 4.0), atol=1e-5, rtol=0)


def test_other_schedulers_are_drawn_at_ddims_times(folder):
    """That of the published Stable Diffusion 1.5."""
    published = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    other = load(folder, published)
    assert torch.equal(other.sigmas(5) * 1000, torch.tensor([802, 602, 402, 202, 2, 1], dtype=torch.float64))
    assert torch.equal(draw(other, 1.0), draw(load(folder), 1.0))


def test_a_step_is_the_same_by_velocity_and_by_both_ends(folder):
    """As steps of a plan take it, and for higher orders: the velocity holds as much as the prediction."""
    model = load(folder)
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.982], dtype=torch.float64)
    prompts = model.encode(PROMPTS)
    with torch.no_grad():
        velocity = model.velocity(model.transformer, x, t, prompts)
        x0, error = model.ends(model.transformer, x, t, prompts)
    torch.testing.assert_close(model.path.predict_x0(x, velocity, t), x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.path.predict_noise(x, velocity, t), error, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.path.step(x, velocity, t, t - 0.2), model.path.interpolate(x0, error, t - 0.2), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("objective", "targets"), [("advantageflow", "attention"), ("nft", "linear")])
def test_it_trains_and_the_adapter_loads(folder, objective, targets, tmp_path):
    """By the method's own solver."""
    few = {"prompts_per_iteration": 1, "images_per_prompt": 3, "solver": "dpm2"}
    config = make_config(objective={"name": objective}, rollout=few, policy={"lora_targets": targets})
    trainer = make_trainer(config, tmp_path / "run", folder)
    names = {name.rpartition("attn")[2].partition(".lora")[0] for name in trainer.policy.names}
    attention = {f"{number}.to_{layer}" for number in "12" for layer in ("q", "k", "v", "out.0")}
    assert names == attention if targets == "attention" else names > attention
    check_trains(trainer)
    trainer.model.save_lora(tmp_path / "lora", trainer.policy.lora_state_dict("average"))
    (tmp_path / "kohya").mkdir()
    write_kohya(tmp_path / "lora", tmp_path / "kohya")
    check_adapter(trainer, partial(load, folder), draw, tmp_path / "lora", tmp_path / "kohya" / KOHYA_FILE)


def test_what_needs_the_straight_path_is_refused_before_weights_are_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "load_reward", None)
    name = "StableDiffusionPipeline" if "sd15" in str(folder) else "StableDiffusionXLPipeline"
    wanted = f"objective 'flow-grpo' has steps of the straight path between image and noise, and a {name} has another"
    settings = ["prompts.train=scenes:train", "--output", tmp_path / "run"]
    code, _, error = command_line("train", "scenes-flow-grpo", f"model.path={folder}", *settings)
    assert (code, wanted in error) == (2, True), error
    assert not (tmp_path / "run").exists()
    published = next(path for path, known in ARCHITECTURES.items() if known.family == name)
    code, _, error = command_line("train", "scenes-flow-grpo", f"model.path={published}", settings[0], "--plan")
    assert (code, wanted in error) == (2, True), error


def test_families_with_another_path_are_named():
    """Where their adapters, which need torch, are not imported."""
    assert {name for name in FAMILIES if issubclass(adapter_of(name), UNetModel)} == {*CURVED}


def test_its_size_is_known_before_it_is_loaded(folder):
    assert picture_size(ModelSettings(path=str(folder))) == load(folder).picture_size == (64, 64)
