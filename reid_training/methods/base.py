"""What every method offers to the loop, to evaluation and to export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Loss:
    total: Tensor  # scalar, with gradient
    parts: dict[str, float]  # for the log; unweighted
    embeddings: Tensor  # (B, D), rows of unit length, with gradient: what `embed` gives for these images


class Method(nn.Module, ABC):
    """A network with the losses that train it. Knows nothing about files, optimisers or epochs."""

    def prepare(self, n_classes: int) -> None:
        """Build what depends on the training data. Called once, before the optimiser sees the parameters."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        """images (B, 3, H, W), normalised; labels (B,) in 0 .. n_classes - 1.

        Whatever the loss draws at random comes from `rng`, so that a resumed run draws it again.
        """

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalised. Returns (B, D) rows of unit length; cosine distance is the metric."""

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)
