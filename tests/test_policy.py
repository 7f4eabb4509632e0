import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, get_peft_model
from torch import nn

from advantageflow.errors import ConfigError
from advantageflow.lean import lighten
from advantageflow.models import load_model
from advantageflow.policy import ADAPTERS, LORA_TARGETS, Policy, average_decay, linear_layers


def velocity(model, transformer, seed=0):
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.velocity(transformer, x, torch.tensor([0.3, 0.8]), model.encode(["a ring", "two circles"]))


def disturb(policy):
    """Give the learner weights of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(params=[8, 0], ids=["lora", "full"])
def policy(request, tiny_model):
    return Policy(tiny_model.transformer, lora_rank=request.param, lora_alpha=16)


def test_all_roles_start_as_the_base_model_to_the_bit(request, tiny_model):
    base = velocity(tiny_model, tiny_model.transformer)
    for rank in (8, 0):
        policy = Policy(tiny_model.transformer, lora_rank=rank) if rank == 8 else None
        if policy is None:
            continue
        for role in (*ADAPTERS, "reference"):
            with policy.acting_as(role) as transformer:
                assert torch.equal(velocity(tiny_model, transformer), base)


def test_only_the_learner_moves(policy, tiny_model):
    with policy.acting_as("reference") as transformer:
        base = velocity(tiny_model, transformer)
    disturb(policy)
    with policy.acting_as("learner") as transformer:
        assert not torch.equal(velocity(tiny_model, transformer), base)
    for role in ("rollout", "average", "reference"):
        with policy.acting_as(role) as transformer:
            assert torch.equal(velocity(tiny_model, transformer), base)


def test_decay_0_copies_and_decay_blends(policy):
    before = [weight.clone() for weight in policy.weights["rollout"]]
    disturb(policy)
    policy.update("rollout", 0.75)
    for old, new, learner in zip(before, policy.weights["rollout"], policy.parameters, strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * learner)
    policy.update("rollout", 0.0)
    assert all(torch.equal(a, b) for a, b in zip(policy.weights["rollout"], policy.parameters, strict=True))


@pytest.mark.parametrize("before", [*ADAPTERS, "reference"])
def test_the_gradient_reaches_the_learner_alone_whoever_acted_before(before, policy, tiny_model):
    disturb(policy)
    with policy.acting_as(before) as transformer:
        velocity(tiny_model, transformer)
    x = torch.randn(1, 16, 8, 8)
    with policy.acting_as("learner") as transformer:
        tiny_model.velocity(transformer, x, torch.tensor(0.5), tiny_model.encode(["a ring"])).sum().backward()
    learned = [parameter for parameter in policy.parameters if parameter.grad is not None]
    assert any(bool(parameter.grad.any()) for parameter in learned)
    every = {id(p): p for each in policy._modules.values() for p in each.parameters()}
    every |= {id(p): p for p in tiny_model.transformer.parameters()}
    assert {key for key, p in every.items() if p.grad is not None} == {id(p) for p in learned}
    for role in policy.roles[1:]:
        assert all(weight.grad is None and not weight.requires_grad for weight in policy.weights[role])


def test_half_precision_sees_weights_that_have_changed_in_place(tiny_pipeline_folder):
    """Autocast keeps half-precision copies of weights that have a gradient: none outlives a call."""

    def predicted(policy, model):
        x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        with policy.acting_as("learner") as transformer:
            return model.velocity(transformer, x, torch.tensor(0.5), model.encode(["a ring"])).detach()

    model, fresh = (load_model(str(tiny_pipeline_folder), dtype="bfloat16") for _ in range(2))
    policy, other = (Policy(each.transformer, lora_rank=4) for each in (model, fresh))
    before = predicted(policy, model)
    disturb(policy)
    disturb(other)
    assert not torch.equal(predicted(policy, model), before)
    assert torch.equal(predicted(policy, model), predicted(other, fresh))


def test_the_base_is_one_copy_and_lora_sits_on_the_attention(tiny_model):
    policy = Policy(tiny_model.transformer, lora_rank=8)
    trained = {name.split(".lora_")[0].split(".", 2)[2] for name in policy.names}
    expected = {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    assert trained == {f"attn.{name}" for name in expected}
    base = [name for name, _ in tiny_model.transformer.named_parameters() if "lora_" not in name]
    assert len(base) == len(set(base))
    assert not any(p.requires_grad for n, p in tiny_model.transformer.named_parameters() if "lora_" not in n)


def test_state_goes_round(policy):
    disturb(policy)
    policy.update("average", 0.5)
    state = {role: {k: v.clone() for k, v in group.items()} for role, group in policy.state().items()}
    disturb(policy)
    policy.load_state(state)
    for role in ADAPTERS:
        assert all(torch.equal(policy.state()[role][name], state[role][name]) for name in policy.names)


def test_the_average_warms_up():
    assert average_decay(0, 0.9) == pytest.approx(0.1)
    assert average_decay(1000, 0.9) == 0.9


# The transformer of stabilityai/stable-diffusion-3.5-medium
SD35_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "layers", "parameters"),
    [("attention", 191, 18.78), ("all_attention", 243, 23.89), ("linear", 385, 65.22)],
)
def test_the_layers_of_sd35_medium_that_get_adapters(targets, layers, parameters):
    """Those of the attention are those of DiffusionNFT's code."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**SD35_MEDIUM)
        named = LORA_TARGETS | {"linear": linear_layers(transformer)}
        policy = Policy(transformer, lora_rank=32, targets=named[targets])
    assert len(policy.parameters) == 2 * layers
    assert sum(weight.numel() for weight in policy.parameters) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert any(".attn2." in name for name in policy.names) == (targets != "attention")
    assert not any("embed" in name or "_out.linear" in name for name in policy.names)


