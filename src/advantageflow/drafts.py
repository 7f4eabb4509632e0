"""Cheap drafts of a prompt: which of them are drawn in full, and whether they told the truth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def extremes(scores: Tensor, kept: int) -> Tensor:
    """The places of the best and the worst scores of each group, half of either, in ascending order.

    Args:
        scores: [groups, drafts].
        kept: of each group, at most drafts; one more of the best where it is odd.

    Returns:
        [groups, kept] integers.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    best, worst = kept - kept // 2, kept // 2
    return torch.cat([order[:, :best], order[:, order.shape[1] - worst :]], 1).sort(1).values


def rank_agreement(drafts: Tensor, images: Tensor) -> float | None:
    """Correlation of the ranks that scores [groups, kept] have in their groups; None where either's are all equal.

    Of extremes it is larger than it would be of all drafts.
    """
    from scipy.stats import rankdata  # late to import

    first, second = (rankdata(scores, axis=1) - (1 + scores.shape[1]) / 2 for scores in (drafts, images))
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else None
