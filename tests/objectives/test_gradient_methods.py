"""DRaFT and ReFL on a flow of one number, whose gradients are known."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from advantageflow.flow import sd3_sigmas
from advantageflow.objectives import AlignProp, DRaFT, DRaFTLV, DRTune, FlowBP, FlowBPLagrange, ReFL
from advantageflow.objectives.base import Sampled, Start
from advantageflow.objectives.flow_bp_lagrange import quadrature
from advantageflow.solvers import euler

SIGMAS = sd3_sigmas(6)
NOISE = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def start(weight, first, x=None, drawn=0.25):
    def velocity(x, t):
        return weight * torch.sin(x)

    if x is None:
        x = euler(velocity, NOISE, SIGMAS[: first + 1]).detach()
    return Start(
        x, torch.full((3,), first), SIGMAS, velocity, lambda number: torch.full_like(x, drawn + number), state, uniform,
        move=None, base=None,
    )  # fmt: skip


STATES = torch.stack([euler(lambda x, t: 0.8 * torch.sin(x), NOISE, SIGMAS[: step + 1]) for step in range(7)])


def state(steps):
    return STATES[steps, torch.arange(len(steps))]


def uniform(count, seed=0):
    return torch.rand(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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
    (image,) = refl.images(replace(begin, step=steps, velocity=lambda x, t: w * x))
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


def slopes(image, weight):
    """d image / d weight of each image, summed over its numbers: [batch]."""
    return torch.stack([torch.autograd.grad(part.sum(), weight, retain_graph=True)[0] for part in image])


def step_slope(step, row):
    """What a step's velocity, at the state that was recorded, adds to the slope of an image."""
    return ((SIGMAS[step + 1] - SIGMAS[step]) * torch.sin(STATES[step, row])).sum()


def test_align_prop_is_draft_with_a_number_of_steps_for_each_image():
    w, align = weight(), AlignProp(last_steps=4)
    assert [*align.starts(6)] == [*align.recorded(6)] == [2, 3, 4, 5]
    begin, steps = start(w, 2), torch.tensor([2, 5, 3])
    (image,) = align.images(replace(begin, x=state(steps), step=steps))
    torch.testing.assert_close(image.detach(), STATES[6])
    found = slopes(image, w)
    for row, first in enumerate(steps.tolist()):
        (other,) = DRaFT(last_steps=6 - first).images(start(w, first))
        torch.testing.assert_close(found[row], slopes(other, w)[row])


def test_flow_bp_by_all_steps_is_euler_with_its_inputs_held_constant():
    w = weight()
    (image,) = FlowBP(active_steps=6).images(start(w, 0))
    torch.testing.assert_close(image.detach(), STATES[6])
    expected = torch.stack([torch.stack([step_slope(step, row) for step in range(6)]).sum() for row in range(3)])
    torch.testing.assert_close(slopes(image, w), expected)


@pytest.mark.parametrize(("rescale", "scale"), [(0.0, 1.0), (1.0, 3.0)])
def test_flow_bp_takes_other_steps_for_each_image(rescale, scale):
    w = weight()
    (image,) = FlowBP(active_steps=2, lateness=0.0, rescale=rescale).images(start(w, 0))
    expected = [scale * sum(step_slope(int(step), row) for step in uniform(6)[row].topk(2).indices) for row in range(3)]
    torch.testing.assert_close(slopes(image, w), torch.stack(expected))
    torch.testing.assert_close(image.detach(), STATES[6])


def test_flow_bp_prefers_late_steps_by_the_square():
    """Of one step: step i with the chance (i + 1)² / 91."""
    seen = []

    def note(steps):
        seen.extend(steps.tolist())
        return state(steps)

    begin = start(weight(), 0)
    for seed in range(2000):
        draw = partial(uniform, seed=seed)
        [*FlowBP(active_steps=1).images(replace(begin, state=note, uniform=draw))]
    chosen = torch.tensor([step for step in seen if step < 6])
    shares = torch.bincount(chosen, minlength=6) / len(chosen)
    torch.testing.assert_close(shares, torch.arange(1.0, 7) ** 2 / 91, atol=0.02, rtol=0)


