"""What a user types, and what happens."""

import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from command_line import command_line
from safetensors.torch import load_file

from advantageflow import hub

SMALL = [
    "prompts.train=scenes:train",
    "rollout.prompts_per_iteration=2",
    "rollout.images_per_prompt=3",
    "rollout.num_inference_steps=3",
    "learn.t_draws=2",
    "policy.lora_rank=4",
    "evaluation.num_images=6",
    "evaluation.num_inference_steps=2",
    "evaluation.prompts_shown=2",
    "run.checkpoint_every=1",
    "run.threads=1",
]


def command(*arguments):
    return [sys.executable, "-m", "advantageflow", *map(str, arguments)]


def run(*arguments, cwd=None):
    """In this process, which has imported what takes seconds."""
    before = os.getcwd()
    with mock.patch.dict(os.environ, {"COLUMNS": "200"}):
        os.chdir(cwd or before)
        try:
            return subprocess.CompletedProcess(arguments, *command_line(*arguments))
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_pipeline_folder):
    """A short run of the tiny model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = [f"model.path={tiny_pipeline_folder}", *SMALL, "run.iterations=2", "--output", folder]
    result = run("train", "scenes", *arguments)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_version_and_help():
    assert run("--version").stdout.startswith("advantageflow 0.")
    text = run("--help").stdout
    assert all(name in text for name in ("train", "sample", "evaluate", "pretrain"))


def test_help_imports_nothing_heavy():
    code = "import sys, advantageflow.cli; print([m for m in ('torch', 'diffusers', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_run_leaves_its_folder_and_prints_where_to_look(finished):
    folder, text = finished
    assert "held-out prompts: " in (folder / "prompts.txt").read_text()
    for name in ("config.yaml", "metrics.jsonl", "curve.png", "summary.json", "samples/before_after.png"):
        assert (folder / name).is_file()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    begun = json.loads((folder / "environment.json").read_text())
    assert (begun["device"], begun["threads"]) == ("cuda" if begun["gpus"] else "cpu", 1)
    assert begun["command"].startswith("advantageflow train scenes model.path=")
    assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert "strict" in text
    assert "before" in text
    assert "before_after.png" in text
    assert "training prompts: 1" in text
    assert "evaluated on held-out prompts: " in text
    assert "from scenes:held_out, the first: 'a" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "scnes"], "unknown recipe 'scnes'"),
        (["train", "reward={scenes_graded:1}"], "write {scenes_graded: 1}, with a space after the colon"),
        (["train", "reward={./mine.py:score:0.5}"], "write {./mine.py:score: 0.5}, with a space"),
        (["train", "evaluation.rewards={mine:scenes_graded}"], "write {mine: scenes_graded}, with a space"),
        (["train", "run={iterations:5}"], "write {iterations: 5}, with a space"),
        (["reproduce", "fig2", "--only-report", "--results", "no/such"], "no/such holds no records of runs"),
        (["train", "scenes", "objective.gama=1"], "did you mean 'gamma'"),
        (["train", "scenes", "run.iterations=many"], "run.iterations is 'many'"),
        (["train", "scenes", "objective.gamma=1+A"], "a number, or 1-A, auto"),
        (["train", "scenes", "rollout.images_per_prompt=1"], "at least 2 images"),
        (["train", "scenes-flow-grpo", "rollout.solver=euler"], "learns from an SDE"),
        (["train", "prompts.train=nowhere.txt"], "'nowhere.txt' does not exist"),
        (["train", "reward=pickscor"], "unknown reward 'pickscor'"),
        (["train", "model.path=/no/such/folder"], "neither built in (scenes, words, scenes-meanflow), nor a folder"),
        (["train", "reward=ocr", "run.iterations=1"], "scenes:train: the reward 'ocr' cannot use this prompt"),
        (
            ["train", "evaluation.prompts_shown=[a red circle, a red cat]"],
            "evaluation.prompts_shown, prompt 2: the reward 'scenes_exact' cannot use this prompt",
        ),
        (["train", "evaluation.prompts_shown=['']"], "evaluation.prompts_shown, prompt 1: the prompt is empty"),
        (["train", "model.path=someone/model"], "prompts.train is not set"),
        (["train", "prompts.train=scenes:held_out", "prompts.held_out=scenes:held_out"], "are among the training"),
        (["evaluate", "scenes", "--prompts", "words:train"], "the reward 'scenes_exact' cannot use this prompt"),
        (["evaluate", "scenes", "--guidance", "much"], "--guidance is 'much'"),
        (["evaluate", "scenes", "--preset", "papr"], "unknown preset 'papr'; allowed: paper, nft"),
        (["serve", "pickscor"], "unknown reward 'pickscor'"),
        (["train", "--resume", "nowhere"], "nowhere holds no run"),
        (["train", "scenes", "--resume", "nowhere"], "give no recipe"),
        (["evaluate", "scenes", "--lora", "nowhere"], "holds no pytorch_lora_weights.safetensors"),
        (["evaluate", "/no/such/folder"], "neither built in (scenes, words, scenes-meanflow), nor a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    result = run("train", "scenes", "--output", folder)
    assert result.returncode == 2
    assert "already holds a run; continue it with --resume" in result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("body", "message", "begun"),
    [
        ("return [1.0]", "returned 1 values for 6 images", True),  # right for the one picture of the trial
        # right until a prompt comes twice in a row, which is while training
        ("return [1.0] * (len(prompts) - (prompts[:1] == prompts[1:2]))", "returned 5 values for 6 images", True),
        ("return [float('nan')] * len(prompts)", "returned nan for sample 0", False),
    ],
)
def test_a_bad_reward_stops_the_run_in_one_line(body, message, begun, tmp_path, tiny_pipeline_folder):
    (tmp_path / "mine.py").write_text(f"def reward(images, prompts):\n    {body}\n")
    result = run(
        "train", f"model.path={tiny_pipeline_folder}", "reward=mine:reward", *SMALL, "--output", "out", cwd=tmp_path
    )
    assert result.returncode == 2
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out" / "checkpoints" / "000000").is_dir() is begun


def start_training(folder, tiny_pipeline_folder, iterations):
    process = subprocess.Popen(
        command(
            "train",
            f"model.path={tiny_pipeline_folder}",
            *SMALL,
            f"run.iterations={iterations}",
            "--output",
            folder,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not (folder / "checkpoints" / "000002").is_dir():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_ctrl_c_leaves_a_resumable_run_and_says_how(tmp_path, tiny_pipeline_folder):
    folder = tmp_path / "run"
    process = start_training(folder, tiny_pipeline_folder, 500)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"advantageflow train --resume {folder}" in " ".join(out.split())
    assert list((folder / "checkpoints").iterdir())


def test_models_are_evaluated_side_by_side_and_a_stopped_evaluation_goes_on(finished, tmp_path, tiny_pipeline_folder):
    folder, _ = finished
    trained = f"{tiny_pipeline_folder}+{folder / 'lora'}"
    arguments = [tiny_pipeline_folder, trained, "--images", 12, "--steps", 2, "--guidance", "1.0,2", "--output", "out"]
    result = run("evaluate", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    found = json.loads((out / "scores.json").read_text())["models"]
    assert list(found) == [f"{name}, guidance {g}" for name in (tiny_pipeline_folder, trained) for g in ("1", "2")]
    assert set(found[f"{trained}, guidance 2"]["strict"]) >= {"all", "tasks", "single", "binding"}
    assert "paired difference to the first" in (out / "scores.md").read_text()
    assert (out / "0-guidance1.png").is_file()

    scores = (out / "scores.json").read_bytes()
    file = out / "1-guidance2.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))  # as if it had been killed
    assert run("evaluate", *arguments, cwd=tmp_path).returncode == 0
    assert (out / "scores.json").read_bytes() == scores

    result = run("evaluate", trained, *arguments[2:], cwd=tmp_path)  # another model's scores are not taken for its own
    assert result.returncode == 2
    assert "holds an evaluation with other settings" in result.stderr
    result = run("evaluate", *arguments[:-4], "--steps", 3, "--output", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert "holds an evaluation with other settings" in result.stderr


def test_sample_draws_several_models_into_one_grid(finished, tmp_path, tiny_pipeline_folder):
    folder, _ = finished
    models = ["--model", tiny_pipeline_folder, "--model", f"{tiny_pipeline_folder}+{folder / 'lora'}"]
    result = run(
        "sample", "a ring", "two circles", *models, "--images", 2, "--steps", 2, "--output", tmp_path / "grid.png"
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "grid.png").is_file()
    said = [line[9:] for line in result.stdout.splitlines()]
    assert said[:2] == [f"loading the model {tiny_pipeline_folder}", f"{tiny_pipeline_folder}: 4 of 4"]
    layers = sum(".lora_A." in name for name in load_file(folder / "lora" / "pytorch_lora_weights.safetensors"))
    assert f"with the adapter {folder / 'lora'}: {layers} layers of rank 4" in said


def test_rewards_are_listed_and_score_files(tmp_path):
    from PIL import Image

    listed = run("rewards", "list").stdout
    assert all(name in listed for name in ("pickscore", "hpsv2", "geneval_strict", "vlm"))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    result = run(
        "rewards", "score", tmp_path / "red.png", "--prompt", "a circle", "--reward", "jpeg_incompressibility",
        "--reward", "scenes_graded",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "jpeg_incompressibility" in result.stdout
    assert run("rewards", "check", "scenes_strict").stdout.startswith("scenes_strict: 0.0000 for a grey image")
    (tmp_path / "mine.csv").write_text("prompt,n\na [red] circle,1\n")
    result = run("rewards", "check", "scenes_strict", "--prompts", tmp_path / "mine.csv")
    assert result.returncode == 2
    assert "mine.csv line 2: the reward 'scenes_strict' cannot use this prompt" in result.stderr
    hub.notice_offline.cache_clear()  # what an earlier test noticed may have been taken back with its patches
    result = run("rewards", "check", "pickscore")
    assert result.returncode == 2
    assert "cannot load 'yuvalkirstain/PickScore_v1'" in result.stderr


@pytest.mark.parametrize("world", ["scenes", "words"])
def test_pretrain(tmp_path, world):
    sizes = ["--autoencoder-steps", 1, "--flow-steps", 1, "--pictures", 64, "--threads", 1]
    result = run("pretrain", world, "--output", tmp_path / "pre", *sizes)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "pre" / "pipeline" / "model_index.json").is_file()
    assert result.stderr == ""
    assert [line[9:] for line in result.stdout.splitlines() if "encoding" in line] == ["encoding pictures: 64 of 64"]
