"""The published architectures: what they count, and that random weights and made-up tokens can be computed with."""

import dataclasses

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from advantageflow.config import load_config
from advantageflow.memory import MODELS, parts
from advantageflow.models import adapter_of
from advantageflow.models.architectures import ARCHITECTURES
from advantageflow.models.random_pipeline import empty_pipeline
from advantageflow.plan import forward_flops
from advantageflow.policy import linear_layers
from advantageflow.untrained import StandInTokenizer, on_meta, untrained

SD15, SDXL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
# Millions of parameters: of the transformer, with its table of positions; of an adapter of rank 32 on the attention
PUBLISHED = {
    "stabilityai/stable-diffusion-3.5-medium": (2243.17, 2469.66, 191, 18.776),
    "stabilityai/stable-diffusion-3.5-large": (8056.63, 8146.28, 303, 47.161),
    "black-forest-labs/FLUX.1-dev": (11901.41, 11901.41, 266, 52.298),
    "black-forest-labs/FLUX.1-schnell": (11891.18, 11891.18, 266, 52.298),
    "Qwen/Qwen-Image": (20430.40, 20430.40, 480, 94.372),
    SD15: (859.52, 859.52, 128, 6.377),
    SDXL: (2567.46, 2567.46, 560, 46.449),
}
ENCODERS = {
    "stabilityai/stable-diffusion-3.5-medium": [123.65, 694.66, 4762.31],
    "black-forest-labs/FLUX.1-dev": [123.06, 4762.31],
    "Qwen/Qwen-Image": [8292.17],
    SD15: [123.06],
    SDXL: [123.06, 694.66],
}
DECODERS = {"Qwen/Qwen-Image": 126.89, SD15: 83.65, SDXL: 83.65}


def millions(network):
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize("path", ARCHITECTURES)
def test_transformers_and_adapters_have_as_many_parameters_as_the_published_ones(path):
    parameters, with_positions, layers, adapter = PUBLISHED[path]
    architecture = ARCHITECTURES[path]
    transformer, settings = getattr(empty_pipeline(path), architecture.network), architecture.transformer.settings
    positions = settings.get("pos_embed_max_size", 0) ** 2 * settings.get("caption_projection_dim", 0) / 1e6
    assert millions(transformer) == pytest.approx(parameters, abs=0.01)
    assert millions(transformer) + positions == pytest.approx(with_positions, abs=0.01)
    network = dict(transformer.named_modules())
    linear = sum(32 * (network[name].in_features + network[name].out_features) for name in linear_layers(transformer))
    transformer.add_adapter(
        LoraConfig(r=32, target_modules=list(adapter_of(architecture.family).lora_targets["attention"]))
    )
    trained = {name: weight.numel() for name, weight in transformer.named_parameters() if ".lora_" in name}
    assert (len(trained) / 2, sum(trained.values()) / 1e6) == (layers, pytest.approx(adapter, abs=0.001))
    # which is what a plan says; it takes FLUX.1-schnell for FLUX.1-dev
    facts, config = MODELS[path], load_config("sd35m-pickscore", [f"model.path={path}"])
    assert facts.adapted == layers
    assert parts(facts, config)["transformer"] == pytest.approx(with_positions * 2e-3, rel=0.01)
    assert parts(facts, config)["adapters"] == pytest.approx(adapter * 3 * 4e-3, rel=1e-3)
    if architecture.network == "transformer":
        changed = load_config("sd35m-pickscore", [f"model.path={path}", "policy.lora_targets=linear"])
        assert parts(facts, changed)["adapters"] == pytest.approx(linear * 12e-9, rel=0.07)


def network_on_meta(path):
    """The network of a path, with few positions: the whole table takes gigabytes."""
    part = ARCHITECTURES[path].transformer
    few = {"pos_embed_max_size": 64} if "pos_embed_max_size" in part.settings else {}
    return on_meta(dataclasses.replace(part, settings={**part.settings, **few}).maker()).to("meta")


@pytest.mark.parametrize("path", [path for path in ARCHITECTURES if "schnell" not in path])
def test_a_plan_knows_what_fp8_leaves_as_it_is(path):
    """Norms, their modulations and embeddings, as diffusers has it; SD3.5 Medium took 3.46 GB on an H100."""
    network = network_on_meta(path).bfloat16()

    def held():
        return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())) / 1e9

    whole = held()
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    facts, config = MODELS[path], load_config("sd35m-pickscore", [f"model.path={path}", "model.quantization=fp8"])
    assert whole - held() == pytest.approx(facts.parameters - facts.wide, rel=0.01)  # each loses one byte of two
    assert parts(facts, config)["transformer"] == pytest.approx(facts.parameters + facts.wide)


