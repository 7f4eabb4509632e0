"""A run against its base model: the same held-out images, image by image, also after it was stopped."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from test_runs import command
from test_trainer import brightness, make_config, make_trainer, stop_after

from advantageflow.config import dump_config
from advantageflow.reports.run_page import write_report
from advantageflow.run.directory import RunDirectory
from advantageflow.run.stored import DamagedError
from advantageflow.statistics import paired_difference

SETTINGS = {"run": {"iterations": 4, "checkpoint_every": 1}, "evaluation": {"every": 1, "num_images": 6}}


def stopped(folder, model_folder, after):
    """A run that was stopped after so many iterations."""
    trainer = make_trainer(make_config(**SETTINGS), folder, model_folder)

    def stop(images, prompts):
        trainer.world.stopping = trainer.iteration == after
        return brightness(images, prompts)

    trainer.scorer.rewards = {"scenes_graded": stop}
    assert trainer.run() is None
    return trainer.directory


def test_the_difference_is_the_paired_one_with_its_interval():
    base, scores = [0.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.25, 0.5]
    found = paired_difference(scores, base).plain()
    spread = stats.ttest_1samp(np.subtract(scores, base), 0.0).confidence_interval(0.95)
    assert found == pytest.approx({"value": 0.3125, "low": spread.low, "high": spread.high})
    assert paired_difference([0.75], [0.5]).plain() == {"value": 0.25, "low": None, "high": None}


def test_every_evaluation_is_said_written_and_drawn(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(make_config(**SETTINGS), tmp_path / "run", tiny_pipeline_folder)
    said, drawn = [], []
    trainer.display.evaluated = lambda *what: said.append(what)
    evaluate, kept = trainer.held_out.evaluate, []

    def keeping(role):
        drawn.append(trainer.directory.curve.exists())
        kept.append(evaluate(role))
        return kept[-1]

    trainer.held_out.evaluate = keeping
    summary = trainer.run()
    base, *others = kept
    assert json.loads((tmp_path / "run" / "base_scores.json").read_text()) == {
        label: values.tolist() for label, values in base.by_image.items()
    }
    expected = [
        {
            label: paired_difference(values.tolist(), base.by_image[label].tolist()).plain()
            for label, values in found.by_image.items()
        }
        for found in others
    ]
    assert said == [(0, base.scores, None), *((i + 1, *pair) for i, pair in enumerate(
        zip([found.scores for found in others], expected, strict=True)))]  # fmt: skip
    assert [row.get("difference") for row in trainer.directory.metrics()] == [*expected[:-1], None]
    assert summary["difference"] == expected[-1]
    assert drawn == [False, False, True, True, True]  # of the base and of iteration 1, then of each; once each


def test_a_resumed_run_has_the_differences_of_an_undisturbed_one(tmp_path, tiny_pipeline_folder):
    whole = make_trainer(make_config(**SETTINGS), tmp_path / "whole", tiny_pipeline_folder)
    expected = whole.run()["difference"]
    directory = stopped(tmp_path / "run", tiny_pipeline_folder, 2)
    assert directory.curve.is_file()
    again = make_trainer(make_config(**SETTINGS), tmp_path / "run", tiny_pipeline_folder)
    evaluated = []
    evaluate = again.held_out.evaluate
    again.held_out.evaluate = lambda role: evaluated.append(role) or evaluate(role)
    assert again.run()["difference"] == expected
    assert evaluated
    assert "reference" not in evaluated
    rows = [[row.get("difference") for row in run.metrics()] for run in (whole.directory, directory)]
    assert rows[0] == rows[1]


def test_runs_of_early_versions_have_the_base_evaluated_again(tmp_path, tiny_pipeline_folder):
    directory = stopped(tmp_path / "run", tiny_pipeline_folder, 1)
    file = tmp_path / "run" / "base_scores.json"
    then = file.read_bytes()
    file.unlink()
    make_trainer(make_config(**SETTINGS), tmp_path / "run", tiny_pipeline_folder).run()
    assert file.read_bytes() == then
    assert "difference" in directory.metrics()[1]


@pytest.mark.parametrize("text", ['{"strict": [0.0]}', '{"strict": 3, "graded": 3}', "[]", "{"])
def test_damaged_scores_of_the_base_are_named(text, tmp_path, tiny_pipeline_folder):
    stopped(tmp_path / "run", tiny_pipeline_folder, 1)
    (tmp_path / "run" / "base_scores.json").write_text(text)
    with pytest.raises(DamagedError, match=r"base_scores\.json"):
        make_trainer(make_config(**SETTINGS), tmp_path / "run", tiny_pipeline_folder).run()


def test_another_evaluation_makes_the_scores_of_the_base_anew(tmp_path, tiny_pipeline_folder):
    prompts = {"train": "scenes:train", "held_out": "scenes:held_out"}
    config = make_config(model={"path": str(tiny_pipeline_folder)}, prompts=prompts, run={"iterations": 1})
    (tmp_path / "recipe.yaml").write_text(dump_config(config))
    assert command("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run")[0] == 0
    changes = [
        "run.iterations=3",
        "evaluation.every=2",
        "evaluation.num_images=4",
        "evaluation.rewards={a: scenes_strict}",
    ]
    code, text = command("train", "--resume", tmp_path / "run", *changes)
    assert code == 0, text
    assert {name: len(values) for name, values in json.loads(
        (tmp_path / "run" / "base_scores.json").read_text()).items()} == {"a": 4}  # fmt: skip
    directory = RunDirectory(tmp_path / "run")
    assert list(directory.metrics()[1]["difference"]) == ["a"]
    assert list(directory.summary()["difference"]) == ["a"]
    assert text.index("the base model is evaluated again") < text.index("base model: a ")


def test_no_iteration_waits_for_the_base_and_a_run_killed_before_it_was_evaluated_does_it_then(
    tmp_path, tiny_pipeline_folder
):
    settings = {**SETTINGS, "evaluation": {"every": 3, "num_images": 6, "prompts_shown": 2}}
    whole = make_trainer(make_config(**settings), tmp_path / "whole", tiny_pipeline_folder)
    summary = whole.run()
    trainer = make_trainer(make_config(**settings), tmp_path / "run", tiny_pipeline_folder)
    stop_after(2, trainer)
    assert trainer.run() is None
    assert trainer.directory.before() is None
    assert not trainer.directory.base_scores.exists()
    assert trainer.seconds["evaluating"] == 0
    again = make_trainer(make_config(**settings), tmp_path / "run", tiny_pipeline_folder)
    stop_after(3, again)
    assert again.run() is None
    assert again.directory.before() == summary["before"]
    last = make_trainer(make_config(**settings), tmp_path / "run", tiny_pipeline_folder).run()
    for key in ("before", "after", "difference"):
        assert last[key] == summary[key]
    for name in ("base_scores.json", "samples/000000.json", "samples/000004.json", "samples/before_after.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pictures_that_are_drawn_alone_are_those_that_were_evaluated_to_the_bit(tmp_path, tiny_pipeline_folder):
    alone, together = (
        make_trainer(make_config(**SETTINGS), tmp_path / name, tiny_pipeline_folder).held_out for name in "ab"
    )
    scores = together.evaluate("average").by_image
    drawn, found = alone.pictures("average"), together.pictures("average")
    assert torch.equal(found.images, drawn.images)
    assert found.prompts == drawn.prompts
    assert all(torch.equal(scores[label][:3], values) for label, values in drawn.by_image.items())
    assert [len(values) for values in scores.values()] == [6, 6]


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_page_before_the_first_evaluation(iterations, tmp_path, tiny_pipeline_folder):
    settings = {**SETTINGS, "evaluation": {"every": 0, "num_images": 6}}
    trainer = make_trainer(make_config(**settings), tmp_path / "run", tiny_pipeline_folder)
    stop_after(iterations, trainer)
    assert trainer.run() is None
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "was not evaluated on held-out prompts yet" in page
    assert "held-out strict" in page
