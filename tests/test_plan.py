import subprocess
import sys

import pytest

from advantageflow.config import ConfigError, load_config, recipe_names
from advantageflow.models import BUILT_IN
from advantageflow.plan import GPUS, make_plan, print_plan
from advantageflow.reading import flatten


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_valid_and_has_a_plan(recipe):
    config = load_config(recipe)
    plan = make_plan(config)
    assert plan.images == config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
    assert set(plan.hours) == {"H100", "A100", "4090"}
    assert (plan.downloads == {}) == (config.model.path in BUILT_IN)


def test_the_papers_run():
    plan = make_plan(load_config("sd35m-multi"))
    assert plan.images == 128
    assert plan.sampling_calls == 1280
    assert plan.learning_calls == 3 * 128 * 9
    assert plan.gradient_calls == 128 * 9
    assert 10 < plan.hours["H100"] <= 35  # the paper: at most 35 H100-hours
    assert 16 < max(plan.memory_gb.values()) < 80
    assert set(plan.downloads) >= {"stabilityai/stable-diffusion-3.5-medium", "xswu/HPSv2"}
    large = make_plan(load_config("sd35m-multi-large"))
    assert large.images == 512
    assert 3.8 < large.hours["H100"] / plan.hours["H100"] < 4  # evaluations are the same


def test_departures_from_the_paper_are_listed():
    assert "learn.t_draws is 9; the paper has 1" in make_plan(load_config("sd35m-pickscore")).departures
    literal = ["rollout.solver=euler", "learn.t_distribution=uniform", "learn.t_draws=1", "model.dtype=float16"]
    assert make_plan(load_config("sd35m-pickscore", literal)).departures == []
    assert make_plan(load_config("scenes")).departures == []


def test_guidance_and_other_methods_change_the_count():
    assert make_plan(load_config("sd35m-pickscore", ["rollout.guidance_scale=4.5"])).sampling_calls == 2560
    grpo = make_plan(load_config("sd35m-pickscore", ["objective=flow-grpo", "rollout.solver=flow_sde"]))
    assert grpo.learning_calls == 2 * 128 * 9


def test_plans_and_descriptions_of_methods_need_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['advantageflow', 'train', 'sd35m-multi', '--plan']\n"
        "from advantageflow.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "from advantageflow.methods import describe\n"
        "describe()\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip().endswith("[]"), found.stdout + found.stderr
    assert "Departures from the paper" in found.stdout
    assert not list(tmp_path.iterdir())


def test_a_plan_tells_the_prompts(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("\n".join(f"[{i}] cats" for i in range(20)))
    print_plan(load_config("scenes", [f"prompts.train={tmp_path / 'mine.txt'}"]))
    told = capsys.readouterr().out
    assert f"training prompts: 18 from {tmp_path / 'mine.txt'} without its held-out share, the first: '[" in told
    assert "held-out prompts: 2 from the held-out share of" in told
    print_plan(load_config("sd35m-pickscore"))
    assert "prompts: hub:yuvalkirstain/pickapic_v1_no_images:train and" in capsys.readouterr().out
    (tmp_path / "mine.txt").write_text("prompt\ta\n")
    with pytest.raises(ConfigError, match=r"mine.txt line 1"):
        print_plan(load_config("scenes", [f"prompts.train={tmp_path / 'mine.txt'}"]))


def most(recipe, *changes):
    """The stage that takes the most memory, and how much."""
    found = make_plan(load_config(recipe, changes)).memory_gb
    return max(found.items(), key=lambda entry: entry[1])


def test_decoding_is_the_peak_of_large_batches():
    plan = make_plan(load_config("sd35m-ocr"))
    assert most("sd35m-ocr")[0] == "decoding"
    assert plan.memory_gb["decoding"] - plan.memory_gb["text encoding"] == pytest.approx(8, abs=1)  # 16 images of 512²
    assert plan.fits["H100"] == []
    assert plan.fits["4090"] not in ([], None)


@pytest.mark.parametrize("recipe", ["sd35m-ocr", "sd35m-pickscore", "sd35m-multi"])
def test_the_settings_that_are_named_make_it_fit(recipe):
    config = load_config(recipe)
    for gpu, changes in make_plan(config).fits.items():
        if changes is None:  # three learned rewards beside the text encoders
            assert (recipe, gpu) == ("sd35m-multi", "4090")
            continue
        cleaned = [change.replace("'", "") for change in changes]
        assert most(recipe, *cleaned)[1] <= GPUS[gpu][1]
        for left_out in cleaned:  # none of them is needless
            assert most(recipe, *(change for change in cleaned if change != left_out))[1] > GPUS[gpu][1]


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("model.vae_slicing=true", "decoding"),
        ("model.offload=true", "learning"),
        ("rollout.batch_size=4", "sampling"),
        ("learn.batch_size=1", "learning"),
        ("policy.lora_rank=4", "learning"),
        ("model.quantization=4bit", "text encoding"),
        ("reward=ocr", "scoring and sampling"),
        ("model.resolution=[256, 512]", "decoding"),
    ],
)
def test_what_saves_memory_does_so_in_its_stage(change, stage):
    base = make_plan(load_config("sd35m-multi")).memory_gb[stage]
    changes = [change] if change != "reward=ocr" else [change, "evaluation.rewards={ocr: ocr}"]
    assert make_plan(load_config("sd35m-multi", changes)).memory_gb[stage] < base