@pytest.mark.parametrize("path", [path for path in ARCHITECTURES if "3.5" in path or "dev" in path])
def test_a_plan_counts_the_operations_of_one_call(path):
    """Of a picture of 512 x 512, which PyTorch counts without computing them."""
    transformer = network_on_meta(path)
    text, pooled, t = (torch.empty(1, *size, device="meta") for size in ((MODELS[path].text_tokens, 4096), (2048,), ()))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        if "3.5" in path:
            transformer(torch.empty(1, 16, 64, 64, device="meta"), text, pooled, t)
        else:
            places = (torch.empty(count, 3, device="meta") for count in (1024, 512))
            given = dict(zip(("img_ids", "txt_ids"), places, strict=True))
            given |= {"timestep": t, "guidance": t, "pooled_projections": pooled[:, :768]}
            latents = torch.empty(1, 1024, transformer.config.in_channels, device="meta")
            transformer(hidden_states=latents, encoder_hidden_states=text, **given)
    config = load_config("sd35m-pickscore", [f"model.path={path}"])
    assert forward_flops(MODELS[path], config) == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("path", [SD15, SDXL])
def test_a_plan_counts_the_operations_of_one_call_of_a_unet(path):
    network, facts = on_meta(ARCHITECTURES[path].transformer.maker()).to("meta"), MODELS[path]
    added = {"text_embeds": torch.empty(1, 1280, device="meta"), "time_ids": torch.empty(1, 6, device="meta")}
    time, text = torch.empty(1, device="meta"), torch.empty(1, 77, facts.text_width, device="meta")
    for size in (512, 1024):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            network(torch.empty(1, 4, size // 8, size // 8, device="meta"), time, text, added_cond_kwargs=added)
        config = load_config("sd35m-pickscore", [f"model.path={path}", f"model.resolution={size}"])
        assert forward_flops(facts, config) == pytest.approx(counted.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("path", ENCODERS)
def test_text_encoders_and_decoders_have_as_many_parameters_as_the_published_ones(path):
    architecture = ARCHITECTURES[path]
    found = [millions(on_meta(part.maker())) for part in architecture.encoders.values()]
    assert found == pytest.approx(ENCODERS[path], abs=0.01)
    assert MODELS[path].encoders == pytest.approx(sum(found) * 2e-3, rel=0.03)
    vae = millions(on_meta(architecture.vae.maker()))
    assert vae == pytest.approx(DECODERS.get(path, 83.82), abs=0.01)
    assert MODELS[path].vae == pytest.approx(vae * 2e-3, rel=0.03)


def tiny_t5():
    return T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_random_weights_are_the_same_every_time_and_give_finite_numbers(dtype):
    network, again = untrained(tiny_t5, dtype), untrained(tiny_t5, dtype)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        if dtype != torch.float16 or ".wo." not in name:  # transformers keeps these wide
            assert weight.dtype == dtype
    assert network.shared.weight is network.encoder.embed_tokens.weight
    found = network(torch.arange(20).view(2, 10))[0]
    assert torch.isfinite(found).all()
    assert not torch.equal(found[0], found[1])
    matrices = [weight.float() for weight in network.parameters() if weight.ndim == 2]
    assert all(len(matrix.unique(dim=0)) == len(matrix) for matrix in matrices)


def test_a_network_is_made_in_the_memory_of_its_weights(monkeypatch):
    """No value of a parameter is drawn before it has its precision and its place."""
    seen = []
    draw = torch.Tensor.normal_
    monkeypatch.setattr(
        torch.Tensor, "normal_", lambda self, *a, **k: (seen.append(self.device), draw(self, *a, **k))[1]
    )
    untrained(tiny_t5, torch.bfloat16)
    assert {device.type for device in seen} <= {"meta"}


def test_tokens_are_as_many_as_the_encoders_want_and_follow_the_text():
    tokenizer = StandInTokenizer(vocabulary=49408, longest=77, begin=49406, end=49407)
    found = tokenizer(["a red cat", "a red dog", "cat " * 200], padding="max_length", truncation=True)
    tokens, mask = found.input_ids, found.attention_mask
    assert tokens.shape == (3, 77)
    assert tokens[0, :3].tolist() == tokens[1, :3].tolist()
    assert tokens[0, 3] != tokens[1, 3]
    assert mask.sum(1).tolist() == [5, 5, 77]
    assert (tokens[2, 0], tokens[2, -1]) == (49406, 49407)
    assert tokens[2, 1:-1].max() < 49406
    assert tokenizer("a red cat", padding="longest").input_ids.shape == (1, 5)


def test_the_instruction_before_a_prompt_is_34_tokens_as_qwen_image_counts_them():
    settings = ARCHITECTURES["Qwen/Qwen-Image"].tokenizers["tokenizer"]
    pipeline = empty_pipeline("Qwen/Qwen-Image")
    before = pipeline.prompt_template_encode.partition("{}")[0]
    assert StandInTokenizer(**settings)(before).input_ids.shape[1] == pipeline.prompt_template_encode_start_idx
