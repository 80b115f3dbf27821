"""Heads between features and losses: BN-neck, unit rows, class logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class BNNeck(nn.Module):
    """Batch normalisation without a bias between the features of the triplet loss and those of the classifier.

    Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. Luo et al. CVPR Workshops 2019,
    https://arxiv.org/abs/1903.07071: the two losses want different spaces, the neck lets each have its own.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size)
        self.norm.bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:  # (B, D) -> (B, D)
        necked: Tensor = self.norm(features)
        return necked


def unit_rows(features: Tensor) -> Tensor:
    """(B, D), each row divided by its length; a row of zeros stays zeros."""
    return F.normalize(features, dim=1, eps=1e-12)


def class_logits(features: Tensor, weight: Tensor, scale: float = 0.0) -> Tensor:
    """features (B, D), weight (C, D). Returns (B, C): inner products, or with a scale > 0 scale times the cosines."""
    if scale == 0:
        return F.linear(features, weight)
    return scale * torch.mm(unit_rows(features), unit_rows(weight).T)


def unit_blocks(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """(B, D), each block of a row at unit length times its share d_k of the row; the whole row has length 1.

    `sizes` d_k of the blocks, summing to D. The dot product of two rows is sum d_k^2 cos_k / sum d_k^2, cos_k between
    their k-th blocks: an ensemble's larger learners count more, equal ones the same.

    References: BIER, Opitz et al. 2018, https://arxiv.org/abs/1801.04815: its factors d_k / sum d, and the row at
        unit length, which changes no order.
    """
    length = math.sqrt(sum(size * size for size in sizes))
    blocks = torch.split_with_sizes(features, list(sizes), dim=1)
    return torch.cat([unit_rows(block) * (size / length) for block, size in zip(blocks, sizes, strict=True)], dim=1)
