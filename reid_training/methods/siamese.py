"""Siamese network: contrastive or batch-hard triplet loss, with identity classification beside it.

Dimensionality Reduction by Learning an Invariant Mapping. Hadsell, Chopra, LeCun. CVPR 2006: equation 4 (contrastive).
In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe. 2017, arXiv 1703.07737: equation 5.
Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. Luo et al. CVPRW 2019, arXiv 1903.07071.

What we take: (1) one network for both images of a pair, (2) the two pair losses, (3) label-smoothed classification of
the training identities behind a BN-neck.
Where we differ: the pair loss works on features of unit length (so that its margin means the same at every scale); the
contrastive loss averages positives and negatives apart (a PK batch has far more negatives); the loss is an option.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import distances, mining
from reid_training.config import require
from reid_training.methods.base import Loss, Method
from reid_training.nets.heads import BNNeck, unit_rows


@dataclass(frozen=True, slots=True)
class SiameseConfig:
    pair_loss: str = "triplet"
    margin: float = 0.3  # Euclidean distance of unit vectors; Hermans et al. and the Bag of Tricks use 0.3
    pair_weight: float = 1.0
    id_weight: float = 1.0  # 0 = a pure Siamese network
    label_smoothing: float = 0.1  # Luo et al., section 3.4
    logit_scale: float = 0.0  # 0 = plain linear classifier; > 0 = cosine classifier with this scale

    def __post_init__(self) -> None:
        require(
            self.pair_loss in ("triplet", "contrastive"),
            f"method.pair_loss must be triplet or contrastive, got {self.pair_loss!r}",
        )
        require(self.margin > 0, f"method.margin must be > 0, got {self.margin}")
        require(
            self.pair_weight >= 0 and self.id_weight >= 0 and self.pair_weight + self.id_weight > 0,
            "method.pair_weight and method.id_weight must be >= 0 and not both 0, "
            f"got {self.pair_weight} and {self.id_weight}",
        )
        require(
            0.0 <= self.label_smoothing < 1.0,
            f"method.label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )
        require(self.logit_scale >= 0, f"method.logit_scale must be >= 0, got {self.logit_scale}")


def contrastive_loss(dist: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Positives are pulled to 0, negatives pushed beyond the margin: mean d^2 + mean max(0, margin - d)^2.

    dist (B, B), labels (B,). A batch without positives (or negatives) has no such term.
    """
    positive = mining.same_identity(labels)
    negative = labels[:, None] != labels[None]
    total = dist.sum() * 0.0  # keeps the graph when neither term exists
    if positive.any():
        total = total + dist[positive].pow(2).mean()
    if negative.any():
        total = total + (margin - dist[negative]).clamp_min(0.0).pow(2).mean()
    return total


def triplet_loss(dist: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over anchors of max(0, margin + farthest positive - nearest negative); 0 if there is no triplet."""
    anchors, positives, negatives = mining.batch_hard(dist.detach(), labels)
    if len(anchors) == 0:
        return dist.sum() * 0.0
    return (margin + dist[anchors, positives] - dist[anchors, negatives]).clamp_min(0.0).mean()


class Siamese(Method):
    """Embedding: the features behind the BN-neck, where there is one, scaled to unit length."""

    def __init__(self, net: nn.Module, size: int, config: SiameseConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.size = size
        # The neck learns from the classifier alone; a pure Siamese network goes without.
        self.neck = BNNeck(size) if config.id_weight > 0 else nn.Identity()
        self.classifier: nn.Linear | None = None

    def prepare(self, n_classes: int) -> None:
        if self.config.id_weight > 0:
            self.classifier = nn.Linear(self.size, n_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001 if self.config.logit_scale == 0 else 0.1)

    def embed(self, images: Tensor) -> Tensor:
        return unit_rows(self.neck(self.net(images).float()))

    def loss(self, images: Tensor, labels: Tensor) -> Loss:
        features = self.net(images).float()  # (B, D); losses are computed in float32 also under autocast
        parts: dict[str, float] = {}
        total = features.new_zeros(())
        config = self.config
        if config.pair_weight > 0:
            unit = unit_rows(features)
            pair_loss = triplet_loss if config.pair_loss == "triplet" else contrastive_loss
            value = pair_loss(distances.euclidean(unit, unit), labels, config.margin)
            total = total + config.pair_weight * value
            parts[config.pair_loss] = float(value.detach())
        if self.classifier is not None:
            logits = self._logits(self.neck(features))
            value = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            total = total + config.id_weight * value
            parts["id"] = float(value.detach())
            parts["id_accuracy"] = float((logits.detach().argmax(1) == labels).float().mean())
        return Loss(total, parts)

    def _logits(self, necked: Tensor) -> Tensor:
        assert self.classifier is not None
        if self.config.logit_scale == 0:
            return F.linear(necked, self.classifier.weight)
        return self.config.logit_scale * torch.mm(unit_rows(necked), unit_rows(self.classifier.weight).T)
