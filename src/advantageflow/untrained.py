"""Networks of their true size without their weights, and tokenizers without files: for rehearsals.

Only what they cost is true. Weights are random, and outputs stay finite in half precision. Tokens are made up: about as
many as a real tokenizer gives, and the same for the same text.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel

Network = TypeVar("Network", bound=nn.Module)

STD = 0.02  # as most of these networks are initialized
BLOCK = 1_048_573  # random numbers that are repeated; a prime, so that no two rows of a matrix are equal
PIECE = re.compile(r"<\|\w+\|>|\s|\w{1,16}|[^\w\s]")


def on_meta(make: Callable[[], Network]) -> Network:
    """A network whose parameters take no memory and have no values; its buffers are what they should be."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = make()
    _tie(network)
    return network.requires_grad_(False).eval()


def untrained(make: Callable[[], Network], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Network:
    """A network with random weights, the same every time, made in the memory of its weights alone.

    Args:
        make: gives the network; what it puts into its parameters is never computed.
        dtype: of parameters and stored buffers; what transformers keeps in float32 beside float16 stays so.
    """
    network = on_meta(make)
    wide = (getattr(network, "_keep_in_fp32_modules", None) or []) if dtype == torch.float16 else []
    stored = network.state_dict().keys()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        holder, _, own = name.rpartition(".")
        module, chosen = network.get_submodule(holder), dtype
        if any(part in wide for part in name.split(".")):
            chosen = torch.float32
        if tensor.is_meta:
            empty = torch.empty(tensor.shape, dtype=chosen, device=device)
            module._parameters[own] = nn.Parameter(empty, requires_grad=False)
        else:
            cast = name in stored and tensor.is_floating_point()
            module._buffers[own] = tensor.to(device, chosen if cast else tensor.dtype)
    _tie(network)
    _fill(network)
    return network


def hollow(make: Callable[[], Network]) -> Network:
    """A network whose weights are each one zero that fills its whole shape: adapters can be loaded beside them."""
    network = on_meta(make)
    for name, parameter in list(network.named_parameters()):
        holder, _, own = name.rpartition(".")
        zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        network.get_submodule(holder)._parameters[own] = nn.Parameter(zero, requires_grad=False)
    return network


def _tie(network: nn.Module) -> None:
    """Weights that are shared are one, as transformers has them."""
    if isinstance(network, PreTrainedModel):
        network.tie_weights()


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    """Norms as identities, biases zero, all else from a block of random numbers that goes on from weight to weight."""
    blocks: dict[tuple[torch.dtype, torch.device], Tensor] = {}
    start = 0
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 and name.endswith(("weight", "gamma")):
            parameter.fill_(1)
            continue
        if parameter.ndim < 2 and (name.endswith(("bias", "beta")) or parameter.ndim == 0):
            parameter.fill_(0)
            continue
        kind = parameter.dtype, parameter.device
        if kind not in blocks:
            drawn = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * STD
            blocks[kind] = drawn.to(parameter.device, parameter.dtype)
        block, flat = blocks[kind], parameter.view(-1)
        done = 0
        while done < len(flat):
            part = min(BLOCK - start, len(flat) - done)
            flat[done : done + part] = block[start : start + part]
            done, start = done + part, (start + part) % BLOCK


class StandInTokenizer:
    """Called like a tokenizer of transformers: a token for every word of up to 16 letters and every mark.

    Args:
        vocabulary: tokens are numbers below it.
        begin, end, pad: the tokens before and after a text, and those that fill it up; None for none.
        longest: `model_max_length`.
    """

    def __init__(
        self, *, vocabulary: int, longest: int, begin: int | None = None, end: int | None = None, pad: int = 0
    ) -> None:
        self.vocabulary, self.begin, self.end, self.pad = vocabulary, begin, end, pad
        self.model_max_length = longest
        self.added_tokens_encoder: dict[str, int] = {}  # where pipelines look for textual inversions

    def __call__(
        self,
        texts: str | Sequence[str],
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        **ignored: Any,
    ) -> BatchEncoding:
        """Tokens and mask, int64 [texts, tokens]."""
        most = max_length or self.model_max_length
        rows = [
            self._tokens(text, most if truncation else None) for text in ([texts] if isinstance(texts, str) else texts)
        ]
        length = most if padding == "max_length" else max(map(len, rows))
        return BatchEncoding(
            {
                "input_ids": torch.tensor([row + [self.pad] * (length - len(row)) for row in rows]),
                "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            }
        )

    def _tokens(self, text: str, most: int | None) -> list[int]:
        begin, end = ([] if token is None else [token] for token in (self.begin, self.end))
        usual = self.vocabulary - 3  # special tokens are the last ones
        found = [1 + zlib.crc32(piece.encode()) % (usual - 1) for piece in self.tokenize(text)]
        return begin + (found if most is None else found[: most - len(begin) - len(end)]) + end

    def tokenize(self, text: str) -> list[str]:
        """The parts of a text that are a token each."""
        return [piece for piece in PIECE.findall(text) if piece == "\n" or not piece.isspace()]

    def batch_decode(self, tokens: Any, **ignored: Any) -> list[str]:
        """For warnings of what was cut off; the text cannot be had back."""
        return ["..." for _ in tokens]
