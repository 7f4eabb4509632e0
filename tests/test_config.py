"""Bad settings stop before anything is loaded, with the key, what is allowed, and the nearest name."""

import pytest
import yaml

from advantageflow.config import ConfigError, check_config, dump_config, flatten, load_config, recipe_names
from advantageflow.paper.levers import CHOSEN, LONGER, settings_of


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("scnes", [], r"unknown recipe 'scnes' \(did you mean 'scenes' or .*`advantageflow recipes` lists all"),
        (
            "scenes",
            ["objective.gama=1"],
            r"unknown key 'objective.gama' \(did you mean 'gamma'\?\); allowed in 'objective'",
        ),
        ("scenes", ["rollot.solver=euler"], r"unknown key 'rollot' \(did you mean 'rollout'\?\)"),
        ("scenes", ["learn.learning_rat=1"], r"did you mean 'learning_rate'"),
        ("scenes", ["run.iterations=many"], r"run.iterations is 'many'; it should be a valid integer"),
        ("scenes", ["run.iterations=0"], r"run.iterations is 0; it should be greater than or equal to 1"),
        ("scenes", ["objective.gamma=1+A"], r"objective.gamma is '1\+A'; allowed: a number, or 1-A, auto"),
        ("scenes", ["rollout.images_per_prompt=1"], r"at least 2 images to compare"),
        (
            "scenes",
            ["objective=flow-gpro"],
            r"objective.name is 'flow-gpro' \(did you mean 'flow-grpo'\?\); allowed: .*flow.*, or package.module",
        ),
        ("scenes-flow-grpo", ["rollout.solver=dpm2"], r"'dpm2', an ODE, but objective 'flow-grpo' learns from an SDE"),
        ("scenes", ["rollout.solver=flow_sde"], r"learns from clean samples of an ODE; set rollout.solver to dpm2"),
        ("scenes", ["policy.rollout_decay=3"], r"policy.rollout_decay is 3; allowed: a schedule"),
        ("scenes", ["learn.t_draws=11"], r"this rollout of 10 steps has only 10 times"),
        ("scenes-flow-grpo", ["learn.t_draws=10"], r"only 4 times"),
        ("scenes", ["learn.transitions=3"], r"learns from noised images; remove the key"),
        ("scenes-flow-grpo", ["learn.transitions=3"], r"only 3 times"),
        ("scenes", ["learn.optimizer_steps=100000"], r"an iteration has only \d+ images"),
        ("scenes", ["iterations"], r"write a change as key=value"),
        ("scenes", ["name.x=1"], r"'name' is not a section"),
        (
            "scenes",
            ["evaluation.prompts_shown=0"],
            r"prompts_shown is 0; allowed: how many held-out prompts, from 1 to",
        ),
        ("scenes", ["evaluation.prompts_shown=[a, 5]"], r"prompts_shown is \['a', 5\]; allowed: .* list of 1 to 256"),
        ("scenes", ["evaluation.prompts_shown=a red circle"], r"prompts_shown is 'a red circle'; allowed: how many"),
        ("scenes", ["reward={}"], r"reward is empty"),
        ("scenes", ["reward=[pickscore]"], r"a reward is \['pickscore'\], but a list names the servers of one reward"),
        ("scenes", ["policy.lora_rank=0", "model.dtype=bfloat16"], r"bfloat16 is too coarse for"),
        ("missing.yaml", [], r"no such file: 'missing.yaml'"),
    ],
)
def test_mistakes_are_named(recipe, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(recipe, changes)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_no_mapping_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_config(str(file))
    file.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(str(file))


def test_a_recipe_may_start_from_another(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: sd35m-multi\nreward: {ocr: 2}\nlearn: {t_draws: 3}\n")
    mine, base = load_config(str(file)), load_config("sd35m-multi")
    assert mine.reward_weights == {"ocr": 2}
    assert mine.learn == base.learn.model_copy(update={"t_draws": 3})
    assert mine.rollout == base.rollout


def test_the_shipped_recipes_are_valid():
    assert {"scenes", "scenes-nft", "scenes-flow-grpo"} <= set(recipe_names())
    for name in recipe_names():
        assert load_config(name).name == name


@pytest.mark.parametrize("best", [name for name in recipe_names() if name.endswith("-best")])
def test_a_best_recipe_is_the_other_with_what_the_levers_chose(best):
    """On scenes all weights are trained, and for longer; Stable Diffusion 3.5 keeps an adapter, as the best lever with
    one does.
    """
    adapter = "4 steps, shared, divided, average at 0.5, linear layers"
    changes = (*settings_of(CHOSEN), *LONGER) if best == "scenes-best" else settings_of(adapter)
    levers = {key: yaml.safe_load(value) for key, value in (change.split("=") for change in changes)}
    own, base = (flatten(load_config(name).model_dump(mode="json")) for name in (best, best.removesuffix("-best")))
    changed = {key: value for key, value in own.items() if value != base[key]}
    for own_to_it in ("name", "learn.learning_rate", "learn.schedule"):
        changed.pop(own_to_it, None)
    del levers["objective"], levers["learn.learning_rate"]
    assert changed == levers


def test_changes_are_typed():
    config = load_config("scenes", ["objective.gamma=1-A", "seed=3", "learn.learning_rate=1e-4"])
    assert config.objective.gamma == "1-A"
    assert config.seed == 3
    assert config.learn.learning_rate == 1e-4


def test_another_objective_brings_its_own_needs():
    config = load_config("scenes", ["objective=flow-grpo"])
    assert config.rollout.solver == "flow_sde"
    assert config.advantage.normalize == "raw_std"
    assert config.policy.rollout_decay == 0
    config = load_config("scenes", ["objective=nft"])
    assert config.rollout.solver == load_config("scenes").rollout.solver
    assert (config.advantage.normalize, config.advantage.clip) == ("raw_std", 5.0)
    back = load_config("scenes-flow-grpo", ["objective=advantageflow"])
    assert back.rollout.solver == "dpm2"
    assert (back.advantage.normalize, back.advantage.clip) == ("centered_rms", 1.0)


def test_the_written_configuration_reads_back_the_same():
    config = load_config("scenes", ["objective=flow-grpo", "seed=7"])
    assert check_config(yaml.safe_load(dump_config(config))) == config


def test_the_drawn_worlds_prompts_stay_in_the_drawn_world():
    def prompts(recipe, *changes):
        found = load_config(recipe, changes).prompts
        return found.train, found.held_out

    assert prompts("scenes") == ("scenes:train", "scenes:held_out")
    assert prompts("words") == prompts("scenes", "model.path=words") == ("words:train", "words:held_out")
    assert prompts("scenes", "model.path=someone/model") == (None, None)
    assert (
        prompts("scenes", "prompts.train=mine.txt") == prompts("words", "prompts.train=mine.txt") == ("mine.txt", None)
    )
    assert prompts("scenes", "model.path=a/b", "prompts.train=scenes:train") == ("scenes:train", "scenes:held_out")
    assert prompts("scenes", "prompts.held_out=0.2") == ("scenes:train", 0.2)
    written = yaml.safe_load(dump_config(load_config("scenes", ["prompts.train=mine.txt"])))
    assert written["prompts"]["held_out"] is None


def test_a_configuration_that_is_read_back_is_the_same_to_the_letter():
    """A default of 64 for a float would come back as 64.0, and the bytes of a continued run's export would differ."""
    for recipe in recipe_names():
        written = dump_config(load_config(recipe))
        assert dump_config(check_config(yaml.safe_load(written))) == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["learn.t_range=[0.2]"], r"learn.t_range is \[0.2\]; allowed: \[FIRST, SECOND\], each a number from 0 to 1"),
        (["learn.t_range=[0.6, 0.2]"], r"learn.t_range is \[0.6, 0.2\]; the first must be below the second"),
        (["learn.t_range=[0.5, 1]"], "set learn.t_distribution to uniform or logit_normal"),
        (["objective=flow-grpo", "learn.share=group"], "objective 'flow-grpo' noises no images; set learn.share=null"),
        (
            ["learn.share=group", "rollout.prompts_per_iteration=2", "learn.optimizer_steps=3"],
            "an iteration has only 2 whole groups",
        ),
    ],
)
def test_settings_of_noised_images_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config("scenes", changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["policy.lora_rank=0"], "model.quantization=fp8 holds frozen in fewer bits; set model.quantization=null"),
        (["model.device=mps"], "model.device=mps, which has no float8"),
    ],
)
def test_a_base_in_fewer_bits_stays_as_it_is(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config("scenes", ["model.quantization=fp8", *changes])
