"""Distances between rows of two tables of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the angle, in [0, 2]: a (Q, D), b (G, D), rows of unit length. Returns (Q, G)."""
    return 1.0 - a @ b.T


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """a (Q, D), b (G, D). Returns (Q, G); equal rows may come out a rounding error below 0."""
    return a.pow(2).sum(1)[:, None] + b.pow(2).sum(1)[None] - 2.0 * a @ b.T


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """a (Q, D), b (G, D). Returns (Q, G).

    The square is bounded from below: at 0 the gradient of the root is infinite, and a batch may hold an image twice.
    """
    return torch.sqrt(squared_euclidean(a, b).clamp_min(1e-12))
