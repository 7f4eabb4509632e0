import json

import numpy as np
import pytest

from advantageflow.config import ConfigError, PromptSettings
from advantageflow.prompts import PromptSet, load_prompt_sets, load_prompts
from advantageflow.rewards import load_reward
from advantageflow.rewards.ocr import quoted_text


def test_tasks_take_turns_and_every_prompt_comes_once_a_round():
    prompts = PromptSet(("a", "b", "c", "d", "e"), ("x", "x", "x", "y", "y"))
    drawn = prompts.draw(0, 12, 0)
    assert [prompts.tasks[i] for i in drawn] == ["x", "y"] * 6
    assert sorted(drawn[0:6:2]) == sorted(drawn[6:12:2]) == [0, 1, 2]


def test_a_draw_depends_on_its_position_and_seed_alone():
    prompts = load_prompts("scenes:train")
    assert prompts.draw(0, 40, 0)[25:] == prompts.draw(25, 15, 0)
    assert prompts.draw(0, 40, 0) != prompts.draw(0, 40, 1)


def test_a_large_set_is_shuffled_once_a_round(monkeypatch):
    shuffled, generator = [], np.random.default_rng
    monkeypatch.setattr("numpy.random.default_rng", lambda seed: shuffled.append(seed) or generator(seed))
    prompts = PromptSet(tuple(map(str, range(5000))), ("all",) * 5000)
    drawn = [number for start in range(0, 7000, 50) for number in prompts.draw(start, 50, 4321)]
    assert len(shuffled) == 2
    assert sorted(drawn[:5000]) == [*range(5000)]
    assert len({*drawn[5000:]}) == 2000


def test_a_text_file_has_one_prompt_a_line_and_keeps_the_first_of_equal_ones(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n  two dogs  \na cat\n")
    assert load_prompts(str(file)).texts == ("a cat", "two dogs")


def test_json_lines_have_columns_and_tasks(tmp_path):
    file = tmp_path / "metadata.jsonl"
    rows = [{"tag": "counting", "prompt": "a photo of two cups"}, {"tag": "colors", "prompt": "a photo of a red cup"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_prompts(str(file))
    assert found.texts == ("a photo of two cups", "a photo of a red cup")
    assert found.tasks == ("counting", "colors")
    assert load_prompts(str(file), column="tag").texts == ("counting", "colors")
    with pytest.raises(ConfigError, match=r"jsonl line 1 has no text in the column 'caption' \(it has tag, prompt\)"):
        load_prompts(str(file), column="caption")
    file.write_text('{"prompt": "a cat"}\nnot json\n')
    with pytest.raises(ConfigError, match="line 2 is not JSON"):
        load_prompts(str(file))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_read_by_column(suffix, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.Dataset.from_dict({"caption": ["a cat", "two dogs"], "kind": ["x", "y"]})
    file = tmp_path / f"prompts.{suffix}"
    (table.to_csv if suffix == "csv" else table.to_parquet)(str(file))
    found = load_prompts(str(file), column="caption", task_column="kind")
    assert (found.texts, found.tasks) == (("a cat", "two dogs"), ("x", "y"))
    with pytest.raises(ConfigError, match=f"{suffix} row 1 has no text in the column 'prompt'"):
        load_prompts(str(file))


def test_empty_and_overlong_prompts_are_named_with_their_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\ntwo dogs\n")
    with pytest.raises(ConfigError, match="line 2: the prompt is empty"):
        load_prompts(str(file))
    file.write_text("a cat\n" + "x" * 2001)
    with pytest.raises(ConfigError, match="line 2: the prompt has 2001 characters; at most 2000"):
        load_prompts(str(file))


def test_prompts_that_a_reward_cannot_score_are_named_with_their_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text('a sign that says "OPEN"\na sign\n')
    with pytest.raises(ConfigError, match=r"line 2: the reward 'ocr' cannot use this prompt: .*double quotation marks"):
        load_prompts(str(file)).check(quoted_text, "the reward 'ocr'")


def test_prompts_that_a_reward_cannot_score_are_counted_and_five_are_listed(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a circle\n" + "\n".join(f"{'x' * 300} {i}" for i in range(12)))
    with pytest.raises(ConfigError, match=r"prompts.txt line 2: the reward 'scenes_strict' cannot use") as caught:
        load_prompts(str(file)).check_for("scenes_strict", load_reward("scenes_strict"))
    assert "it cannot use 12 of 13 prompts" in str(caught.value)
    assert str(caught.value).count("prompts.txt line") == 5
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["scenes_graded", "scenes_strict", "scenes_clip", "scenes_preference"])
def test_the_rewards_of_scenes_say_which_prompts_they_cannot_score(name):
    prompts = load_prompts("words:train")
    with pytest.raises(ConfigError, match=f"the reward '{name}' cannot use this prompt"):
        prompts.check_for(name, load_reward(name))
    load_prompts("scenes:train").check_for(name, load_reward(name))


def test_a_check_that_fails_in_its_own_way_is_one_sentence():
    class Mine:
        def check_prompt(self, prompt):
            return {}[prompt]

    with pytest.raises(ConfigError, match=r"prompt 1: the reward 'mine:Mine' cannot use this prompt: KeyError: 'a'"):
        PromptSet(("a",), ("x",)).check_for("mine:Mine", Mine())


def test_generated_prompts_depend_on_their_seed_alone():
    for source in ("geneval:60", "ocr:60"):
        found = load_prompts(source)
        assert len(found.texts) == len(set(found.texts)) > 50
        assert found == load_prompts(source)
        assert found.texts == load_prompts(f"{source}:0").texts != load_prompts(f"{source}:1").texts
    load_prompts("ocr:60").check(quoted_text, "ocr")
    assert len(load_prompts("geneval:60").by_task) == 6
    for source in ("geneval:many", "ocr:0", "ocr:²", "ocr:9999999", "geneval:5:1:2"):
        with pytest.raises(ConfigError, match=f"cannot read '{source}'; write how many prompts"):
            load_prompts(source)


def test_a_share_of_the_prompts_can_be_held_out(tmp_path):
    train, held_out = load_prompt_sets(PromptSettings(train="geneval:100", held_out=0.2))
    assert (len(train.texts), len(held_out.texts)) == (80, 20)
    assert not set(train.texts) & set(held_out.texts)
    assert load_prompt_sets(PromptSettings(train="geneval:100", held_out=0.2)) == (train, held_out)
    with pytest.raises(ConfigError, match="leaves one side empty"):
        load_prompt_sets(PromptSettings(train="geneval:2", held_out=0.1))


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'nowhere.txt' does not exist"):
        load_prompts("nowhere.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        load_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(ConfigError, match="unknown prompt set 'scenes:test'"):
        load_prompts("scenes:test")
