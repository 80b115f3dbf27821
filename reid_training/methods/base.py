"""What every method offers to the loop, to evaluation and to export."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Loss:
    total: Tensor  # scalar, with gradient
    parts: dict[str, float]  # for the log; unweighted


class Method(nn.Module, ABC):
    """A network with the losses that train it. Knows nothing about files, optimisers or epochs."""

    def prepare(self, n_classes: int) -> None:
        """Build what depends on the training data. Called once, before the optimiser sees the parameters."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Loss:
        """images (B, 3, H, W), normalised; labels (B,) in 0 .. n_classes - 1."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalised. Returns (B, D) rows of unit length; cosine distance is the metric."""

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)
