"""Comparisons: what is run, that it survives being killed, and what is said of known runs."""

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from scipy import stats
from test_children import alive, wait_for
from test_cli import SMALL, command, run

from advantageflow.config import ConfigError, load_config
from advantageflow.reports.colors import color_of
from advantageflow.reports.comparison import has_ratios, table
from advantageflow.reports.comparison_folder import write_all
from advantageflow.reports.comparison_page import comparison_sentences, write_comparison
from advantageflow.studies.compare import (
    Arm,
    Run,
    analyse,
    collapsed,
    parse_arms,
    parse_budget,
    plan_runs,
)


def test_arms_are_all_combinations():
    arms = parse_arms(["objective=advantageflow-1.1,advantageflow-1-A,nft,flow-grpo", "learn.t_draws=1,4"], "scenes")
    assert len(arms) == 8
    assert arms[0] == Arm(
        "advantageflow-1.1, 1", "scenes", ("objective=advantageflow", "objective.gamma=1.1", "learn.t_draws=1")
    )
    assert arms[2].changes[1] == "objective.gamma=1-A"
    for arm in arms:
        load_config("scenes", list(arm.changes))
    for wrong in ("objective", "objective=nft,", "objective=nft,nft"):
        with pytest.raises(ConfigError, match="--vary"):
            parse_arms([wrong], "scenes")


def test_arms_may_be_recipes():
    """So that each method comes with the settings that suit it; a budget in images means the same for all."""
    arms = parse_arms(["recipe=scenes,scenes-flow-grpo", "learn.t_draws=2,4"], "scenes-nft")
    assert arms[3] == Arm("scenes-flow-grpo, 4", "scenes-flow-grpo", ("learn.t_draws=4",))
    assert parse_arms(["learn.t_draws=2"], "scenes-nft")[0].recipe == "scenes-nft"


def test_a_budget_in_images_fits_each_recipe(tmp_path):
    runs = plan_runs(parse_arms(["recipe=paper/multi,paper/large"], "scenes"), 1, "1536images", [], tmp_path)
    assert [run.changes for run in runs] == [("run.iterations=8",), ("run.iterations=2",)]


def test_budgets():
    config = load_config("scenes")
    assert parse_budget("10m", config) == ("run.max_seconds=600", "run.iterations=1000000")
    assert parse_budget("60iterations", config) == ("run.iterations=60",)
    assert parse_budget("5000images", config) == ("run.iterations=26",)
    with pytest.raises(ConfigError, match="cannot read --budget 'ten minutes'"):
        parse_budget("ten minutes", config)


