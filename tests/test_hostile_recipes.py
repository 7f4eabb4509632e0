"""Whatever a recipe or a change holds: a configuration, or one sentence."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from advantageflow.config import Config, ConfigError, check_config, dump_config, flatten, load_config, recipe_names
from advantageflow.reading import RECIPES

ALIASES = b"a0: &a0 [x, x]\n" + b"".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n".encode() for i in range(1, 40))
CHAIN = b"a0: &a0 [x]\n" + b"".join(f"a{i}: &a{i} [*a{i - 1}]\n".encode() for i in range(1, 3000))
MERGES = b"a0: &a0 {k: x}\n" + b"".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n".encode() for i in range(1, 30))
HOSTILE = {
    "empty": (b"", "it is empty"),
    "only a comment": (b"# nothing\n", "it is empty"),
    "a list": (b"- a\n- b\n", "must hold a mapping"),
    "text": (b"scenes", "must hold a mapping"),
    "aliases that grow": (ALIASES, "more than 10000 values"),
    "aliases of aliases": (CHAIN, "more than 10000 values"),
    "merges that grow": (MERGES, "more than 10000 values"),
    "an anchor in itself": (b"model: &a {path: *a}", "line 1: an anchor contains itself"),
    "a merge with itself": (b"model: &a\n  <<: *a\n", "contains itself"),
    "an alias of nothing": (b"model: *a", "line 1: found undefined alias"),
    "deep lists": (b"model: " + b"[" * 5000, "nested deeper than 20"),
    "deep sections": (b"".join(b" " * i + b"a:\n" for i in range(300)), "nested deeper than 20"),
    "a key that is a number": (b"seed: 1\n1: 2\n", "line 2: a key must be text, not '1'"),
    "a key that is true": (b"model: {yes: 1}", "a key must be text, not 'yes'"),
    "a key that is nothing": (b"? \n: 1\n", "a key must be text, not ''"),
    "a key that is a list": (b"? [a]\n: 1\n", "a key must be text, not 'sequence'"),
    "the same section twice": (
        b"learn: {}\nseed: 1\nlearn: {}\n",
        "line 3: the key 'learn' is written twice, first in",
    ),
    "the same key twice": (b"learn:\n  t_draws: 1\n  t_draws: 2\n", "line 3: the key 't_draws' is written twice"),
    "the same label twice": (b"evaluation: {rewards: {a: x, a: y}}", "the key 'a' is written twice"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "line 2: but found another document"),
    "a date as a number": (b"seed: 2024-01-01", "seed is '2024-01-01'"),
    "an octal": (b"seed: 010", "'010' is no number in decimal"),
    "base 60": (b"seed: 1:30", "'1:30' is no number in decimal"),
    "hexadecimal": (b"seed: 0x" + b"f" * 9000, "is no number in decimal"),
    "a huge number": (b"seed: 1" + b"0" * 9000, "is no number in decimal"),
    "a large seed": (b"seed: 1" + b"0" * 30, "less than 4294967296"),
    "a negative seed": (b"seed: -1", "greater than or equal to 0"),
    "true as a number": (b"run: {iterations: true}", "run.iterations is True; it should not be true or false"),
    "true as a weight": (b"reward: {ocr: true}", "reward.ocr is True"),
    "an infinite rate": (b"learn: {learning_rate: .inf}", "learn.learning_rate is inf; it should be a finite number"),
    "a rate of 1e400": (b"learn: {learning_rate: 1e400}", "learn.learning_rate is '1e400'; it should be a finite"),
    "a rate of 1e20": (b"learn: {learning_rate: 1e20}", "less than or equal to 10"),
    "a rate that is no number": (b"learn: {learning_rate: .nan}", "learn.learning_rate is nan"),
    "an infinite gamma": (b"objective: {gamma: .inf}", "objective.gamma is inf; allowed: a number"),
    "an infinite weight": (b"reward: {ocr: .inf}", "reward is {'ocr': inf}"),
    "python": (b"name: !!python/object/apply:os.system [ls]", "line 1: tags are not read"),
    "binary": (b"name: !!binary aGVsbG8=", "tags are not read"),
    "a set": (b"model: !!set {a}", "tags are not read"),
    "NUL in text": (b'model: {path: "a\\0b"}', "model.path is 'a\\x00b'; it should be printable"),
    "a line break in text": (b'name: "a\\nb"', "name is 'a\\nb'; it should be printable"),
    "NUL": (b"seed: 1\0", "unacceptable character"),
    "not UTF-8": (b"name: \xff\xfe\xfa", "not valid YAML"),
    "half of UTF-16": (b"\xff\xfes\x00e", "not valid YAML"),
    "a long name": (b"name: " + b"x" * 5000, "at most 4096 characters"),
    "a long key": (b"? " + b"x" * 900 + b"\n: 1\n", "unknown key 'xxx"),
    "many unknown keys": (b"".join(f"key{i}: 1\n".encode() for i in range(500)), "and 497 more"),
    "a list for a section": (b"model: [1, 2]", "model is [1, 2], but it is a section; allowed in it: path, base"),
    "a number for a section": (b"learn: 3", "learn is 3, but it is a section"),
    "a number for the objective": (b"objective: 3", "objective is 3"),
    "a list for the objective": (b"objective: {name: [nft]}", "objective.name is ['nft']"),
    "a section for a value": (b"seed: {a: 1}", "seed is {'a': 1}"),
    "too large": (b"# " + b"x" * 200_000, "more than 100000 bytes"),
    "extends itself": (b"extends: mine.yaml", "extends itself"),
    "extends nothing": (b"extends: nowhere", "unknown recipe 'nowhere'"),
    "extends several": (b"extends: [scenes, words]", "extends in"),
    "extends with NUL": (b'extends: "a\\0.yaml"', "no such file: 'a\\x00.yaml'"),
    "extends a long name": (b"extends: " + b"x" * 5000, "no recipe 'xxx"),
    "extends a folder": (b"extends: folder.yaml", "is not a file"),
    "an own key as label": (b"evaluation: {rewards: {tasks: ocr}}", "cannot be labelled 'tasks'"),
    "an empty label": (b'evaluation: {rewards: {"": ocr}}', "cannot be labelled ''"),
    "a label of blanks": (b'evaluation: {rewards: {" ": ocr}}', "cannot be labelled ' '"),
    "markup as label": (b'evaluation: {rewards: {"[/b]": ocr}}', "cannot be labelled '[/b]'"),
    "a long label": (b"evaluation: {rewards: {" + b"x" * 120 + b": ocr}}", "cannot be labelled 'xxx"),
}


def outcome(recipe: object, changes: tuple[str, ...] = ()) -> Config | str:
    """The configuration, or the sentence; whatever else is raised goes on."""
    try:
        config = load_config(str(recipe), changes)
    except ConfigError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) <= 1500
        return sentence
    floats = [value for value in flatten(config.model_dump()).values() if isinstance(value, float)]
    assert all(map(math.isfinite, floats))
    assert check_config(yaml.safe_load(dump_config(config))) == config
    return config


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_recipe_is_one_sentence(content, message, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    sentence = outcome(file)
    assert isinstance(sentence, str)
    assert message in sentence


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfseed: 3\n",
        "seed: 3\n".encode("utf-16"),
        b"seed: 3\r\n",
        b"<<: {seed: 3, name: base}\nname: mine\n",
        b"learn: &a {t_draws: 4}\nseed: 3\n",
        b"seed: 3\nname: 2024-01-01\n",
    ],
)
def test_what_is_plain_is_read(content, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    config = outcome(file)
    assert isinstance(config, Config)
    assert config.seed == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["a..b=1"], "cannot read 'a..b=1'"),
        (["=1"], "cannot read '=1'"),
        ([".seed=1"], "cannot read"),
        (["model=3"], "model is 3, but it is a section"),
        (["model={}"], "sets nothing"),
        (["model=3", "model.path=x"], "'model' is not a section"),
        (["reward={}"], "reward is empty"),
        (["objective=3"], "objective.name is 3"),
        (["objective=[nft]"], "objective.name is ['nft']"),
        (["objective={name: {}}"], "objective.name' is given as {}"),
        (["seed=[1"], "the value of 'seed=[1' is not valid YAML: line 1"),
        (["seed=1", "seed=2"], "'seed' is given twice, as 1 and as 2"),
        (["learn.t_draws=1", "learn={t_draws: 2}"], "'learn.t_draws' is given twice"),
        (["objective=nft", "objective.name=flow-grpo"], "'objective.name' is given twice"),
        (["seed={a: 1, a: 2}"], "the key 'a' is written twice"),
        (["name=" + "[" * 3000], "nested deeper"),
        (["x" * 5000 + "=1"], "unknown key 'xxx"),
        ([".".join("x" * 5000) + "=1"], "unknown key 'x"),
        (["evaluation.rewards={iteration: ocr}"], "cannot be labelled 'iteration'"),
    ],
)
def test_a_hostile_change_is_one_sentence(changes, message):
    sentence = outcome("scenes", tuple(changes))
    assert isinstance(sentence, str)
    assert message in sentence


def test_the_same_change_twice_is_one():
    assert load_config("scenes", ["seed=1", "seed=1"]).seed == 1


def test_a_section_as_a_whole_changes_its_keys_alone():
    base, changed = load_config("scenes"), load_config("scenes", ["learn={t_draws: 2}"])
    assert changed.learn == base.learn.model_copy(update={"t_draws": 2})


def test_extends_is_found_beside_the_recipe_and_then_among_the_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "words.yaml").write_text("extends: scenes\nseed: 5\n")
    (tmp_path / "scenes.yaml").write_text("extends: scenes\nseed: 6\n")  # itself and the shipped one have one name
    (tmp_path / "mine.yaml").write_text("extends: words\n")
    (tmp_path / "other.yaml").write_text("extends: paper/scenes\n")
    assert load_config(str(tmp_path / "scenes.yaml")).seed == 6
    assert load_config(str(tmp_path / "mine.yaml")).seed == 5
    assert load_config(str(tmp_path / "other.yaml")).name == "paper/scenes"


def test_a_circle_of_recipes_is_refused(tmp_path):
    for one, two in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {two}\n")
    sentence = outcome(tmp_path / "a.yaml")
    assert isinstance(sentence, str)
    assert "extends itself" in sentence


@pytest.mark.parametrize(
    "recipe", ["", ".", "..", "/", "a\0b.yaml", "x" * 5000, "x" * 5000 + ".yaml", "~nobody/a.yaml"]
)
def test_a_hostile_name_of_a_recipe_is_one_sentence(recipe):
    assert isinstance(outcome(recipe), str)


KEYS = sorted(flatten(load_config("scenes").model_dump()))
SCALARS = st.one_of(
    st.sampled_from(["null", "true", ".inf", "-.nan", "1e400", "0", "-1", "3", "0.5", "1-A", "nft", "flow_sde", "{}"]),
    st.sampled_from(["[]", "[1, 2]", "{a: 1}", "!!python/name:os.system", "&a [*a]", "*a", "'", '"\\0"', "2024-01-01"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=30),
)
YAML_LIKE = st.text(alphabet="ab:-[]{}&*!<>|#'\"\n ,?%@`\t.0x1eé\ufeff\0=~", max_size=120)
SHIPPED = [(RECIPES / f"{name}.yaml").read_bytes() for name in recipe_names()]


@settings(max_examples=150, deadline=2000)
@given(changes=st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=10), SCALARS), max_size=4))
def test_any_change_is_a_configuration_or_one_sentence(changes):
    outcome("scenes", tuple(f"{key}={value}" for key, value in changes))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "mine.yaml"


@settings(max_examples=200, deadline=2000)
@given(text=YAML_LIKE | st.tuples(st.sampled_from(KEYS), YAML_LIKE).map(": ".join))
def test_any_text_is_a_configuration_or_one_sentence(text, file):
    file.write_text(text, encoding="utf-8")
    outcome(file)


@settings(max_examples=150, deadline=2000)
@given(content=st.sampled_from(SHIPPED), place=st.floats(0, 1), cut=st.integers(0, 8), new=st.binary(max_size=4))
def test_a_damaged_recipe_is_a_configuration_or_one_sentence(content, place, cut, new, file):
    at = round(place * len(content))
    file.write_bytes(content[:at] + new + content[at + cut :])
    outcome(file)
