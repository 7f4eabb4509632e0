"""A run that is asked to stop, wherever it is, goes on as if it had not been."""

import pytest
import torch
from test_trainer import make_config, make_trainer

from advantageflow.run.checkpoint import load_tensors
from advantageflow.run.keeping import place, saved
from advantageflow.run.samples import sampled_iterations

CONFIG = {
    "rollout": {"batch_size": 5},
    "learn": {"optimizer_steps": 2, "batch_size": 8},
    "evaluation": {"every": 1, "num_images": 6, "prompts_shown": 2},
    "run": {"iterations": 2, "checkpoint_every": 1, "samples_every": 1, "probe_every": 2},
}
BATCHES = 20  # of drawing, learning and evaluating, in such a run


def run_of(folder, model_folder, stop_at=None):
    """A run, asked to stop in the batch of that number; and how many batches it had."""
    trainer, seen = make_trainer(make_config(**CONFIG), folder, model_folder), []

    def advance(count):
        seen.append(count)
        trainer.world.stopping = len(seen) == stop_at

    for part in (trainer.source, trainer.learner, trainer.held_out):
        part.advance = advance
    return trainer.run(), len(seen)


def rows_of(folder):
    from advantageflow.run.directory import RunDirectory

    return [
        {name: value for name, value in row.items() if not name.startswith("seconds")}
        for row in RunDirectory(folder).metrics()
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_pipeline_folder):
    folder = tmp_path_factory.mktemp("stopping") / "whole"
    summary, batches = run_of(folder, tiny_pipeline_folder)
    assert summary is not None
    assert batches == BATCHES
    return folder


@pytest.mark.parametrize("stop_at", range(2, BATCHES, 3))
def test_stopped_anywhere_it_goes_on_to_the_bit(tmp_path, tiny_pipeline_folder, whole, stop_at):
    folder = tmp_path / "parts"
    summary, batches = run_of(folder, tiny_pipeline_folder, stop_at)
    assert summary is None
    assert batches == stop_at  # no further one was begun
    done = len(rows_of(folder))
    assert saved(folder / "checkpoints")[-1] == done
    assert run_of(folder, tiny_pipeline_folder)[0] is not None
    assert rows_of(folder) == rows_of(whole)
    then, now = (load_tensors(place(path / "checkpoints", 2)) for path in (whole, folder))
    for group, tensors in then.items():
        assert all(torch.equal(tensor, now[group][name]) for name, tensor in tensors.items()), group
    assert sampled_iterations(folder / "samples") == sampled_iterations(whole / "samples") == [0, 1, 2]
    for file in (whole / "samples").rglob("*.json"):
        assert (folder / file.relative_to(whole)).read_bytes() == file.read_bytes()


def test_a_folder_that_vanishes_ends_the_run_and_is_not_made_again(tmp_path, tiny_pipeline_folder):
    folder, elsewhere = tmp_path / "run", tmp_path / "moved"
    trainer = make_trainer(make_config(**CONFIG), folder, tiny_pipeline_folder)
    iterate = trainer.iterate

    def moved():
        if trainer.iteration == 1:
            folder.rename(elsewhere)
        return iterate()

    trainer.iterate = moved
    with pytest.raises(FileNotFoundError) as refused:
        trainer.run()
    assert str(folder) in str(refused.value)
    assert not folder.exists()
    assert saved(elsewhere / "checkpoints") == [0, 1]
    assert run_of(elsewhere, tiny_pipeline_folder)[0] is not None
