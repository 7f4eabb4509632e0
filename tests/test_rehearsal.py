"""A rehearsal: a recipe of a model that is not here, one iteration, nothing fetched."""

import dataclasses
import json

import pytest
import torch
from command_line import command_line
from transformers import CLIPConfig

from advantageflow import hub
from advantageflow.config import load_config, recipe_names
from advantageflow.errors import ConfigError
from advantageflow.memory import MODELS
from advantageflow.models import architectures
from advantageflow.plan import make_plan
from advantageflow.rehearsal import run
from advantageflow.rehearsal.shortened import shorten
from advantageflow.rewards import untrained
from advantageflow.rewards.imagereward import official_config

SD35M = "stabilityai/stable-diffusion-3.5-medium"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SHORT = ["--images", 2, "--steps", 2, "--draws", 1]
# The true networks a few layers deep and narrow; what is left out stays as it is
TRANSFORMER = {
    "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16, "caption_projection_dim": 32,
    "joint_attention_dim": 64, "pooled_projection_dim": 40, "pos_embed_max_size": 64, "dual_attention_layers": (0, 1),
}  # fmt: skip
VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
TOWER = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODERS = {
    "text_encoder": {**TOWER, "hidden_size": 16, "projection_dim": 16},
    "text_encoder_2": {**TOWER, "hidden_size": 24, "projection_dim": 24},
    "text_encoder_3": {"d_model": 64, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4},
}


def shrunk(part, **changes):
    return dataclasses.replace(part, settings={**part.settings, **changes})


def small_clip():
    tower = {**TOWER, "hidden_size": 16, "projection_dim": 12}
    return CLIPConfig(text_config=tower, vision_config={**tower, "image_size": 28, "patch_size": 14}, projection_dim=12)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    true = architectures.ARCHITECTURES[SD35M]
    small = dataclasses.replace(
        true,
        transformer=shrunk(true.transformer, **TRANSFORMER),
        vae=shrunk(true.vae, **VAE),
        encoders={name: shrunk(part, **ENCODERS[name]) for name, part in true.encoders.items()},
    )
    monkeypatch.setitem(architectures.ARCHITECTURES, SD35M, small)
    for name in ("vit_h_14_config", "vit_l_14_config"):
        monkeypatch.setattr(untrained, name, small_clip)
    monkeypatch.setattr(run, "main_memory_gb", lambda: 1e3)

    def refuse(*arguments, **options):
        raise AssertionError("a rehearsal asked the hub")

    monkeypatch.setattr(hub, "notice_offline", refuse)


