"""Pictures that are no pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from advantageflow.errors import NonFiniteError


def check_decoded(images: Tensor, latents: Tensor) -> None:
    """Check what a decoder made of latents, [batch, ...] each.

    Raises:
        NonFiniteError: a picture is NaN or infinite.
    """
    finite = torch.isfinite(images.flatten(1)).all(1)
    if not finite.all():
        where = "decoder" if torch.isfinite(latents).all() else "network"
        raise NonFiniteError(
            f"{int((~finite).sum())} of {len(images)} pictures are NaN or infinite, from the {where} on; "
            "use model.dtype=float32 or bfloat16, a lower learn.learning_rate, or another model or adapter"
        )
