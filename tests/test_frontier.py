"""Fewer images for the same reward: what is measured of known curves, and the verdicts on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_compare import write_run

from advantageflow.config import load_config
from advantageflow.paper.claims import NOT_SHOWN, PENDING
from advantageflow.paper.experiments import ARMS, BEST, FIGURES, NFT_1, SAME_CHANGES, Panel, changes_of
from advantageflow.paper.frontier import (
    COLUMNS,
    HELD,
    NOT_HELD,
    OTHER_REWARDS,
    add_passes,
    frontier_table,
    passes_per_image,
    rival_of,
    row,
    share_of_images,
)
from advantageflow.paper.lever_table import lever_table, longer_table
from advantageflow.paper.levers import CHOSEN, LATER, LEVER_SEEDS, LEVERS, lever
from advantageflow.paper.study import Study
from advantageflow.run.stored import read_list
from advantageflow.statistics import pooled_spread
from advantageflow.studies.compare import analyse

SHIFTS = (0.0, 0.01, -0.01)
SLOW = [[0.2 + shift + 0.05 * i for i in range(11)] for shift in SHIFTS]  # ends at .7
FAST = [[0.2 + shift + 0.2 * min(i, 4) for i in range(11)] for shift in SHIFTS]  # .7 after 2.5 of 10


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "runs", tmp_path / "results")


def write(study, panel, label, curves, exact=True, diversity=lambda i: 1.0, changes=()):
    """Records of known curves; the share of right pictures is half of the score."""
    config = load_config(panel.recipe, [*changes, "run.iterations=10"]).model_dump(mode="json")
    for seed, scores in enumerate(curves):
        folder = study.runs / str(len(list(study.runs.glob("*"))))
        record = write_run(folder, "run", seed, scores, diversity=diversity).record()
        known = [
            (
                done,
                {
                    "graded": found["strict"],
                    "tasks": found["tasks"],
                    **({"exact": found["strict"] / 2} if exact else {}),
                },
            )
            for done, found in record.evaluations
        ]
        replace(record, label=label, evaluations=known, config=config).save(study.file(panel.recipe, label, seed))


PANEL = Panel("frontier-scenes", "known", "paper/scenes", "graded", (BEST, NFT_1, "other", SAME_CHANGES), (0, 1, 2))


def found(study, panel=PANEL):
    return dict(zip(COLUMNS, row(study, panel), strict=True))


def test_a_share_of_the_rivals_images(study):
    write(study, PANEL, BEST, FAST)
    write(study, PANEL, NFT_1, SLOW)
    write(study, PANEL, "other", [[0.2, 0.3]] * 3)
    records = study.records(PANEL)
    assert rival_of(records, "graded") == NFT_1
    ours, theirs = ([record for record in records if record.label == label] for label in (BEST, NFT_1))
    share = share_of_images(ours, theirs, "graded")
    assert (share.value, share.low, share.high) == pytest.approx((0.25, 0.25, 0.25))
    assert share_of_images(theirs, theirs, "graded").value == pytest.approx(1)
    assert found(study)["images"] == "0.25"
    assert found(study)["rival"] == f"{NFT_1}: 0.700, 3 seeds"
    assert found(study)["passes"] == "0.25; of an image 1.00"
    assert found(study)["right pictures"] == "+0.150 [+0.150, +0.150]"  # 1.0 / 2 after .4 of the run, and .7 / 2
    assert found(study)["verdict"] == HELD


def test_a_rival_that_is_given_the_same_changes_sets_no_target(study):
    write(study, PANEL, BEST, FAST)
    write(study, PANEL, SAME_CHANGES, [[0.2, 0.99]] * 3)
    assert found(study)["verdict"] == PENDING
    write(study, PANEL, NFT_1, SLOW)
    assert found(study)["rival"].startswith(NFT_1)


def test_no_faster_is_not_held_and_what_seeds_leave_open_is_not_shown(study):
    write(study, PANEL, NFT_1, SLOW)
    write(study, PANEL, BEST, SLOW)
    assert found(study)["verdict"] == NOT_HELD
    assert found(study, replace(PANEL, name="frontier-clip"))["verdict"] == NOT_HELD
    one_is_slow = [FAST[0], FAST[1], [0.2 + 0.03 * i for i in range(11)]]
    write(study, PANEL, BEST, one_is_slow)
    assert found(study)["verdict"] == NOT_SHOWN


def test_another_reward_may_take_half_of_the_images(study):
    write(study, PANEL, NFT_1, SLOW)
    write(study, PANEL, BEST, [[0.2 + shift + 0.11 * min(i, 5) for i in range(11)] for shift in SHIFTS])
    assert found(study)["images"].startswith("0.45")
    assert found(study)["verdict"] == NOT_HELD
    assert OTHER_REWARDS.share == 0.5
    assert found(study, replace(PANEL, name="frontier-clip"))["verdict"] == HELD


@pytest.mark.parametrize(
    "worse",
    [
        {"diversity": lambda i: 1.0 - 0.1 * i},
        {"changes": ("rollout.num_inference_steps=20",)},
    ],
)
def test_less_variety_or_a_dearer_image_is_not_held(study, worse):
    write(study, PANEL, NFT_1, SLOW)
    write(study, PANEL, BEST, FAST, **worse)
    assert found(study)["images"] == "0.25"
    assert found(study)["verdict"] == NOT_HELD


def test_without_the_score_that_nobody_trains_on_there_is_no_verdict(study):
    write(study, PANEL, BEST, FAST)
    write(study, PANEL, NFT_1, SLOW, exact=False)
    assert found(study)["verdict"] == PENDING
    write(study, PANEL, BEST, FAST, exact=False)  # a world that has no such score
    assert (found(study)["right pictures"], found(study)["verdict"]) == ("", HELD)


def test_passes_of_an_image(study):
    """Ten steps draw it; each of four draws is a gradient, which counts three, and two of the slow copies."""
    write(study, PANEL, BEST, FAST)
    write(study, PANEL, NFT_1, SLOW)
    records = study.records(PANEL)
    assert passes_per_image(records[0]) == 10 + 4 * (3 + 2)
    result = analyse(records, NFT_1, "graded")
    add_passes(result, records)
    places, scores = result["arms"][BEST]["curves"]["passes"][0]
    assert places[-1] == 30 * 10 * 192
    assert scores == result["arms"][BEST]["curves"]["images"][0][1]


def test_the_best_on_the_first_seed_come_to_the_final_with_the_baseline(study):
    arms = tuple(map(lever, LEVERS))[:5]
    panel = replace(PANEL, arms=arms, baseline=arms[0], finalists=2)
    assert {(run.arm.label, run.seed) for run in study.plan([panel])} == {(label, 0) for label in arms}
    for number, label in enumerate(arms[:-1]):
        write(study, panel, label, [[0.2, 0.3 + number / 100]], changes=changes_of(label))
    known = [run for run in study.plan([panel]) if run.seed == 0]
    assert study.plan([panel], known) == []  # one of the first seed is missing
    write(study, panel, arms[-1], [[0.2, 0.9]], changes=changes_of(arms[-1]))
    final = [(run.arm.label, run.seed) for run in study.plan([panel], known)]
    assert final == [(label, seed) for seed in (1, 2) for label in (arms[0], arms[3], arms[4])]


def test_every_lever_has_an_interval_and_a_test_of_its_own(study):
    """A lever of one seed has the spread of those with three; further seeds are what the search did not choose by."""
    start, winner, loser = arms = tuple(map(lever, ("start", "all weights", "rank 8")))
    panel = replace(PANEL, arms=arms, baseline=start)
    assert lever_table(study, panel) == ""
    write(study, panel, start, [[0.2, 0.60], [0.2, 0.62], [0.2, 0.64]])
    write(study, panel, winner, [[0.2, 0.80], [0.2, 0.74], [0.2, 0.77]])
    write(study, panel, loser, [[0.2, 0.5]])
    header, _, *rows, _, told, _ = (line.split(" | ") for line in lever_table(study, panel).split("\n"))
    assert [row[0] for row in rows] == ["| all weights", "| start", "| rank 8"]
    assert [row[3] for row in rows] == ["0.755", "0.630", ""]
    assert told == ["Seeds of one lever differ by 0.025 (4 degrees of freedom)."]  # √((.0008 + .0018) / 4)
    assert rows[0][4] == "+0.150 [+0.092, +0.208]"  # t(.975, 4) = 2.776, times .0255 √(2/3)
    assert rows[2][4] == "-0.120 [-0.202, -0.038]"  # times √(4/3)
    assert float(rows[2][5].rstrip(" |")) == pytest.approx(0.015, abs=0.001)
    assert header[-1] == "p of all |"


def test_longer_runs_are_compared_with_scenes_best_and_told_of_as_stored():
    root = Path(__file__).parent.parent
    text = longer_table(root / "results" / "longer.json")
    rows = {row[0].removeprefix("| "): row for row in (line.split(" | ") for line in text.splitlines()) if len(row) > 5}
    runs = read_list(root / "results" / "longer.json", {"arm": str, "seed": int})
    assert len(rows) == 1 + len({run["arm"] for run in runs})  # the header; the line below it has no such cells
    gamma = [run["evaluations"][-1][1]["strict"] for run in runs if run["arm"] == "γ = .25"]
    assert rows["γ = .25"][2].startswith(f"{np.mean(gamma):.3f} [")
    assert rows["scenes-best"][5] == ""
    assert text in (root / "docs" / "experiments.md").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    shown = [run["evaluations"][-1][1] for run in runs if run["machine"] == "2 cores, two threads"]
    for name in ("exact", "strict", "graded"):
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {name}: ")]
        assert [float(cell.split()[0]) for cell in line.split("|")[3:6]] == [scores[name] for scores in shown]


def test_without_results_everything_is_pending(study):
    assert frontier_table(study).count(PENDING) == len(FIGURES["frontier"])


def test_the_combination_is_what_the_levers_chose():
    """The best mean after 1920 images of all that ran on each seed; of later ones none is ahead by more than chance."""
    study = Study(Path("runs"), Path(__file__).parent.parent / "results")
    (panel,) = FIGURES["lever-search"]
    scores: dict[str, list[float]] = {}
    for record in study.records(panel):
        scores.setdefault(record.label, []).append(record.after["graded"])
    complete = {label: np.mean(found) for label, found in scores.items() if len(found) == len(LEVER_SEEDS)}
    if complete:
        known = {label: mean for label, mean in complete.items() if label not in map(lever, LATER)}
        assert max(known, key=known.__getitem__) == lever(CHOSEN)
        spread, chosen = pooled_spread(scores.values()), complete[lever(CHOSEN)]
        assert spread is not None
        behind, ahead = max(complete.values()) - chosen, chosen - complete[lever("start")]
        assert spread.interval(behind, 2 / len(LEVER_SEEDS)).low < 0 < spread.interval(ahead, 2 / len(LEVER_SEEDS)).low
    assert CHOSEN in LEVERS
    combined, other = ({*ARMS[label]} for label in (BEST, SAME_CHANGES))
    assert {change for change in combined ^ other if not change.startswith("objective")} == {
        "policy.rollout_decay=0.8",  # the recipe's own
    }
