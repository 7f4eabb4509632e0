"""A base whose weights are parted among processes: what a run learns is what one process would."""

from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from test_several_processes import in_processes, settings_of
from torch.distributed.tensor import DTensor

from advantageflow.building import Inputs, build
from advantageflow.config import check_config
from advantageflow.errors import ConfigError, LostError
from advantageflow.fits import Fits
from advantageflow.prompts import PromptSet
from advantageflow.run.bystander import Bystander
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import saved
from advantageflow.sharding import check_sharding, shard
from advantageflow.world import World, calling_together, gpu_backend

FEW = {"rollout": {"prompts_per_iteration": 3}, "run": {"iterations": 1}}
SMALL_SUMS = {"accumulate": "float32", "t_draws": 1, "batch_size": 4}
RUNS = {
    "float32": ("advantageflow", {"learn": {"optimizer_steps": 2}}),
    "bfloat16": ("advantageflow", {"model": {"dtype": "bfloat16", "gradient_checkpointing": True}, **FEW}),
    "two calls": ("draft", {"objective": {"last_steps": 2}, "learn": SMALL_SUMS, **FEW}),
}


def brightness(images, prompts):
    return images.mean((1, 2, 3)).tolist()


brightness.with_gradient = lambda images, prompts: images.mean((1, 2, 3))


def built(world, folder, model_folder, objective, changes, shard, said=None):
    method = {"name": objective, **changes.get("objective", {})}
    changes = {name: part for name, part in changes.items() if name != "objective"}
    model = {"shard": shard, **changes.pop("model", {})}
    settings = settings_of(
        model_folder, objective=method, policy={"lora_rank": 4, "lora_alpha": 8}, model=model, **changes
    )
    settings["evaluation"] |= {"num_images": 6, "every": 0, "prompts_shown": 1}
    config = check_config(settings)
    prompts = PromptSet(tuple(f"{count} circles" for count in range(9)), tuple("abc" * 3))
    rewards = {"scenes_graded": brightness}
    make = RunDirectory if folder.exists() else partial(RunDirectory.create, config=config)
    directory = make(folder) if world.rank == 0 else Bystander(folder)
    inputs = Inputs(prompts, prompts, rewards, dict.fromkeys(config.evaluation.rewards, brightness))
    return build(config, directory, inputs, Console(file=said or StringIO(), width=200), world=world)


def close(value, other, bound):
    return value == (pytest.approx(other, bound, bound) if isinstance(other, float) and bound else other)


def asked_in_one(trainer):
    """Ask the second process alone to stop, after its first batch of the second iteration."""

    def advance(count):
        trainer.world.stopping = trainer.world.rank == 1 and trainer.iteration == 1

    trainer.learner.advance = advance


def trained(trainer):
    """Weights of all roles, the metrics, and the gradient of the last step: this process's part, and the whole."""
    rows, gradients = [], []
    once, add = trainer.iterate, trainer.world.sum
    trainer.iterate = lambda: rows.append(once()) or rows[-1]

    def summed(tensors):
        mine = [tensor.clone() for tensor in tensors]
        add(tensors)
        if len(mine) > 1:  # and not whether to stop
            gradients[:] = mine, [tensor.clone() for tensor in tensors]

    trainer.world.sum = summed
    summary = trainer.run()
    del trainer.world.sum
    told = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]
    weights = {
        f"{role} {name}": weight.detach().numpy().copy()
        for role, found in trainer.policy.state().items()
        for name, weight in found.items()
    }
    parts = [torch.cat([tensor.flatten() for tensor in each]).numpy() for each in gradients]
    return weights, told, parts, summary and [summary["before"], summary["after"]]


def worked(world, folder, model_folder):
    found = {}
    for name, kind in RUNS.items():
        said = StringIO()
        trainer = built(World(world.rank, world.size), folder / name, model_folder, *kind, shard=True, said=said)
        split = sum(isinstance(weight, DTensor) for weight in trainer.policy.transformer.parameters())
        assert split == sum("lora_" not in name for name, _ in trainer.policy.transformer.named_parameters())
        found[name] = *trained(trainer), said.getvalue()
        exported = trainer.policy.lora_state_dict()
        assert exported
        assert not any(isinstance(weight, DTensor) for weight in exported.values())
    trainer = built(World(world.rank, world.size), folder / "stopped", model_folder, *RUNS["float32"], shard=True)
    asked_in_one(trainer)
    return found, trainer.run(), trainer.iteration


