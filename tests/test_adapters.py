"""An adapter, by whatever names it was written, reaches the model whole or is refused."""

import json
import math

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from test_families import FAMILIES, folder, load  # noqa: F401

from advantageflow.adapter_formats import write_kohya
from advantageflow.adapter_names import PUBLISHED
from advantageflow.adapters import FILE, fit, join, of_factors, read_adapter, read_adapters, write_adapter
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.models import load_model
from advantageflow.policy import Policy

LAYER = "transformer_blocks.0.attn.to_q"


def all_linear(transformer):
    return {name: module for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}


def factors(transformer, rank=4, only=""):
    """Random A and B of every layer whose name holds `only`."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(rank, layer.in_features, generator=generator),
            0.02 * torch.randn(layer.out_features, rank, generator=generator),
        )
        for name, layer in all_linear(transformer).items()
        if only in name
    }


def named(pairs, pattern=str, down="lora_A", up="lora_B"):
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors |= {f"{pattern(name)}.{down}.weight": a, f"{pattern(name)}.{up}.weight": b}
    return tensors


def velocity(model):
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.velocity(model.transformer, x, torch.tensor([0.3, 0.8]), model.encode(["a", "a red circle"]))


@pytest.fixture(scope="module")
def plain(folder):  # noqa: F811
    return load(folder)


WRITERS = {
    "diffusers": lambda pairs: named(pairs, lambda name: f"transformer.{name}"),
    "bare": named,
    "ComfyUI": lambda pairs: named(pairs, lambda name: f"diffusion_model.{name}"),
    "kohya": lambda pairs: {
        **named(pairs, lambda name: "lora_unet_" + name.replace(".", "_"), "lora_down", "lora_up"),
        **{f"lora_unet_{name.replace('.', '_')}.alpha": torch.tensor(8.0) for name in pairs},
    },
    "OneTrainer": lambda pairs: named(
        pairs, lambda name: "lora_transformer_" + name.replace(".", "_"), "lora_down", "lora_up"
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_adapter_by_any_name_is_the_same(plain, writer, tmp_path):
    """All of its tensors are in the transformer; the velocity is that of the base with B A added to each weight."""
    pairs = factors(plain.transformer)
    save_file(WRITERS[writer](pairs), tmp_path / FILE)  # a name that says nothing of how it was written
    model, fused = load_model_as(plain), load_model_as(plain)
    model.load_adapter(str(tmp_path))
    scale = 2.0 if writer == "kohya" else 1.0
    for name, (a, b) in pairs.items():
        layer = model.transformer.get_submodule(name)
        assert torch.equal(layer.lora_A["loaded"].weight, a)
        assert torch.equal(layer.lora_B["loaded"].weight, b * scale)
        fused.transformer.get_submodule(name).weight.data += scale * b @ a
    torch.testing.assert_close(velocity(model), velocity(fused), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(velocity(model), velocity(plain), atol=1e-2)


def load_model_as(model):
    return load(model.settings.path)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 4), (True, 16 / 2)])
def test_a_folder_of_peft_is_read_with_its_scales(plain, rslora, scale, tmp_path):
    pairs = factors(plain.transformer, only="attn.to_q")
    save_file(named(pairs, lambda name: f"base_model.model.{name}"), tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": rslora, "alpha_pattern": {LAYER: 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    for source in (tmp_path, tmp_path / "adapter_model.safetensors"):
        layers = fit(read_adapter(str(source)), plain.transformer).layers
        for name, (a, b) in pairs.items():
            expected = (2 / math.sqrt(4) if rslora else 2 / 4) if name == LAYER else scale
            assert torch.equal(layers[name][0], a)
            torch.testing.assert_close(layers[name][1], expected * b)


def published(transformer):
    """Names of the model's first publication that stand for layers of this transformer."""
    layers = all_linear(transformer)
    for name, targets in PUBLISHED.items():
        meant = [target.format(i=0) for target in targets]
        if all(target in layers for target in meant):
            yield name.format(i=0), meant


