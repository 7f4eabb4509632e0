"""`rollout.drafts`: many cheap drafts, of which each prompt's best and worst are drawn in full."""

import pytest
import torch
from test_trainer import brightness, make_config, make_trainer

from advantageflow.config import ConfigError, load_config
from advantageflow.drafts import extremes, rank_agreement
from advantageflow.plan import make_plan
from advantageflow.seeding import Stream, noise

DRAFTS = {"drafts": 3, "drafting_steps": 2, "prompts_per_iteration": 2}


def test_the_best_and_the_worst_of_each_group_are_kept():
    scores = torch.tensor([[3.0, 1.0, 5.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert extremes(scores, 2).tolist() == [[1, 2], [3, 4]]
    assert extremes(scores, 3).tolist() == [[1, 2, 4], [0, 3, 4]]
    assert extremes(scores, 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_agreement_is_of_ranks_within_the_groups():
    drafts = torch.tensor([[0.0, 1.0, 3.0], [10.0, 11.0, 13.0]])
    assert rank_agreement(drafts, torch.exp(drafts)) == pytest.approx(1)
    assert rank_agreement(drafts, 100 - drafts) == pytest.approx(-1)
    assert rank_agreement(drafts, torch.tensor([[5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])) is None  # of the groups alone


def test_an_image_starts_from_the_noise_of_its_draft(tmp_path, tiny_pipeline_folder, monkeypatch):
    trainer = make_trainer(make_config(rollout=DRAFTS), tmp_path / "run", tiny_pipeline_folder)
    starts, velocity = [], trainer.model.velocity

    def seen(transformer, x_t, t, *given, **named):
        if float(t) == 1:
            starts.extend(x_t.clone())
        return velocity(transformer, x_t, t, *given, **named)

    monkeypatch.setattr(trainer.model, "velocity", seen)
    prompts, rollout = trainer.source.draw(0)
    drafts, images = torch.stack(starts[:24]), torch.stack(starts[24:])
    assert torch.equal(drafts, noise(trainer.model.latent_shape, Stream.ROLLOUT, (0, 0, 0), [*range(24)]))
    scores = trainer.source.scores()["scenes_graded"]
    assert len(prompts) == len(rollout.x0) == len(images) == len(scores) == 8
    places = [next(i for i, draft in enumerate(drafts) if torch.equal(draft, image)) for image in images]
    assert places == sorted(places)
    assert [place // 12 for place in places] == [0] * 4 + [1] * 4  # of the same prompt


def test_a_run_with_drafts_trains_and_tells_whether_they_agree(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(make_config(rollout=DRAFTS), tmp_path / "run", tiny_pipeline_folder)
    trainer.run()
    rows = trainer.directory.metrics()
    assert all(-1 <= row["drafts/rank_agreement"] <= 1 for row in rows)
    assert all(row["diversity"] > 0 for row in rows)


def test_a_plan_counts_drafts(tmp_path, tiny_pipeline_folder):
    config = make_config(rollout=DRAFTS)
    trainer, calls = make_trainer(config, tmp_path / "run", tiny_pipeline_folder), []
    trainer.model.transformer.register_forward_pre_hook(
        lambda module, given, named: calls.append(len(given[0] if given else named["hidden_states"])), with_kwargs=True
    )
    trainer.source.draw(0)
    assert sum(calls) == make_plan(config).sampling_calls == 8 * 4 + 24 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rollout.drafting_steps=10"], "drafting_steps is 10, no fewer"),
        (["rollout.ahead=1"], "draws before scores are known"),
    ],
)
def test_drafts_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config("scenes-drafts", changes)
    with pytest.raises(ConfigError, match="more than clean images"):
        load_config("scenes-flow-grpo", ["rollout.drafts=4"])


def test_brightness_is_what_the_extremes_differ_in(tmp_path, tiny_pipeline_folder):
    """A group of extremes is wider than a group of images drawn at random."""
    spread = {}
    for drafts in (1, 6):
        config = make_config(rollout={**DRAFTS, "drafts": drafts}, run={"iterations": 1})
        trainer = make_trainer(config, tmp_path / str(drafts), tiny_pipeline_folder, {"scenes_graded": brightness})
        spread[drafts] = trainer.iterate()["reward/std"]
    assert spread[6] > spread[1]
