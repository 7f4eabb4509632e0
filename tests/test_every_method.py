"""What holds for every method: it runs in the loop, calls whom it says, and learns the same in batches of any size."""

from types import SimpleNamespace

import pytest
import torch
from test_calls import counting, followers, parted
from test_trainer import weights

from advantageflow.bench.calls import needed, recorded
from advantageflow.bench.iteration import varied
from advantageflow.objectives import names
from advantageflow.plan import make_plan

SIZES = (5, 64)


@pytest.fixture(scope="module", params=names())
def ran(request, tmp_path_factory, tiny_pipeline_folder):
    """Two iterations of a method: in the first calls are counted, in the second it learns in batches of two sizes."""
    trainer = parted(request.param, tmp_path_factory.mktemp("every") / "run", tiny_pipeline_folder)
    plan, start, write = make_plan(trainer.config), weights(trainer), trainer.directory.append_metrics
    counted = counting(trainer)
    with recorded(trainer) as noted:
        write(trainer.iterate())
    counted, moved = dict(counted), not torch.equal(weights(trainer), start)
    with pytest.MonkeyPatch.context() as patch:
        gradients = learning_twice(trainer, patch)
        write(trainer.iterate())
    rows = trainer.directory.metrics()
    return SimpleNamespace(
        trainer=trainer, plan=plan, moved=moved, counted=counted, noted=noted, gradients=gradients, rows=rows
    )


def learning_twice(trainer, patch):
    """Have the next iteration learn twice from the same images with the same weights; the gradient of each time."""
    learner, gradients = trainer.learner, []
    learn, step = learner.learn, learner.optimizer_step

    def twice(scored):
        for size in SIZES:
            learner.config = varied(trainer.config, f"learn.batch_size={size}")
            learner.optimizer_step = step
            row = learn(scored)
            gradients.append(torch.cat([p.grad.flatten() for p in trainer.policy.parameters if p.grad is not None]))
        return row

    learner.config = varied(trainer.config, "run.probe_every=1")
    patch.setattr("advantageflow.learner.rate", lambda *_: 0.0)
    patch.setattr(learner, "learn", twice)
    return gradients


def test_every_method_runs_in_the_same_loop(ran):
    assert ran.moved
    rows = ran.rows
    assert [row["iteration"] for row in rows] == [0, 1]
    assert {"reward/mean", "reward/std", "reward/best", "zero_variance_groups", "grad_norm", "loss"} <= set(rows[0])
    assert {"distance/to_rollout", "distance/to_reference", "seconds/sampling", "seconds/learning"} <= set(rows[0])
    terms = [name for name in rows[0] if name.startswith("loss/") and name.count("/") == 1 and "advantage" not in name]
    assert terms
    seen = ran.trainer.method.sees if ran.trainer.method.family != "gradient" else ()
    assert (rows[0]["distance/to_rollout"] is None) == ("rollout" not in seen)
    assert (rows[0]["distance/to_reference"] is None) == ("reference" not in seen)
    for name in ("loss", *terms):
        for sign in ("positive", "negative"):
            assert f"{name}/{sign}_advantage" in rows[0]
    total = sum(rows[1][name] for name in terms)
    assert total == pytest.approx(rows[1]["loss"], rel=1e-9)
    probed = [rows[1][f"grad_norm/{sign}_advantage"] for sign in ("positive", "negative")]
    assert max(norm or 0 for norm in probed) > 0


def test_a_plan_counts_the_calls_of_every_method(ran):
    plan, rows, config = ran.plan, ran.counted, ran.trainer.config
    learning = {role: count for (stage, role), count in rows.items() if stage == "learning"}
    assert {*learning} == {"learner", *config.objective.sees - followers(config)}
    assert rows["sampling", "rollout"] == plan.sampling_calls
    assert learning["learner"] == plan.gradient_calls
    assert sum(learning.values()) == plan.learning_calls
    assert sum(rows.values()) == plan.sampling_calls + plan.learning_calls
    assert ran.noted.by_role() == needed(config, 0)


def test_the_batch_size_does_not_change_the_gradient(ran):
    """Micro-batches of 5 and of 64 give the same step, up to rounding in float32."""
    small, large = ran.gradients
    scale = large.abs().max()
    torch.testing.assert_close(small / scale, large / scale, atol=1e-5, rtol=0)