@pytest.mark.parametrize("pattern", ["diffusion_model.{}", "lora_unet_{}"])
def test_names_of_the_first_publication_are_read(plain, pattern, tmp_path):
    """Queries, keys and values are one layer there; each gets its part."""
    if plain.family == "QwenImagePipeline":
        pytest.skip("was published with diffusers' names")
    pairs, expected = {}, {}
    layers = all_linear(plain.transformer)
    for name, meant in published(plain.transformer):
        if any(target in expected for target in meant):
            continue  # SD3's and FLUX's name for one layer
        a = torch.randn(4, layers[meant[0]].in_features)
        parts = [torch.randn(layers[target].out_features, 4) for target in meant]
        written = torch.cat(parts)
        if name == "final_layer.adaLN_modulation.1":  # shift and scale come in the other order
            written = torch.cat(written.chunk(2)[::-1])
        flat = pattern.startswith("lora")
        pairs[pattern.format(name.replace(".", "_") if flat else name)] = (a, written)
        expected |= {target: (a, part) for target, part in zip(meant, parts, strict=True)}
    save_file(named(pairs, down="lora_down", up="lora_up"), tmp_path / "published.safetensors")
    found = fit(read_adapter(str(tmp_path)), plain.transformer).layers
    assert found.keys() == expected.keys()
    assert {"transformer_blocks.0.attn.add_v_proj", "transformer_blocks.0.ff.net.2", "norm_out.linear"} <= found.keys()
    for name, pair in expected.items():
        assert all(torch.equal(one, other) for one, other in zip(found[name], pair, strict=True)), name


def broken(pairs, kind):
    """Files that no transformer should get, with what is said of them."""
    tensors = named(pairs, lambda name: f"transformer.{name}")
    first = next(iter(tensors))
    key, module = f"transformer.{LAYER}.lora_A.weight", f"transformer.{LAYER}"
    return {
        "another model's layers": (named(pairs, lambda name: f"unet.down_blocks.{name}"), "made for another model"),
        "one strange layer": (
            {**tensors, **named({"strange": pairs[LAYER]})},
            "1 of its .* not there, such as strange",
        ),
        "a missing half": ({k: v for k, v in tensors.items() if k != key}, f"{module} lacks its A"),
        "a wrong shape": ({**tensors, key: torch.zeros(4, 7)}, r"has the shapes \[4, 7\] and .* are needed"),
        "two ranks": ({**tensors, key: torch.zeros(5, tensors[key].shape[1])}, "has the shapes"),
        "NaN": ({**tensors, first: torch.full_like(tensors[first], math.nan)}, "is not finite"),
        "infinity": ({**tensors, first: torch.full_like(tensors[first], math.inf)}, "is not finite"),
        "twice": ({**tensors, **named({"lora_unet_" + LAYER.replace(".", "_"): pairs[LAYER]})}, "twice"),
        "nothing": ({}, "is empty"),
        "DoRA": ({**tensors, f"{module}.dora_scale": torch.ones(4)}, "holds DoRA"),
        "DoRA of peft": ({**tensors, f"{module}.lora_magnitude_vector": torch.ones(4)}, "holds DoRA"),
        "LoHa": ({f"{module}.hada_w1_a": torch.ones(4, 4)}, "holds LoHa"),
        "LoKr": ({f"{module}.lokr_w1": torch.ones(4, 4)}, "holds LoKr"),
        "a text encoder": ({**tensors, "text_encoder.x.lora_A.weight": torch.ones(4, 4)}, "of the text encoder"),
        "kohya's text encoder": ({"lora_te1_x.lora_down.weight": torch.ones(4, 4)}, "of the text encoder"),
        "a bias": ({**tensors, f"{module}.lora_B.bias": torch.ones(4)}, "holds a bias"),
        "something else": ({**tensors, "scale": torch.ones(1)}, "holds scale, which is no part of a LoRA"),
    }[kind]


KINDS = [
    "another model's layers", "one strange layer", "a missing half", "a wrong shape", "two ranks", "NaN", "infinity",
    "twice", "nothing", "DoRA", "DoRA of peft", "LoHa", "LoKr", "a text encoder", "kohya's text encoder", "a bias",
    "something else",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_reach_the_model_is_refused(tiny_transformer, kind, tmp_path):
    tensors, message = broken(factors(tiny_transformer, only="attn"), kind)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / FILE)
    with pytest.raises(ConfigError, match=message) as caught:
        fit(read_adapter(str(tmp_path)), tiny_transformer)
    assert str(tmp_path) in str(caught.value)


@pytest.fixture(scope="module")
def tiny_transformer():
    return SD3Transformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
        caption_projection_dim=16, pooled_projection_dim=16, pos_embed_max_size=8,
    )  # fmt: skip


