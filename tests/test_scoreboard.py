import io
import json
import math

import pytest
import torch
from rich.console import Console
from scipy import stats

from advantageflow.config import ConfigError
from advantageflow.prompts import load_prompts
from advantageflow.rewards import load_reward
from advantageflow.statistics import mean_interval
from advantageflow.studies.scoreboard import as_json, difference, open_folder, score_images, summarize, table
from advantageflow.tables import folded_table

REWARDS = {"brightness": lambda images, prompts: images.mean((1, 2, 3)), "graded": load_reward("scenes_graded")}


def rows_of(*values, tasks="ab"):
    return [{"index": i, "prompt": "", "task": tasks[i % 2], "scores": {"x": v}} for i, v in enumerate(values)]


def test_a_mean_has_its_confidence_interval():
    values = [0.1, 0.5, 0.2, 0.9]
    mean = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (mean.value - mean.half_width, mean.value + mean.half_width) == pytest.approx((low, high), rel=1e-4)
    assert math.isnan(mean_interval([0.7]).half_width)
    assert mean_interval([0.7]).plain() == {"value": 0.7, "low": None, "high": None}
    assert mean_interval([0.7]).plus_minus() == "0.700"  # one image has no spread


def test_tasks_count_equally_in_their_mean():
    table = summarize(rows_of(1.0, 0.0, 1.0, 0.0, 1.0))["x"]
    assert table["all"].value == pytest.approx(0.6)
    assert table["tasks"].value == pytest.approx(0.5)
    assert (table["a"].value, table["b"].value) == (1.0, 0.0)


def test_paired_differences_are_sharper_than_unpaired_means():
    first, second = rows_of(0.1, 0.9, 0.3, 0.7), rows_of(0.2, 1.0, 0.4, 0.8)
    change = difference(second, first, "x")
    assert change.value == pytest.approx(0.1)
    assert change.half_width == pytest.approx(0, abs=1e-9)
    assert summarize(first)["x"]["all"].half_width > 0.1


def test_images_do_not_depend_on_where_an_evaluation_was_cut(tiny_model, tmp_path):
    prompts, options = load_prompts("scenes:held_out"), {"num_images": 70, "num_inference_steps": 2}
    whole = score_images(tiny_model, tiny_model.transformer, prompts, REWARDS, **options)
    file = tmp_path / "scores.jsonl"
    score_images(tiny_model, tiny_model.transformer, prompts, REWARDS, num_images=9, num_inference_steps=2, file=file)
    parts = score_images(tiny_model, tiny_model.transformer, prompts, REWARDS, file=file, **options)
    assert [row["prompt"] for row in parts] == [row["prompt"] for row in whole]
    values = [torch.tensor([row["scores"]["brightness"] for row in rows]) for rows in (parts, whole)]
    torch.testing.assert_close(*values, atol=1e-5, rtol=0)


def test_a_folder_belongs_to_its_settings(tmp_path):
    open_folder(tmp_path / "out", {"steps": 10})
    open_folder(tmp_path / "out", {"steps": 10})
    with pytest.raises(ConfigError, match=r"holds an evaluation with other settings \(steps was 10 and is 40\)"):
        open_folder(tmp_path / "out", {"steps": 40})


def test_a_table_of_many_models_is_whole_in_eighty_columns():
    names = [f"stabilityai/stable-diffusion-3.5-medium, guidance {scale}" for scale in (1, 2, 4.5)]
    columns = {name: rows_of(0.0, 1.0, 0.0, 0.0) for name in names}
    printed = io.StringIO()
    Console(file=printed, width=80).print(folded_table(*table(columns), title="4 images"))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in printed.getvalue()
    letters = "".join(printed.getvalue().split())
    assert all(letters.count(character) >= 3 for character in "[]")
    assert json.loads(json.dumps(as_json(columns), allow_nan=False))[names[0]]["x"]["all"]["low"] > 0