# Layers, and sums of their widths in and out times the rank: the attentions'; with them a second attention in two
# blocks, feed-forward nets of four times the width, and modulations by 9, 9 and 6 times, of the text by 6, 6 and 2
ADAPTERS = {
    "attention": {"layers": 23, "parameters": 23 * 64 * 32},
    "linear": {
        "layers": 23 + 2 * 4 + 5 * 2 + 3 * 2,
        "parameters": (31 * 64 + 10 * 160 + (10 + 10 + 7 + 7 + 7 + 3) * 32) * 32,
    },
}
RECIPES = [name for name in recipe_names() if name.startswith("sd35m-")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_sd35_is_rehearsed(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_pictures = ["model.resolution=64", "run.threads=1"]
    code, out, error = command_line("train", recipe, *small_pictures, "--rehearse", *SHORT, "--json")
    assert code == 0, error
    found, config = json.loads(out), load_config(recipe)
    assert found["rehearsed"] == {"images": 2, "steps": 2, "draws": 1}
    assert found["adapter"] == ADAPTERS[config.policy.lora_targets]
    stages = {row["stage"]: row for row in found["stages"]}
    assert set(stages) == {
        "text encoding", "sampling", "decoding", "learning", *(f"scoring, {name}" for name in config.reward_names)
    }  # fmt: skip
    whole = make_plan(config)
    assert stages["sampling"]["count"] == 2 * 2
    assert stages["learning"]["count"] == 2 * 3
    assert stages["learning"]["whole_run"]["count"] == 1000 * whole.learning_calls
    assert all(row["seconds"] > 0 and row["whole_run"]["hours"] > 0 for row in found["stages"])
    assert set(found["peak_gb"]) == {"text encoding", "sampling", "decoding", "scoring", "learning"}
    assert found["notes"] == []
    assert not list(tmp_path.iterdir())


def test_a_benchmark_is_rehearsed_where_text_encoders_do_not_fit_beside_all_else(monkeypatch):
    settings = ["model.resolution=64", "run.threads=1", "rollout.batch_size=2", "learn.batch_size=2"]
    monkeypatch.setattr(run, "_fits_whole", lambda *about: False)
    code, out, error = command_line(
        "bench", "sd35m-pickscore", *settings, "--rehearse", *SHORT, "--rounds", 2, "--json"
    )
    assert code == 0, error
    found = json.loads(out)
    assert found["rehearsed"]
    assert found["images"] == 2
    assert found["calls"]["needed"] == {"learner": 2, "reference": 2, "rollout": 2 + 2 * 2} == found["calls"]["made"]
    assert found["overhead"]["own"] > 1


ROPE = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 64}
UNET = {
    "block_out_channels": (32, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 1),
    "attention_head_dim": (1, 2), "layers_per_block": 1, "cross_attention_dim": 40, "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
}  # fmt: skip
QWEN = {
    "text_config": {
        "vocab_size": 151700, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    },
    "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    "path", ["black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell", "Qwen/Qwen-Image", SDXL]
)
def test_the_other_families_are_rehearsed(path, monkeypatch):
    true = architectures.ARCHITECTURES[path]
    clip, layers = shrunk(true.encoders["text_encoder"], **(QWEN if "Qwen" in path else ENCODERS["text_encoder"])), 16
    if "Qwen" in path:
        transformer = shrunk(true.transformer, **ROPE, num_layers=2)
        vae, encoders = shrunk(true.vae, base_dim=8, num_res_blocks=1), {"text_encoder": clip}
    elif path == SDXL:
        transformer, layers = shrunk(true.transformer, **UNET), 4 * 8
        vae, second = shrunk(true.vae, **VAE), shrunk(true.encoders["text_encoder_2"], **ENCODERS["text_encoder_2"])
        encoders = {"text_encoder": clip, "text_encoder_2": second}
    else:
        depth, layers = {"num_layers": 1, "num_single_layers": 1, "pooled_projection_dim": 16}, 8 + 3
        transformer = shrunk(true.transformer, **ROPE, **depth)
        vae, t5 = shrunk(true.vae, **VAE), shrunk(true.encoders["text_encoder_2"], **ENCODERS["text_encoder_3"])
        encoders = {"text_encoder": clip, "text_encoder_2": t5}
    small = dataclasses.replace(true, transformer=transformer, vae=vae, encoders=encoders)
    monkeypatch.setitem(architectures.ARCHITECTURES, path, small)
    settings = ["model.resolution=64", "run.threads=1", "evaluation.rewards={clipscore: clipscore}", "reward=clipscore"]
    code, out, error = command_line("train", "sd35m-clipscore", f"model.path={path}", *settings, "--rehearse", *SHORT)
    assert code == 0, error
    assert f"of {layers} layers, which diffusers loaded" in " ".join(out.split())


def test_hours_are_those_of_the_calls():
    from advantageflow.rehearsal.reckoning import Measured, reckon

    config, rehearsed = shorten("sd35m-pickscore", ["evaluation.rewards={ocr: ocr}"], images=2, steps=2, draws=1)
    seconds = {"text encoding": 2.0, "sampling": 8.0, "decoding": 4.0, "learning": 12.0}
    rewards = {"pickscore": 0.5, "ocr": 0.25}
    measured = Measured("cpu", seconds, {}, {}, {}, 2, rewards, 191, 18_776_064, False, [])
    hours = {row.stage: row.hours for row in reckon(measured, rehearsed, config)}
    images, evaluated = 128 * 1000, 512 * 21  # before, after and every 50; the pictures are among them
    assert hours["sampling"] == pytest.approx((images * 10 + evaluated * 40) * 8 / 4 / 3600, rel=0.01)
    assert hours["decoding"] == pytest.approx((images + evaluated) * 2 / 3600, rel=0.01)
    assert hours["learning"] == pytest.approx(images * 9 * 3 * 12 / 6 / 3600)
    assert hours["scoring, pickscore"] == pytest.approx(images * 0.5 / 3600, rel=0.1)
    assert hours["scoring, ocr"] == pytest.approx(evaluated * 0.25 / 3600, rel=0.01)


def test_text_encoders_are_dropped_where_main_memory_is_short(monkeypatch, capsys):
    _, config = shorten("sd35m-pickscore", ["model.resolution=64"], images=2, steps=2, draws=1)
    from rich.console import Console

    monkeypatch.setattr(run, "main_memory_gb", lambda: 24.0)
    assert run.rehearse(config, Console()).in_turn
    assert "the text encoders are dropped" in capsys.readouterr().out
    monkeypatch.setattr(run, "main_memory_gb", lambda: 8.0)
    with pytest.raises(ConfigError, match=r"8 GB of main memory are not enough .*; it takes"):
        run.rehearse(config, Console())


def test_what_waits_in_main_memory_for_a_gpu_must_fit_there(monkeypatch):
    _, config = shorten("sd35m-pickscore", ["model.offload=true"])
    monkeypatch.setattr(run, "main_memory_gb", lambda: 8.0)
    with pytest.raises(ConfigError, match=r"model.offload keeps 11 GB of weights in main memory, which has 8"):
        run._fits_whole(MODELS[SD35M], config, torch.device("cuda"))
    assert run._fits_whole(MODELS[SD35M], shorten("sd35m-pickscore", [])[1], torch.device("cuda"))


def test_memory_that_runs_out_is_a_line_with_what_fits(monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run, "random_pipeline", fail)
    code, _, error = command_line("train", "sd35m-pickscore", "--rehearse", *SHORT)
    assert code == 2
    assert "are not enough (building" in error
    assert "Traceback" not in error


def test_an_adapter_that_comes_back_otherwise_is_told(monkeypatch):
    save = run.FlowModel.save_lora

    def spoil(self, folder, lora, about=()):
        save(self, folder, {name: weight + ("blocks.1" in name) for name, weight in lora.items()})

    monkeypatch.setattr(run.FlowModel, "save_lora", spoil)
    _, config = shorten("sd35m-pickscore", ["model.resolution=64"], images=2, steps=2, draws=1)
    from rich.console import Console

    with pytest.raises(RuntimeError, match="another adapter than was exported: 16 weights"):
        run.rehearse(config, Console(quiet=True))


def test_a_reward_that_is_not_rehearsed_says_so():
    reward, note = untrained.rehearsed_reward("geneval")
    assert "geneval is not rehearsed: random scores" in note
    pictures = torch.rand(3, 3, 8, 8)
    assert list(reward(pictures, ["a"] * 3)) == list(reward(pictures, ["b"] * 3))
    assert len(set(reward(pictures, ["a"] * 3))) == 3


@pytest.mark.parametrize("name", sorted(untrained.UNTRAINED))
def test_learned_rewards_of_random_weights_tell_pictures_apart(name, monkeypatch):
    if name == "imagereward":
        config = official_config()
        for part in (config.text_config, config.vision_config):
            part.num_hidden_layers = 1
        monkeypatch.setattr(untrained, "official_config", lambda: config)
    reward, note = untrained.rehearsed_reward(name)
    assert note is None
    scores = torch.as_tensor(reward(torch.rand(3, 3, 64, 48), ["a cat", "a cat", "two dogs"]))
    assert torch.isfinite(scores).all()
    assert len(set(scores.tolist())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes", "--images", 4], r"--images is for a rehearsal; add --rehearse"),
        (["scenes", "--json"], r"--json is for a rehearsal"),
        (["--resume", "runs/mine", "--rehearse"], r"give no --resume, --output, --plan or --processes"),
        (["scenes", "--rehearse", "--processes", 2], r"give no --resume, --output, --plan or --processes"),
        (
            ["scenes", "--rehearse", "model.path=me/mine"],
            r"architecture of model.path 'me/mine'; it knows stabilityai/",
        ),
        (["sd35m-pickscore", "--rehearse", "model.quantization=4bit"], r"set model.quantization=fp8 or null"),
        (["sd35m-pickscore", "--rehearse", "--images", 6], r"--images is 6, but a prompt has 4 images"),
        (["sd35m-pickscore", "--rehearse", "--steps", 2], r"set learn.t_draws to at most 2"),
        (["bench", "scenes", "--draws", 2], r"--draws is for a rehearsal; add --rehearse"),
        (["bench", "sd35m-pickscore", "--rehearse", "--scaling"], r"--rehearse has none to load; give one of them"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_in_a_sentence(arguments, message):
    import re

    command = [] if arguments[0] == "bench" else ["train"]
    code, _, error = command_line(*command, *arguments)
    assert code == 2
    assert re.search(message, " ".join(error.split())), error


def test_the_built_in_model_is_rehearsed_with_its_own_weights():
    code, out, error = command_line("train", "scenes", "--rehearse", *SHORT)
    assert code == 0, error
    text = " ".join(out.split())
    for part in (
        "Rehearsal of scenes",
        "peak while learning",
        "47 layers, which diffusers loaded",
        "the whole run: about",
    ):
        assert part in text