def test_more_evaluations_cost_hours():
    often, never = (make_plan(load_config("sd35m-ocr", [f"evaluation.every={n}"])).hours["H100"] for n in (10, 0))
    # 100 evaluations of 512 images in 40 steps, beside 1000 iterations of 1280 calls and the gradients
    assert 1.05 * never < often < 2 * never


def test_what_is_printed(capsys):
    print_plan(load_config("sd35m-ocr"))
    lines = capsys.readouterr().out.splitlines()
    assert sum("fetched on first use" in line for line in lines) == 1
    text = " ".join(" ".join(lines).split())
    for part in ("most memory", "while decoding", "hours on this CPU", "model.offload=true"):
        assert part in text


def test_a_gradient_method_keeps_what_decoding_and_scoring_need():
    changes = ["objective=draft", "rollout.solver=euler", "learn.t_draws=1", "learn.batch_size=8"]
    draft = load_config("sd35m-pickscore", changes)
    plain = load_config("sd35m-pickscore", ["learn.t_draws=1", "learn.batch_size=8"])
    memory = make_plan(draft).memory_gb
    pictures = 8 * 512 * 512 * 11.4e3 / 1e9  # 5700 numbers per pixel in half precision, of SD3's decoder
    scoring = 8 * 0.425  # a ViT-H/14 in float32
    expected = make_plan(plain).memory_gb["learning"] + pictures + scoring
    assert memory["learning"] == pytest.approx(expected, rel=0.02)
    sliced = load_config("sd35m-pickscore", [*changes, "model.vae_slicing=true"])
    assert memory["learning"] - make_plan(sliced).memory_gb["learning"] == pytest.approx(7 / 8 * pictures, rel=0.02)
    lv = load_config("sd35m-pickscore", ["objective=draft-lv", "objective.copies=1", *changes[1:]])
    assert make_plan(lv).memory_gb["learning"] > memory["learning"] + pictures
    large = load_config("sd35m-pickscore", ["objective=draft", "learn.t_draws=1", "learn.batch_size=64"])
    assert "learn.batch_size=8" in make_plan(large).fits["4090"]


def test_guidance_goes_on_through_the_last_steps_of_a_gradient_method():
    changes = ["objective=draft", "rollout.solver=euler", "learn.t_draws=1"]
    plain, guided = (load_config("sd35m-pickscore", [*changes, *more]) for more in ([], ["rollout.guidance_scale=4.5"]))
    assert make_plan(guided).gradient_calls == 2 * make_plan(plain).gradient_calls


def test_a_methods_own_copies_of_the_weights_take_memory():
    """4 bytes for every one of SD3.5-M's weights, where all are trained."""
    whole = ["policy.lora_rank=0", "model.dtype=float32", "learn.learning_rate=1e-5"]
    nft, crd = (
        make_plan(load_config("sd35m-pickscore", [f"objective={name}", *whole])).memory_gb["sampling"]
        for name in ("nft", "crd")
    )
    assert crd - nft == pytest.approx(4 * 2.24, rel=0.15)


def test_what_images_of_a_tree_share_is_computed_once():
    """Trees of 2 images that part in step 2 of 4 share the velocities up to there, and the transitions before."""
    changes = ["objective=branch-grpo", "objective.splits=[2]", "rollout.num_inference_steps=4", "learn.t_draws=3"]
    plan = make_plan(load_config("sd35m-pickscore", changes))
    assert plan.sampling_calls == plan.images // 2 * 3 + plan.images
    assert plan.gradient_calls == plan.images // 2 * 2 + plan.images


CARDS = {
    recipe: int(recipe.rpartition("-")[2].removesuffix("gb")) for recipe in recipe_names() if recipe.endswith("gb")
}
OF_MEMORY = {"offload", "vae_slicing", "quantization", "max_sequence_length", "batch_size"}


@pytest.mark.parametrize("recipe", CARDS)
def test_a_recipe_for_a_card_fits_it_and_learns_from_the_same_batch(recipe):
    config, whole = load_config(recipe), load_config(recipe.rpartition("-")[0])
    assert max(make_plan(config).memory_gb.values()) <= CARDS[recipe]
    given, usual = flatten(config.model_dump()), flatten(whole.model_dump())
    changed = {key for key in usual if given[key] != usual[key]} - {"name", "evaluation.rewards"}
    assert {key.rpartition(".")[2] for key in changed} <= OF_MEMORY
    assert config.reward in config.evaluation.rewards.values()


def test_there_are_recipes_for_small_cards():
    assert set(CARDS.values()) == {16, 24}


def test_without_t5_a_plan_has_neither_its_memory_nor_its_tokens():
    usual, without = (
        make_plan(load_config("sd35m-pickscore", change)) for change in ([], ["model.max_sequence_length=0"])
    )
    assert usual.memory_gb["text encoding"] - without.memory_gb["text encoding"] > 9.5
    assert without.hours["H100"] < usual.hours["H100"]
    assert sum(usual.downloads.values()) - sum(without.downloads.values()) == pytest.approx(9.53)
    assert any("T5 is left out" in line for line in without.departures)
