"""The identities that tie AdvantageFlow, DiffusionNFT and FlowAWR together, in double precision."""

import pytest
import torch

from advantageflow.flow import interpolate, predict_x0
from advantageflow.objectives import AdvantageFlow, DiffusionNFT, all_methods
from advantageflow.objectives.base import Noised

BATCH = 7


class Case:
    """Random velocities at random points of the path; the learner's needs a gradient."""

    def __init__(self, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.x0, noise, self.velocity, self.rollout, self.reference = torch.randn(
            5, BATCH, 4, 3, 3, dtype=torch.float64, generator=generator
        ).to(dtype)
        self.t = torch.rand(BATCH, dtype=torch.float64, generator=generator)
        self.advantage = 2 * torch.rand(BATCH, dtype=torch.float64, generator=generator) - 1
        self.x_t = interpolate(self.x0, noise, self.t)
        self.target = noise - self.x0
        self.velocity.requires_grad_()

    def loss(self, objective, velocity=None, advantage=None):
        return objective.loss(
            self.velocity if velocity is None else velocity,
            self.rollout,
            self.reference,
            x0=self.x0,
            x_t=self.x_t,
            t=self.t,
            advantage=self.advantage if advantage is None else advantage,
        )

    def gradient(self, objective, velocity=None, advantage=None):
        velocity = (self.velocity if velocity is None else velocity).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(objective, velocity, advantage).sum(), velocity)
        return gradient

    def seen(self, velocity):
        predictions = {"learner": velocity, "rollout": self.rollout, "reference": self.reference}
        return Noised(predictions, self.x0, self.x_t, self.t, self.advantage)

    def x0_of(self, velocity):
        return predict_x0(self.x_t, velocity, self.t)


@pytest.fixture
def case():
    return Case()


def shape(values):
    return values[:, None, None, None]


def mean_square(x):
    return x.square().flatten(1).mean(1)


@pytest.mark.parametrize("gamma", [1.1, 0.2, "1-A", "auto"])
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_the_loss_is_equation_5(case, gamma, beta):
    objective = AdvantageFlow(gamma=gamma, beta=beta, reference_weight=0.3)
    f, f_old, f_ref = (case.x0_of(v) for v in (case.velocity, case.rollout, case.reference))
    weight = {"1-A": beta * (beta - case.advantage), "auto": 0.25 + beta * (-case.advantage).relu()}.get(gamma, gamma)
    expected = (
        beta * case.advantage * mean_square(f - case.x0)
        + weight * mean_square(f - f_old)
        + 0.3 * mean_square(f - f_ref)
    )
    torch.testing.assert_close(case.loss(objective), expected)