def test_files_that_are_no_adapter_are_refused(tmp_path):
    (tmp_path / "pickled").mkdir()
    torch.save({}, tmp_path / "pickled" / "pytorch_lora_weights.bin")
    (tmp_path / "cut").mkdir()
    save_file({"x": torch.ones(100)}, tmp_path / "cut" / FILE)
    (tmp_path / "cut" / FILE).write_bytes((tmp_path / "cut" / FILE).read_bytes()[:-10])
    (tmp_path / "two").mkdir()
    for name in "ab":
        save_file({"x": torch.ones(1)}, tmp_path / "two" / f"{name}.safetensors")
    for source, message in {
        "pickled": "is pickled",
        "pickled/pytorch_lora_weights.bin": "is pickled",
        "cut": "is no whole safetensors file",
        "two": r"no other single .safetensors file \(a.safetensors, b.safetensors\)",
        ".": "give the lora folder of a run",
        "nowhere": "it does not exist",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_adapter(str(tmp_path / source))


def test_settings_of_peft_that_are_no_lora_are_refused(tmp_path):
    save_file({"x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "adapter_model.safetensors")
    for text, message in {
        '{"peft_type": "LOHA"}': "is a LOHA",
        '{"use_dora": true}': "is a DoRA",
        "[]": "cannot read the settings",
        "{": "cannot read the settings",
    }.items():
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_adapter(str(tmp_path))


def test_an_adapter_of_zeros_is_said(tiny_transformer, tmp_path, caplog):
    pairs = {name: (a, 0 * b) for name, (a, b) in factors(tiny_transformer, only="attn").items()}
    save_file(named(pairs), tmp_path / FILE)
    fit(read_adapter(str(tmp_path)), tiny_transformer)
    assert "changes nothing: it is zero in every layer" in caplog.text


def test_an_export_says_what_it_is(tiny_model, tmp_path, caplog):
    policy = Policy(tiny_model.transformer, lora_rank=4)
    for weight in policy.weights["average"]:
        weight.data += 0.1
    tiny_model.save_lora(tmp_path, policy.lora_state_dict(), {"recipe": "scenes", "alpha": 64})
    about = dict(read_adapter(str(tmp_path)).about)
    fingerprint = about.pop("base_fingerprint")
    assert len(fingerprint) == 64
    assert about == {
        "alpha": 64, "base_model": tiny_model.settings.path, "family": "StableDiffusion3Pipeline", "rank": 4,
        "recipe": "scenes",
    }  # fmt: skip
    load_model(tiny_model.settings.path).load_adapter(str(tmp_path))
    assert not caplog.records
    for changed, said in (
        ({"base_fingerprint": "0" * 64}, "now put on other weights"),
        ({"family": "FluxPipeline"}, ""),
    ):
        tensors = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / FILE).items()}
        write_adapter(tmp_path, tensors, {"base_fingerprint": fingerprint, **about, **changed})
        if said:
            load_model(tiny_model.settings.path).load_adapter(str(tmp_path))
            assert said in caplog.text
        else:
            with pytest.raises(
                ConfigError, match=r"was trained on a FluxPipeline, but .* is a StableDiffusion3Pipeline"
            ):
                load_model(tiny_model.settings.path).load_adapter(str(tmp_path))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_adapter_that_is_not_finite_is_not_exported(tiny_model, value, tmp_path):
    lora = Policy(tiny_model.transformer, lora_rank=4).lora_state_dict()
    next(iter(lora.values()))[0, 0] = value
    with pytest.raises(NonFiniteError, match="was not exported"):
        tiny_model.save_lora(tmp_path / "lora", lora)
    assert not (tmp_path / "lora").exists()


def test_the_same_export_has_the_same_bytes(tiny_model, tmp_path):
    lora = Policy(tiny_model.transformer, lora_rank=4).lora_state_dict()
    for name in "ab":
        tiny_model.save_lora(tmp_path / name, lora, {"recipe": "scenes", "rank": 4})
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_a_run_starts_from_an_adapter_and_exports_both_as_one(tiny_model, tmp_path):
    """Fused, it is the reference; what is exported stands on the base alone, in plain diffusers too."""
    path = tiny_model.settings.path
    write_adapter(tmp_path / "first", named(factors(tiny_model.transformer, only="ff.net.2")), {})
    tiny_model.load_adapter(str(tmp_path / "first"))
    begun = load_model(path, lora=str(tmp_path / "first"))
    policy = Policy(begun.transformer, lora_rank=3)
    with policy.acting_as("reference"):
        torch.testing.assert_close(velocity(begun), velocity(tiny_model), atol=1e-4, rtol=1e-4)
    for weight in policy.parameters:
        weight.data += 0.05
    policy.update("average", 0.0)
    begun.save_lora(tmp_path / "both", policy.lora_state_dict())
    for put in ("load_adapter", "load_lora_weights"):
        whole = load_model(path)
        (whole if put == "load_adapter" else whole.pipeline).__getattribute__(put)(str(tmp_path / "both"))
        torch.testing.assert_close(velocity(whole), velocity(begun), atol=1e-4, rtol=1e-4)


def test_adapters_are_added_with_their_weights_as_diffusers_does(tiny_model, tmp_path):
    path, places = tiny_model.settings.path, [tmp_path / "one", tmp_path / "other"]
    parts = [factors(tiny_model.transformer, only=only) for only in ("attn", "ff.net.2")]
    for place, part in zip(places, parts, strict=True):
        write_adapter(place, named(part), {})
    both = load_model(path)
    assert {*both.load_adapter(f"{places[0]}:0.7+{places[1]}").layers} == {*parts[0], *parts[1]}
    plain = load_model(path)
    for place, name in zip(places, "ab", strict=True):
        plain.pipeline.load_lora_weights(place, adapter_name=name)
    plain.pipeline.set_adapters(["a", "b"], [0.7, 1.0])
    torch.testing.assert_close(velocity(both), velocity(plain), atol=1e-4, rtol=1e-4)
    for nameless in ("", "a+", ":0.5", "+a:0.5"):
        with pytest.raises(ConfigError, match="lack a name; allowed: ADAPTER"):
            read_adapters(nameless)
    with pytest.raises(ConfigError, match="has the weight 'much'; allowed: a number"):
        load_model(path).load_adapter(f"{places[0]}:much")


def test_half_precision_bases_are_rounded_once(tiny_pipeline_folder, tmp_path):
    base = load_model(str(tiny_pipeline_folder), dtype="bfloat16")
    pairs = factors(base.transformer, only="attn")
    write_adapter(tmp_path, named(pairs), {})
    fused = load_model(str(tiny_pipeline_folder), dtype="bfloat16", lora=str(tmp_path))
    for name, (a, b) in pairs.items():
        weight = base.transformer.get_submodule(name).weight
        assert torch.equal(fused.transformer.get_submodule(name).weight, (weight.float() + b @ a).bfloat16())
    base.load_adapter(str(tmp_path))
    assert base.transformer.get_submodule(LAYER).lora_A["loaded"].weight.dtype == torch.float32


def test_a_sum_of_adapters_is_the_sum_of_their_changes():
    one = of_factors("one", named({"x": (torch.randn(2, 5), torch.randn(3, 2))}))
    other = of_factors("other", named({name: (torch.randn(4, 5), torch.randn(3, 4)) for name in "xy"}))
    both = of_factors("both", join([one, other]))
    assert {len(a) for a, _ in both.layers.values()} == {6}
    for name in "xy":
        expected = sum(b @ a for adapter in (one, other) for n, (a, b) in adapter.layers.items() if n == name)
        torch.testing.assert_close(both.layers[name][1] @ both.layers[name][0], expected)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("targets", ["attention", "linear"])
def test_kohyas_form_is_read_back_as_the_same_adapter(plain, targets, tmp_path):
    """By the names of the first publication; what a layer adds is the same, however its factors are stacked."""
    pairs = {name: pair for name, pair in factors(plain.transformer).items() if name.endswith(plain.adapted(targets))}
    assert any("attn" not in name for name in pairs) == (targets == "linear")
    plain.save_lora(tmp_path / "ours", named(pairs))
    (tmp_path / "theirs").mkdir()
    write_kohya(tmp_path / "ours", tmp_path / "theirs")
    keys = load_file(tmp_path / "theirs" / "lora.safetensors").keys()
    first = {
        "StableDiffusion3Pipeline": "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "FluxPipeline": "lora_unet_double_blocks_0_img_attn_qkv",
        "QwenImagePipeline": "lora_unet_transformer_blocks_0_attn_to_q",
    }[plain.family]
    assert {f"{first}.lora_down.weight", f"{first}.lora_up.weight", f"{first}.alpha"} <= keys
    assert not any("joint_blocks" in key and "double_blocks" in first for key in keys)
    found = fit(read_adapter(str(tmp_path / "theirs")), plain.transformer).layers
    assert found.keys() == pairs.keys()
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(found[name][1] @ found[name][0], b @ a)
