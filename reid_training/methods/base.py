"""The interface of a training method: loss, embed, groups of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from reid_training import losses
from reid_training.errors import DataError
from reid_training.nets.heads import BNNeck, class_logits, unit_rows


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
    """A network with the losses that train it. It has no access to files, optimisers or epochs.

    State between batches (running means, margins) is in buffers, which checkpoints include.
    """

    size: int  # D, the length of an embedding
    sizes: tuple[int, ...] = ()  # of an ensemble: of its learners' blocks of an embedding, one after another
    # Methods are made from (network, its embedding_size, config); one with several networks from (factory, config),
    # where factory(embedding_size) gives a new network.
    many_nets: ClassVar[bool] = False

    def prepare(self, n_classes: int) -> None:
        """Build what depends on the training data. Called once, before the optimiser sees the parameters."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        """images (B, 3, H, W), normalised; labels (B,) in 0 .. n_classes - 1.

        All random numbers of the loss come from `rng`, so that a resumed run draws the same ones. Raises DataError
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
        """Factors of the learning rate, for groups with a factor other than 1."""
        return {}


class IdentityMethod(Method):
    """A method with one network and, where `id_weight` > 0, label-smoothed identity classification behind a BN-neck.

    The rest of the method's loss works on the features before the neck; the embedding is behind it, because the
    classifier shapes what it sees. With `id_weight` 0 there is neither a neck nor a classifier.

    References: Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. Luo et al. CVPRW 2019,
        https://arxiv.org/abs/1903.07071.
    """

    classifier_std: float = 0.001  # of the classifier's first weights

    def __init__(self, net: nn.Module, size: int, id_weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.net = net
        self.size = size
        self.id_weight, self.label_smoothing = id_weight, label_smoothing
        self.neck = BNNeck(size) if id_weight > 0 else nn.Identity()
        self.classifier: nn.Linear | None = None

    def prepare(self, n_classes: int) -> None:
        if self.id_weight > 0:
            self.classifier = nn.Linear(self.size, n_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=self.classifier_std)

    def embed(self, images: Tensor) -> Tensor:
        return unit_rows(self.neck(self.net(images).float()))

    def identity_loss(
        self,
        necked: Tensor,
        labels: Tensor,
        parts: dict[str, float],
        logit_scale: float = 0.0,
        margin: float = 0.0,
        penalty: float = 0.0,
    ) -> Tensor:
        """`id_weight` times the classification loss, a scalar; 0 without a classifier. Adds its values to `parts`.

        necked (B, D), labels (B,). logit_scale > 0: a cosine classifier with this scale; margin: of the own class's
        cosine. penalty: weight of `losses.confidence`.
        """
        if self.classifier is None:
            return necked.new_zeros(())
        logits = class_logits(necked, self.classifier.weight, logit_scale)
        judged = losses.with_margin(logits, labels, margin * logit_scale) if margin > 0 else logits
        value = losses.identity_loss(judged, labels, self.label_smoothing)
        if penalty > 0:
            value = value + penalty * losses.confidence(logits)
        parts["id"] = float(value.detach())
        parts["id_accuracy"] = float((logits.detach().argmax(1) == labels).float().mean())
        return self.id_weight * value


def check_batch(method: str, images: Tensor, labels: Tensor, *, n_ids: int = 2, n_per_id: int = 2) -> None:
    """Raises DataError for fewer than `n_ids` people, none with `n_per_id` images, or pixels that are not finite."""
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{method}: a batch has pixels that are not finite")
    people, counts = torch.unique(labels, return_counts=True)
    if len(people) < n_ids:
        raise DataError(f"{method}: a batch needs at least {n_ids} identities, got {len(people)}")
    if int(counts.max()) < n_per_id:
        raise DataError(f"{method}: a batch needs an identity with at least {n_per_id} images, got {int(counts.max())}")
