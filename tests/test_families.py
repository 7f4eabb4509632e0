"""Every model family: its rollout is the pipeline's to the bit, it trains with every method, and its adapter loads."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import save_file
from test_trainer import make_config, make_trainer, weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from advantageflow.adapter_names import PUBLISHED, has_swapped_halves
from advantageflow.adapters import NAME
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.models import load_model
from advantageflow.models.flux import pack, unpack
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream, noise
from advantageflow.worlds.scenes.model import build_text_encoder, build_tokenizer

PROMPTS = ["a red circle", "two blue rings"]
FAMILIES = ["sd3", "flux", "qwen"]


def tiny_vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=16, norm_num_groups=4, sample_size=32,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=1.5,
    )  # fmt: skip


def word_tokenizer():
    words = ["<pad>", "</s>", "<unk>", "a", "red", "circle", "two", "blue", "rings", "and"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def tiny_t5():
    return T5EncoderModel(
        T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1)
    )


def build_sd3():
    clip = build_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=128, caption_projection_dim=32, pooled_projection_dim=128,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=tiny_vae(),
        text_encoder=build_text_encoder(clip), tokenizer=clip,
        text_encoder_2=build_text_encoder(clip), tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=16, d_model=128, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer_3=word_tokenizer(),
    )  # fmt: skip


def dynamic_scheduler():
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def build_flux():
    clip = build_tokenizer()
    config = build_text_encoder(clip).config
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=64, guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=dynamic_scheduler(), vae=tiny_vae(), text_encoder=CLIPTextModel(config), tokenizer=clip,
        text_encoder_2=tiny_t5(), tokenizer_2=word_tokenizer(),
    )  # fmt: skip


def build_qwen():
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 64,
            "rope_scaling": {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
        },
        hidden_size=32, vocab_size=64,
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
        scheduler=dynamic_scheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config), tokenizer=word_tokenizer(),
    )  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    pipeline = {"sd3": build_sd3, "flux": build_flux, "qwen": build_qwen}[request.param]()
    return saved(pipeline, tmp_path_factory.mktemp(request.param) / "pipeline")


def saved(pipeline, path):
    for parameter in pipeline.transformer.parameters():  # an untrained output layer would be zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    pipeline.save_pretrained(path)
    return path


def load(folder, **settings):
    return load_model(str(folder), **{"resolution": 64, "max_sequence_length": 12, **settings})


def draw(model, guidance_scale=1.0, solver="euler", prompts=PROMPTS, steps=4):
    batches = sample_batches(
        model, model.transformer, prompts, stream=Stream.EVALUATION, address=(0,), num_inference_steps=steps,
        solver=solver, guidance_scale=guidance_scale, batch_size=1,
    )  # fmt: skip
    return torch.cat([model.decode(batch.x0) for _, batch in batches])


def check_trains(trainer):
    """Two iterations move the learner."""
    start = weights(trainer)
    trainer.iterate()
    trainer.iterate()
    assert not torch.equal(weights(trainer), start)


def check_adapter(trainer, load, draw, lora, ours):
    """It draws what the run's average draws, beside its base: `lora` by the pipeline's loader, and `ours` by ours."""
    with trainer.policy.acting_as("average"):
        expected = draw(trainer.model)
    plain, own = load(), load()
    assert not torch.allclose(expected, draw(plain), atol=1e-5)
    plain.pipeline.load_lora_weights(lora)
    own.load_adapter(str(ours))
    for model in (plain, own):
        torch.testing.assert_close(draw(model), expected, atol=1e-5, rtol=0)


def draw_plainly(model, prompt, index, guidance_scale):
    """The pipeline's own call on our noise."""
    latents = noise(model.latent_shape, Stream.EVALUATION, (0, 0), [index])
    height, width = (model.scale_factor * size for size in model.latent_size)
    options = {"height": height, "width": width, "num_inference_steps": 4, "output_type": "pt"}
    options["max_sequence_length"] = 12
    if isinstance(model.pipeline, StableDiffusion3Pipeline):
        guidance = {"guidance_scale": guidance_scale}
    else:
        latents = pack(latents)
        guidance = {"true_cfg_scale": guidance_scale, "negative_prompt": "" if guidance_scale > 1 else None}
        if isinstance(model.pipeline, FluxPipeline):
            guidance["guidance_scale"] = 3.5
    return model.pipeline(prompt, latents=latents, **guidance, **options).images[0]


