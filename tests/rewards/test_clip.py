"""Learned rewards on tiny random CLIPs: each formula and each preparation against a direct computation."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, layer_norm, normalize, scaled_dot_product_attention
from transformers import CLIPModel

from advantageflow.pictures import to_pil
from advantageflow.rewards.aesthetic import Aesthetic, build_head
from advantageflow.rewards.clip import Clip, prepare_as_pictures, prepare_as_tensor, prepare_padded, standardize
from advantageflow.rewards.clipscore import CLIPScore
from advantageflow.rewards.hpsv2 import HPSv2
from advantageflow.rewards.open_clip import load_into, to_transformers, vit_h_14_config
from advantageflow.rewards.pickscore import PickScore
from advantageflow.worlds.scenes.model import build_tokenizer

SIZE, WIDTH, HEADS, LAYERS, PATCH, TOKENS = 32, 16, 2, 2, 8, 10  # of the tiny CLIP in conftest
PROMPTS = ["a red circle", "two blue rings and a cross and a circle"]  # the second is cut
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture
def images():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))


def direct_cosine(clip, pixels):
    tokens = clip.tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return clip.model(pixel_values=pixels, **tokens).logits_per_image.diagonal() / clip.model.logit_scale.exp()


def test_pickscore_is_the_scaled_cosine_over_26(clip, images):
    expected = clip.model.logit_scale.exp() * direct_cosine(clip, prepare_as_pictures(images, SIZE)) / 26
    torch.testing.assert_close(PickScore(clip)(images, PROMPTS), expected)


def test_hpsv2_and_clipscore_are_plain_cosines(clip, images):
    torch.testing.assert_close(HPSv2(clip)(images, PROMPTS), direct_cosine(clip, prepare_padded(images, SIZE)))
    torch.testing.assert_close(CLIPScore(clip)(images, PROMPTS), direct_cosine(clip, prepare_as_tensor(images, SIZE)))


def test_aesthetic_is_a_linear_head_on_the_unit_embedding(clip, images):
    torch.manual_seed(0)
    head = build_head(12)
    vision = clip.model.vision_model(pixel_values=prepare_as_pictures(images, SIZE)).pooler_output
    embedded = normalize(clip.model.visual_projection(vision), dim=-1)
    for layer in (layer for layer in head if isinstance(layer, torch.nn.Linear)):
        embedded = embedded @ layer.weight.T + layer.bias
    torch.testing.assert_close(Aesthetic(clip, head)(images, PROMPTS), embedded.flatten())
    assert sum(parameter.numel() for parameter in build_head().parameters()) == 768 * 1024 + 1024 + 1024 * 128 + 128 + (
        128 * 64 + 64 + 64 * 16 + 16 + 17
    )


def test_pictures_are_rounded_and_tensors_are_not():
    images = torch.full((1, 3, SIZE, SIZE), 0.5003)
    picture = torch.full((3, SIZE, SIZE), 128 / 255)  # 0.5003 * 255 = 127.58
    torch.testing.assert_close(prepare_as_pictures(images, SIZE)[0], (picture - MEAN) / STD, atol=1e-5, rtol=0)
    for prepare in (prepare_as_tensor, prepare_padded):
        torch.testing.assert_close(prepare(images, SIZE)[0], (images[0] - MEAN) / STD, atol=1e-5, rtol=0)


def test_pictures_are_scaled_by_pillow_and_cropped_in_the_centre(images):
    picture = to_pil(images)[0].resize((42, 32), Image.Resampling.BICUBIC)  # 64 x 48, the short edge to 32
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[:, :, 5:37] / 255
    torch.testing.assert_close(prepare_as_pictures(images, SIZE)[0], (pixels - MEAN) / STD, atol=1e-4, rtol=0)


def test_tensors_are_cropped_for_clipscore_and_padded_for_hps(images):
    wide = interpolate(images, (32, 42), mode="bilinear", antialias=True)[..., 5:37]
    torch.testing.assert_close(prepare_as_tensor(images, SIZE), (wide - MEAN) / STD)
    low = interpolate(images, (24, 32), mode="bicubic", antialias=True)
    padded = torch.zeros(2, 3, SIZE, SIZE)
    padded[:, :, 4:28] = low
    torch.testing.assert_close(prepare_padded(images, SIZE), standardize(padded))


def open_clip_state():
    """A random state dict with open_clip's names and shapes."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    state = {
        "positional_embedding": torch.randn(TOKENS, WIDTH),
        "token_embedding.weight": torch.randn(len(tokenizer), WIDTH),
        "ln_final.weight": torch.rand(WIDTH) + 0.5,
        "ln_final.bias": torch.randn(WIDTH),
        "text_projection": torch.randn(WIDTH, 12),
        "logit_scale": torch.tensor(2.0),
        "visual.class_embedding": torch.randn(WIDTH),
        "visual.positional_embedding": torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH),
        "visual.conv1.weight": torch.randn(WIDTH, 3, PATCH, PATCH) / 10,
        "visual.proj": torch.randn(WIDTH, 12),
    }
    for name in ("visual.ln_pre", "visual.ln_post"):
        state |= {f"{name}.weight": torch.rand(WIDTH) + 0.5, f"{name}.bias": torch.randn(WIDTH)}
    for tower in ("transformer", "visual.transformer"):
        for layer in range(LAYERS):
            block = f"{tower}.resblocks.{layer}"
            for name in ("ln_1", "ln_2"):
                state |= {f"{block}.{name}.weight": torch.rand(WIDTH) + 0.5, f"{block}.{name}.bias": torch.randn(WIDTH)}
            for name, shape in {
                "attn.in_proj_": (3 * WIDTH, WIDTH),
                "attn.out_proj.": (WIDTH, WIDTH),
                "mlp.c_fc.": (4 * WIDTH, WIDTH),
                "mlp.c_proj.": (WIDTH, 4 * WIDTH),
            }.items():
                state |= {f"{block}.{name}weight": torch.randn(shape) / 4, f"{block}.{name}bias": torch.randn(shape[0])}
    return state


