"""`advantageflow bench`: it counts what is called, replays what was called, and says both ratios."""

import json
import os
import subprocess
import sys

import pytest
import torch
from command_line import command_line
from rich.console import Console
from test_calls import STEPS
from test_terminal import STOPS
from test_trainer import make_config, make_trainer, of_each_kind, sections_of, weights

from advantageflow.bench.calls import best_sizes, floor, needed, recorded, replay
from advantageflow.bench.iteration import varied
from advantageflow.bench.roofline import flops
from advantageflow.bench.scaling import SIZE, _grown, exponent
from advantageflow.bench.steps import Steps
from advantageflow.bench.tables import calls_told, growth, had_processor, rounded
from advantageflow.objectives import find
from advantageflow.run.progress import Bars

IMAGES = 12
SMALL = [
    "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=2", "rollout.num_inference_steps=2",
    "learn.t_draws=1", "evaluation.num_images=2", "policy.lora_rank=4", "run.threads=1",
]  # fmt: skip


@pytest.fixture
def trainer_of(tmp_path, tiny_pipeline_folder):
    """(method, settings of learning) -> its trainer; transitions are learned from at every step that is recorded."""

    def build(objective, folder="run", **settings):
        plan = find(objective)().plan(0, STEPS, 0.7, None)
        draws = len(plan.keep) if find(objective).family == "reverse" else 2
        sections = {**sections_of(objective), "learn": {"t_draws": draws, **settings}, "run": {"probe_every": 0}}
        trainer = make_trainer(make_config(**sections), tmp_path / folder, tiny_pipeline_folder)
        trainer.iterate()  # after which the roles have parted
        return trainer

    return build


@pytest.mark.parametrize("objective", of_each_kind())
def test_the_calls_of_every_kind_of_method_are_counted_and_repeated_as_they_were(objective, trainer_of):
    trainer = trainer_of(objective, batch_size=5)
    wanted = needed(trainer.config, trainer.iteration)
    with recorded(trainer) as found:
        trainer.iterate()
    assert found.by_role() == wanted
    before = weights(trainer)
    with recorded(trainer) as again:
        assert replay(trainer, found).wall > 0
    assert again.made == found.made
    with recorded(trainer) as least:
        assert floor(trainer, wanted, found, {False: 8, True: 4}).wall > 0
    assert least.by_role() == wanted
    assert {call.gradient for call in least.made if call.role == "learner"} == {True}
    assert max(call.images for call in least.made if call.gradient) == 4
    assert max(call.images for call in least.made if not call.gradient) == 8
    assert torch.equal(weights(trainer), before)
    assert all(parameter.grad is None for parameter in trainer.policy.parameters)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("advantageflow", {"learner": 24, "reference": 24, "rollout": 24 + IMAGES * STEPS}),
        ("rwr", {"learner": 24, "reference": 24, "rollout": IMAGES * STEPS}),
        ("flow-grpo", {"learner": 36, "reference": 36, "rollout": IMAGES * STEPS}),
        ("draft", {"learner": 24 * find("draft")().calls(STEPS), "rollout": IMAGES * STEPS}),
    ],
)
def test_what_is_needed_is_the_closed_form(objective, expected, trainer_of):
    assert needed(trainer_of(objective).config, 0) == expected


def test_taking_notes_changes_no_bit(trainer_of):
    ends = []
    for folder, noted in (("noted", True), ("alone", False)):
        trainer = trainer_of("advantageflow", folder)
        if noted:
            with recorded(trainer):
                trainer.iterate()
        trainer.iterate()
        trainer.iterate()
        ends.append((trainer.iteration, weights(trainer)))
    assert ends[0][0] == ends[1][0] + 1
    trainer.iterate()
    assert torch.equal(ends[0][1], weights(trainer))


def test_batch_sizes_are_powers_of_two_and_all_images_at_once(trainer_of):
    trainer = trainer_of("advantageflow")
    with recorded(trainer) as found:
        trainer.iterate()
    costs = best_sizes(trainer, found, IMAGES)
    assert {gradient: [*of] for gradient, of in costs.items()} == {key: [1, 2, 4, 8, 12] for key in (False, True)}
    assert min(cost for of in costs.values() for cost in of.values()) > 0