@pytest.mark.parametrize("resolution", [64, (64, 96), (96, 32)])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_rollout_is_the_pipelines_to_the_bit(folder, guidance_scale, resolution):
    model = load(folder, resolution=resolution)
    ours = draw(model, guidance_scale)
    assert ours.shape[2:] == ((64, 64) if resolution == 64 else resolution)
    for index, prompt in enumerate(PROMPTS):
        plain = draw_plainly(model, prompt, index, guidance_scale)
        assert torch.equal(ours[index], plain)


@pytest.mark.parametrize("objective", ["advantageflow", "nft", "flow-grpo"])
def test_every_method_trains_every_family_and_the_adapter_loads(folder, objective, tmp_path):
    sections = {"objective": {"name": objective}, "model": {"resolution": 64, "max_sequence_length": 12}}
    if objective == "flow-grpo":
        sections["rollout"] = {"solver": "flow_sde"}
    if objective == "nft":
        sections["policy"] = {"lora_targets": "linear"}
    trainer = make_trainer(make_config(**sections), tmp_path / "run", folder)
    start = [weight.detach().clone() for weight in trainer.policy.parameters]
    trainer.run()
    assert any(not torch.equal(a, b) for a, b in zip(start, trainer.policy.parameters, strict=True))

    before = draw(load(folder), 1.0)
    with trainer.policy.acting_as("average"):
        expected = draw(trainer.model, 1.0)
    plain = load(folder)
    plain.pipeline.load_lora_weights(trainer.directory.lora)
    found = draw(plain, 1.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, before, atol=1e-5)


def test_images_are_encoded_to_what_is_decoded(folder, monkeypatch):
    """With an encoder that undoes its decoder, latents come back."""
    model = load(folder)
    vae, handed = model.pipeline.vae, []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, return_dict: (handed.append(z), decode(z, return_dict=return_dict))[1])
    latents = torch.randn(2, *model.latent_shape)
    images = model.decode(latents)
    posterior = SimpleNamespace(mode=lambda: handed[0])
    monkeypatch.setattr(vae, "encode", lambda pixels: SimpleNamespace(latent_dist=posterior))
    torch.testing.assert_close(model.encode_images(images), latents)


def test_images_are_encoded_as_the_pipelines_for_images_do(folder, monkeypatch):
    model = load(folder)
    images = torch.rand(2, 3, *model.picture_size)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    holder, pixels = SimpleNamespace(vae=model.pipeline.vae), 2 * images - 1
    with torch.no_grad():
        if model.family == "QwenImagePipeline":
            expected = QwenImageImg2ImgPipeline._encode_vae_image(holder, pixels.unsqueeze(2), None)[:, :, 0]
        else:  # the line of SD3's pipeline is the same
            expected = FluxImg2ImgPipeline._encode_vae_image(holder, pixels, None)
    found = model.encode_images(images)
    assert found.shape == (2, *model.latent_shape)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match=r"expected images \[batch, 3, \(64, 64\)\], got \[2, 3, 32, 64\]"):
        model.encode_images(images[:, :, :32])
    with pytest.raises(NonFiniteError, match="the encoder made latents that are NaN or infinite"):
        model.encode_images(images * float("nan"))


def test_patches_are_those_of_the_pipelines():
    latents = torch.randn(2, 16, 8, 8)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 8))
    assert torch.equal(unpack(pack(latents), (8, 8)), latents)
    wide = torch.randn(2, 16, 4, 12)
    assert torch.equal(pack(wide), FluxPipeline._pack_latents(wide, 2, 16, 4, 12))
    assert torch.equal(unpack(pack(wide), (4, 12)), wide)


