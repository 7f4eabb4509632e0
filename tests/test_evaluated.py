"""What is trained on is evaluated; what another recipe evaluated beside its own reward is not fetched for it."""

import pytest

from advantageflow.config import ConfigError, check_config, load_config, recipe_names
from advantageflow.config_rules import OWN_KEYS, check_label
from advantageflow.evaluated import add_trained
from advantageflow.paper.experiments import ARMS, FIGURES
from advantageflow.plan import make_plan, print_plan
from advantageflow.studies.compare import parse_arms, plan_runs

SD3 = "stabilityai/stable-diffusion-3.5-medium"
VERIFIER = {"exact": "scenes_exact", "strict": "scenes_strict", "graded": "scenes_graded"}


def evaluated(recipe, *changes):
    return load_config(str(recipe), changes).evaluation.rewards


@pytest.mark.parametrize(
    ("recipe", "changes", "rewards"),
    [
        ("sd35m-pickscore", ["reward=ocr"], {"ocr": "ocr"}),
        ("sd35m-pickscore", ["reward=pickscore"], {n: n for n in ("pickscore", "hpsv2", "clipscore")}),
        ("sd35m-multi", ["reward=hpsv2"], {"hpsv2": "hpsv2"}),
        ("sd35m-multi", ["reward={hpsv2: 3, ocr: 1}"], {"hpsv2": "hpsv2", "ocr": "ocr"}),
        ("sd35m-multi", ["reward.hpsv2=3"], {n: n for n in ("pickscore", "hpsv2", "clipscore")}),  # the same ones
        ("scenes-multi", ["reward=scenes_clip"], {"clip": "scenes_clip"}),  # under the recipe's label
        ("scenes", ["reward=ocr", "evaluation.rewards={a: scenes_exact}"], {"a": "scenes_exact", "ocr": "ocr"}),
        ("scenes", ["evaluation.rewards.a=scenes_exact", "reward=ocr"], {"a": "scenes_exact", "ocr": "ocr"}),
        ("scenes", ["evaluation={every: 2}", "reward=ocr"], {"ocr": "ocr"}),
        ("scenes", ["evaluation.rewards={}"], {"scenes_graded": "scenes_graded"}),
        ("scenes", ["evaluation.rewards={a: scenes_graded}"], {"a": "scenes_graded"}),
        ("scenes", ["reward=http://127.0.0.1:8000"], {"reward": "http://127.0.0.1:8000"}),
        ("scenes", ["reward=math:fsum"], {"fsum": "math:fsum"}),
    ],
)  # fmt: skip
def test_a_change_of_the_reward_changes_what_is_evaluated(recipe, changes, rewards):
    assert list(evaluated(recipe, *changes).items()) == list(rewards.items())


def test_what_a_file_says_itself_is_asked_for(tmp_path):
    mine, other, child = (tmp_path / f"{name}.yaml" for name in ("mine", "other", "child"))
    mine.write_text("extends: sd35m-pickscore\nreward: ocr\n")
    assert evaluated(mine) == {"ocr": "ocr"}
    other.write_text("extends: sd35m-pickscore\nreward: ocr\nevaluation: {rewards: {p: pickscore}}\n")
    assert evaluated(other) == {"p": "pickscore", "ocr": "ocr"}
    child.write_text("extends: other.yaml\nseed: 1\n")
    assert evaluated(child) == evaluated(other)
    assert evaluated(child, "reward=hpsv2") == {"hpsv2": "hpsv2"}
    mine.write_text("reward: pickscore\n")  # our defaults were not asked for either
    assert evaluated(mine) == {"pickscore": "pickscore"}


def test_a_reward_of_the_users_own_is_one_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def score(images, prompts): ...\n")
    (tmp_path / "own.yaml").write_text("reward: own:score\nevaluation: {rewards: {mine: ./own.py:score, e: ocr}}\n")
    assert list(evaluated("own.yaml")) == list(evaluated("own.yaml", "reward=./own.py:score")) == ["mine", "e"]