def test_a_parted_base_changes_nothing(tmp_path, tiny_pipeline_folder):
    alone = {
        name: trained(built(World(), tmp_path / f"{name} alone", tiny_pipeline_folder, *kind, shard=False))
        for name, kind in RUNS.items()
    }
    both = in_processes(2, worked, tmp_path, tiny_pipeline_folder)
    for found, _, _ in both:
        for name, (weights, rows, (_, gradient), scores) in alone.items():
            then, told, (_, summed), scored, _ = found[name]
            bound = 1e-5 if name == "two calls" else 0  # float32 sums depend on the number of processes
            assert summed.dtype == gradient.dtype == ("float32" if bound else "float64")
            assert abs(summed - gradient).max() <= bound * abs(gradient).max()
            assert [row.keys() for row in told] == [row.keys() for row in rows]
            for row, other in zip(told, rows, strict=True):
                assert [(k, row[k], other[k]) for k in row if not close(row[k], other[k], bound)] == [], name
            for row, other in zip(scored, scores, strict=True):
                assert all(close(row[key], other[key], bound) for key in other if key != "tasks"), name
            assert then.keys() == weights.keys()
            assert all(abs(then[key] - weights[key]).max() <= bound for key in weights), name
    assert "the base is parted among 2 processes" in both[0][0]["float32"][-1]
    (first, summed), (second, _) = (found["float32"][2] for found, _, _ in both)
    for part in (first, second):  # what one process has seen is not the gradient
        assert abs(part - summed).max() > 0.01 * abs(summed).max()
    stopped_in_one_and_resumed(both, alone["float32"][0], tmp_path / "stopped", tiny_pipeline_folder)


def stopped_in_one_and_resumed(both, weights, folder, model_folder):
    """All have stopped, with a checkpoint of the last whole iteration; one process that has all the base goes on."""
    assert [(summary, iteration) for _, summary, iteration in both] == [(None, 1)] * 2
    assert saved(folder / "checkpoints")[-1] == 1
    said = StringIO()
    trainer = built(World(), folder, model_folder, *RUNS["float32"], shard=True, said=said)
    assert "model.shard does nothing, since there is one process" in said.getvalue()
    then = trained(trainer)[0]
    assert all((then[key] == weights[key]).all() for key in weights)


@pytest.mark.parametrize(("size", "items"), [(2, 5), (3, 7), (3, 1), (3, 0), (2, 4)])
def test_an_even_world_deals_the_same_number_to_all(size, items):
    class Told(World):
        def sum(self, tensors):  # nobody is asked to stop
            pass

    dealt = [list(Told(rank, size, even=True).deal("abcdefg"[:items])) for rank in range(size)]
    assert {len(mine) for mine in dealt} == {-(-items // size)}
    assert sorted(pair for mine in dealt for pair in mine if pair[0] < items) == list(enumerate("abcdefg"[:items]))
    assert {item for mine in dealt for place, item in mine if place >= items} <= {"abcdefg"[:items][-1:]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"lora_rank": 0}}, r"policy.lora_rank=0 trains all weights; set model.shard=false or a lora_rank"),
        ({"model": {"quantization": "4bit"}}, r"cannot part the weights of model.quantization=4bit; set one of them"),
    ],
)
def test_what_cannot_be_parted_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config({**changes, "model": {"shard": True, **changes.get("model", {})}})


def test_an_old_pytorch_is_told(monkeypatch):
    check_sharding()
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0+cu124"))
    with pytest.raises(ConfigError, match=r"model.shard needs PyTorch 2.7, and this is 2.6.0\+cu124; update it, or"):
        check_sharding()


def test_a_batch_that_does_not_fit_is_not_cut_where_others_take_part():
    tried = []

    def work(numbers):
        tried.append(numbers)
        raise MemoryError

    class Told(World):
        def sum(self, tensors):
            pass

    with pytest.raises(MemoryError):
        list(Fits().dealt("learning", [range(8), range(8, 16)], work, Told(0, 2, even=True), 1))
    assert tried == [range(8)]


def test_an_error_in_talking_to_the_others_is_theirs():
    gone = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:33110"
    with (
        pytest.raises(LostError, match=r"another process of this run has ended.* told: .*closed by peer"),
        calling_together(),
    ):
        raise RuntimeError(gone)
    with pytest.raises(RuntimeError, match="of our own"), calling_together():
        raise RuntimeError("of our own")


def test_processes_that_share_a_gpu_do_not_speak_through_nccl():
    """NCCL refuses two processes on one GPU; a base has nothing to be parted among then."""
    assert gpu_backend([("one", "GPU-a"), ("one", "GPU-b"), ("other", "GPU-a")]) == "nccl"
    assert gpu_backend([("one", "GPU-a"), ("one", "GPU-a")]) == "gloo"
    sharing = World(0, 2, backend="cpu:gloo,cuda:gloo")
    with pytest.raises(ConfigError, match=r"these 2 processes share one; .*model.shard=false"):
        shard(torch.nn.Linear(2, 2), (), torch.device("cuda"), sharing)
