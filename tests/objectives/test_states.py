"""DiffusionART: the direction of a group, and the states that an image came by."""

import pytest
import torch
from test_trainer import make_config, make_trainer

from advantageflow.config import check_config
from advantageflow.errors import ConfigError
from advantageflow.objectives import AdvantageFlow, DiffusionART
from advantageflow.objectives.base import Noised


def group(size=5, t=0.3, equal=False, seed=0):
    """Images of one prompt that share x_t, t and what the rollout policy predicts there."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(size, 2, 3, 3, dtype=torch.float64, generator=generator)
    x_t, v_old = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, generator=generator).expand(-1, size, -1, -1, -1)
    advantage = torch.randn(size, dtype=torch.float64, generator=generator)
    advantage = torch.zeros_like(advantage) if equal else advantage - advantage.mean()
    return x0, x_t, v_old, torch.full((size,), t, dtype=torch.float64), advantage


def gradient(method, v, others):
    x0, x_t, v_old, t, advantage = others
    v = v.clone().requires_grad_()
    loss = method.loss(v, v_old, v_old, x0=x0, x_t=x_t, t=t, advantage=advantage)
    return torch.autograd.grad(loss.sum(), v)[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_art_s_direction_is_that_of_advantageflow_s_gradient_over_a_group(seed):
    """At θ = θ_old: both are along Cov(A, x0), in velocity."""
    given = group(seed=seed)
    art, flow = (gradient(method, given[2], given).sum(0) for method in (DiffusionART(), AdvantageFlow()))
    torch.testing.assert_close(art / art.norm(), flow / flow.norm())


def test_the_target_of_art_is_the_old_velocity_less_the_direction_in_units_of_its_own_size():
    given = group()
    x0, _, v_old, t, advantage = given
    covariance = torch.einsum("k,kchw->chw", advantage, x0 - x0.mean(0)) / 5
    direction = covariance / covariance.square().mean().sqrt()
    reached = v_old - 0.2 * direction
    assert gradient(DiffusionART(strength=0.2), reached, given).abs().max() < 1e-12
    found = DiffusionART(strength=0.2).loss(v_old, v_old, v_old, x0=x0, x_t=v_old, t=t, advantage=advantage)
    torch.testing.assert_close(found, 0.3 * 0.2**2 * torch.ones_like(found))


def test_images_that_are_equally_good_teach_only_to_stay():
    given = group(equal=True)
    assert not gradient(DiffusionART(), given[2], given).any()


@pytest.mark.parametrize(
    ("along", "taught"), [(0.02, True), (0.08, False), (0.12, True), (-0.08, True)]
)  # of a target at .1
def test_what_moved_far_enough_is_taught_only_to_come_back(along, taught):
    given = group()
    covariance = torch.einsum("k,kchw->chw", given[4], given[0])
    v = given[2] - along * covariance / covariance.square().mean().sqrt()
    found = gradient(DiffusionART(strength=0.1, radius=0.05), v, given)
    assert bool(found.any()) is taught


def test_art_learns_at_the_states_of_its_sampler(tmp_path, tiny_pipeline_folder, monkeypatch):
    """Of each image they are Euler's path: the states follow from one another by its velocities, up to the image."""
    seen = []

    def note(*arguments, **named):
        seen.append(Noised(*arguments, **named))
        return seen[-1]

    monkeypatch.setattr("advantageflow.learning.forward.Noised", note)
    config = make_config(objective="diffusion-art", learn={"t_draws": 4}, run={"probe_every": 0})
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    trainer.iterate()
    x0, x_t, v, t = (torch.cat([getattr(part, name) for part in seen]) for name in ("x0", "x_t", "v_old", "t"))
    sigmas = trainer.model.sigmas(4)
    assert len(t) == 12 * 4
    for image in x0[:12]:
        mine = (x0 == image).flatten(1).all(1).nonzero().flatten()
        path = mine[t[mine].argsort(descending=True)]
        assert t[path].tolist() == sigmas[:4].tolist()
        ends = torch.cat([x_t[path][1:], image[None]])
        step = (sigmas[1:] - sigmas[:-1]).float()[:, None, None, None]
        torch.testing.assert_close(x_t[path] + step * v[path], ends, rtol=1e-4, atol=1e-4)


def test_what_has_no_states_of_a_sampler_is_refused():
    pairs = {"source": "pairs.jsonl", "images_per_prompt": 2}
    with pytest.raises(ConfigError, match="learns from states that its sampler went through, which pairs on disk do"):
        check_config({"objective": "diffusion-art", "rollout": pairs})
    with pytest.raises(ConfigError, match=r"t_distribution is 'uniform', .* set learn.t_distribution to rollout_grid"):
        check_config({"objective": "diffusion-art", "learn": {"t_distribution": "uniform"}})
    with pytest.raises(ConfigError, match=r"'dpm2', an ODE, .* set rollout.solver to euler"):
        check_config({"objective": "diffusion-art", "rollout": {"solver": "dpm2"}})
    with pytest.raises(ConfigError, match="learns from more than clean images"):
        check_config({"objective": "diffusion-art", "rollout": {"drafts": 2}})
