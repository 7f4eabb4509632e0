"""A model, run, recipe or prompt of a stranger runs no code, and writes nowhere but in its folder."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import command_line

import advantageflow
from advantageflow.config import ConfigError, load_config
from advantageflow.models import load_model
from advantageflow.run.checkpoint import save_state, verify
from advantageflow.studies.compare import parse_arms, slug

MARK = "import pathlib\npathlib.Path({!r}).touch()\nclass Theirs:\n    pass\n"
SMALL = [
    "rollout.prompts_per_iteration=1", "rollout.images_per_prompt=2", "rollout.num_inference_steps=2",
    "learn.t_draws=1", "policy.lora_rank=2", "evaluation.num_images=2", "evaluation.prompts_shown=1",
    "evaluation.num_inference_steps=2", "run.threads=1", "run.iterations=1",
]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("part", "value", "file"),
    [
        ("transformer", ["theirs", "Theirs"], "transformer/theirs.py"),
        ("transformer", ["theirs_beside", "Theirs"], "../theirs_beside.py"),
        ("scheduler", ["os", "system"], "theirs.py"),
        ("_class_name", ["theirs", "Theirs"], "theirs.py"),
        ("_class_name", "../theirs", "../theirs.py"),
    ],
)
def test_a_model_runs_no_code_of_its_own(part, value, file, tiny_pipeline_folder, tmp_path, monkeypatch):
    model, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_pipeline_folder, model)
    (model / file).write_text(MARK.format(str(ran)))
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, part: value}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        load_model(str(model))
    assert not ran.exists()


def test_a_manifest_names_files_of_its_checkpoint_alone(tmp_path):
    (tmp_path / "x").write_text("mine")
    (tmp_path / "run").mkdir()
    save_state(tmp_path / "run" / "000001", {}, {})
    file = tmp_path / "run" / "000001" / "manifest.json"
    content = json.loads(file.read_text())
    for name in ("../../x", str(tmp_path / "x")):
        file.write_text(json.dumps({"files": {**content["files"], name: {"size": 4, "sha256": ""}}}))
        with pytest.raises(ConfigError, match="x is missing"):
            verify(file.parent)
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "checkpoints", "samples/000001", ".config.yaml.partial", ".lock-holder"]
)
def test_a_run_with_a_link_that_leads_out_is_not_continued(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "run" / "latest").symlink_to("config.yaml")  # which leads nowhere else
    link.symlink_to(mine)
    before = files(tmp_path)
    code, _, told = command_line("train", "--resume", "run")
    assert code == 2
    assert f"run/{name} is a link that leads out of run, to {mine}" in told
    assert files(tmp_path) == before


def test_names_prompts_and_labels_name_no_files(tmp_path, tiny_pipeline_folder, monkeypatch):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    hostile = ["../../x", "/tmp/advantageflow-x", "..", "a/b", "~/x"]
    (tmp_path / "p.txt").write_text("".join(f"{name}\n" for name in hostile if name != ".."))
    labels = dict.fromkeys(hostile, "jpeg_compressibility")
    changes = [
        "name=../../x",
        f"model.path={tiny_pipeline_folder}",
        f"prompts.train={tmp_path}/p.txt",
        "run.best=../../x",
    ]
    changes += ["reward=jpeg_compressibility", f"evaluation.rewards={json.dumps(labels)}", "prompts.held_out=0.4"]
    code, _, told = command_line("train", "scenes", *SMALL, *changes, "--output", "run")
    assert code == 0, told
    code, _, told = command_line("sample", *hostile, "--model", tiny_pipeline_folder, "--steps", 2, "--images", 1)
    assert code == 0, told
    outside = {path for path in files(tmp_path) if not path.startswith("a/b/")}
    assert outside == {"p.txt"}
    assert {path.name for path in place.iterdir()} == {"run", "samples", "samples.png"}
    assert not Path("/tmp/advantageflow-x").exists()


def test_an_arm_is_a_folder_of_the_comparison():
    for arm in parse_arms(["recipe=../../x.yaml,/etc/passwd.yaml,../.."], "scenes"):
        assert "/" not in slug(arm.label)


@pytest.mark.parametrize("cache", ["/tmp/x", "~/x", "../x", "a/../../x"])
def test_a_recipe_writes_no_embeddings_elsewhere_and_a_user_may(cache, tmp_path):
    recipe = tmp_path / "theirs.yaml"
    recipe.write_text(f"extends: scenes\nmodel: {{prompt_cache: {cache}}}\n")
    with pytest.raises(
        ConfigError, match=r"model\.prompt_cache in .* a recipe may name a folder in the current one alone"
    ):
        load_config(str(recipe))
    assert load_config("scenes", [f"model.prompt_cache={cache}"]).model.prompt_cache
    recipe.write_text("extends: scenes\nmodel: {prompt_cache: cache}\n")
    assert load_config(str(recipe)).model.prompt_cache == "cache"


def test_nothing_is_unpickled_and_no_code_is_fetched():
    source = "\n".join(file.read_text(encoding="utf-8") for file in Path(advantageflow.__file__).parent.rglob("*.py"))
    assert not re.search(
        r"trust_remote_code|import pickle|allow_pickle=True|yaml\.(unsafe_|full_)?load\((?!text, Loader=_Loader)",
        source,
    )
    loads = re.findall(r"torch\.load\(.*", source)
    assert all("weights_only=True" in call for call in loads)