def test_drtune_adds_the_gradients_of_steps_before_an_early_stop():
    w, tune = weight(), DRTune(active_steps=2, stops=0.5)
    assert [*tune.starts(6)] == [3, 4, 5]
    begin, stops = start(w, 3), torch.tensor([3, 5, 4])
    (image,) = tune.images(replace(begin, x=state(stops), step=stops))
    drawn = uniform(1)[:, 0]
    for row, stop in enumerate(stops.tolist()):
        x, t = STATES[stop, row], SIGMAS[stop]
        torch.testing.assert_close(image[row].detach(), x - t * 0.8 * torch.sin(x))
        active = [int((number + drawn[row]) / 2 * stop) for number in range(2)]
        assert 0 <= active[0] < active[1] < stop
        expected = -(t * torch.sin(x)).sum() + sum(step_slope(step, row) for step in active)
        torch.testing.assert_close(slopes(image, w)[row], expected)


def test_the_weights_of_a_leap_integrate_its_polynomial():
    """Exactly: of so many velocities a polynomial of one degree less, over any times; 1 gives the way in time."""
    points, start, end = SIGMAS[[1, 3, 4]], SIGMAS[1], SIGMAS[5]
    weights = quadrature(points, start, end)
    for power in range(3):
        expected = (end ** (power + 1) - start ** (power + 1)) / (power + 1)
        torch.testing.assert_close((weights * points**power).sum(), expected)
    torch.testing.assert_close(quadrature(points[:1], start, end), (end - start)[None])


def leaps(seed=0, count=10):
    """Of each image the steps k and j, by sums of exponential numbers, which make a Dirichlet distribution."""
    drawn = -torch.log1p(-uniform(count, seed))
    before, between = drawn[:, :2].sum(1) / drawn.sum(1), drawn[:, 2:8].sum(1) / drawn.sum(1)
    k = (6 * before).round().long().clamp(max=4)
    j = (6 * (before + between)).round().long().clamp(max=5).maximum(k + 1)
    return list(zip(k.tolist(), j.tolist(), strict=True))


def test_leaps_of_one_velocity_are_euler_s_large_steps():
    w = weight()
    (image,) = FlowBPLagrange(order=1, nested=0.0).images(start(w, 0))
    torch.testing.assert_close(image.detach(), STATES[6])
    expected = []
    for row, (k, j) in enumerate(leaps()):
        assert 0 <= k < j < 6
        to_j, to_end = SIGMAS[j] - SIGMAS[k], -SIGMAS[j]
        expected.append((to_j * torch.sin(STATES[k, row]) + to_end * torch.sin(STATES[j, row])).sum())
    torch.testing.assert_close(slopes(image, w), torch.stack(expected))


@pytest.mark.parametrize(("later", "nested"), [(0.0, 0.0), (0.25, 0.1)])
def test_flow_bp_lagrange_counts_later_velocities_and_the_way_through_the_network_less(later, nested):
    """d x / dw = d_j' + Σ c w sin x + α w_j cos(x_j) 0.8 d_j', with d_j' of the first leap."""
    w, method = weight(), FlowBPLagrange(later=later, nested=nested)
    (image,) = method.images(start(w, 0))
    torch.testing.assert_close(image.detach(), STATES[6])
    expected = []
    for row, (k, j) in enumerate(leaps()):

        def slope(first, last, row=row):
            steps = sorted({*torch.linspace(first, last - 1, 3).round().long().tolist()})
            found = quadrature(SIGMAS[steps], SIGMAS[first], SIGMAS[last])
            parts = [found[i] * torch.sin(STATES[step, row]) for i, step in enumerate(steps)]
            return parts[0] + (later * parts[1] if len(parts) > 1 else 0.0), found[0]

        (first, _), (second, at_j) = slope(k, j), slope(j, 6)
        expected.append((first + second + nested * at_j * 0.8 * torch.cos(STATES[j, row]) * first).sum())
    torch.testing.assert_close(slopes(image, w), torch.stack(expected))
    assert method.calls(6) == 4
