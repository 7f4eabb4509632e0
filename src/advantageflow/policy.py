"""The weights of one transformer in its roles: learner, rollout policy, evaluation average, and frozen reference.

With LoRA all roles share one copy of the base weights: learner, rollout and average are three adapters, and the
reference is the base with adapters off. With full fine-tuning (for small models) every role is a copy of its own.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from advantageflow.errors import ConfigError

Role = Literal["learner", "rollout", "average", "reference"]
# The attention projections of a block: of the image stream and of the text stream. SD3, FLUX and Qwen-Image share the
# names. DiffusionNFT's code adapts those of `attn`; the second attention of SD3.5's dual blocks is `attn2`.
PROJECTIONS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
LORA_TARGETS = {"attention": tuple(f"attn.{name}" for name in PROJECTIONS), "all_attention": PROJECTIONS}
ADAPTERS: tuple[Role, ...] = ("learner", "rollout", "average")


def rollout_decay(schedule: float, step: int) -> float:
    """How much of the rollout policy is kept after optimizer step `step`: ρ in θ_old <- ρ θ_old + (1 - ρ) θ.

    A schedule between 0 and 1 is a constant ρ. 0, 1 and 2 are DiffusionNFT's: 0 is always on-policy, 1 ramps to 0.5
    over 500 steps, 2 (OCR) is on-policy for 75 steps and then ramps to 0.999.
    """
    if schedule == 0 or 0 < schedule < 1:
        return schedule
    if schedule == 1:
        return min(0.001 * step, 0.5)
    if schedule == 2:
        return 0.0 if step < 75 else min(0.0075 * (step - 75), 0.999)
    raise ValueError(f"unknown rollout decay schedule {schedule}; use 0, 1, 2, or a constant between 0 and 1")


def average_decay(step: int, longest: float) -> float:
    """Decay of the evaluation average after optimizer step `step`: min((1 + step) / (10 + step), longest)."""
    return min((1 + step) / (10 + step), longest)


class Policy:
    """A transformer and the weights of its roles. All roles start as the base model.

    Args:
        transformer: a diffusers model; it is changed in place.
        lora_rank: rank of the adapters, or 0 for full fine-tuning.
        lora_alpha: scale of the adapters; they add alpha / rank · B A.
        targets: endings of the names of the layers that get adapters.
        seed: of the adapters' first factor, a Gaussian; the second starts at zero.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        lora_rank: int = 32,
        lora_alpha: float = 64,
        targets: tuple[str, ...] = LORA_TARGETS["attention"],
        seed: int = 0,
    ) -> None:
        self.transformer = transformer
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
                for role in ADAPTERS:
                    transformer.add_adapter(config, adapter_name=role)  # type: ignore[operator]
            named = dict(transformer.named_parameters())
            for name, parameter in named.items():
                if any(f".{role}." in name for role in ADAPTERS):
                    parameter.data = parameter.data.float()  # steps are too small for half precision
            self.names = [name for name in named if ".learner." in name]
            self.weights = {
                role: [named[name.replace(".learner.", f".{role}.")] for name in self.names] for role in ADAPTERS
            }
            # found once: diffusers' own switches walk through every module of the network
            self._layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
            self._activate("learner")
        else:
            for role in ("rollout", "average", "reference"):
                self._modules[role] = copy.deepcopy(transformer)
            self._modules["learner"] = transformer.requires_grad_(True)
            self.names = [name for name, _ in transformer.named_parameters()]
            self.weights = {role: list(self._modules[role].parameters()) for role in ADAPTERS}
        for role in ("rollout", "average"):
            self._blend(role, 0.0)

    def __str__(self) -> str:
        count = sum(weight.numel() for weight in self.parameters)
        if not self.is_lora:
            return f"all {count:,} parameters are trained"
        rank = min(self.parameters[0].shape)
        return f"{count:,} trained parameters, LoRA of rank {rank} in {len(self.names) // 2} layers"

    @property
    def parameters(self) -> list[Tensor]:
        """The learner's trainable parameters."""
        return self.weights["learner"]

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
        for layer in self._layers:
            layer.enable_adapters(role != "reference")
            if role != "reference":
                layer.set_adapter(role)
        for parameter in self.weights["learner"]:
            parameter.requires_grad_(role == "learner")
        for other in ("rollout", "average"):
            for parameter in self.weights[other]:
                parameter.requires_grad_(False)

    def update_rollout(self, decay: float) -> None:
        """θ_old <- decay θ_old + (1 - decay) θ."""
        self._blend("rollout", decay)

    def update_average(self, decay: float) -> None:
        """The same for the evaluation average."""
        self._blend("average", decay)

    @torch.no_grad()
    def _blend(self, role: Role, decay: float) -> None:
        if decay == 0:
            torch._foreach_copy_(self.weights[role], self.weights["learner"])
        else:
            torch._foreach_lerp_(self.weights[role], self.weights["learner"], 1 - decay)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The weights of every trained role, by role and parameter name."""
        return {role: dict(zip(self.names, self.weights[role], strict=True)) for role in ADAPTERS}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `state` gave.

        Raises:
            ConfigError: it holds other weights than this policy has.
        """
        for role in ADAPTERS:
            wrong = sorted({*state[role]} ^ {*self.names})
            if wrong:
                raise ConfigError(
                    f"the checkpoint's weights are not those of this policy: {len(wrong)} names differ, such as "
                    f"{wrong[0]}; continue the run with the policy.lora_targets and model.path that it began with"
                )
            torch._foreach_copy_(self.weights[role], [state[role][name] for name in self.names])

    def lora_state_dict(self, role: Role = "average") -> dict[str, Tensor]:
        """One role's adapter in peft's layout, as diffusers' `save_lora_weights` takes it.

        The scale alpha / rank is multiplied into B, because loaders take it for 1 where a file does not state it.
        """
        state: dict[str, Tensor] = get_peft_model_state_dict(self.transformer, adapter_name=role)
        return {name: weight * self._scale if ".lora_B." in name else weight for name, weight in state.items()}