def test_labels_are_distinct_and_none_of_ours():
    names = [f"/{i}/a.py:score" for i in range(3)] + [f"/a.py:{key}" for key in OWN_KEYS]
    names += ["/a.py:ocr", "ocr", "/a.py:" + "x" * 200, "http://one", "http://two", "/a.py:"]
    given = {"score": "scenes_exact", "reward-2": "scenes_strict"}
    found = add_trained({"reward": dict.fromkeys(names, 1), "evaluation": {"rewards": given}})["evaluation"]["rewards"]
    assert list(found.values()) == [*given.values(), *names]
    assert found["ocr"] == "ocr"
    assert [found[f"score-{n}"] for n in (2, 3, 4)] == names[:3]
    for label in found:
        check_label(label)


def test_the_shipped_recipes_evaluate_what_they_train_on_and_arms_do_not_change_that():
    for name in recipe_names():
        config = load_config(name)
        assert set(config.reward_weights) <= set(config.evaluation.rewards.values())
    for panel in (panel for panels in FIGURES.values() for panel in panels):
        for label in panel.arms:
            assert evaluated(panel.recipe, *ARMS[label]) == evaluated(panel.recipe)
    assert list(evaluated("sd35m-hpsv2")) == ["hpsv2", "pickscore", "clipscore"]
    assert evaluated("scenes") == VERIFIER


def test_a_run_that_is_continued_keeps_what_it_evaluates():
    settings = load_config("scenes").model_dump(mode="json") | {"reward": "ocr"}
    assert check_config(settings).evaluation.rewards == VERIFIER
    settings["evaluation"]["rewards"] = {}
    with pytest.raises(ConfigError, match=r"evaluation.rewards is empty"):
        check_config(settings)


def test_nothing_is_fetched_that_was_not_asked_for(capsys):
    assert set(make_plan(load_config("sd35m-pickscore", ["reward=ocr"])).downloads) == {SD3}
    print_plan(load_config("scenes", ["reward=ocr", "evaluation.rewards={right: scenes_exact}"]))
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    assert ["evaluated on held-out prompts", "right (scenes_exact), ocr"] in rows


def test_arms_that_train_on_different_rewards_are_evaluated_by_all_of_them(tmp_path):
    said = []
    runs = plan_runs(parse_arms(["reward=scenes_graded,ocr"], "scenes"), 1, "1iterations", [], tmp_path, said.append)
    for run in runs:
        found = evaluated(run.arm.recipe, *run.arm.changes, *run.changes)
        assert list(found.items()) == [*VERIFIER.items(), ("ocr", "ocr")]
    assert said == [
        "every arm is evaluated by exact (scenes_exact), strict (scenes_strict), graded (scenes_graded), ocr"
    ]


def test_arms_whose_scores_cannot_be_the_same_are_refused(tmp_path):
    arms, both = (
        parse_arms(["reward=scenes_clip,ocr"], "scenes"),
        "{e: scenes_exact, scenes_clip: scenes_clip, ocr: ocr}",
    )
    with pytest.raises(ConfigError) as caught:
        plan_runs(arms, 1, "1iterations", ["evaluation.rewards={e: scenes_exact}"], tmp_path)
    assert f"evaluation.rewards={both}" in str(caught.value)
    runs = plan_runs(arms, 1, "1iterations", [f"evaluation.rewards={both}"], tmp_path)
    assert [run.changes[0] for run in runs] == [f"evaluation.rewards={both}"] * 2
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("def score(images, prompts): ...\n")
    arms = parse_arms([f"reward={tmp_path}/a.py:score,{tmp_path}/b.py:score"], "scenes")
    with pytest.raises(ConfigError, match=r"the score 'score' would be '.*a.py:score', and '.*b.py:score' in the arm"):
        plan_runs(arms, 1, "1iterations", [], tmp_path / "other")
