"""The paper's experiments: what is run, what is kept of a run, and what is concluded from known results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import SMALL, run
from test_compare import write_run

from advantageflow.config import ConfigError, load_config
from advantageflow.paper.claims import (
    CLAIMS,
    DIFFERENT,
    NOT_REPRODUCED,
    NOT_SHOWN,
    PENDING,
    REPRODUCED,
    alike,
    better,
    better_in_table,
    claims_table,
    doubled,
    faster,
)
from advantageflow.paper.experiments import (
    AF,
    FIELD,
    FIELD_CHOSEN,
    FIELD_LEARNING_RATES,
    FIELD_RATES,
    FIGURES,
    GUIDANCE,
    LEARNING_RATES,
    MULTI,
    NFT,
    QUICK,
    SCENES,
    SEARCH,
    SEARCHED_RATES,
    Panel,
    changes_of,
    figures,
    searched,
)
from advantageflow.paper.report import report, table1_markdown
from advantageflow.paper.study import Study, best_rates, table1, tasks
from advantageflow.studies.compare import analyse
from advantageflow.studies.processes import in_parallel
from advantageflow.studies.record import Record, read_run
from advantageflow.worlds.scenes.prompts import TASKS


def test_a_record_says_what_the_run_s_folder_says(tmp_path):
    here = write_run(tmp_path, "slow", 0, [0.2, 0.25, 0.3, 0.4])
    record = here.record()
    record.save(tmp_path / "kept" / "slow-0.json")
    again = Record.load(tmp_path / "kept" / "slow-0.json")
    assert again == record
    assert (again.before["strict"], again.after["strict"]) == (0.2, 0.4)
    assert again.curve("strict", "images") == ([0, 10, 20, 30], [0.2, 0.25, 0.3, 0.4])
    assert again.iterations == 3


def test_a_diverged_run_is_recorded_too(tmp_path):
    here = write_run(tmp_path, "bad", 1, [0.2, 0.1, 0.1], diverged=True)
    record = read_run(here.folder, "bad", 1, diverged=True)
    assert record.diverged
    assert record.after["strict"] == 0.1


@pytest.mark.parametrize("name", FIGURES)
def test_every_arm_of_every_figure_is_a_valid_recipe(name):
    for panel in FIGURES[name]:
        assert panel.baseline in panel.arms
        for label in panel.arms:
            config = load_config(panel.recipe, [*changes_of(label, QUICK), *QUICK])
            assert set(panel.parts or [panel.score]) <= set(config.evaluation.rewards)
            assert config.advantage.recenter == ("re-centred" in label)  # eq. 6 as it is printed


def test_no_policy_is_trained_on_what_table_1_measures():
    config = load_config(MULTI.recipe)
    assert not [name for name in config.reward_weights if name in ("scenes_strict", "scenes_graded")]
    assert config.evaluation.rewards["strict"] == "scenes_strict"


def test_the_search_gives_every_method_as_many_tries_on_a_seed_of_its_own():
    assert set(SEARCHED_RATES) == set(LEARNING_RATES)
    assert {len(rates) for rates in SEARCHED_RATES.values()} == {4}
    assert len(SEARCH.arms) == 16
    used = {
        seed for name, panels in FIGURES.items() if "search" not in name for panel in panels for seed in panel.seeds
    }
    assert not used & set(SEARCH.seeds)
    assert set(FIELD_RATES) == set(FIELD_LEARNING_RATES) == set(FIELD)
    for label, rates in FIELD_RATES.items():
        assert 3 <= len(rates) <= 6
        assert FIELD_LEARNING_RATES[label] in rates


def test_the_chosen_rate_of_another_method_is_the_best_of_all_that_it_was_tried_with(stored):
    """And is not at an end of them."""
    scores = {
        record.label: record.after[panel.score]
        for panel in FIGURES["field-search"]
        for record in stored.records(panel)
        if not record.diverged
    }
    for label, chosen in FIELD_CHOSEN.items():
        tried = {rate: scores[searched(label, rate)] for rate in FIELD_RATES[label]}
        assert max(tried, key=tried.__getitem__) == chosen
        assert min(tried) < chosen < max(tried)


def test_figures_share_runs(tmp_path):
    study = Study(tmp_path / "runs", tmp_path / "results")
    both = study.plan([*FIGURES["fig2"], *FIGURES["fig3b"]])
    assert len({entry.folder for entry in both}) == len(both)
    assert len(both) < len(study.plan(FIGURES["fig2"])) + len(study.plan(FIGURES["fig3b"]))
    seeds = [entry.seed for entry in both]
    assert seeds == sorted(seeds)
    assert figures("all") == list(FIGURES)
    with pytest.raises(ConfigError, match="unknown figure 'fig9'"):
        figures("fig9")


def known_study(tmp_path, scores):
    """Records of `scores`: label -> one list of held-out scores per seed."""
    study = Study(tmp_path / "runs", tmp_path / "results")
    panel = Panel("known", "known", "paper/known", "strict", tuple(scores), tuple(range(9)))
    for label, seeds in scores.items():
        for seed, values in enumerate(seeds):
            write_run(tmp_path / "folders", label, seed, values).record().save(study.file(panel.recipe, label, seed))
    return study, panel


SLOW = [[0.2 + shift + 0.05 * i for i in range(9)] for shift in (0, 0.01, -0.01)]
FAST = [[0.2 + shift + 0.1 * i for i in range(9)] for shift in (0, 0.012, -0.01)]
LITTLE = [[0.2 + shift + 0.06 * i for i in range(9)] for shift in (0, 0.012, -0.01)]
NOISY = [[0.2 + slope * i for i in range(9)] for slope in (0.07, 0.03, 0.06)]


def test_verdicts_of_known_results(tmp_path):
    study, panel = known_study(tmp_path, {NFT: SLOW, "fast": FAST, "little": LITTLE, "noisy": NOISY})
    assert faster(panel, "fast", 0.5, study).verdict == REPRODUCED
    assert "needs 0.50 of the images" in faster(panel, "fast", 0.5, study).measured
    assert faster(panel, "little", 0.5, study).verdict == DIFFERENT
    assert faster(panel, "noisy", 0.5, study).verdict == NOT_SHOWN
    assert faster(panel, "missing", 0.5, study) is None
    assert better(panel, "fast", "little", study).verdict == REPRODUCED
    assert better(panel, "little", "fast", study).verdict == NOT_REPRODUCED
    assert better(panel, "noisy", NFT, study).verdict == NOT_SHOWN
    double = {"twice": [[0.2, 2 * seed[-1]] for seed in SLOW], NFT: SLOW, "fast": FAST}
    study, panel = known_study(tmp_path / "double", double)
    assert doubled(panel, "twice", NFT, study).verdict == REPRODUCED
    assert doubled(panel, "fast", NFT, study).verdict == DIFFERENT
    assert doubled(panel, NFT, "fast", study).verdict == NOT_REPRODUCED
    assert "0.600 against 1.001, a factor of 0.60" in doubled(panel, NFT, "fast", study).measured


def test_verdicts_of_what_is_alike(tmp_path):
    study, panel = known_study(tmp_path, {NFT: SLOW, "fast": FAST, "noisy": NOISY})
    assert alike(panel, NFT, NFT, study).verdict == REPRODUCED
    assert alike(panel, "fast", NFT, study).verdict == NOT_REPRODUCED
    assert alike(panel, "noisy", NFT, study).verdict == NOT_SHOWN


def test_a_sum_of_scores_is_compared_as_one(tmp_path):
    study, panel = known_study(tmp_path, {NFT: SLOW, "fast": FAST})
    doubled_score = replace(panel, score="sum", parts=("strict", "strict"))
    assert study.records(doubled_score)[0].after["sum"] == 2 * study.records(panel)[0].after["strict"]
    assert faster(doubled_score, "fast", 0.5, study).measured == faster(panel, "fast", 0.5, study).measured


def test_two_seeds_are_too_few_for_a_verdict(tmp_path):
    study, panel = known_study(tmp_path, {NFT: SLOW[:2], "fast": FAST[:2]})
    assert faster(panel, "fast", 0.5, study) is None
    assert better(panel, "fast", NFT, study) is None


def test_table_1_compares_policies_seed_by_seed(tmp_path):
    study = Study(tmp_path, tmp_path / "results")

    def write(name, plain, guided):
        parts = {"1": plain, f"{GUIDANCE:g}": guided}
        scores = {
            f"x, guidance {scale}": {"strict": {part: {"mean": value} for part in ("all", "tasks", "two")}}
            for scale, value in parts.items()
        }
        file = study.results / "table1" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"models": scores}))

    write("base", 0.3, 0.6)
    for seed, shift in enumerate((0.0, 0.01, 0.02)):
        write(f"DiffusionNFT-{seed}", 0.5 + shift, 0.6 - shift)
        write(f"AdvantageFlow_1.1-{seed}", 0.6 + 1.1 * shift, 0.6 + 1.1 * shift)
    assert better_in_table(AF, NFT, 1.0, study).verdict == REPRODUCED
    assert better_in_table(NFT, "base", 1.0, study).verdict == REPRODUCED
    assert better_in_table(NFT, "base", GUIDANCE, study).verdict == NOT_SHOWN
    assert better_in_table("Flow-GRPO", NFT, 1.0, study) is None
    assert "| DiffusionNFT, no guidance | 0.510 | 0.510 [0.500, 0.520] |" in table1_markdown(study)


def test_table_1_is_made_by_evaluate(tmp_path, tiny_pipeline_folder):
    study = Study(tmp_path, tmp_path / "results", ("evaluation.num_images=12",))
    study.score(str(tiny_pipeline_folder), "base", threads=1)
    found = table1(study)
    assert set(found) == {"1", f"{GUIDANCE:g}"}
    assert set(found["1"]["base"]) == {*TASKS, "overall"}
    assert found["1"]["base"]["overall"][0] == pytest.approx(
        sum(found["1"]["base"][task][0] for task in TASKS) / len(TASKS)
    )


def test_without_results_every_claim_is_pending(tmp_path):
    text = claims_table(Study(tmp_path, tmp_path))
    assert text.count(PENDING) == len(CLAIMS)


def test_what_is_kept_agrees_with_what_is_claimed(stored):
    """Stored records were made by the recipes as they are; they chose the learning rates, and the claims follow."""
    assert stored.plan([panel for panels in FIGURES.values() for panel in panels])
    searched = stored.records(SEARCH)
    if len(searched) == len(SEARCH.arms):
        assert dict(best_rates(stored)) == LEARNING_RATES
    claims = stored.results / "claims.md"
    if claims.exists():
        assert claims.read_text() == claims_table(stored)
        assert claims.read_text() in (stored.results.parent / "docs" / "experiments.md").read_text()


@pytest.fixture
def stored():
    return Study(Path("runs"), Path(__file__).parent.parent / "results")


def test_reports_are_made_of_records_alone(tmp_path):
    study = Study(tmp_path / "runs", tmp_path / "results")
    for label in (AF, NFT):
        for seed in (0, 1, 2):
            slow = [0.2 + (0.1 if label == AF else 0.05) * i + 0.01 * seed for i in range(9)]
            record = write_run(tmp_path / "folders", label, seed, slow).record()
            renamed = [
                (done, {"graded": scores["strict"], "tasks": scores["tasks"]}) for done, scores in record.evaluations
            ]
            made = {"commit": "abc", "processor": "a CPU", "cpus": 2}
            Record(**{**vars(record), "evaluations": renamed, "environment": made}).save(
                study.file(SCENES.recipe, label, seed)
            )
    assert report(study, ["fig2", "fig5"]) == ["fig2"]
    assert "| AdvantageFlow(1.1) | 3 |" in (study.results / "fig2.md").read_text()
    assert (study.results / "fig2.png").is_file()
    assert "AdvantageFlow(1.1) needs 0.5" in (study.results / "claims.md").read_text()
    content = json.loads((study.results / "fig2.json").read_text())
    assert content["made"] == {
        "command": "advantageflow reproduce fig2", "runs": 6, "commits": ["abc"], "machines": ["a CPU with 2 CPUs"],
    }  # fmt: skip
    assert "`advantageflow reproduce fig2`: 6 runs, made at abc on" in (study.results / "fig2.md").read_text()
    assert content["scenes"] == json.loads(json.dumps(analyse(study.records(SCENES), NFT, "graded")))


def test_a_run_becomes_a_record_and_is_not_repeated(tmp_path, tiny_pipeline_folder, monkeypatch):
    panel = Panel("small", "small", "paper/scenes", "graded", (AF, NFT), (0,))
    study = Study(tmp_path / "runs", tmp_path / "results", (f"model.path={tiny_pipeline_folder}", *SMALL,
                  "evaluation.rewards={graded: scenes_graded}", "run.iterations=1"))  # fmt: skip
    lines = list(in_parallel(tasks(study, study.plan([panel]), 1), 2))
    assert len(lines) == 2
    assert {record.label for record in study.records(panel)} == {AF, NFT}
    others = [change for change in study.changes if not change.startswith("learn.t_draws")]
    changed = replace(study, changes=(*others, "learn.t_draws=3"))
    with pytest.raises(ConfigError, match=r"made with other settings \(learn.t_draws was 2 and is 3\); remove it"):
        changed.plan([panel])
    begun = replace(changed, results=tmp_path / "none")
    with pytest.raises(
        ConfigError, match=r"the run in .* was begun with other settings \(learn.t_draws was 2 and is 3\)"
    ):
        begun.plan([panel])
    others = [change for change in study.changes if not change.startswith("evaluation.rewards")]
    added = "evaluation.rewards={graded: scenes_graded, exact: scenes_exact}"
    assert replace(study, changes=(*others, added)).plan([panel])  # what was measured is still that
    with pytest.raises(ConfigError, match=r"made with other settings \(evaluation.rewards was"):
        replace(study, changes=(*others, "evaluation.rewards={exact: scenes_exact, graded: scenes_graded}")).plan(
            [panel]
        )
    monkeypatch.setattr("advantageflow.paper.study.finish", lambda *_: pytest.fail("a finished run was started again"))
    list(in_parallel(tasks(study, study.plan([panel]), 1), 2))


def test_the_help_names_every_figure():
    told = run("reproduce", "--help").stdout
    assert not [name for name in FIGURES if name not in told]


def test_a_wrong_figure_stops_at_once():
    result = run("reproduce", "fig1")
    assert result.returncode == 2
    assert "unknown figure 'fig1'; allowed: search, field-search, fig2" in result.stderr
