"""Networks that predict the noise or the image, on another path: formulas see the same f, v and target."""

import pytest
import torch
from test_trainer import make_config, make_trainer, sections_of, weights

from advantageflow import flow
from advantageflow.errors import ConfigError
from advantageflow.models.sd3 import SD3Model
from advantageflow.objectives import find, names

LATEST = 0.98  # where the path is noise alone, the noise does not tell the image


@pytest.fixture(params=["epsilon", "sample"])
def other_network(request, tmp_path, tiny_pipeline_folder):
    """(settings) -> a trainer whose network predicts that on the cosine path, and the trainer's network itself."""

    def build(**sections):
        trainer = make_trainer(make_config(**sections), tmp_path / "run", tiny_pipeline_folder)
        model, grid = trainer.model, trainer.model.sigmas
        model.predicts, model.path = request.param, flow.COSINE
        model.sigmas = lambda steps: grid(steps).clamp(max=LATEST)
        return trainer

    return build


def test_the_image_of_a_velocity_is_that_of_the_network(other_network):
    """f = x̂0 for a network that predicts the image, and (x_t - σ ε̂) / α for one that predicts the noise."""
    model = other_network().model
    x_t, t = torch.randn(3, *model.latent_shape), torch.tensor([0.2, 0.5, 0.9])
    conditioning = model.encode(["a circle"] * 3)
    with torch.no_grad():
        velocity = model.velocity(model.transformer, x_t, t, conditioning)
        predicted = model.predict(model.transformer, x_t, t * 1000, conditioning)
    angle = (torch.pi / 2 * t).reshape(3, 1, 1, 1)
    closed = predicted if model.predicts == "sample" else (x_t - angle.sin() * predicted) / angle.cos()
    torch.testing.assert_close(model.path.predict_x0(x_t, velocity, t), closed, atol=1e-5, rtol=1e-5)


def test_it_trains_and_its_terms_are_the_closed_form(other_network, monkeypatch):
    """In x0 space the loss is one function for every kind of network: here by α, σ and what the network said."""
    trainer = other_network(objective={"name": "advantageflow", "gamma": 1.1}, policy={"rollout_decay": 0.5})
    seen, terms = [], type(trainer.method).terms
    monkeypatch.setattr(type(trainer.method), "terms", lambda self, record: seen.append(record) or terms(self, record))
    start = weights(trainer)
    trainer.iterate()
    trainer.iterate()
    assert not torch.equal(weights(trainer), start)
    record = seen[-1]
    angle = (torch.pi / 2 * record.t).reshape(-1, 1, 1, 1).float()
    torch.testing.assert_close(record.x_t, angle.cos() * record.x0 + angle.sin() * record.noise)
    slope = torch.pi / 2
    for f, v in ((record.f, record.v), (record.f_old, record.v_old), (record.f_ref, record.v_ref)):
        torch.testing.assert_close(f, angle.cos() * record.x_t - angle.sin() * v / slope, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(record.target, slope * (angle.cos() * record.noise - angle.sin() * record.x0))
    found = terms(trainer.method, record)

    def distance(f, other):
        return (f - other).square().mean((1, 2, 3))

    torch.testing.assert_close(found["data"], record.advantage * distance(record.f, record.x0))
    torch.testing.assert_close(found["rollout"], 1.1 * distance(record.f, record.f_old))
    torch.testing.assert_close(found["reference"], 1e-3 * distance(record.f, record.f_ref))
    assert distance(record.f, record.f_old).max() > 0


@pytest.mark.parametrize("objective", ["draft", "draft-lv", "refl"])
def test_gradient_methods_follow_the_path(objective, other_network):
    trainer = other_network(objective={"name": objective})
    start = weights(trainer)
    trainer.iterate()
    assert not torch.equal(weights(trainer), start)


def test_a_sampler_s_transitions_are_those_of_the_straight_path_alone(tmp_path, tiny_pipeline_folder, monkeypatch):
    """Which is said before a run begins."""
    monkeypatch.setattr(SD3Model, "path", flow.COSINE)
    for objective in ("flow-grpo", "drtune"):
        config = make_config(**sections_of(objective))
        with pytest.raises(ConfigError, match=f"objective '{objective}' has steps of the straight path"):
            make_trainer(config, tmp_path / objective, tiny_pipeline_folder)
    refused = {name for name in names() if find(name).straight}
    assert {name for name in names() if find(name).family == "reverse"} < refused
    assert not {name for name in names() if find(name).family == "forward"} & refused


@pytest.mark.parametrize("solver", ["dpm2", "heun"])
def test_every_ode_solver_follows_the_path(solver, other_network):
    trainer = other_network(rollout={"solver": solver})
    start = weights(trainer)
    trainer.iterate()
    assert not torch.equal(weights(trainer), start)