def test_weights_of_other_layers_are_not_put_back(tiny_model):
    policy = Policy(tiny_model.transformer, lora_rank=4)
    state = policy.state()
    for group in state.values():
        group["transformer_blocks.0.attn2.to_q.lora_A.learner.weight"] = torch.zeros(4, 96)
    with pytest.raises(ConfigError, match=r"1 names differ, such as transformer_blocks.0.attn2.to_q"):
        policy.load_state(state)


def adapted_layer(alpha):
    """Of peft, and what computes its output and gradients for an input [3, 5, 24]."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=alpha, target_modules=["0"], init_lora_weights=False)
    layer = get_peft_model(nn.Sequential(nn.Linear(24, 40)), config).base_model.model[0]
    x = torch.randn(3, 5, 24)

    def computed(dtype=torch.float32):
        layer.base_layer.to(dtype)
        seen = x.to(dtype).requires_grad_()
        found = layer(seen)
        wanted = [seen, *(weight for weight in layer.parameters() if weight.requires_grad)]
        return [found, *torch.autograd.grad(found.float().square().sum(), wanted)]

    return layer, computed


@pytest.mark.parametrize(("alpha", "exact"), [(16, True), (12, False)])
def test_a_layer_sums_what_pefts_own_does(alpha, exact):
    """To the bit where alpha / rank is a power of two."""
    layer, computed = adapted_layer(alpha)
    plain = computed()
    lighten(layer)
    assert "forward" in vars(layer)
    for ours, theirs in zip(computed(), plain, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not exact or torch.equal(ours, theirs)
    layer.enable_adapters(False)
    x = torch.randn(2, 24)
    assert torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_half_precision_is_as_near_to_float32_as_pefts(dtype):
    """Its gradients are those of float32 factors, and nothing in between is wide."""
    layer, computed = adapted_layer(16)
    true, plain = computed(), computed(dtype)
    lighten(layer)
    for ours, theirs, exact in zip(computed(dtype), plain, true, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm() + torch.finfo(dtype).eps * exact.norm()


def test_layers_that_are_more_than_two_factors_are_left_to_peft():
    for more in ({"lora_dropout": 0.5}, {"lora_bias": True}, {"use_dora": True}):
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["0"], **more)
        layer = get_peft_model(nn.Sequential(nn.Linear(24, 40)), config).base_model.model[0]
        lighten(layer)
        assert "forward" not in vars(layer), more


def test_a_gpu_computes_attention_without_cudnn_and_float32_in_full(tiny_pipeline_folder, monkeypatch):
    """The gradients of cuDNN's attention can be NaN; convolutions would be rounded to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_model(str(tiny_pipeline_folder))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
