"""Which pairs and triplets of a batch a loss looks at. Miners see distances and labels, and return indices."""

from __future__ import annotations

import torch
from torch import Tensor


def same_identity(labels: Tensor) -> Tensor:
    """labels (B,). Returns (B, B) booleans, False on the diagonal: a sample is no positive of its own."""
    same = labels[:, None] == labels[None]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def batch_hard(dist: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The farthest positive and the nearest negative of every anchor that has both.

    dist (B, B), labels (B,). Returns anchors, positives, negatives, each (A,) with A <= B; the lowest index on a tie.

    References: In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe. 2017,
        https://arxiv.org/abs/1703.07737, equation 5.
    """
    positive = same_identity(labels)
    negative = labels[:, None] != labels[None]
    positives = dist.masked_fill(~positive, -torch.inf).argmax(1)
    negatives = dist.masked_fill(~negative, torch.inf).argmin(1)
    anchors = torch.nonzero(positive.any(1) & negative.any(1)).squeeze(1)
    return anchors, positives[anchors], negatives[anchors]
