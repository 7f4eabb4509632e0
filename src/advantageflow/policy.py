"""The weights of one transformer in its roles: learner, rollout policy, evaluation average, and frozen reference.

A method may keep further slow copies under names of its own. With LoRA all roles share one copy of the base weights:
every role is an adapter, and the reference is the base with adapters off. With full fine-tuning (for small models)
every role is a copy of its own. A critic, where a method has one, is a head that is trained with the learner.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from advantageflow.errors import ConfigError
from advantageflow.lean import lighten

Role = str  # learner, rollout, average, reference, or a method's own
# The attention projections of a block: of the image stream and of the text stream. SD3, FLUX and Qwen-Image share the
# names. arXiv 2509.16117's code adapts those of `attn`; the second attention of SD3.5's dual blocks is `attn2`.
PROJECTIONS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
LORA_TARGETS = {"attention": tuple(f"attn.{name}" for name in PROJECTIONS), "all_attention": PROJECTIONS}
AHEAD: Role = "ahead"  # the rollout policy as it was an iteration before, see `sources.AheadSource`
ADAPTERS: tuple[Role, ...] = ("learner", "rollout", "average")


def average_decay(step: int, longest: float) -> float:
    """Decay of the evaluation average after optimizer step `step`: min((1 + step) / (10 + step), longest)."""
    return min((1 + step) / (10 + step), longest)


def linear_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers in a network's blocks: attention, feed-forward and modulation."""
    lists = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.ModuleList))
    layers = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return tuple(name for name in layers if name.startswith(lists))


