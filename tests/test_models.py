import gc
import weakref

import pytest
import torch

from advantageflow.config import ConfigError, check_config
from advantageflow.models import check_model_path, load_model, no_garbage


class Circle:
    """Garbage that only a search finds."""

    def __init__(self):
        self.itself = self


def test_what_is_imported_is_kept_and_garbage_before_and_after_is_found():
    before = weakref.ref(Circle())
    with no_garbage():
        assert before() is None
        assert not gc.isenabled()
        within = weakref.ref(Circle())
    assert gc.isenabled()
    after = weakref.ref(Circle())
    gc.collect()
    assert within() is not None
    assert after() is None


def test_each_distinct_prompt_is_embedded_once(tiny_model, monkeypatch):
    calls = []
    encode = tiny_model.pipeline.encode_prompt
    monkeypatch.setattr(
        tiny_model.pipeline,
        "encode_prompt",
        lambda prompts, *rest, **options: calls.append(prompts) or encode(prompts, *rest, **options),
    )
    first = tiny_model.encode(["a ring", "two circles", "a ring"])
    again = tiny_model.encode(["two circles"])
    assert calls == [["a ring"], ["two circles"]]
    assert torch.equal(first.tokens[0], first.tokens[2])
    assert torch.equal(first.pooled[1], again.pooled[0])


def test_text_is_padded_to_what_is_needed(tiny_model):
    """10 CLIP tokens and none of the 256 zeros that stand for a missing T5."""
    assert tiny_model.encode(["a ring"]).tokens.shape == (1, 10, 128)


def test_guidance_extrapolates_from_the_empty_prompt(tiny_model):
    x, t = torch.randn(2, 16, 8, 8), torch.tensor(0.5)
    prompt, empty = tiny_model.encode(["a ring", "two circles"]), tiny_model.encode([""])
    with torch.no_grad():
        conditioned = tiny_model.velocity(tiny_model.transformer, x, t, prompt)
        without = tiny_model.velocity(tiny_model.transformer, x, t, empty.expand(2))
        guided = tiny_model.velocity(tiny_model.transformer, x, t, prompt, guidance_scale=3.0, empty_prompt=empty)
    torch.testing.assert_close(guided, without + 3 * (conditioned - without), atol=1e-5, rtol=1e-4)


def test_which_names_may_be_loaded(tiny_pipeline_folder, tmp_path):
    for path in ("scenes", str(tiny_pipeline_folder), "stabilityai/stable-diffusion-3.5-medium"):
        check_model_path(path)
    for path in (str(tmp_path), "scene"):
        with pytest.raises(ConfigError, match=r"neither built in \(scenes, words, scenes-meanflow\), nor a folder"):
            check_model_path(path)


def test_home_is_meant_by_its_sign(tiny_pipeline_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_pipeline_folder.parent))
    name = f"~/{tiny_pipeline_folder.name}"
    check_model_path(name)
    assert load_model(name).settings.path == str(tiny_pipeline_folder)
    settings = {"path": name, "lora": "~/a", "base": "~/b", "prompt_cache": "~/c"}
    config = check_config({"model": settings, "prompts": {"train": "~/p.txt", "held_out": "~/q.txt"}})
    paths = [*config.model.model_dump(include=set(settings)).values(), config.prompts.train, config.prompts.held_out]
    assert all(path.startswith(str(tiny_pipeline_folder.parent)) for path in paths)


def test_a_model_that_cannot_be_fetched_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot load 'nobody/nothing': the hub cannot be reached"):
        load_model("nobody/nothing")
