"""What a transformer sees of prompts, and the folder that keeps it between runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from advantageflow.config import ModelSettings
from advantageflow.fingerprint import of_value
from advantageflow.models.source import content, stands_on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditioning:
    """What the transformer sees of prompts.

    tokens: embeddings [batch, tokens, width]; pooled: [batch, width] where the family has one; mask: [batch, tokens], 1
    for real tokens, where lengths differ.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def expand(self, batch: int) -> Conditioning:
        """One prompt's embeddings for a whole batch."""
        return Conditioning(*(None if part is None else part.expand(batch, *part.shape[1:]) for part in self._parts()))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.tokens, self.pooled, self.mask

    @staticmethod
    def join(found: list[Conditioning]) -> Conditioning:
        """Several as one batch; shorter ones are padded with zeros that the mask leaves out."""
        longest = max(one.tokens.shape[1] for one in found)
        tokens = torch.cat([pad(one.tokens, (0, 0, 0, longest - one.tokens.shape[1])) for one in found])
        pooled = None if found[0].pooled is None else torch.cat([one.pooled for one in found if one.pooled is not None])
        mask = None
        if found[0].mask is not None:
            mask = torch.cat([pad(one.mask, (0, longest - one.mask.shape[1])) for one in found if one.mask is not None])
        return Conditioning(tokens, pooled, mask)


@dataclass(frozen=True)
class PromptStore:
    """Embeddings of prompts in a folder, a file each; several processes may share it.

    made_by: a fingerprint of all that decides an embedding beside the prompt.
    """

    folder: Path
    made_by: str

    @classmethod
    def of(cls, settings: ModelSettings, text_encoders: Sequence[str]) -> PromptStore | None:
        """The folder that settings name, for a pipeline with these text encoders; None where they name none."""
        if settings.prompt_cache is None:
            return None
        path = stands_on(settings)
        tokenizers = (name.replace("text_encoder", "tokenizer") for name in text_encoders)
        texts = content(path, *text_encoders, *tokenizers) or path
        return cls(Path(settings.prompt_cache), of_value([texts, settings.dtype, settings.max_sequence_length]))

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{of_value([self.made_by, prompt])}.safetensors"

    def read(self, prompt: str, device: torch.device) -> Conditioning | None:
        """A prompt's embedding; None, and said, where its file is damaged."""
        file = self._file(prompt)
        if not file.is_file():
            return None
        try:
            found = load_file(file, device=str(device))
            if not all(torch.isfinite(part).all() for part in found.values()):
                raise ValueError("it is not finite")
            return Conditioning(**found)
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            log.warning("the stored embedding %s is damaged, and made again: %s", file, str(error)[:200])
            return None

    def write(self, prompt: str, found: Conditioning) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(prompt)
        parts = {"tokens": found.tokens, "pooled": found.pooled, "mask": found.mask}
        temporary = file.with_suffix(f".{os.getpid()}-{uuid4().hex[:8]}.part")
        try:
            save_file({name: part.contiguous() for name, part in parts.items() if part is not None}, temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