@pytest.mark.parametrize("gamma", [1.1, "1-A", "auto"])
def test_completed_square_differs_by_a_constant(case, gamma):
    """Oracle 1: loss = (A + γ + λ) ‖f - f*‖² + const."""
    objective = AdvantageFlow(gamma=gamma, reference_weight=0.2)
    weight = torch.as_tensor(objective.rollout_weight(case.advantage)).expand(BATCH)
    curvature = objective.curvature(case.advantage)
    f_old, f_ref = case.x0_of(case.rollout), case.x0_of(case.reference)
    best = (shape(case.advantage) * case.x0 + shape(weight) * f_old + 0.2 * f_ref) / shape(curvature)
    differences = []
    for seed in range(3):
        velocity = torch.randn(case.x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        completed = curvature * mean_square(case.x0_of(velocity) - best)
        differences.append(case.loss(objective, velocity) - completed)
    torch.testing.assert_close(differences[0], differences[1])
    torch.testing.assert_close(differences[0], differences[2])


@pytest.mark.parametrize("gamma", [0.0, 1.1, 5.0, "1-A", "auto"])
def test_at_the_rollout_policy_the_gradient_is_the_same_for_every_gamma(case, gamma):
    """Oracle 2: 2 A t² (v_old - v), and DiffusionNFT without adaptive weights agrees with A = z."""
    gradient = case.gradient(AdvantageFlow(gamma=gamma, reference_weight=0.0), case.rollout)
    size = case.x0[0].numel()
    expected = 2 * shape(case.advantage * case.t**2) * (case.rollout - case.target) / size
    torch.testing.assert_close(gradient, expected)
    nft = DiffusionNFT(beta=1.0, reference_weight=0.0, adaptive_scale=False)
    torch.testing.assert_close(case.gradient(nft, case.rollout), expected)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_gamma_auto_is_the_least_that_keeps_every_sample_convex_by_a_quarter(beta):
    advantage = torch.linspace(-1, 1, 9, dtype=torch.float64)
    objective = AdvantageFlow(gamma="auto", beta=beta, reference_weight=0.0)
    curvature = objective.curvature(advantage)
    torch.testing.assert_close(curvature[advantage <= 0], torch.full((5,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(objective.rollout_weight(advantage[4:]), torch.full((5,), 0.25, dtype=torch.float64))
    assert (AdvantageFlow(gamma=0.25, beta=beta).curvature(-torch.ones(1)) < 0) == (beta > 0.25)


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.37])
def test_diffusion_nft_without_adaptive_weights_is_advantageflow(case, beta):
    """Oracle 3: A = z and γ = 5β - z, up to a constant: equal gradients everywhere."""
    z = 3 * case.advantage
    nft = case.gradient(DiffusionNFT(beta=beta, reference_weight=0.0, adaptive_scale=False), advantage=z)
    for i in range(BATCH):
        objective = AdvantageFlow(gamma=5 * beta - z[i].item(), reference_weight=0.0)
        torch.testing.assert_close(case.gradient(objective, advantage=z)[i], nft[i])


def test_proposition_3(case):
    """With A = 2r - 1, r‖f+ - x0‖² + (1 - r)‖f- - x0‖² = βA‖f - x0‖² + β(β - A)‖f - f_old‖² + const."""
    beta = 0.6
    r = (case.advantage + 1) / 2

    def contrast(velocity):
        f, f_old = case.x0_of(velocity), case.x0_of(case.rollout)
        plus, minus = (1 - beta) * f_old + beta * f, (1 + beta) * f_old - beta * f
        return r * mean_square(plus - case.x0) + (1 - r) * mean_square(minus - case.x0)

    objective = AdvantageFlow(gamma="1-A", beta=beta, reference_weight=0.0)
    other = torch.randn_like(case.velocity)
    torch.testing.assert_close(
        contrast(case.velocity) - case.loss(objective), contrast(other) - case.loss(objective, other)
    )


def test_one_minus_a_is_flow_awr_s_regression(case):
    """Oracle 4: at λ = 0, the gradient of ‖f - (f_old + A (x0 - f_old))‖²."""
    velocity = case.velocity.detach().clone().requires_grad_()
    f_old = case.x0_of(case.rollout)
    target = f_old + shape(case.advantage) * (case.x0 - f_old)
    (expected,) = torch.autograd.grad(mean_square(case.x0_of(velocity) - target).sum(), velocity)
    torch.testing.assert_close(case.gradient(AdvantageFlow(gamma="1-A", reference_weight=0.0)), expected)


def test_convexity():
    """Oracle 5: γ > 1 is convex for every advantage; the paper's OCR ablation γ = 0.01 at β = 0.1 is not below -0.1."""
    advantage = torch.linspace(-1, 1, 201, dtype=torch.float64)
    assert (AdvantageFlow(gamma=1.1, reference_weight=0.0).curvature(advantage) > 0).all()
    torch.testing.assert_close(
        AdvantageFlow(gamma="1-A", reference_weight=0.0).curvature(advantage), torch.ones_like(advantage)
    )
    torch.testing.assert_close(
        AdvantageFlow(gamma="1-A", beta=0.1, reference_weight=0.0).curvature(advantage),
        torch.full_like(advantage, 0.01),
    )
    flat = AdvantageFlow(gamma=0.01, beta=0.1, reference_weight=0.0).curvature(advantage)
    assert torch.equal(flat < 0, advantage < -0.1 - 1e-12)


def test_at_the_rollout_policy_the_rollout_term_is_exactly_zero(case):
    for gamma in (1.1, "1-A"):
        terms = AdvantageFlow(gamma=gamma).terms(case.seen(case.rollout))
        assert torch.equal(terms["rollout"], torch.zeros(BATCH, dtype=torch.float64))


def test_adaptive_scale_divides_all_terms_and_carries_no_gradient(case):
    plain, scaled = AdvantageFlow(), AdvantageFlow(adaptive_scale=True)
    scale = (case.x0_of(case.velocity) - case.x0).detach().abs().flatten(1).mean(1)
    torch.testing.assert_close(case.loss(scaled), case.loss(plain) / scale)
    torch.testing.assert_close(case.gradient(scaled), case.gradient(plain) / shape(scale))


def test_diffusion_nft_is_its_code(case):
    """The official computation, written out: implicit policies, both adaptive weights, times 5, over β."""
    beta, z = 0.1, 3 * case.advantage
    r = (z.clamp(-5, 5) / 5 / 2 + 0.5).clamp(0, 1)
    policy = 0
    for weight, sign in ((r, 1), (1 - r, -1)):
        implicit = (1 - sign * beta) * case.rollout + sign * beta * case.velocity
        x0 = case.x0_of(implicit)
        w = (x0 - case.x0).abs().mean((1, 2, 3), keepdim=True).clip(min=1e-5).detach()
        policy = policy + weight * ((x0 - case.x0) ** 2 / w).mean((1, 2, 3))
    expected = policy / beta * 5 + 1e-4 * mean_square(case.velocity - case.reference)
    torch.testing.assert_close(case.loss(DiffusionNFT(beta=beta), advantage=z), expected)


def test_diffusion_nft_clips_its_advantage(case):
    z = torch.full((BATCH,), 9.0, dtype=torch.float64)
    torch.testing.assert_close(
        case.loss(DiffusionNFT(), advantage=z), case.loss(DiffusionNFT(), advantage=torch.full_like(z, 5.0))
    )


@pytest.mark.parametrize("objective", [AdvantageFlow(), DiffusionNFT()])
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_precision_of_the_loss(objective, dtype, result):
    case = Case(dtype=dtype)
    assert case.loss(objective).dtype == result


@pytest.mark.parametrize("objective", [AdvantageFlow(reference_weight=1e-3), DiffusionNFT(reference_weight=1e-4)])
def test_the_reference_term_keeps_its_gradient_in_half_precision(objective):
    """The official code loses it: its square and mean are float16 (v - v_ref below 0.25 flushes to zero)."""
    case = Case(dtype=torch.float16)
    velocity = (case.reference + 0.01).detach().requires_grad_()
    terms = objective.terms(case.seen(velocity))
    (gradient,) = torch.autograd.grad(65536 * terms["reference"].mean(), velocity)
    assert (gradient != 0).all()


def test_every_forward_method_has_a_loss_of_plain_tensors(case):
    for method in (method for method in all_methods() if method.family == "forward"):
        loss = case.loss(method())
        assert loss.shape == (BATCH,)
        (gradient,) = torch.autograd.grad(loss.sum(), case.velocity)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@pytest.mark.parametrize("objective", [AdvantageFlow(), DiffusionNFT()])
def test_only_the_learner_gets_a_gradient(objective):
    case = Case()
    case.rollout.requires_grad_()
    case.reference.requires_grad_()
    case.loss(objective).sum().backward()
    assert case.velocity.grad is not None
    assert case.rollout.grad is None
    assert case.reference.grad is None


def test_a_wrong_gamma_is_named():
    with pytest.raises(ValueError, match=r"gamma is '1\+A'; use a number, \"1-A\" or \"auto\""):
        AdvantageFlow(gamma="1+A")  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", [AdvantageFlow(), DiffusionNFT()])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": torch.full((BATCH,), 500.0)}, "t goes from 500 to 500; it must lie in"),
        ({"t": torch.full((BATCH,), -0.1)}, "must lie in"),
        ({"t": torch.full((BATCH,), torch.nan)}, "must lie in"),
        ({"t": torch.rand(BATCH, 1)}, r"t has the shape \[7, 1\]"),
        ({"advantage": torch.zeros(BATCH, 1)}, r"advantage has the shape \[7, 1\]"),
        ({"advantage": torch.zeros(3)}, r"advantage has the shape \[3\]"),
        ({"x0": torch.zeros(1, 4, 3, 3)}, r"x0 has the shape \[1, 4, 3, 3\], but velocity has \[7, 4, 3, 3\]"),
        ({"x_t": torch.zeros(BATCH, 4, 3, 1)}, "x_t has the shape"),
    ],
)
def test_a_call_whose_times_or_shapes_cannot_be_meant_is_refused(case, objective, changes, message):
    given = {"x0": case.x0, "x_t": case.x_t, "t": case.t, "advantage": case.advantage, **changes}
    with pytest.raises(ValueError, match=message):
        objective.loss(case.velocity, case.rollout, case.reference, **given)


def test_the_ends_of_the_path_are_times_too(case):
    for t in (torch.zeros(BATCH), torch.ones(BATCH), torch.tensor(0.5)):
        loss = AdvantageFlow().loss(
            case.velocity, case.rollout, case.reference, x0=case.x0, x_t=case.x_t, t=t, advantage=case.advantage
        )
        assert torch.isfinite(loss).all()