def test_a_batch_of_prompts_of_different_lengths_is_masked(folder):
    """Together or alone, a prompt's velocity is the same."""
    model = load(folder)
    x, t = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.8])
    prompts = ["a", "two blue rings and a red circle"]
    with torch.no_grad():
        together = model.velocity(model.transformer, x, t, model.encode(prompts))
        for i in range(2):
            alone = model.velocity(model.transformer, x[i : i + 1], t[i : i + 1], model.encode([prompts[i]]))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_float32_adapters(folder, dtype, tmp_path):
    sections = {"model": {"resolution": 64, "max_sequence_length": 12, "dtype": dtype}}
    sections["model"] |= {"gradient_checkpointing": True, "offload": True, "vae_slicing": True}
    trainer = make_trainer(make_config(**sections), tmp_path / "run", folder)
    assert {weight.dtype for weight in trainer.policy.parameters} == {torch.float32}
    start = [weight.detach().clone() for weight in trainer.policy.parameters]
    row = trainer.iterate()
    assert row["skipped_steps"] == 0
    assert np.isfinite(row["grad_norm"])
    assert any(not torch.equal(a, b) for a, b in zip(start, trainer.policy.parameters, strict=True))


def test_a_base_held_in_fp8_computes_as_before_but_for_its_rounding_and_trains(folder, tmp_path):
    config = make_config(model={"resolution": 64, "max_sequence_length": 12, "quantization": "fp8"})
    trainer = make_trainer(config, tmp_path / "run", folder)
    held = Counter(weight.dtype for weight in trainer.model.transformer.parameters() if not weight.requires_grad)
    assert held[torch.float8_e4m3fn] > 10
    plain, few = load(folder), trainer.model
    x, t = torch.randn(2, *plain.latent_shape), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        expected, found = (model.velocity(model.transformer, x, t, model.encode(PROMPTS)) for model in (plain, few))
    assert 0 < (found - expected).norm() < 0.2 * expected.norm()
    start = [weight.detach().clone() for weight in trainer.policy.parameters]
    assert {weight.dtype for weight in start} == {torch.float32}
    assert trainer.iterate()["skipped_steps"] == 0
    assert any(not torch.equal(a, b) for a, b in zip(start, trainer.policy.parameters, strict=True))
    folder_of_adapter = tmp_path / "lora"
    few.save_lora(folder_of_adapter, trainer.policy.lora_state_dict())
    with_adapter = load(folder, quantization="fp8")
    adapter = with_adapter.load_adapter(str(folder_of_adapter))
    for name, (a, _) in adapter.layers.items():
        assert torch.equal(with_adapter.transformer.get_submodule(name).lora_A[NAME].weight, a)


def test_prompt_embeddings_are_kept_on_disk(folder, tmp_path):
    first = load(folder, prompt_cache=str(tmp_path))
    expected = first.encode(PROMPTS)
    assert len(list(tmp_path.iterdir())) == 2
    second = load(folder, prompt_cache=str(tmp_path))
    second.encode_prompt = None  # not needed
    found = second.encode(PROMPTS)
    assert torch.equal(found.tokens, expected.tokens)
    other = load_model(str(folder), resolution=64, max_sequence_length=11, prompt_cache=str(tmp_path))
    other.encode(PROMPTS[:1])
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "nonsense"}, "model.attention is 'nonsense'"),
        ({"resolution": 100}, "model.resolution is 100; it must be a multiple of 16"),
        ({"resolution": (64, 100)}, r"model.resolution is \[64, 100\]; it must be a multiple of 16"),
        ({"quantization": "4bit"}, "cannot load the model .*bitsandbytes"),
    ],
)
def test_settings_that_cannot_work_here_are_named(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_model(str(folder), **settings)


def test_a_family_that_is_not_known_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "LuminaPipeline"}')
    with pytest.raises(
        ConfigError, match="is a LuminaPipeline; known families: StableDiffusion3Pipeline, FluxPipeline"
    ):
        load_model(str(tmp_path))


