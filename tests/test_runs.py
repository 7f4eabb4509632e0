"""A run in a user's hands: stopped, continued with changes, exported, and never written to by two at once."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import brightness, make_config, make_trainer, stop_after, weights
from typer.testing import CliRunner

from advantageflow import api
from advantageflow.cli import app
from advantageflow.config import dump_config
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.models import load_model
from advantageflow.run.checkpoint import verify
from advantageflow.run.directory import RunDirectory
from advantageflow.run.folder_lock import locked
from advantageflow.run.interrupts import EXIT_CODE, stopping
from advantageflow.run.keeping import saved
from advantageflow.studies.record import read_run

SCENES = {"train": "scenes:train", "held_out": "scenes:held_out"}
LORA = "pytorch_lora_weights.safetensors"


def command(*arguments):
    """What a command prints; its error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def model(tiny_pipeline_folder):
    return {"path": str(tiny_pipeline_folder)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, tiny_pipeline_folder):
    """Six iterations, evaluated at 2 and 4, with the best score at 2."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = make_config(model=model, prompts=SCENES, run={"iterations": 6}, evaluation={"every": 2, "num_images": 2})
    trainer = make_trainer(config, folder, tiny_pipeline_folder)
    evaluate, scores = trainer.held_out.evaluate, iter([0.1, 0.9, 0.5, 0.3])

    def scored(role):
        found = evaluate(role)
        found.by_image["strict"].fill_(next(scores))
        return found

    trainer.held_out.evaluate = scored
    trainer.run()
    return folder


def test_a_finished_run_says_so_and_what_to_type(finished):
    code, text = command("train", "--resume", finished)
    assert code == 0
    assert text.endswith(
        f" {finished} is finished, after 6 iterations; to go on: advantageflow train --resume {finished} "
        "run.iterations=12"
    )
    with pytest.raises(ConfigError, match="is finished, after 6 iterations"):
        command("train", "--resume", finished, "learn.learning_rate=1e-3")


def test_what_is_to_be_typed_has_its_folder_quoted(finished, tmp_path):
    folder = tmp_path / "runs of mine"
    shutil.copytree(finished, folder)
    assert f"advantageflow train --resume '{folder}' run.iterations=12" in command("train", "--resume", folder)[1]


def test_the_best_checkpoint_is_kept_and_exported(finished, tmp_path):
    assert saved(finished / "checkpoints") == [2, 5, 6]
    for name, iteration in (("best", 2), ("last", 6), ("5", 5)):
        _, text = command("export", finished, "--iteration", name, "--output", tmp_path / name)
        assert text.startswith(f"iteration {iteration}")
        checkpoint = finished / "checkpoints" / f"{iteration:06d}"
        exported = load_file(tmp_path / name / LORA)
        average = load_file(checkpoint / "average.safetensors")
        assert len(exported) == len(average)
        assert (tmp_path / name / LORA).read_bytes() == (checkpoint / "lora" / LORA).read_bytes()
    assert "(strict: here 0.900, base model 0.100)" in command("export", finished, "--iteration", "best")[1]
    assert (finished / "lora-000002" / LORA).is_file()
    with pytest.raises(ConfigError, match="allowed: last, best, or a checkpoint that was kept: 2, 5, 6"):
        command("export", finished, "--iteration", "3")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        command("export", finished, "--output", finished)


def test_the_adapter_is_there_from_the_first_evaluation_on(tmp_path, model, tiny_pipeline_folder):
    config = make_config(
        model=model, run={"iterations": 5, "checkpoint_every": 100}, evaluation={"every": 2, "num_images": 2}
    )
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    seen = []

    def watched(images, prompts):
        file = tmp_path / "run" / "lora" / LORA
        seen.append((trainer.iteration, file.exists()))
        trainer.world.stopping = trainer.iteration == 3
        return brightness(images, prompts)

    trainer.scorer.rewards = {"scenes_graded": watched}
    assert trainer.run() is None
    assert dict(seen) == {0: False, 1: False, 2: True, 3: True}
    assert saved(tmp_path / "run" / "checkpoints") == [2, 3]
    for name in ("2", "last"):
        command("export", tmp_path / "run", "--iteration", name)
    last = (tmp_path / "run" / "lora" / LORA).read_bytes()
    assert last == (tmp_path / "run" / "lora-000003" / LORA).read_bytes()
    assert last != (tmp_path / "run" / "lora-000002" / LORA).read_bytes()


def test_a_run_is_exported_for_other_programs(finished, tmp_path, tiny_pipeline_folder):
    """In kohya's names, and as a pipeline that has the adapter in its weights."""
    command("export", finished, "--format", "kohya", "--output", tmp_path / "kohya")
    _, text = command("export", finished, "--format", "merged", "--output", tmp_path / "merged")
    assert text.endswith(str(tmp_path / "merged"))
    merged, ours, theirs = (load_model(str(path)) for path in (tmp_path / "merged", *[tiny_pipeline_folder] * 2))
    ours.load_adapter(str(finished / "lora"))
    theirs.load_adapter(str(tmp_path / "kohya"))
    x = torch.randn(1, *ours.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        values = [
            model.velocity(model.transformer, x, torch.tensor([0.5]), model.encode(["a ring"]))
            for model in (ours, merged, theirs)
        ]
    torch.testing.assert_close(values[1], values[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values[2], values[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        command("export", finished, "--format", "merged", "--output", tmp_path / "merged")


def test_full_fine_tuning_exports_the_transformer(tmp_path, tiny_pipeline_folder):
    from diffusers import SD3Transformer2DModel

    model = {"path": str(tiny_pipeline_folder), "device": "cpu"}
    config = make_config(
        model=model, policy={"lora_rank": 0}, learn={"learning_rate": 1e-5}, evaluation={"num_images": 2}
    )
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    trainer.run()
    exported = SD3Transformer2DModel.from_pretrained(tmp_path / "run" / "transformer")
    for one, other in zip(exported.parameters(), trainer.policy.weights["average"], strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ConfigError, match="has no adapter; give --format diffusers or merged"):
        command("export", tmp_path / "run", "--format", "kohya")
    with pytest.raises(ConfigError, match="push sends adapters"):
        command("push", tmp_path / "run", "OWNER/NAME", "--dry-run")
    with pytest.raises(ConfigError, match=r"they are in .*transformer"):
        _ = api.Run(tmp_path / "run").lora
    command("export", tmp_path / "run", "--format", "merged", "--output", tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"))
    for name, weight in merged.transformer.state_dict().items():
        assert torch.equal(weight, exported.state_dict()[name])


def test_changes_are_used_kept_and_told(finished, tmp_path, tiny_pipeline_folder):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    code, text = command("train", "--resume", folder, "run.iterations=7", "learn.learning_rate=5e-4")
    assert code == 0, text
    assert "changed settings: learn.learning_rate 0.001 -> 0.0005; run.iterations 6 -> 7" in text
    directory, config = RunDirectory.open(folder)
    assert (config.run.iterations, config.learn.learning_rate) == (7, 5e-4)
    (change,) = directory.changes()
    assert change["iteration"] == 6
    assert change["settings"] == {"learn.learning_rate": [1e-3, 5e-4], "run.iterations": [6, 7]}
    assert directory.summary()["iterations"] == 7
    with pytest.raises(ConfigError, match="seed cannot be changed with --resume"):
        command("train", "--resume", folder, "run.iterations=9", "seed=1")
    directory.write_config(config.model_copy(update={"seed": 5}))  # by hand
    with pytest.raises(ConfigError, match=r"other settings than config.yaml has \(seed 0\)"):
        command("train", "--resume", folder, "run.iterations=9")


def test_another_evaluation_starts_anew_with_the_base_model(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    rewards = "evaluation.rewards={mine: scenes_graded}"
    code, text = command("train", "--resume", folder, "run.iterations=9", "evaluation.every=4", rewards)
    assert code == 0, text
    assert "the base model is evaluated again" in text
    record = read_run(folder, "arm", 0)
    assert [done for done, _ in record.evaluations] == [0, 8, 9]
    assert all(set(scores) == {"mine", "tasks"} for _, scores in record.evaluations)
    assert len(record.curve("mine", "seconds")[1]) == 3


def test_prompts_that_were_edited_are_refused_unless_told(tmp_path, model):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\na blue square\na green ring\n")
    settings = {"train": str(file), "held_out": "scenes:held_out"}
    config = make_config(model=model, prompts=settings, run={"iterations": 1}, evaluation={"num_images": 2})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(config))
    assert command("train", recipe, "--output", tmp_path / "run")[0] == 0
    file.write_text("a red circle\na blue square\na yellow ring\n")
    arguments = ("train", "--resume", tmp_path / "run", "run.iterations=2")
    with pytest.raises(ConfigError, match=r"prompts.train changed since the run was started.*--accept-changes"):
        command(*arguments)
    code, text = command(*arguments, "--accept-changes")
    assert code == 0
    assert "changed since the run was started: prompts.train" in text
    assert list(RunDirectory(tmp_path / "run").changes()[0]["inputs"]) == ["prompts.train"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_the_first_signal_stops_after_the_iteration_and_the_second_at_once(name):
    told, number = [], getattr(signal, name)
    before, outer = signal.SIG_DFL, signal.signal(number, signal.SIG_DFL)  # nohup switches SIGHUP off

    def twice():
        with stopping(lambda: told.append("stop"), told.append):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            assert told == ["stop", f"{name}: saving after this batch, then stopping; once more (Ctrl-C) stops at once"]
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.signal(number, outer) == before


def test_a_stopped_run_has_an_exit_code_of_its_own(tmp_path, model, monkeypatch):
    run = {"iterations": 50, "checkpoint_every": 100}
    config = make_config(model=model, prompts=SCENES, run=run, evaluation={"num_images": 2})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(config))
    from advantageflow.trainer import Trainer

    once = Trainer.iterate

    def terminated(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        return once(trainer)

    monkeypatch.setattr(Trainer, "iterate", terminated)
    code, text = command("train", recipe, "--output", tmp_path / "run")
    assert code == EXIT_CODE == 130
    assert f"continue with: advantageflow train --resume {tmp_path / 'run'}" in text
    assert saved(tmp_path / "run" / "checkpoints") == [0]
    assert (tmp_path / "run" / "lora" / LORA).is_file()


def test_a_folder_has_one_writer(finished):
    with locked(finished):
        for arguments in (("train", "--resume", finished), ("export", finished)):
            with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on \S+, since "):
                command(*arguments)
    (finished / ".lock-holder").write_text("{}")  # of a process that was killed
    assert command("train", "--resume", finished)[0] == 0


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"cannot write to .*file/run: Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_folder_without_a_checkpoint_may_be_used_again(tmp_path):
    config = make_config()
    RunDirectory.create(tmp_path / "run", config)
    RunDirectory.create(tmp_path / "run", config).append_metrics({"iteration": 0})
    with pytest.raises(ConfigError, match="already holds a run"):
        RunDirectory.create(tmp_path / "run", config)


def test_a_step_that_no_learning_takes_stops_before_it_is_saved(tmp_path, tiny_pipeline_folder, monkeypatch):
    config = make_config(run={"iterations": 5}, evaluation={"num_images": 2})
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    monkeypatch.setattr("advantageflow.learner.rate", lambda *_: 1e20 if trainer.iteration == 2 else 1e-3)
    with pytest.raises(NonFiniteError, match=r"moved by \S+e\+19 in one step of iteration 2") as caught:
        trainer.run()
    assert caught.value.exit_code == 3
    assert saved(tmp_path / "run" / "checkpoints") == [1, 2]
    verify(tmp_path / "run" / "checkpoints" / "000002")
    assert not (tmp_path / "run" / "lora").exists()


def test_constant_rewards_are_told_and_then_stop_the_run_which_can_go_on(tmp_path, tiny_pipeline_folder):
    config = make_config(
        run={"iterations": 50, "checkpoint_every": 100, "constant_rewards_stop": 4}, evaluation={"num_images": 2}
    )
    told = []

    def trainer():
        found = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
        found.scorer.rewards = {"scenes_graded": lambda images, prompts: [0.5] * len(prompts)}
        found.display.warn = lambda text: told.append((found.iteration, text))
        return found

    with pytest.raises(
        ConfigError, match="nothing is learned: for 4 iterations all images of each prompt got the same"
    ):
        trainer().run()
    assert [iteration for iteration, _ in told] == [3]
    assert saved(tmp_path / "run" / "checkpoints") == [0, 4]
    again = trainer()
    with pytest.raises(ConfigError, match="for 8 iterations"):
        again.run()
    assert again.iteration == 8


def test_the_gradient_scale_of_half_precision_goes_on_exactly(tmp_path, tiny_pipeline_folder):
    """A scale that doubles every third step: where the count of steps is lost, the next doubling comes too late."""
    small = {"prompts_per_iteration": 1, "images_per_prompt": 2, "num_inference_steps": 2}
    evaluation = {"num_images": 1, "num_inference_steps": 2}
    config = make_config(
        model={"dtype": "float16"}, run={"iterations": 5}, rollout=small, learn={"t_draws": 1}, evaluation=evaluation
    )

    def trainer(name):
        found = make_trainer(config, tmp_path / name, tiny_pipeline_folder)
        found.learner.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        found.keeper.scaler = found.learner.scaler
        return found

    whole = trainer("whole")
    whole.run()
    first = trainer("parts")
    stop_after(2, first)
    assert first.run() is None
    second = trainer("parts")
    second.run()
    assert torch.equal(weights(second), weights(whole))
    assert second.learner.scaler.state_dict() == whole.learner.scaler.state_dict()
    assert whole.learner.scaler.state_dict()["_growth_tracker"] == 2
    rows = [
        [{key: value for key, value in row.items() if "seconds" not in key} for row in trainer.directory.metrics()]
        for trainer in (whole, second)
    ]
    assert json.dumps(rows[0]) == json.dumps(rows[1])


def test_checkpoints_are_made_by_the_clock_too(tmp_path, tiny_pipeline_folder):
    config = make_config(
        run={"iterations": 3, "checkpoint_every": 100, "checkpoint_minutes": 1e-6}, evaluation={"num_images": 2}
    )
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    seen = []

    def watched(images, prompts):
        seen.append(saved(tmp_path / "run" / "checkpoints"))
        return brightness(images, prompts)

    trainer.scorer.rewards = {"scenes_graded": watched}
    trainer.run()
    assert seen == [[0], [0, 1], [1, 2]]
