"""The interface of a training method: loss, embed, groups of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from reid_training.errors import DataError


@dataclass(frozen=True, slots=True)
class Loss:
    """`total` is the sum of `objectives`, where a method has several.

    Each objective is named after the group of parameters (see `Method.groups`) that it moves, and its gradient
    reaches no other group: one backward pass of the sum is then the same as one pass and one optimiser for each.
    """

    total: Tensor  # scalar, with gradient
    parts: dict[str, float]  # for the log; unweighted
    embeddings: Tensor  # (B, D), rows of unit length, with gradient: what `embed` gives for these images
    objectives: Mapping[str, Tensor] = field(default_factory=dict)  # scalars; empty: `total` moves everything


class Method(nn.Module, ABC):
    """A network with the losses that train it. Knows nothing about files, optimisers or epochs.

    What a method remembers between batches (running means, margins) is in its buffers: checkpoints hold them.
    """

    size: int  # D, the length of an embedding
    # Methods are made from (network, its embedding_size, config); one with several networks from (factory, config),
    # where factory(embedding_size) gives a new network.
    many_nets: ClassVar[bool] = False

    def prepare(self, n_classes: int) -> None:
        """Build what depends on the training data. Called once, before the optimiser sees the parameters."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        """images (B, 3, H, W), normalised; labels (B,) in 0 .. n_classes - 1.

        Whatever the loss draws at random comes from `rng`, so that a resumed run draws it again. Raises DataError
        for a batch that cannot be learned from (see `check_batch`).
        """

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalised. Returns (B, D) rows of unit length; cosine distance is the metric."""

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter in one group, under the name of the objective that moves it."""
        return {"net": list(self.parameters())}

    def rates(self) -> dict[str, float]:
        """Factors of the learning rate for groups that want another one than 1."""
        return {}


def check_batch(method: str, images: Tensor, labels: Tensor, *, n_ids: int = 2, n_per_id: int = 2) -> None:
    """Raises DataError for fewer than `n_ids` people, none with `n_per_id` images, or pixels that are not finite."""
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{method}: a batch has pixels that are not finite")
    people, counts = torch.unique(labels, return_counts=True)
    if len(people) < n_ids:
        raise DataError(f"{method}: a batch needs at least {n_ids} identities, got {len(people)}")
    if int(counts.max()) < n_per_id:
        raise DataError(f"{method}: a batch needs an identity with at least {n_per_id} images, got {int(counts.max())}")
