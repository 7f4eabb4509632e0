"""CRD against its equations written out for one prompt at a time."""

import pytest
import torch

from advantageflow.objectives import CRD
from advantageflow.objectives.base import Noised

K, GROUPS = 4, 3


def make(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, noise, v, v_old, v_ref = torch.randn(5, K * GROUPS, 3, 2, 2, dtype=torch.float64, generator=generator)
    t = torch.rand(GROUPS, dtype=torch.float64, generator=generator).repeat_interleave(K)
    z = 3 * torch.randn(K * GROUPS, dtype=torch.float64, generator=generator)
    group = torch.arange(GROUPS).repeat_interleave(K)
    return x0, noise, v, v_old, v_ref, t, z.clamp(-5, 5), group


def terms(objective, made, v=None):
    x0, noise, given, v_old, v_ref, t, z, group = made
    wide = t[:, None, None, None]
    predictions = {"learner": given if v is None else v, "old": v_old, "reference": v_ref}
    seen = Noised(predictions, x0, (1 - wide) * x0 + wide * noise, t, z, noise=noise, group=group)
    return objective.terms(seen)


def expected(made, beta, temperature):
    """Loss of every image, by loops."""
    x0, noise, v, v_old, _, _, z, group = made
    losses = torch.zeros(len(z), dtype=torch.float64)
    for g in range(GROUPS):
        mine = (group == g).nonzero().flatten()
        reward = (z[mine] / 10 + 0.5).clamp(0, 1)
        errors = []
        for one in (v, v_old):
            off = one[mine] - (noise - x0)[mine]
            errors.append(off.square().flatten(1).mean(1) / off.abs().flatten(1).mean(1).clamp(min=1e-5))
        implied = errors[1] - errors[0]
        for sign in (1, -1):
            p = torch.softmax(sign * reward / temperature, 0) if temperature else torch.full((K,), 1 / K).double()
            difference = beta * (implied - (p * implied).sum()) - (reward - (p * reward).sum())
            losses[mine] += 0.5 * 5 / beta * difference.square()
    return losses


@pytest.mark.parametrize(("beta", "temperature"), [(1.0, None), (0.3, None), (1.0, 0.5)])
def test_the_loss_is_the_paper_s(beta, temperature):
    made = make()
    found = terms(CRD(beta=beta, temperature=temperature), made)["data"]
    torch.testing.assert_close(found, expected(made, beta, temperature))


def test_at_the_old_policy_the_gradient_follows_the_centred_reward():
    """There r_θ = 0, and an image's gradient is that of 10 R_c ‖v - v*‖² / w but for the constant w and centre."""
    made = make(1)
    x0, noise, _, v_old, _, _, z, group = made
    v = v_old.clone().requires_grad_()
    objective = CRD(reference_weight=0.0, adaptive_scale=False)
    found = torch.autograd.grad(terms(objective, made, v)["data"].sum(), v)[0]
    reward = (z / 10 + 0.5).clamp(0, 1)
    centered = reward - torch.stack([reward[group == g].mean() for g in range(GROUPS)])[group]
    size = x0[0].numel()
    slope = 10 * centered[:, None, None, None] * 2 * (v_old - (noise - x0)) / size
    torch.testing.assert_close(found, slope)


def test_better_images_are_pulled_harder_to_the_base_model():
    made = make(2)
    _, _, v, _, v_ref, _, z, _ = made
    objective = CRD(reference_weight=0.1)
    reward, least = (z / 10 + 0.5).clamp(0, 1), 1e-3
    expected = 0.1 * (least + reward * (1 - least)) * (v - v_ref).square().flatten(1).mean(1)
    torch.testing.assert_close(terms(objective, made)["reference"], expected)


def test_its_copies_and_what_it_sees():
    assert CRD().sees == {"old", "reference"}
    assert CRD(reference_weight=0.0).sees == {"old"}
    decay = CRD().slow["old"]
    assert [round(decay(step), 3) for step in (0, 100, 1000)] == [0.25, 0.35, 0.5]