class Policy:
    """A transformer and the weights of its roles. All roles start as the base model.

    Args:
        transformer: a diffusers model; it is changed in place.
        lora_rank: rank of the adapters, or 0 for full fine-tuning.
        lora_alpha: scale of the adapters; they add alpha / rank · B A.
        targets: endings of the names of the layers that get adapters.
        seed: of the adapters' first factor, a Gaussian; the second starts at zero.
        slow: roles of further slow copies.
        critic: a head that is trained with the learner.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        lora_rank: int = 32,
        lora_alpha: float = 64,
        targets: tuple[str, ...] = LORA_TARGETS["attention"],
        seed: int = 0,
        slow: Iterable[Role] = (),
        critic: nn.Module | None = None,
    ) -> None:
        self.transformer, self.critic = transformer, critic
        self.roles = (*ADAPTERS, *slow)
        self.is_lora = lora_rank > 0
        self._scale = lora_alpha / lora_rank if self.is_lora else 1.0
        transformer.requires_grad_(False)
        self._modules: dict[str, nn.Module] = {}
        self.weights: dict[Role, list[Tensor]]
        if self.is_lora:
            config = LoraConfig(
                r=lora_rank, lora_alpha=lora_alpha, target_modules=list(targets), init_lora_weights="gaussian"
            )
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # three adapters are meant
                torch.manual_seed(seed)
                for role in self.roles:
                    transformer.add_adapter(config, adapter_name=role)  # type: ignore[operator]
            named = dict(transformer.named_parameters())
            for name, parameter in named.items():
                if any(f".{role}." in name for role in self.roles):
                    parameter.data = parameter.data.float()  # steps are too small for half precision
            self.names = [name for name in named if ".learner." in name]
            self.weights = {
                role: [named[name.replace(".learner.", f".{role}.")] for name in self.names] for role in self.roles
            }
            # found once: diffusers' own switches walk through every module of the network
            self._layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
            for layer in self._layers:
                lighten(layer)
            for role in self.roles:
                for weight in self.weights[role]:
                    weight.requires_grad_(role == "learner")
            self._activate("learner")
        else:
            for role in (*self.roles[1:], "reference"):
                self._modules[role] = copy.deepcopy(transformer)
            self._modules["learner"] = transformer.requires_grad_(True)
            self.names = [name for name, _ in transformer.named_parameters()]
            self.weights = {role: list(self._modules[role].parameters()) for role in self.roles}
        for role in self.roles[1:]:
            self.update(role, 0.0)

    def __str__(self) -> str:
        count = sum(weight.numel() for weight in self.parameters)
        if not self.is_lora:
            return f"all {count:,} parameters are trained"
        rank = min(self.parameters[0].shape)
        return f"{count:,} trained parameters, LoRA of rank {rank} in {len(self.names) // 2} layers"

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer trains: the learner's parameters, and those of the critic."""
        return [*self.weights["learner"], *(self.critic.parameters() if self.critic is not None else ())]

    @property
    def parameter_names(self) -> list[str]:
        """Of `parameters`, in their order."""
        critic = [] if self.critic is None else [f"critic.{name}" for name, _ in self.critic.named_parameters()]
        return [*self.names, *critic]

    @property
    def adapters(self) -> list[Tensor]:
        """The weights of all roles that lie beside one base; none where each role has a base of its own."""
        return [weight for role in self.roles for weight in self.weights[role]] if self.is_lora else []

    @contextmanager
    def acting_as(self, role: Role) -> Iterator[nn.Module]:
        """The transformer with the weights of `role`; the learner again afterwards."""
        if not self.is_lora:
            yield self._modules[role]
            return
        self._activate(role)
        try:
            yield self.transformer
        finally:
            self._activate("learner")

    def _activate(self, role: Role) -> None:
        """What a layer's forward pass reads, and no more: peft's own switches walk through the weights of all roles."""
        for layer in self._layers:
            layer._disable_adapters = role == "reference"
            if role != "reference":
                layer._active_adapter = [role]

    @torch.no_grad()
    def update(self, role: Role, decay: float) -> None:
        """θ_role <- decay θ_role + (1 - decay) θ."""
        if decay == 0:
            torch._foreach_copy_(self.weights[role], self.weights["learner"])
        else:
            torch._foreach_lerp_(self.weights[role], self.weights["learner"], 1 - decay)

    @torch.no_grad()
    def follow(self, role: Role, other: Role) -> None:
        """θ_role <- θ_other."""
        torch._foreach_copy_(self.weights[role], self.weights[other])

    def alike(self, roles: Iterable[Role]) -> frozenset[Role]:
        """Those of the roles that predict what the learner does, to the bit.

        Their weights are compared, since a resumed run has no memory of what was copied. Weights that differ do so in
        the first tensor, as a rule, so that this costs nothing where it is of no use.
        """
        return frozenset(role for role in roles if self._is_alike(role))

    def _is_alike(self, role: Role) -> bool:
        learner = self.weights["learner"]
        if role == "reference" and self.is_lora:  # an adapter adds nothing while its second factor is zero
            return not any(
                bool(weight.any()) for name, weight in zip(self.names, learner, strict=True) if ".lora_B." in name
            )
        theirs = self.weights[role] if role in self.weights else self._modules[role].parameters()
        return all(torch.equal(one, other) for one, other in zip(theirs, learner, strict=True))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The weights of every trained role, by role and parameter name."""
        critic = {} if self.critic is None else {"critic": dict(self.critic.state_dict())}
        return {role: dict(zip(self.names, self.weights[role], strict=True)) for role in self.roles} | critic

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `state` gave.

        Raises:
            ConfigError: it holds other weights than this policy has.
        """
        for role, weights in self.state().items():
            wrong = sorted({*state.get(role, {})} ^ {*weights})
            if wrong:
                raise ConfigError(
                    f"the checkpoint's weights are not those of this policy: {len(wrong)} names differ, such as "
                    f"{wrong[0]}; continue the run with the policy.lora_targets, model.path and objective that it "
                    "began with"
                )
            torch._foreach_copy_(list(weights.values()), [state[role][name] for name in weights])

    def lora_state_dict(self, role: Role = "average") -> dict[str, Tensor]:
        """One role's adapter in peft's layout, as diffusers' `save_lora_weights` takes it.

        The scale alpha / rank is multiplied into B, because loaders take it for 1 where a file does not state it.
        """
        state: dict[str, Tensor] = get_peft_model_state_dict(self.transformer, adapter_name=role)
        return {name: weight * self._scale if ".lora_B." in name else weight for name, weight in state.items()}
