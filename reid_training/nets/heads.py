"""What sits between the features and the losses."""

from __future__ import annotations

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
