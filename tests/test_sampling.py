"""`sample` and `evaluate`, in process: what they draw, what they say, and what stored scores they trust."""

import json
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_trainer import make_config, make_trainer
from typer.testing import CliRunner

from advantageflow.adapters import FILE
from advantageflow.cli import app
from advantageflow.errors import ConfigError
from advantageflow.models import load_model


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


EVALUATION = {"rewards": {"size": "jpeg_incompressibility"}, "num_images": 4, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def run(tiny_pipeline_folder, tmp_path_factory):
    """A run of the tiny model, with oblong pictures."""
    path = tmp_path_factory.mktemp("sampling") / "run"
    settings = {"path": str(tiny_pipeline_folder), "resolution": [64, 32]}
    make_trainer(
        make_config(model=settings, evaluation=EVALUATION, prompts={"train": "scenes:train"}),
        path,
        tiny_pipeline_folder,
    ).run()
    return path


def test_every_image_is_a_file_that_says_what_made_it(run, tiny_pipeline_folder, tmp_path):
    grid = tmp_path / "grid.png"
    grid.write_bytes(b"an earlier one")
    models = ["--model", tiny_pipeline_folder, "--model", f"{tiny_pipeline_folder}+{run / 'lora'}"]
    options = ["--images", 2, "--steps", 2, "--guidance", 3, "--negative-prompt", "фон", "--seed", 7]
    text = call("sample", "a ring", "two circles", *models, *options, "--resolution", "32x64", "--output", grid)
    assert f"wrote {grid}, and every image in {tmp_path / 'grid'}, in place of what was there" in text
    assert "warning" not in text.lower()
    files = sorted((tmp_path / "grid").iterdir())
    assert [file.name for file in files] == [f"{m}-{i:03d}.png" for m in (0, 1) for i in range(4)]
    with Image.open(tmp_path / "grid" / "1-002.png") as picture:
        assert picture.size == (64, 32)
        assert picture.text == {
            "prompt": "two circles", "number": "2", "negative_prompt": "фон", "seed": "7", "steps": "2",
            "guidance": "3.0", "model": str(tiny_pipeline_folder), "adapter": str(run / "lora"),
        }  # fmt: skip
    with Image.open(grid) as picture:
        assert picture.format == "PNG"
        picture.save(tmp_path / "grid" / "mine-001.png")
    (tmp_path / "grid" / "mine-002.png").write_text("no picture")
    call("sample", "a ring", "--model", tiny_pipeline_folder, "--images", 1, "--steps", 2, "--output", grid)
    assert sorted(file.name for file in files[0].parent.iterdir()) == ["0-000.png", "mine-001.png", "mine-002.png"]


def pixels(folder):
    return [Image.open(file).tobytes() for file in sorted(folder.iterdir())]


def test_seed_negative_prompt_and_files_of_prompts(tiny_pipeline_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a ring\ntwo circles\n")
    drawn = {}
    common = ["--model", tiny_pipeline_folder, "--images", 1, "--steps", 2, "--guidance", 2]
    for name, options in {
        "words": ["a ring", "two circles"],
        "file": ["--prompts", tmp_path / "prompts.txt"],
        "seed": ["a ring", "two circles", "--seed", 1],
        "negative": ["a ring", "two circles", "--negative-prompt", "a square"],
    }.items():
        call("sample", *options, *common, "--output", tmp_path / f"{name}.png")
        drawn[name] = pixels(tmp_path / name)
    assert drawn["words"] == drawn["file"]
    assert drawn["words"] != drawn["seed"]
    assert drawn["words"] != drawn["negative"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a ring", "--negative-prompt", "x"], "--negative-prompt has no effect without guidance"),
        ([], "there is nothing to draw"),
        (["a ring", "--prompts", "x.txt"], "not both"),
        (["a ring", "--resolution", "big"], "--resolution is 'big'; allowed: pixels such as 512, or HEIGHTxWIDTH"),
        (["a ring", "--resolution", "512"], "model.resolution is 512; scenes knows positions for at most 64"),
        (["a ring", "--run", "nowhere"], "nowhere holds no run"),
        (["a ring", "--lora", "nowhere"], "nowhere holds no pytorch_lora_weights.safetensors"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        call("sample", *options)


def test_a_run_is_drawn_with_its_own_settings(run, tmp_path):
    call("sample", "--run", run, "--images", 1, "--output", tmp_path / "run.png")
    files = sorted((tmp_path / "run").iterdir())
    assert [file.name[0] for file in files] == ["0"] * 6 + ["1"] * 6
    with Image.open(files[0]) as base, Image.open(files[6]) as trained:
        assert base.size == (32, 64)
        assert base.text["steps"] == "2"
        assert base.text["prompt"] == trained.text["prompt"]
        assert (base.text["adapter"], trained.text["adapter"]) == ("", str(run / "lora"))
    call("sample", "a ring", "--run", run, "--images", 1, "--steps", 3, "--output", tmp_path / "given.png")
    with Image.open(tmp_path / "given" / "0-000.png") as picture:
        assert (picture.text["prompt"], picture.text["steps"]) == ("a ring", "3")


def test_a_run_is_evaluated_with_its_own_settings_and_flags_win(run, tmp_path):
    out = tmp_path / "scores.json"
    call("evaluate", "--run", run, "--json", out)
    found = json.loads(out.read_text())
    assert {name: found[name] for name in ("rewards", "steps", "images")} == {
        "rewards": EVALUATION["rewards"], "steps": 2, "images": 4,
    }  # fmt: skip
    assert found["resolution"] == [64, 32]
    assert len(found["models"]) == 2
    summary = json.loads((run / "summary.json").read_text())
    for column, part in zip(found["models"].values(), ("before", "after"), strict=True):
        assert column["size"]["all"]["mean"] == pytest.approx(summary[part]["size"], abs=1e-4)
    call("evaluate", "--run", run, "--preset", "nft", "--reward", "x=jpeg_compressibility", "--images", 2, "--steps", 3,
         "--json", out)  # fmt: skip
    found = json.loads(out.read_text())
    assert (found["steps"], found["images"], found["rewards"]) == (3, 2, {"x": "jpeg_compressibility"})


def test_a_column_of_prompts_is_chosen(tiny_pipeline_folder, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"caption": "a ring", "kind": "one"}\n{"caption": "two circles", "kind": "two"}\n'
    )
    arguments = ["evaluate", tiny_pipeline_folder, "--prompts", tmp_path / "p.jsonl", "--images", 2, "--steps", 2]
    call(*arguments, "--column", "caption", "--task-column", "kind", "--reward", "jpeg_compressibility",
         "--json", tmp_path / "s.json")  # fmt: skip
    (found,) = json.loads((tmp_path / "s.json").read_text())["models"].values()
    assert {"one", "two"} < found["jpeg_compressibility"].keys()
    with pytest.raises(ConfigError, match="'prompt'"):
        call(*arguments)


@pytest.fixture
def stored(run, tiny_pipeline_folder, tmp_path, monkeypatch):
    """An evaluation that was stored, of a copy of the run's adapter and with a reward of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lx").mkdir()
    save_file(load_file(run / "lora" / FILE), tmp_path / "lx" / FILE)
    (tmp_path / "prompts.txt").write_text("a ring\ntwo circles\n")
    (tmp_path / "my_rewards_here.py").write_text("def mean(images, prompts):\n    return images.mean((1, 2, 3))\n")
    sys.modules.pop("my_rewards_here", None)
    reward = ["--reward", "mean=my_rewards_here:mean"]
    options = ["--prompts", "prompts.txt", "--images", 2, "--steps", 2, "--output", "out", *reward]
    arguments = ["evaluate", f"{tiny_pipeline_folder}+lx", *options]
    assert "reused" not in call(*arguments).replace(str(tmp_path), "")
    return arguments, tmp_path


def test_stored_scores_are_reused_where_all_is_equal(stored):
    arguments, folder = stored
    before = (folder / "out" / "scores.json").read_bytes()
    assert "what it holds is reused" in call(*arguments)
    assert (folder / "out" / "scores.json").read_bytes() == before


@pytest.mark.parametrize("changed", ["adapter", "prompts", "rewards", "code"])
def test_stored_scores_of_other_content_under_the_same_name_are_made_again(stored, changed, monkeypatch):
    arguments, folder = stored
    before = json.loads((folder / "out" / "scores.json").read_text())["models"]
    if changed == "adapter":
        tensors = load_file(folder / "lx" / FILE)
        save_file({name: tensor + 0.2 for name, tensor in tensors.items()}, folder / "lx" / FILE)
    elif changed == "prompts":
        (folder / "prompts.txt").write_text("a square\ntwo rings\n")
    elif changed == "rewards":
        (folder / "my_rewards_here.py").write_text(
            "def mean(images, prompts):\n    return 1 - images.mean((1, 2, 3))\n"
        )
    else:
        monkeypatch.setattr("advantageflow.studies.scoreboard.own_code", lambda: "another version")
    text = call(*arguments)
    assert f"{changed} changed since; it is kept as 0-guidance1.old.jsonl, and made again" in text
    if changed in ("adapter", "prompts"):
        assert json.loads((folder / "out" / "scores.json").read_text())["models"] != before


def test_prompt_embeddings_of_other_encoders_are_not_taken(tiny_pipeline_folder, tmp_path):
    """The folder keeps its name; what is in it is another text encoder."""
    import shutil

    shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    first = load_model(str(tmp_path / "model"), prompt_cache=str(tmp_path / "cache"))
    before = first.encode(["a ring"]).tokens
    encoder = first.pipeline.text_encoder
    for parameter in encoder.parameters():
        parameter.data += 0.1
    encoder.save_pretrained(tmp_path / "model" / "text_encoder")
    second = load_model(str(tmp_path / "model"), prompt_cache=str(tmp_path / "cache"))
    assert not torch.equal(second.encode(["a ring"]).tokens, before)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "other", "infinite", "empty"])
def test_a_damaged_prompt_embedding_is_made_again(tiny_pipeline_folder, tmp_path, caplog, damage):
    cache = tmp_path / "cache"
    expected = load_model(str(tiny_pipeline_folder), prompt_cache=str(cache)).encode(["a ring"]).tokens
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-5])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        save_file({"something": torch.ones(2)}, file)
    else:
        save_file({name: tensor * float("inf") for name, tensor in load_file(file).items()}, file)
    again = load_model(str(tiny_pipeline_folder), prompt_cache=str(cache))
    assert torch.equal(again.encode(["a ring"]).tokens, expected)
    assert "is damaged, and made again" in caplog.text
    assert [file.name for file in cache.iterdir()] == [file.name]
    assert file.read_bytes() == whole


def test_a_run_goes_on_only_from_the_adapter_that_it_started_from(run, tiny_pipeline_folder, tmp_path):
    (tmp_path / "start").mkdir()
    save_file(load_file(run / "lora" / FILE), tmp_path / "start" / FILE)
    model = {"path": str(tiny_pipeline_folder), "lora": str(tmp_path / "start")}
    config = make_config(model=model, evaluation={"rewards": {"size": "jpeg_incompressibility"}})
    make_trainer(config, tmp_path / "run", tiny_pipeline_folder).run()
    make_trainer(config, tmp_path / "run", tiny_pipeline_folder).run()  # it is finished, and says nothing
    tensors = load_file(tmp_path / "start" / FILE)
    save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, tmp_path / "start" / FILE)
    with pytest.raises(ConfigError, match="is not the one that this run started from"):
        make_trainer(config, tmp_path / "run", tiny_pipeline_folder).run()
