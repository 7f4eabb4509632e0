"""A linear layer with an adapter in one matrix product and two copies less than peft's own."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


def lighten(layer: Any) -> None:
    """Have a layer of peft sum W x + α B (A x) within the last of its three matrix products.

    That is peft's result, in float32 to the bit where α is a power of two. In half precision it is rounded once where
    peft's is rounded four times, and the factors, which are kept in float32, are rounded before they are multiplied.
    Layers of other kinds, or with dropout or a bias of the adapter, are left as they are.
    """
    if type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant:
        plain = all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
        if plain and not any(layer.lora_bias.values()):
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Linear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters or layer.merged or args or kwargs:
        found: Tensor = Linear.forward(layer, x, *args, **kwargs)
        return found
    (name,) = layer.active_adapters
    base = layer.base_layer(x)
    first, second = (factors[name].weight.to(base.dtype) for factors in (layer.lora_A, layer.lora_B))
    inner = linear(x.to(base.dtype), first)
    return torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), second.t(), alpha=layer.scaling[name]).view_as(base)
