"""The shipped pipeline, as a user of plain diffusers sees it, and what our sampler and adapters do to it."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from advantageflow.evaluation import evaluate
from advantageflow.models import load_model
from advantageflow.policy import Policy
from advantageflow.prompts import load_prompts
from advantageflow.rewards import load_reward
from advantageflow.rollout import Rollout, sample_batches
from advantageflow.seeding import Stream, noise
from advantageflow.worlds.scenes import WEIGHTS
from advantageflow.worlds.scenes.pretrain import SCENES
from advantageflow.worlds.scenes.verifier import verify
from advantageflow.worlds.scenes.world import SceneObject, render

PROMPTS = ["a red circle and a blue square", "three rings"]


@pytest.fixture(scope="module")
def plain():
    """The documented way to load an SD3 pipeline without T5."""
    return StableDiffusion3Pipeline.from_pretrained(WEIGHTS, text_encoder_3=None, tokenizer_3=None)


def draw_plainly(pipeline, guidance_scale=1.0):
    latents = noise((16, 8, 8), Stream.EVALUATION, (0, 0), [0, 1])
    return pipeline(
        PROMPTS,
        num_inference_steps=10,
        guidance_scale=guidance_scale,
        latents=latents,
        max_sequence_length=0,
        output_type="pt",
    ).images


def draw_ourselves(model, transformer, guidance_scale=1.0):
    samples = Rollout.join(
        [
            batch
            for _, batch in sample_batches(
                model,
                transformer,
                PROMPTS,
                stream=Stream.EVALUATION,
                address=(0,),
                num_inference_steps=10,
                solver="euler",
                guidance_scale=guidance_scale,
            )
        ]
    )
    return model.decode(samples.x0)


def test_it_is_a_small_stable_diffusion_3(plain):
    count = sum(parameter.numel() for parameter in plain.transformer.parameters())
    assert 4e6 <= count <= 8e6
    config = plain.transformer.config
    assert config.num_attention_heads * config.attention_head_dim > config.patch_size**2 * config.in_channels
    assert (plain.vae_scale_factor, plain.vae.config.latent_channels, plain.scheduler.config.shift) == (8, 16, 3.0)
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 16e6
    assert not [file for file in WEIGHTS.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_our_euler_rollout_is_the_pipeline_s(plain, guidance_scale):
    model = load_model("scenes")
    ours = draw_ourselves(model, model.transformer, guidance_scale)
    torch.testing.assert_close(ours, draw_plainly(plain, guidance_scale), atol=2e-5, rtol=0)


def test_the_autoencoder_keeps_scenes_recognizable(plain):
    images, prompts = SCENES.batch(np.random.default_rng(0), 120)
    with torch.no_grad():
        restored = plain.vae.decode(plain.vae.encode(images).latent_dist.mode()).sample
    pixels = ((restored / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    strict = [verdict.strict for verdict in verify(pixels, [prompt.text for prompt in prompts])]
    assert np.mean(strict) >= 0.95


def test_it_draws_well_and_obeys_badly():
    """Between 0.30 and 0.60 of held-out prompts are drawn exactly right: room for reinforcement learning."""
    model = load_model("scenes")
    found = evaluate(
        model,
        model.transformer,
        load_prompts("scenes:held_out"),
        {"strict": load_reward("scenes_strict")},
        num_images=480,
    )
    assert 0.30 <= found.scores["strict"] <= 0.60
    assert min(found.tasks.values()) > 0.05


def test_it_still_draws_with_the_pipeline_s_default_256_zero_tokens(plain):
    pictures = plain(["a ring"] * 16, num_inference_steps=10, guidance_scale=1.0, output_type="np",
                     generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    verdicts = verify((pictures * 255).round().astype(np.uint8), ["a ring"] * 16)
    assert np.mean([verdict.graded for verdict in verdicts]) >= 0.3


def test_an_exported_adapter_changes_pictures_in_plain_diffusers(plain, tmp_path):
    model = load_model("scenes")
    policy = Policy(model.transformer, lora_rank=8, lora_alpha=16)
    before = draw_plainly(plain)
    base = load_model("scenes")
    for role in ("learner", "average", "reference"):  # B = 0: the base model to the bit
        with policy.acting_as(role) as transformer:
            assert torch.equal(draw_ourselves(model, transformer), draw_ourselves(base, base.transformer))
    with torch.no_grad():
        for weight in policy.weights["average"]:
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    model.save_lora(tmp_path, policy.lora_state_dict("average"))
    plain.load_lora_weights(tmp_path)
    try:
        after = draw_plainly(plain)
    finally:
        plain.unload_lora_weights()
    assert (after - before).abs().mean() > 0.01
    with policy.acting_as("average") as transformer:
        torch.testing.assert_close(draw_ourselves(model, transformer), after, atol=2e-5, rtol=0)


def test_a_scene_survives_encoder_and_decoder():
    model = load_model("scenes")
    scene = (SceneObject("circle", "red", 18, 18, 10), SceneObject("square", "blue", 46, 46, 10))
    image = torch.from_numpy(render(scene)).permute(2, 0, 1)[None].float() / 255
    again = model.decode(model.encode_images(image))
    assert (again - image).abs().mean() < 0.02
    assert load_reward("scenes_strict")(again, ["a red circle and a blue square"]) == [1.0]
