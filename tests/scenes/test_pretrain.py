import numpy as np
import pytest
import torch

from advantageflow.worlds.pretraining import EMPTY_CAPTIONS, pretrain
from advantageflow.worlds.scenes.model import MAX_TOKENS, build_tokenizer
from advantageflow.worlds.scenes.pretrain import SCENES, corrupt, sample_prompt
from advantageflow.worlds.scenes.prompts import TASKS, parse_prompt, task_prompts


def test_a_corrupted_caption_is_another_prompt_of_the_same_task():
    rng = np.random.default_rng(0)
    for _ in range(500):
        prompt = sample_prompt(rng)
        wrong = corrupt(prompt, rng)
        assert wrong.text != prompt.text
        assert parse_prompt(wrong.text) == wrong
        assert wrong.task == prompt.task


def test_captions_are_empty_or_wrong_as_often_as_stated():
    rng = np.random.default_rng(1)
    prompt = parse_prompt("a red circle and a blue square")
    captions = [SCENES.caption(prompt, rng, SCENES.corrupted) for _ in range(4000)]
    assert np.mean([text == "" for text in captions]) == pytest.approx(EMPTY_CAPTIONS, abs=0.02)
    wrong = np.mean([text not in ("", prompt.text) for text in captions])
    assert wrong == pytest.approx((1 - EMPTY_CAPTIONS) * SCENES.corrupted, abs=0.025)


def test_every_word_of_the_grammar_is_one_token():
    tokenizer = build_tokenizer()
    for task in TASKS:
        for prompt in task_prompts(task):
            tokens = tokenizer(prompt.text).input_ids
            assert len(tokens) == len(prompt.text.split()) + 2 <= MAX_TOKENS


def test_pretraining_goes_on_where_it_was_stopped(tmp_path):
    """A run in two halves ends with the weights of a run in one."""

    def weights(folder):
        from safetensors.torch import load_file

        return load_file(folder / "flow" / "weights.safetensors")

    sizes = {"autoencoder_steps": 2, "num_pictures": 130}
    pretrain(SCENES, tmp_path / "whole", flow_steps=2, **sizes)
    assert (tmp_path / "whole" / "pipeline" / "model_index.json").is_file()
    pretrain(SCENES, tmp_path / "again", flow_steps=2, **sizes)
    pretrain(SCENES, tmp_path / "again", flow_steps=2, **sizes)
    whole, again = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