def test_compiling_takes_every_block_alone(folder):
    transformer = load(folder, compile=True).transformer
    blocks = [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", [])]
    assert blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert transformer._compiled_call_impl is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_that_are_not_finite_stop_at_the_decoder(folder, value):
    """The clamp would make a white picture of infinity."""
    model = load(folder)
    latents = torch.zeros(2, *model.latent_shape)
    latents[1, 0, 0, 0] = value
    with pytest.raises(NonFiniteError, match="1 of 2 pictures are NaN or infinite, from the network on"):
        model.decode(latents)
    model.pipeline.vae.decoder.conv_out.bias.data[0] = value
    with pytest.raises(NonFiniteError, match="2 of 2 pictures are NaN or infinite, from the decoder on"):
        model.decode(torch.zeros(2, *model.latent_shape))


def first_published(transformer):
    """A transformer's weights under the names of the model's first publication, queries, keys and values as one."""
    state, written = transformer.state_dict(), {}
    for name, targets in PUBLISHED.items():
        for i in range(2):
            meant = [target.format(i=i) for target in targets]
            for part in ("weight", "bias"):
                if all(f"{target}.{part}" in state for target in meant):
                    whole = torch.cat([state[f"{target}.{part}"] for target in meant])
                    inputs = state[f"{meant[0]}.weight"].shape[1]
                    if has_swapped_halves(name.replace(".", "_"), inputs, len(whole)):
                        whole = torch.cat(whole.chunk(2)[::-1])
                    written[f"{name.format(i=i)}.{part}"] = whole.clone()
    written["pos_embed"] = state["pos_embed.pos_embed"]
    for part in ("weight", "bias"):
        written[f"x_embedder.proj.{part}"] = state[f"pos_embed.proj.{part}"]
        written[f"context_embedder.{part}"] = state[f"context_embedder.{part}"]
    return {name: tensor for name, tensor in written.items() if not name.startswith(("double", "single", "txt_in"))}


def test_a_single_file_is_read_with_a_pipeline_for_all_else(folder, tmp_path):
    model = load(folder)
    if model.family != "StableDiffusion3Pipeline":
        pytest.skip("one family's names suffice")
    file = tmp_path / "sd3.safetensors"
    save_file(first_published(model.transformer), file)
    other = load(folder)
    for parameter in other.transformer.parameters():
        parameter.data.zero_()
    other.pipeline.save_pretrained(tmp_path / "base")  # has all but the weights
    single = load(file, base=str(tmp_path / "base"))
    assert torch.equal(draw(single, 4.0), draw(model, 4.0))
    for lost, message in {"a layer": "holds no SD3", "positions": "holds no SD3"}.items():
        state = first_published(model.transformer)
        state.pop("joint_blocks.0.x_block.attn.qkv.weight" if lost == "a layer" else "pos_embed")
        save_file(state, tmp_path / "cut.safetensors")
        with pytest.raises(ConfigError, match=message):
            load(tmp_path / "cut.safetensors", base=str(tmp_path / "base"))
    with pytest.raises(ConfigError, match=r"is a single file, .* set model.base to"):
        load(file)
    (tmp_path / "x.ckpt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"\.ckpt' is pickled"):
        load(tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match=r"is no single file; remove model.base"):
        load(folder, base=str(folder))


def test_stable_diffusion_3_alone_does_without_t5(folder):
    if folder.parent.name.startswith("sd3"):
        model = load(folder, max_sequence_length=0)
        assert model.pipeline.text_encoder_3 is None
        pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
        encode = pipeline.encode_prompt
        tokens, _, pooled, _ = encode(PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=0)
        conditioning = model.encode(PROMPTS)
        torch.testing.assert_close((conditioning.tokens, conditioning.pooled), (tokens, pooled))
        assert draw(model).isfinite().all()
    else:
        with pytest.raises(ConfigError, match=r"max_sequence_length=0 leaves the text encoder T5 out"):
            load(folder, max_sequence_length=0)