def test_a_size_without_the_memory_ends_the_search(trainer_of, monkeypatch):
    trainer = trainer_of("advantageflow")
    with recorded(trainer) as found:
        trainer.iterate()
    predict = trainer.model._predict

    def short(transformer, x_t, timestep, prompts):
        if len(x_t) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(transformer, x_t, timestep, prompts)

    monkeypatch.setattr(trainer.model, "_predict", short)
    costs = best_sizes(trainer, found, 8)
    assert [*costs[True]] == [1, 2]
    assert [*costs[False]] == [1, 2, 4, 8]


def test_operations_are_those_of_the_matrices(trainer_of):
    """2 m n k of every layer of the base, with 2 T² of width and of its transpose for the attention of T tokens."""
    trainer = trainer_of("advantageflow")
    with recorded(trainer) as found:
        trainer.iterate()
    sums = []

    def count(layer, given, out):
        product = layer.weight[0].numel() * out.numel()
        sums.append(2 * product)

    matrices = (torch.nn.Linear, torch.nn.Conv2d)
    with trainer.policy.acting_as("reference") as transformer:
        named = [(name, layer) for name, layer in transformer.named_modules() if isinstance(layer, matrices)]
        base = [layer for name, layer in named if "lora" not in name]
        hooks = [layer.register_forward_hook(count) for layer in base]
        inputs = found.example(False).of(1)
        with torch.no_grad():
            trainer.model._predict(transformer, inputs.x_t, inputs.timestep, inputs.prompts)
        for hook in hooks:
            hook.remove()
        size = transformer.config
    tokens = trainer.model.image_tokens + inputs.prompts.tokens.shape[1]
    attention = 4 * size.num_layers * tokens**2 * size.num_attention_heads * size.attention_head_dim
    each = flops(trainer, found)
    assert each["reference"] == sum(sums) + attention
    assert each["reference"] < each["rollout"] < each["learner"] < 3 * each["rollout"]


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.7])
def test_the_exponent_of_a_power_law_is_its_own(power):
    assert exponent([1, 2, 4], [3 * size**power for size in (1, 2, 4)]) == pytest.approx(power)


def test_an_exponent_is_the_least_squares_one():
    """Slope of y = 0, 1, 5 over x = -1, 0, 1, in powers of two: (5 - 0) / 2."""
    assert exponent([1, 2, 4], [2**0, 2**1, 2**5]) == pytest.approx(2.5)


@pytest.mark.parametrize(("sizes", "costs"), [([1], [1]), ([2, 2], [1, 3]), ([1, 2], [0, 1])])
def test_what_has_no_exponent_is_refused(sizes, costs):
    with pytest.raises(ValueError, match="have no exponent"):
        exponent(sizes, costs)


def test_a_setting_grows_as_far_as_the_model_lets_it(tiny_pipeline_folder, monkeypatch):
    config = make_config(model={"path": str(tiny_pipeline_folder)}, prompts={"train": "scenes:train"})
    seen = []
    monkeypatch.setattr(
        "advantageflow.bench.scaling._cost", lambda varied: seen.append(varied) or {"iteration": len(seen) + 1.0}
    )
    steps = Steps(Bars(Console(quiet=True)), SIZE)
    found = _grown(config, {"iteration": 1.0}, "images", "rollout.prompts_per_iteration", steps)
    assert found["values"] == [3, 6, 12] == [3, *(one.rollout.prompts_per_iteration for one in seen)]
    assert found["exponents"] == {"iteration": pytest.approx(exponent([1, 2, 4], [1, 2, 3]))}
    monkeypatch.undo()
    found = _grown(config, {"iteration": 1.0}, "resolution", "model.resolution", steps)
    assert found["values"] == [[64, 64]]
    assert "128" in found["refused"]
    assert found["exponents"] == {}


