"""The reward's gradient through reward, decoder and sampler into the adapter, on a tiny pipeline and a tiny CLIP."""

import pytest
import torch
from test_trainer import make_config, make_trainer, sections_of

from advantageflow.learning import FAMILIES, Scored
from advantageflow.models import load_model
from advantageflow.objectives.base import total
from advantageflow.rewards.clipscore import CLIPScore
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream

PROMPTS = ["a red circle", "a red circle", "two blue rings", "two blue rings"]


def make_family(folder, tmp_path, clip, objective="draft", **sections):
    """A family of a gradient method over four images, drawn by an adapter that is not zero; and its parts."""
    rollout = sections_of(objective["name"] if isinstance(objective, dict) else objective)["rollout"]
    sections["rollout"] = {**rollout, **sections.get("rollout", {})}
    sections = {"reward": "clipscore", "objective": objective, "learn": {"t_draws": 1}, **sections}
    config = make_config(**sections)
    trainer = make_trainer(config, tmp_path / "run", folder, {"clipscore": CLIPScore(clip)})
    torch.manual_seed(1)
    for weight in trainer.policy.parameters:
        weight.data += 0.05 * torch.randn_like(weight)
    model, method, settings = trainer.model, trainer.method, config.rollout
    with trainer.policy.acting_as("learner") as transformer:
        ((_, rollout),) = sample_batches(
            model, transformer, PROMPTS, stream=Stream.ROLLOUT, address=(0, 0), solver=settings.solver,
            num_inference_steps=settings.num_inference_steps, plan=config.walk_plan(),
            guidance_scale=settings.guidance_scale,
        )  # fmt: skip
    zeros = torch.zeros(4, dtype=torch.float64)
    scored = Scored(PROMPTS, rollout, zeros, torch.tensor([0, 0, 1, 1]), zeros, (0, 0))
    family = FAMILIES["gradient"](model, trainer.policy, method, config, trainer.learner.rewards, scored)
    return family, trainer, rollout


def loss_of(family):
    return total(family.look(family.cases([0, 1, 2, 3]), 0).terms).mean()


def slopes(family, trainer):
    for weight in trainer.policy.parameters:
        weight.grad = None
    loss_of(family).backward()
    return [weight.grad.clone() for weight in trainer.policy.parameters]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_gradient_of_draft_1_is_that_of_finite_differences(guidance_scale, clip, tmp_path, tiny_pipeline_folder):
    rollout = {"guidance_scale": guidance_scale}
    family, trainer, drawn = make_family(tiny_pipeline_folder, tmp_path, clip, rollout=rollout)
    with torch.no_grad():  # the images that are learned from are those that were drawn
        expected = CLIPScore(clip)(trainer.model.decode(drawn.x0), PROMPTS).mean()
        torch.testing.assert_close(loss_of(family), -expected)
    found = slopes(family, trainer)
    weight = max(range(len(found)), key=lambda i: found[i].norm())
    direction = torch.randn(found[weight].shape, generator=torch.Generator().manual_seed(3))
    parameter, losses = trainer.policy.parameters[weight], []
    with torch.no_grad():
        for step in (3e-2, -6e-2):
            parameter += step * direction
            losses.append(loss_of(family).double())
    expected = ((losses[0] - losses[1]) / 6e-2).item()
    assert (found[weight] * direction).sum().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "objective", ["draft", "draft-lv", "refl", {"name": "draft", "last_steps": 3}, "adjoint-matching"]
)
def test_settings_that_save_memory_do_not_change_the_gradient(objective, clip, tmp_path, tiny_pipeline_folder):
    plain = slopes(*make_family(tiny_pipeline_folder, tmp_path / "plain", clip, objective)[:2])
    saving = {"gradient_checkpointing": True, "vae_slicing": True, "offload": True}
    found = slopes(*make_family(tiny_pipeline_folder, tmp_path / "saving", clip, objective, model=saving)[:2])
    assert max(slope.norm() for slope in plain) > 0
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_a_vae_that_is_kept_off_the_device_is_there_for_the_backward_pass(tiny_pipeline_folder):
    """A weight that leaves is zero here, as it would be on the wrong device elsewhere."""
    model = load_model(str(tiny_pipeline_folder), offload=True)
    vae, latents = model.pipeline.vae, torch.randn(1, *model.latent_shape)
    weights = {name: weight.clone() for name, weight in vae.named_parameters()}

    def move(device):
        for name, weight in vae.named_parameters():
            weight.data = torch.zeros_like(weight) if device == "cpu" else weights[name].clone()

    vae.to = move
    slopes = []
    for offload in (False, True):
        move("cpu" if offload else model.device)
        latents = latents.detach().requires_grad_(True)
        model.decode_with_gradient(latents).sum().backward()
        slopes.append(latents.grad)
    assert torch.equal(*slopes)
    model.decode(latents)
    assert not any(weight.any() for weight in vae.parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_nearly_the_same_direction(dtype, clip, tmp_path, tiny_pipeline_folder):
    """In float16 with the loss scaled, as the learner does it."""
    plain = torch.cat([s.flatten() for s in slopes(*make_family(tiny_pipeline_folder, tmp_path / "a", clip)[:2])])
    family, trainer, _ = make_family(tiny_pipeline_folder, tmp_path / "b", clip, model={"dtype": dtype})
    scaler = trainer.learner.scaler
    assert scaler.is_enabled() == (dtype == "float16")
    scaler.scale(loss_of(family)).backward()
    scaler.unscale_(trainer.learner.optimizer)
    found = torch.cat([weight.grad.flatten() for weight in trainer.policy.parameters])
    assert torch.cosine_similarity(found, plain, 0) > 0.98


@pytest.mark.parametrize("objective", ["draft", "draft-lv", "refl"])
def test_a_gradient_method_trains_and_repeats_itself(objective, clip, tmp_path, tiny_pipeline_folder):
    ends, short = (
        [],
        {"run": {"iterations": 1, "samples_every": 100}, "evaluation": {"num_images": 2, "prompts_shown": 1}},
    )
    for name in ("one", "other"):
        _, trainer, _ = make_family(tiny_pipeline_folder, tmp_path / name, clip, objective, **short)
        before = torch.cat([weight.detach().flatten() for weight in trainer.policy.parameters]).clone()
        trainer.run()
        ends.append(torch.cat([weight.detach().flatten() for weight in trainer.policy.parameters]).clone())
        assert not torch.equal(ends[-1], before)
    assert torch.equal(*ends)
