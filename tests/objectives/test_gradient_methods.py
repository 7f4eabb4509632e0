"""DRaFT and ReFL on a flow of one number, whose gradients are known."""

import pytest
import torch

from advantageflow.flow import sd3_sigmas
from advantageflow.objectives import DRaFT, DRaFTLV, ReFL
from advantageflow.objectives.base import Sampled, Start
from advantageflow.solvers import euler

SIGMAS = sd3_sigmas(6)
NOISE = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def start(weight, first, x=None, drawn=0.25):
    def velocity(x, t):
        return weight * torch.sin(x)

    if x is None:
        x = euler(velocity, NOISE, SIGMAS[: first + 1]).detach()
    return Start(x, torch.full((3,), first), SIGMAS, velocity, lambda number: torch.full_like(x, drawn + number))


def weight():
    return torch.tensor(0.8, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("last", [1, 3, 6])
def test_draft_is_euler_s_image_with_the_gradient_of_its_last_steps(last):
    w, reference = weight(), weight()
    draft = DRaFT(last_steps=last)
    (first,) = draft.starts(6)
    (image,) = draft.images(start(w, first))
    with torch.no_grad():
        torch.testing.assert_close(image, euler(lambda x, t: reference * torch.sin(x), NOISE, SIGMAS))
    before = euler(lambda x, t: reference.detach() * torch.sin(x), NOISE, SIGMAS[: first + 1])
    whole = euler(lambda x, t: reference * torch.sin(x), before, SIGMAS[first:])
    torch.testing.assert_close(torch.autograd.grad(image.sum(), w)[0], torch.autograd.grad(whole.sum(), reference)[0])
    assert draft.calls(6) == last


def test_draft_lv_adds_predictions_from_the_image_noised_again():
    w = weight()
    images = [*DRaFTLV(copies=2).images(start(w, 5))]
    assert len(images) == 3
    last = SIGMAS[-2]
    sampled = images[0].detach()
    for number, image in enumerate(images[1:]):
        x_t = (1 - last) * sampled + last * (0.25 + number)
        torch.testing.assert_close(image, x_t - last * w * torch.sin(x_t))
        (slope,) = torch.autograd.grad(image.sum(), w, retain_graph=True)
        torch.testing.assert_close(slope, -(last * torch.sin(x_t)).sum())  # nothing through the image


def test_refl_predicts_from_a_late_step_of_each_image():
    w, refl = weight(), ReFL(last_steps=2)
    assert [*refl.starts(6)] == [4, 5]
    begin = start(w, 0, x=NOISE)
    steps = torch.tensor([4, 5, 4])
    (image,) = refl.images(Start(NOISE, steps, SIGMAS, lambda x, t: w * x, begin.fresh))
    torch.testing.assert_close(image, NOISE - SIGMAS[steps][:, None, None] * w * NOISE)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DRaFT(), [-0.5, -3.0]),
        (DRaFT(enough=2.0), [1.5, 0.0]),
        (ReFL(), [1.5e-3, 0.0]),
        (ReFL(enough=None, weight=1.0), [-0.5, -3.0]),
        (DRaFTLV(enough=1.0), [0.5, 0.0]),
    ],
)
def test_the_loss_of_a_reward(objective, expected):
    reward = torch.tensor([0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(objective.terms(Sampled(reward))["reward"], torch.tensor(expected, dtype=torch.float64))
