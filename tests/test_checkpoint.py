import pytest
import torch

from advantageflow.run.checkpoint import (
    atomic_directory,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_state,
)


def test_state_goes_round(tmp_path):
    tensors = {"learner": {"a.b": torch.arange(3.0)}, "optimizer": {"0.step": torch.tensor(2.0)}}
    save_state(tmp_path / "000001", tensors, {"iteration": 1})
    loaded, record = load_state(tmp_path / "000001")
    assert record == {"iteration": 1}
    assert torch.equal(loaded["learner"]["a.b"], torch.arange(3.0))


def test_an_interrupted_write_leaves_the_old_state(tmp_path):
    save_state(tmp_path / "last", {}, {"iteration": 1})

    def interrupted():
        with atomic_directory(tmp_path / "last") as folder:
            (folder / "state.json").write_text("{")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert load_state(tmp_path / "last")[1] == {"iteration": 1}
    save_state(tmp_path / "last", {}, {"iteration": 2})
    assert load_state(tmp_path / "last")[1] == {"iteration": 2}


def test_a_restored_optimizer_takes_the_same_steps():
    def make():
        weight = torch.nn.Parameter(torch.ones(4))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    def step(weight, optimizer, times):
        for i in range(times):
            optimizer.zero_grad()
            (weight * torch.arange(4.0) * (i + 1)).square().sum().backward()
            optimizer.step()

    one, first = make()
    step(one, first, 3)
    two, second = make()
    two.data.copy_(one.data)
    load_optimizer_tensors(second, optimizer_tensors(first))
    step(one, first, 2)
    step(two, second, 2)
    assert torch.equal(one, two)
