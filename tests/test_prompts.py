import pytest

from advantageflow.config import ConfigError
from advantageflow.prompts import PromptSet, load_prompts


def test_tasks_take_turns_and_every_prompt_comes_once_a_round():
    prompts = PromptSet(("a", "b", "c", "d", "e"), ("x", "x", "x", "y", "y"))
    drawn = prompts.draw(0, 12, 0)
    assert [prompts.tasks[i] for i in drawn] == ["x", "y"] * 6
    assert sorted(drawn[0:6:2]) == sorted(drawn[6:12:2]) == [0, 1, 2]


def test_a_draw_depends_on_its_position_and_seed_alone():
    prompts = load_prompts("scenes:train")
    assert prompts.draw(0, 40, 0)[25:] == prompts.draw(25, 15, 0)
    assert prompts.draw(0, 40, 0) != prompts.draw(0, 40, 1)


def test_a_text_file_has_one_prompt_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  two dogs  \n")
    assert load_prompts(str(file)).texts == ("a cat", "two dogs")


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'nowhere.txt' does not exist"):
        load_prompts("nowhere.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        load_prompts(str(tmp_path / "empty.txt"))
    with pytest.raises(ConfigError, match="unknown prompt set 'scenes:test'"):
        load_prompts("scenes:test")