def test_what_grows_is_told_with_its_exponents_and_what_does_not_with_the_reason():
    grown = {
        "images": {"values": [2, 4], "seconds": {"iteration": [1.0, 2.0], "peak_memory": [2**30, 2**31]},
                   "exponents": {"iteration": 1.0, "peak_memory": 1.0}, "refused": ""},
        "resolution": {"values": [[64, 64]], "seconds": {"iteration": [1.0]}, "exponents": {},
                       "refused": "64 [is] all"},
    }  # fmt: skip
    console = Console(width=100)
    with console.capture() as shown:
        console.print(growth(grown))
    for said in ("1.00, 2.00 s", "1.00, 2.00 GiB", "resolution: 64 [is] all"):
        assert said in shown.get()


@pytest.mark.parametrize(("device", "cpu", "share"), [("cpu", 1.0, 0.5), ("cpu", 4.0, 2.0), ("cuda:0", 0.1, 1.0)])
def test_a_busy_machine_is_seen_by_the_processor_s_time(device, cpu, share):
    found = {"device": device, "seconds": {"own_floor": 2.0}, "cpu_seconds": {"own_floor": cpu}}
    assert had_processor(found) == share


def test_saved_calls_are_said():
    assert "10, as many as needed" in calls_told({"needed": {"learner": 10}, "made": {"learner": 10}})[1]
    saved = calls_told({"needed": {"learner": 6, "rollout": 4}, "made": {"learner": 6, "rollout": 1}})[1]
    assert saved == "7 of 10 needed, 3 calls saved: 6 as learner, 1 as rollout"


def test_numbers_are_rounded():
    assert rounded({"a": [1.23456789, 2], "b": "c", "d": 123456}) == {"a": [1.235, 2], "b": "c", "d": 123456}


def test_json_has_both_ratios_and_the_counts(tiny_pipeline_folder):
    code, out, error = command_line("bench", "scenes", f"model.path={tiny_pipeline_folder}",
                                    "prompts.train=scenes:train", *SMALL, "--rounds", 1, "--json")  # fmt: skip
    assert code == 0, error
    found = json.loads(out)
    assert min(found[clock][floor] for clock in ("overhead", "cpu_overhead") for floor in ("own", "fixed")) > 0
    assert found["calls"]["needed"] == found["calls"]["made"] == {"learner": 4, "reference": 4, "rollout": 12}
    assert found["images"] == 4
    assert found["threads"] == 1
    assert found["device"] == "cpu"
    assert {*found["seconds"]} == {"sampling", "scoring", "learning", "iteration", "own_floor", "fixed_floor"}
    assert {*found["best_batch_size"].values()} <= {1, 2, 4}
    assert found["peak_memory"] > 2**20
    assert found["environment"]["torch"]
    assert "an iteration takes about" in error


def test_a_table_in_plain_words(tiny_pipeline_folder):
    small = [f"model.path={tiny_pipeline_folder}", "prompts.train=scenes:train", *SMALL]
    code, out, error = command_line("bench", "scenes-flow-grpo", *small, "--rounds", 1)
    assert code == 0, error
    for said in (
        "sampling",
        "iteration / its own calls",
        "iteration / the calls that it needs",
        "peak memory",
        "GFLOP",
    ):
        assert said in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scens"], "scenes"),
        (["scenes", "learn.t_draws=0"], "learn.t_draws"),
        (["learn.t_draw=2"], "t_draws"),
        (["scenes", "--rounds", "0"], "--rounds"),
        (["scenes", "--round", "3"], "--rounds"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_loaded(arguments, said):
    ended = subprocess.run([sys.executable, "-c", STOPS, "bench", *arguments], capture_output=True, encoding="utf-8")
    assert ended.returncode == 2
    assert said in ended.stderr


def test_it_is_one_process(monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    code, _, error = command_line("bench", "scenes")
    assert code == 2
    assert "advantageflow bench is one process" in error


def test_changes_are_of_a_copy():
    config = make_config()
    assert varied(config, "learn.t_draws=3").learn.t_draws == 3
    assert config.learn.t_draws == 2