def write_run(folder, label, seed, scores, seconds_per_iteration=1.0, diverged=False, diversity=lambda i: 1.0):
    """A run as training leaves it: held-out scores, evaluated at every iteration but the last."""
    here = Run(Arm(label, "scenes"), seed, folder / f"{label}-{seed}")
    here.folder.mkdir(parents=True)
    (here.folder / "config.yaml").write_text(
        "rollout: {prompts_per_iteration: 2, images_per_prompt: 5}\nlearn: {optimizer_steps: 1}\n"
    )
    rows = []
    for i, score in enumerate(scores[1:]):
        row = {
            "iteration": i, "seconds/training": (i + 1) * seconds_per_iteration, "reward/mean": score,
            "grad_norm": 0.5, "grad_norm/negative_advantage": 0.4, "distance/to_reference": 0.01,
            "loss/positive_advantage": 0.1, "loss/negative_advantage": -0.3, "diversity": diversity(i),
            "seconds/sampling": 0.4, "seconds/scoring": 0.1, "seconds/learning": 0.5,
        }  # fmt: skip
        if i < len(scores) - 2:
            row["evaluation"] = {"strict": score, "tasks": {"a": score, "b": score}}
        rows.append(row)
    (here.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if diverged:
        here.beside(".diverged").touch()
        return here
    ends = {"before": scores[0], "after": scores[-1]}
    summary = {name: {"strict": score, "tasks": {"a": score, "b": score}} for name, score in ends.items()}
    (here.folder / "summary.json").write_text(json.dumps(summary))
    return here


@pytest.fixture
def known(tmp_path):
    runs = []
    for seed, shift in enumerate((0.0, 0.02, -0.02)):
        slow = [0.2 + 0.05 * i + shift for i in range(9)]
        runs.append(write_run(tmp_path, "slow", seed, slow))
        runs.append(write_run(tmp_path, "fast", seed, [0.2 + 0.1 * i + shift for i in range(8)] + [0.9 + 2 * shift]))
        runs.append(write_run(tmp_path, "bad", seed, [0.2, 0.1], diverged=seed == 2))
    return runs


def test_a_curve_starts_at_the_base_model_and_ends_with_the_run(known):
    slow = next(run for run in known if run.arm.label == "slow")
    times, scores = slow.record().curve("strict", "seconds")
    assert times == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert scores == pytest.approx([0.2 + 0.05 * i for i in range(9)])
    assert slow.record().curve("strict", "images")[0][-1] == 80


def test_a_method_twice_as_fast_is_reported_so(known, tmp_path):
    result = analyse([run.record() for run in known], "slow")
    ratio = result["arms"]["fast"]["time_ratio"]["seconds"]
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert result["arms"]["bad"]["time_ratio"]["seconds"]["value"] is None  # never
    assert result["arms"]["bad"]["collapsed"] == [True, True, True]
    assert result["arms"]["bad"]["diverged"] == 1
    assert result["arms"]["slow"]["collapsed"] == [False] * 3
    expected = stats.ttest_rel([0.9, 0.94, 0.86], [0.6, 0.62, 0.58]).pvalue
    assert result["p_values"]["fast"]["strict"] == pytest.approx(2 * expected)  # the smaller of two arms
    assert result["p_values"]["fast"]["a"] == pytest.approx(4 * expected)  # two tasks each
    assert result["arms"]["fast"]["after"]["value"] == pytest.approx(0.9)
    assert result["arms"]["fast"]["stability"]["negative"] == {"loss": 0.3, "grad_norm": 0.4, "distance": None}
    assert result["arms"]["fast"]["stability"]["all"] == {"loss": None, "grad_norm": 0.5, "distance": 0.01}
    text = table(result)
    assert "| fast | 3 | 0.200 | 0.900 [" in text
    assert "| bad | " in text
    assert "3 of 3" in text
    write_all(known, "slow", tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["arms"]["bad"]["seeds"] == [0, 1]
    for name in ("seconds", "images", "steps", "stability"):
        assert (tmp_path / f"{name}.png").is_file()
    assert "<title>" in (tmp_path / "report.html").read_text()[:2000]


def test_a_diverged_run_says_nothing_of_its_neighbours(tmp_path):
    """Labels have dots: AdvantageFlow(1.1) and AdvantageFlow(1.5) are files of their own."""
    write_run(tmp_path, "gamma_1.1", 0, [0.2, 0.1], diverged=True)
    assert not write_run(tmp_path, "gamma_1.5", 0, [0.2, 0.3]).diverged


def test_costs_of_different_machines_are_not_mixed(tmp_path):
    """Seeds of one arm may have been run on a GPU: the scores count, its seconds and bytes do not."""
    runs = [write_run(tmp_path, label, seed, [0.2, 0.5, 0.8]) for label in ("base", "method") for seed in (0, 1)]
    records = [run.record() for run in runs]
    records = [replace(record, peak_memory=8) for record in records]
    fast = {key: [value / 10 for value in values] for key, values in records[3].metrics.items()}
    records[3] = replace(records[3], environment={"gpus": ["a GPU"]}, metrics=fast, peak_memory=99)
    found = analyse(records, "base")["arms"]["method"]
    assert found["seeds"] == [0, 1]
    assert found["cost"]["iteration"] == pytest.approx(1.0)
    assert found["cost"]["peak_memory"] == 8
    assert found["time_ratio"]["seconds"]["value"] == pytest.approx(1.0)
    elsewhere = [records[0], records[1], replace(records[3], seed=0)]
    found = analyse(elsewhere, "base")
    assert found["arms"]["method"]["cost"]["iteration"] is None
    assert found["arms"]["method"]["time_ratio"]["seconds"] is None
    assert found["arms"]["method"]["time_ratio"]["images"]["value"] == pytest.approx(1.0)
    reached, spent, *_ = [line for line in table(found).splitlines() if line.startswith("| method")]
    assert reached.endswith("| 1.00 | — |")
    assert "—" in spent
    assert not any("of the time" in sentence for sentence in comparison_sentences(found))


def test_an_arm_that_never_came_to_its_end_is_left_out_and_named(known, tmp_path):
    lost = [write_run(tmp_path, "lost", seed, [0.2], diverged=True) for seed in (0, 1)]  # in its first iteration
    result = write_all([*known, *lost], "slow", tmp_path)
    assert list(result["arms"]) == ["slow", "fast", "bad"]
    for file in ("comparison.md", "report.html"):
        assert "Left out, since no run of theirs came to its end: lost." in (tmp_path / file).read_text()
    with pytest.raises(ConfigError, match="no run of the baseline lost came to its end; choose another"):
        write_all([*known, *lost], "lost", tmp_path)


def test_a_seed_that_diverged_at_once_hides_no_other(known, tmp_path):
    result = analyse([run.record() for run in [*known, write_run(tmp_path, "fast", 3, [0.2], diverged=True)]], "slow")
    assert result["arms"]["fast"]["collapsed"] == [False, False, False, True]
    assert result["arms"]["fast"]["diverged"] == 1


def test_the_rule_of_collapse(known):
    assert {run.arm.label for run in known if collapsed(run.record(), "strict")} == {"bad"}


@pytest.mark.parametrize(("kept", "alike"), [(0.35, False), (0.3, True)])
def test_a_reward_bought_with_variety_is_a_collapse(kept, alike, tmp_path):
    bought = write_run(tmp_path, "bought", 0, [0.2, 0.5, 0.9], diversity=lambda i: 0.6 * kept**i)
    assert collapsed(bought.record(), "strict") is alike


def test_a_folder_belongs_to_one_comparison(tmp_path):
    arms = parse_arms(["objective=advantageflow,nft"], "scenes")
    runs = plan_runs(arms, 2, "10iterations", [], tmp_path)
    assert [(run.arm.label, run.seed) for run in runs] == [
        ("advantageflow", 0), ("nft", 0), ("advantageflow", 1), ("nft", 1),
    ]  # fmt: skip
    plan_runs(arms, 5, "10iterations", [], tmp_path)  # more seeds may be added
    with pytest.raises(ConfigError, match="holds another comparison"):
        plan_runs(arms, 2, "20iterations", [], tmp_path)


def test_a_recipe_or_file_that_was_edited_is_refused(tmp_path):
    recipe, prompts = tmp_path / "mine.yaml", tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    recipe.write_text(f"extends: scenes\nprompts: {{train: {prompts}, held_out: 0.5}}\n")
    arms = parse_arms(["learn.t_draws=1,2"], str(recipe))

    def plan():
        return plan_runs(arms, 1, "10iterations", [], tmp_path / "out", say=said.append)

    said = []
    plan()
    kept = recipe.read_text()
    recipe.write_text(kept + "learn: {learning_rate: 0.5}\n")
    with pytest.raises(ConfigError, match=r"recipe of '1' has changed .* learn.learning_rate was 0.002 and is 0.5"):
        plan()
    recipe.write_text(kept + "# only a comment\n")
    plan()
    prompts.write_text("a red circle\na blue triangle\n")
    with pytest.raises(ConfigError, match=r"what the recipes name has changed .*prompts.txt was"):
        plan()
    prompts.write_text("a red circle\na blue square\n")
    file = tmp_path / "out" / "comparison-settings.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "code": {"version": "0.0.1", "commit": None}}))
    assert said == []
    plan()
    assert "version was 0.0.1" in said[0]
    file.write_text(json.dumps({name: settings[name] for name in ("budget", "changes", "arms")}))  # of an early version
    plan()
    assert json.loads(file.read_text()) == settings


@pytest.mark.parametrize(
    ("arms", "extra", "message"),
    [
        (["learn.t_draws=1,2"], ["seed=3"], "a seed of its own"),
        (["seed=1,2"], [], "a seed of its own"),
        (["learn.t_draws=1,2"], ["learn.t_draws=3"], "'learn.t_draws' is given twice"),
        (["learn.t_draws=1,2"], ["run.iterations=3"], "'run.iterations' is given twice"),
        (["name=a/b,a:b"], [], "names the same arm twice"),
    ],
)
def test_nothing_is_said_twice_to_a_comparison(arms, extra, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        plan_runs(parse_arms(arms, "scenes"), 1, "10iterations", extra, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_schedule_needs_a_number_of_iterations(tmp_path):
    arms = parse_arms(["learn.schedule=constant,cosine"], "scenes")
    with pytest.raises(ConfigError, match=r"learn.schedule of 'cosine' falls over the iterations"):
        plan_runs(arms, 1, "10m", [], tmp_path)
    assert len(plan_runs(arms, 1, "10iterations", [], tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "grpo"], "the arms are advantageflow-1.1"),
        (["--budget", "much"], "cannot read --budget 'much'"),
        (["--vary", "objective=nft,ntf"], "objective.name is 'ntf'"),
        (["--vary", "reward=scenes_graded,scenes_garded"], "unknown reward 'scenes_garded'"),
    ],
)
def test_mistakes_stop_before_anything_is_trained(arguments, message, tmp_path):
    result = run("compare", "scenes", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert not list(tmp_path.glob("*/runs"))


def timeless(result):
    """Without what depends on the clock."""
    for found in result["arms"].values():
        del found["cost"], found["curves"]["seconds"], found["time_ratio"]["seconds"]
    return result


def test_a_comparison_that_was_killed_gives_the_same_answer(tmp_path, tiny_pipeline_folder, runs_here):
    """Only what is killed has processes of its own."""
    arguments = [
        "scenes", f"model.path={tiny_pipeline_folder}", *SMALL, "evaluation.every=1",
        "--vary", "objective=advantageflow,nft", "--seeds", "1", "--budget", "2iterations",
        "--jobs", "1", "--threads", "1",
    ]  # fmt: skip
    result = run("compare", *arguments, "--output", tmp_path / "whole")
    assert result.returncode == 0, result.stderr
    process = subprocess.Popen(
        command("compare", *arguments, "--output", tmp_path / "parts"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not [*(tmp_path / "parts").glob("runs/*/metrics.jsonl")] and process.poll() is None:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 1
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(alive(int(child)) for child in children))  # they notice it within a second
    result = run("compare", *arguments, "--output", tmp_path / "parts")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if " runs: " in line]
    assert [line[9:].partition(":")[0] for line in lines] == ["1 of 2 runs", "2 of 2 runs"]
    assert all(
        re.search(r"(advantageflow|nft), seed 0: 2 iterations, exact \S+ \(\S+ ± \S+\)$", line) for line in lines
    )
    whole, parts = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("whole", "parts"))
    assert timeless(parts) == timeless(whole)


@pytest.mark.parametrize(("scores", "fell"), [([0.5, 0.49], False), ([0.5, 0.4], True), ([3.0, 2.0], False)])
def test_a_fall_within_its_interval_is_no_collapse(scores, fell, tmp_path):
    """480 images: the interval of a difference about .5 is .063; of other scores one seed tells nothing."""
    assert collapsed(write_run(tmp_path, "one", 0, scores).record(), "strict") is fell


def test_another_score_collapses_beyond_its_spread_over_seeds(tmp_path):
    runs = [write_run(tmp_path, "far", seed, [3.0, 2.0 + seed / 10]) for seed in range(3)]
    runs += [write_run(tmp_path, "base", seed, [3.0, 3.5 + seed / 10]) for seed in range(3)]
    assert analyse([run.record() for run in runs], "base")["arms"]["far"]["collapsed"] == [True] * 3


def test_nobody_better_than_the_base_is_said_first_and_has_no_ratio(tmp_path):
    runs = [write_run(tmp_path, name, seed, [0.5, 0.45 + seed / 100, end + seed / 100])
            for name, end in (("a", 0.4), ("b", 0.42)) for seed in range(2)]  # fmt: skip
    result = analyse([run.record() for run in runs], "a")
    sentences = comparison_sentences(result)
    assert sentences[0] == "No method is better than the base model, whose held-out strict is 0.500."
    assert not [sentence for sentence in sentences if "of the time" in sentence]
    assert table(result).startswith("No arm is better than the base model, 0.500.")
    assert "| | seeds | before | after | p |\n" in table(result)
    page = write_comparison(result, tmp_path / "report.html").read_text()
    assert ">p against a</th></tr>" in page
    assert "There are no times to the best score of a" in page


def test_a_baseline_that_never_rose_has_no_best_to_reach(tmp_path):
    runs = [write_run(tmp_path, name, seed, [0.5, 0.5 + (end - 0.5) / 2, end + seed / 100])
            for name, end in (("flat", 0.4), ("risen", 0.8)) for seed in range(2)]  # fmt: skip
    records = [run.record() for run in runs]
    assert [has_ratios(analyse(records, baseline)) for baseline in ("flat", "risen")] == [False, True]
    assert "images | time" not in table(analyse(records, "flat"))
    assert not [line for line in comparison_sentences(analyse(records, "flat")) if "of the time" in line]


def test_scores_at_the_ends_alone_tell_no_time_between(tmp_path):
    records = [
        write_run(tmp_path, name, 0, scores).record() for name, scores in {"a": [0.2, 0.3], "b": [0.2, 0.4]}.items()
    ]
    assert not has_ratios(analyse(records, "a"))


def test_a_method_keeps_its_colour():
    assert color_of("DiffusionNFT") == color_of("nft")
    assert len({color_of(label) for label in ("nft", "flow-grpo", "advantageflow", "advantageflow-1-A", "mine")}) == 5
