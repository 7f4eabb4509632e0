"""Models of average velocities: what a folder adds to the pipeline it stands on, and the one that is built in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import average_velocity_of

from advantageflow.errors import ConfigError
from advantageflow.evaluation import evaluate
from advantageflow.flow import like
from advantageflow.learning.forward import SLOPE
from advantageflow.models import load_model, picture_size
from advantageflow.models.mean_flow import FILE, SPAN, save_mean_flow
from advantageflow.models.source import locate
from advantageflow.policy import Policy
from advantageflow.prompts import load_prompts
from advantageflow.rewards import load_reward
from advantageflow.run.progress import Bars
from advantageflow.worlds.scenes import distill

T, UNTIL = torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.4])


def predicted(model, until=UNTIL):
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.velocity(model.transformer, x, T, model.encode(["a ring", "two circles"]), until=until)


def test_what_adds_nothing_is_the_pipeline_it_stands_on(tiny_pipeline_folder, tmp_path):
    save_mean_flow(tmp_path, str(tiny_pipeline_folder), {}, torch.zeros(96, 96))
    plain, made = load_model(str(tiny_pipeline_folder)), load_model(str(tmp_path))
    assert torch.equal(predicted(made), predicted(plain))
    assert picture_size(made.settings) == picture_size(plain.settings)
    assert made.family != plain.family
    assert made.fingerprint != plain.fingerprint


def test_the_end_of_a_span_is_seen_by_a_model_of_averages_alone(tiny_pipeline_folder):
    made = load_model(str(average_velocity_of(tiny_pipeline_folder)))
    (differs, same), (_, same_plain) = predicted(made), predicted(made, None)
    assert not torch.equal(differs, predicted(made, None)[0])
    torch.testing.assert_close(same, same_plain)  # until itself
    plain = load_model(str(tiny_pipeline_folder))
    assert torch.equal(predicted(plain), predicted(plain, None))


def test_weights_that_were_all_trained_are_loaded_again(tiny_pipeline_folder, tmp_path):
    folder = str(average_velocity_of(tiny_pipeline_folder))
    trained, again = load_model(folder), load_model(folder)
    for weight in trained.transformer.parameters():
        weight.data *= 1.1
    trained.transformer.save_pretrained(tmp_path)  # as a run exports it
    again.load_transformer(tmp_path)
    assert torch.equal(predicted(again), predicted(trained))


def broken(folder, base, how):
    save_mean_flow(folder, str(base), {}, torch.zeros(96, 96))
    index = json.loads((folder / "model_index.json").read_text())
    if how == "no base":
        del index["base"]
    elif how == "itself":
        index["base"] = str(folder)
    elif how == "damaged":
        (folder / FILE).write_bytes(b"no tensors")
    elif how == "another width":
        save_mean_flow(folder, str(base), {}, torch.zeros(64, 64))
    elif how == "another layer":
        save_mean_flow(folder, str(base), {"no.such.lora_A.weight": T, "no.such.lora_B.weight": T}, torch.zeros(96, 96))
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("how", ["no base", "itself", "damaged", "another width", "another layer"])
def test_a_folder_that_does_not_fit_is_refused(how, tiny_pipeline_folder, tmp_path):
    broken(tmp_path, tiny_pipeline_folder, how)
    with pytest.raises(ConfigError, match="cannot load the model"):
        load_model(str(tmp_path))


def test_an_adapter_of_the_one_is_not_put_on_the_other(tiny_pipeline_folder, tmp_path):
    folder = str(average_velocity_of(tiny_pipeline_folder))
    model = load_model(folder)
    policy = Policy(model.transformer, lora_rank=4)
    for weight in policy.weights["average"]:
        weight.data += 0.1
    model.save_lora(tmp_path, policy.lora_state_dict())
    with pytest.raises(ConfigError, match="was trained on a MeanFlowPipeline"):
        load_model(str(tiny_pipeline_folder)).load_adapter(str(tmp_path))
    again = load_model(folder)
    again.load_adapter(str(tmp_path))
    with policy.acting_as("average"):
        torch.testing.assert_close(predicted(again), predicted(model), atol=1e-5, rtol=0)


def test_distilling_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "BATCH", 2)
    monkeypatch.setattr(distill, "STEPS", 3)
    distill.distill(tmp_path, steps=2, paths=6)
    first = load_file(tmp_path / "model" / FILE)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: 1 / 0)  # there is nothing more to do
    distill.distill(tmp_path, steps=2, paths=6)
    again = load_file(tmp_path / "model" / FILE)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert again.keys() == load_file(Path(locate("scenes-meanflow")) / FILE).keys()
    assert again[SPAN].any()


def test_averages_of_a_path_lead_along_it():
    t, noise, v = torch.tensor([1.0, 0.7, 0.2, 0.0]), torch.randn(1, 2), torch.randn(1, 3, 2).half()
    paths, x = distill.Paths(["a"], t, noise, v), [noise]
    for step in range(3):
        x.append(x[-1] + (t[step + 1] - t[step]) * v[:, step].float())
    one = torch.tensor([0])
    for begin in range(4):
        torch.testing.assert_close(paths.state(one, t[begin, None]), x[begin])
        for end in range(begin + 1, 4):
            average = paths.average(one, t[begin, None], t[end, None])
            torch.testing.assert_close(x[begin] + (t[end] - t[begin]) * average, x[end])
    inside = torch.tensor([0.5])
    torch.testing.assert_close(paths.state(one, inside), x[1] + (0.5 - 0.7) * v[:, 1].float())
    torch.testing.assert_close(paths.average(one, inside, inside), v[:, 1].float(), atol=1e-3, rtol=0)


def test_spans_are_long_enough_for_two_times():
    spans = [distill.draw_spans(np.random.default_rng(seed), 3.0) for seed in range(20)]
    t, until = (torch.cat(parts) for parts in zip(*spans, strict=True))
    assert ((t <= 1) & (until >= 0) & (t >= 2 * distill.APART)).all()
    assert ((until == t) | (t - until >= distill.APART - 1e-6)).all()
    for share, drawn in ((distill.NO_SPAN, until == t), (distill.AT_NOISE, t == 1)):
        assert drawn.float().mean().item() == pytest.approx(share, abs=0.05)


def test_the_built_in_average_draws_better_in_four_steps_than_its_base():
    assert sum(file.stat().st_size for file in Path(locate("scenes-meanflow")).iterdir()) <= 0.6e6
    scores = {}
    for name in ("scenes", "scenes-meanflow"):
        model = load_model(name)
        found = evaluate(
            model, model.transformer, load_prompts("scenes:held_out"), {"graded": load_reward("scenes_graded")},
            num_images=96, num_inference_steps=4,
        )  # fmt: skip
        scores[name] = found.scores["graded"]
    assert scores["scenes-meanflow"] > scores["scenes"], scores


def test_the_velocity_that_it_induces_is_its_base_s():
    """Nearer than one image's own velocity, which is off by about 1, over most spans: methods learn from the slope."""
    base, model = load_model("scenes"), load_model("scenes-meanflow")
    with Bars() as bars:
        paths = distill.draw_paths(base, 16, 1, bars)
    chosen = torch.arange(16).repeat(2)
    t, until = distill.draw_spans(np.random.default_rng(0), 3.0)
    t, told = t.clamp(max=1 - SLOPE), base.encode([paths.prompts[i] for i in chosen])
    until = until.minimum(t)
    with torch.no_grad():
        found = [
            model.velocity(model.transformer, paths.state(chosen, time), time, told, until=until)
            for time in (t - SLOPE, t, t + SLOPE)
        ]
    induced = found[1] + like((t - until) / (2 * SLOPE), found[1]) * (found[2] - found[0])
    error = (induced - paths.average(chosen, t, t)).square().flatten(1).mean(1)
    assert error.median() < 0.3
    assert (error < 1).float().mean() > 0.75, error