def open_clip_tower(state, prefix, x, causal):
    """The pre-norm transformer of open_clip, from its state dict."""
    for layer in range(LAYERS):
        part = {
            name.removeprefix(f"{prefix}.resblocks.{layer}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{prefix}.resblocks.{layer}.")
        }
        y = layer_norm(x, (WIDTH,), part["ln_1.weight"], part["ln_1.bias"])
        q, k, v = (y @ part["attn.in_proj_weight"].T + part["attn.in_proj_bias"]).chunk(3, dim=-1)
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (q, k, v))
        y = scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + y @ part["attn.out_proj.weight"].T + part["attn.out_proj.bias"]
        y = layer_norm(x, (WIDTH,), part["ln_2.weight"], part["ln_2.bias"])
        y = torch.nn.functional.gelu(y @ part["mlp.c_fc.weight"].T + part["mlp.c_fc.bias"])
        x = x + y @ part["mlp.c_proj.weight"].T + part["mlp.c_proj.bias"]
    return x


def test_open_clip_weights_compute_the_same_in_transformers(clip):
    state = open_clip_state()
    model = CLIPModel(clip.model.config).eval()
    load_into(model, state)
    loaded = Clip(model, clip.tokenizer)

    pixels = torch.randn(2, 3, SIZE, SIZE)
    patches = torch.nn.functional.conv2d(pixels, state["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), patches], dim=1)
    x = x + state["visual.positional_embedding"]
    x = layer_norm(x, (WIDTH,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = open_clip_tower(state, "visual.transformer", x, causal=False)
    x = layer_norm(x[:, 0], (WIDTH,), state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    expected = normalize(x @ state["visual.proj"], dim=-1)
    torch.testing.assert_close(loaded.embed_images(pixels), expected, atol=1e-4, rtol=1e-4)

    tokens = clip.tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids = tokens["input_ids"]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    x = open_clip_tower(state, "transformer", x, causal=True)
    x = layer_norm(x, (WIDTH,), state["ln_final.weight"], state["ln_final.bias"])
    end = (ids == clip.tokenizer.eos_token_id).int().argmax(1)
    expected = normalize(x[torch.arange(2), end] @ state["text_projection"], dim=-1)
    torch.testing.assert_close(loaded.embed_texts(PROMPTS), expected, atol=1e-4, rtol=1e-4)


def test_open_clip_weights_that_do_not_fit_are_named(clip):
    state = open_clip_state()
    with pytest.raises(ValueError, match=r"missing \['logit_scale'\]"):
        load_into(CLIPModel(clip.model.config), {k: v for k, v in state.items() if k != "logit_scale"})
    with pytest.raises(ValueError, match=r"'visual\.mask_token' has no counterpart"):
        to_transformers({**state, "visual.mask_token": torch.zeros(1)})


def test_the_names_of_vit_h_14_are_all_covered():
    with torch.device("meta"):
        model = CLIPModel(vit_h_14_config())
    names = dict(model.named_parameters())
    assert names["vision_model.embeddings.position_embedding.weight"].shape == (257, 1280)
    assert names["text_projection.weight"].shape == (1024, 1024)
    assert sum(parameter.numel() for parameter in names.values()) == pytest.approx(986e6, rel=1e-3)
