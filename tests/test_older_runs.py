"""Runs of earlier versions: what they lack is the default, what was renamed is known, and they go on as they were."""

import json
import shutil

import pytest
import torch
import yaml
from test_resuming import add_row
from test_trainer import make_config, make_trainer, stop_after

from advantageflow.config import ConfigError
from advantageflow.run.changes import as_read, changed, flat
from advantageflow.run.checkpoint import load_state, save_state
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import place
from advantageflow.studies.comparison_settings import settle

NOT_YET = ("advantage.temperature", "policy.rollout_every", "run.probe_every")  # keys of later versions


def as_of_old(flat_settings):
    return {**{key: value for key, value in flat_settings.items() if key not in NOT_YET}, "objective.name": "nft"}


def age(run, iteration):
    """Make of a run's folder what an earlier version would have written."""
    file = run.path / "config.yaml"
    written = yaml.safe_load(file.read_text())
    for key in NOT_YET:
        section, _, name = key.partition(".")
        del written[section][name]
    written["objective"]["name"] = "nft"
    file.write_text(yaml.safe_dump(written, sort_keys=False))
    folder = place(run.checkpoints, iteration)
    tensors, record = load_state(folder)
    record["settings"] = as_of_old(record["settings"])
    shutil.rmtree(folder)
    save_state(folder, tensors, record)


@pytest.fixture
def config():
    return make_config(objective={"name": "nft"}, run={"iterations": 3})


def test_an_old_run_goes_on_to_the_bit_and_nothing_is_said_to_have_changed(config, tmp_path, tiny_pipeline_folder):
    whole = make_trainer(config, tmp_path / "whole", tiny_pipeline_folder)
    whole.run()
    first = make_trainer(config, tmp_path / "old", tiny_pipeline_folder)
    stop_after(2, first)
    assert first.run() is None
    age(first.directory, 2)

    run, read = RunDirectory.open(tmp_path / "old")
    assert read.objective == config.objective
    assert (read.advantage.temperature, read.policy.rollout_every, read.run.probe_every) == (1.0, 1, 10)
    second, told = make_trainer(read, run.path, tiny_pipeline_folder), []
    second.keeper.say = second.display.warn = told.append
    second.run()
    assert told == []
    assert run.changes() == []
    expected, found = whole.policy.state(), second.policy.state()
    assert all(torch.equal(found[role][name], weight) for role in expected for name, weight in expected[role].items())


def test_a_change_by_a_method_s_other_name_is_none(config):
    for name in ("nft", "diffusion-nft"):
        assert flat(changed(config, [f"objective={name}"])) == flat(config)


def test_a_record_is_read_as_a_recipe_would_be(config):
    now = flat(config)
    assert as_read(as_of_old(now), now) == now
    assert as_read({}, now) == {}
    assert as_read({**now, "objective.name": "flow-grpo"}, now)["objective.name"] == "flow-grpo"
    before_targets = {key: value for key, value in now.items() if key != "policy.lora_targets"}
    assert as_read(before_targets, now)["policy.lora_targets"] == "all_attention"


def test_an_old_comparison_goes_on_and_a_changed_recipe_does_not(config, tmp_path):
    arms, asked = {"nft": config}, {"seeds": 1}
    settle(tmp_path, arms, asked)
    file = tmp_path / "comparison-settings.json"
    kept = json.loads(file.read_text())
    kept["settings"]["nft"] = as_of_old(kept["settings"]["nft"])
    file.write_text(json.dumps(kept))
    assert settle(tmp_path, arms, asked) == []
    file.write_text(json.dumps(kept))
    other = make_config(objective={"name": "nft"}, run={"iterations": 3}, policy={"rollout_every": 3})
    with pytest.raises(ConfigError, match=r"policy\.rollout_every was 1 and is 3"):
        settle(tmp_path, {"nft": other}, asked)


def test_a_term_that_a_later_version_no_longer_computes_may_be_absent_from_later_rows(config, tmp_path):
    """With γ = 0 a rollout term was written as 0; by now nobody computes it."""
    run = RunDirectory.create(tmp_path / "run", config)
    add_row(run, 0)
    (first,) = run.metrics()
    run.metrics_file.write_text(json.dumps({**first, "loss/rollout": 0.0}) + "\n")
    add_row(run, 1)
    assert [row.get("loss/rollout") for row in run.metrics()] == [0.0, None]
