"""Identity softmax with a constraint on the angle between a feature and the weights of its own class.

Scalable Angular Discriminative Deep Metric Learning for Face Recognition. Bowen Wu, Huaming Wu, Monica M. Y. Zhang.
2018, https://arxiv.org/abs/1804.10899.
NormFace: L2 Hypersphere Embedding for Face Verification. Feng Wang, Xiang Xiang, Jian Cheng, Alan L. Yuille.
ACM MM 2017, https://arxiv.org/abs/1704.06369: the softmax of cosines, on which the normalised variant builds.

Only the abstract of the first paper was available to us. We take what it states; how it is done is our reconstruction.
What we take:
(1) A hinge on the cosine between a feature and the weights of its own class, added to the softmax loss. Large-margin
    softmax losses change the logits instead.
(2) The hinge may be restricted to hard samples.
(3) An adaptive margin.
(4) Normalised features and weights.
(5) A constraint in the space of exponentials, against the mean over the other classes. Its cost grows as images times
    classes; no pairs are mined.
Where we differ:
(1) All constants are ours. The weights of the classifier start at about unit length: the gradient of a cosine grows as
    they shrink.
Optional, for re-identification: a BN-neck before the classifier, and a batch-hard triplet loss before the neck, as in
`siamese`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from reid_training import distances, losses, mining
from reid_training.methods.base import Loss, Method, check_batch
from reid_training.nets.heads import BNNeck, class_logits, unit_rows
from tracker.settings import BelowOne, NotNegative, OneOf, Positive, Range, Settings, require

CONSTRAINTS = ("intra", "exponential")
SELECTIONS = ("none", "violating", "top_k")


@dataclass(frozen=True, slots=True)
class CosineConstraintConfig(Settings):
    """Settings of `CosineConstraint`."""

    constraint: Annotated[str, OneOf(CONSTRAINTS)] = "intra"  # or "exponential", with the other classes in it
    # Lambda; 0 = softmax alone. 1 as in the small experiment that shaped the method.
    constraint_weight: NotNegative = 1.0
    # Of samples: all, those that violate the constraint, or the hardest.
    selection: Annotated[str, OneOf(SELECTIONS)] = "none"
    hard_share: Annotated[float, Range("(0, 1]")] = 0.25  # of the batch, that top_k keeps
    margin: Annotated[float, Range("[-1, 1]")] = 0.6  # of intra, a cosine; ours, from the same experiment
    adaptive: bool = False  # of intra: the margin follows the mean cosine and is not set
    adaptive_momentum: BelowOne = 0.99  # of that mean, per batch
    adaptive_lead: NotNegative = 0.0  # delta: how far the margin is ahead of the mean
    adaptive_most: Annotated[float, Range("(0, 1]")] = 0.95  # where the margin stops
    exponential_margin: NotNegative = 1.0  # of exponential, between exp(kappa cos); from the same experiment
    kappa: Positive = 1.0  # of exponential: factor of its cosines
    logit_scale: NotNegative = 0.0  # 0 = plain linear classifier; > 0 = normalised, cosines with this scale
    label_smoothing: BelowOne = 0.0  # the shipped recipe takes 0.1
    neck: bool = False  # BN-neck before the classifier
    pair_weight: NotNegative = 0.0  # of a batch-hard triplet loss before the neck
    triplet_margin: Positive = 0.3  # as in the Siamese method

    def check_together(self) -> None:
        require(
            not self.adaptive or self.constraint == "intra",
            f"method.adaptive has no meaning for method.constraint = {self.constraint}",
        )


def intra_excess(cosines: Tensor, labels: Tensor, margin: Tensor | float) -> Tensor:
    """margin - cos(f_i, W_y(i)): above 0 where the constraint is violated.

    cosines (B, C) between features and the weights of the classes, labels (B,). Returns (B,).
    """
    return margin - own_cosines(cosines, labels)


def exponential_excess(cosines: Tensor, labels: Tensor, margin: float, kappa: float = 1.0) -> Tensor:
    """Mean over the other classes j of e^(kappa c_ij), + margin - e^(kappa c_iy): above 0 where violated.

    cosines (B, C), C >= 2, labels (B,). Returns (B,).
    """
    mapped = torch.exp(kappa * cosines)
    own = own_cosines(mapped, labels)
    others = mapped.scatter(1, labels[:, None], 0.0).sum(1) / (cosines.shape[1] - 1)
    return others + margin - own


def own_cosines(cosines: Tensor, labels: Tensor) -> Tensor:
    """The column of its own class from every row: (B, C), (B,) -> (B,)."""
    return cosines.gather(1, labels[:, None]).squeeze(1)


def selected_hinge(excess: Tensor, selection: str = "none", share: float = 0.25) -> Tensor:
    """Mean of max(0, excess) over the samples that `selection` keeps; excess (B,). A scalar, 0 where it keeps none.

    "none" keeps all, "violating" those above 0, "top_k" the share of the batch, rounded up, with the most.
    """
    if selection == "top_k":
        excess = excess.topk(math.ceil(share * len(excess))).values
    hinge = excess.clamp_min(0.0)
    if selection == "violating":
        return hinge.sum() / (hinge.detach() > 0).sum().clamp_min(1)
    return hinge.mean()


class AdaptiveMargin(nn.Module):
    """The running mean of the own cosines plus a lead, never falling and never beyond `most`. No gradient.

    Starts from 0, the mean cosine of random directions.
    """

    mean: Tensor  # (), over batches
    margin: Tensor  # ()

    def __init__(self, momentum: float, lead: float, most: float) -> None:
        super().__init__()
        self.momentum, self.lead, self.most = momentum, lead, most
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("margin", torch.tensor(min(lead, most)))

    @torch.no_grad()
    def follow(self, own: Tensor) -> None:
        """own (B,): cosines of one batch."""
        self.mean.lerp_(own.mean().to(self.mean.dtype), 1.0 - self.momentum)
        self.margin.copy_(torch.maximum(self.margin, (self.mean + self.lead).clamp_max(self.most)))


class CosineConstraint(Method):
    """Embedding: what the classifier sees, scaled to unit length."""

    def __init__(self, net: nn.Module, size: int, config: CosineConstraintConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.size = size
        self.neck = BNNeck(size) if config.neck else nn.Identity()
        self.adaptive: AdaptiveMargin | None = None
        if config.adaptive:
            self.adaptive = AdaptiveMargin(config.adaptive_momentum, config.adaptive_lead, config.adaptive_most)
        self.classifier: nn.Linear | None = None

    def prepare(self, n_classes: int) -> None:
        # A necked feature is centred, and cosines have no bias to add.
        bias = not self.config.neck and self.config.logit_scale == 0
        self.classifier = nn.Linear(self.size, n_classes, bias=bias)
        nn.init.normal_(self.classifier.weight, std=self.size**-0.5)
        if bias:
            nn.init.zeros_(self.classifier.bias)

    def embed(self, images: Tensor) -> Tensor:
        return unit_rows(self.neck(self.net(images).float()))

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("cosine_constraint", images, labels)
        features = self.net(images).float()  # (B, D)
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(features, labels)

    def _loss(self, features: Tensor, labels: Tensor) -> Loss:
        config, parts = self.config, dict[str, float]()
        total = features.new_zeros(())
        if config.pair_weight > 0:
            value = self._triplet_loss(unit_rows(features), labels)
            total = total + config.pair_weight * value
            parts["triplet"] = float(value.detach())
        necked = self.neck(features)
        logits = self._logits(necked)
        value = losses.identity_loss(logits, labels, config.label_smoothing)
        total = total + value
        parts["id"] = float(value.detach())
        parts["id_accuracy"] = float((logits.detach().argmax(1) == labels).float().mean())
        if config.constraint_weight > 0:
            value = self._constraint(necked, labels, parts)
            total = total + config.constraint_weight * value
            parts[config.constraint] = float(value.detach())
        return Loss(total, parts, unit_rows(necked))

    def _triplet_loss(self, unit: Tensor, labels: Tensor) -> Tensor:
        dist = distances.euclidean(unit, unit)
        return losses.triplet_loss(dist, mining.batch_hard(dist.detach(), labels), self.config.triplet_margin)

    def _logits(self, necked: Tensor) -> Tensor:
        assert self.classifier is not None
        logits = class_logits(necked, self.classifier.weight, self.config.logit_scale)
        return logits if self.classifier.bias is None else logits + self.classifier.bias

    def _constraint(self, necked: Tensor, labels: Tensor, parts: dict[str, float]) -> Tensor:
        assert self.classifier is not None
        config = self.config
        cosines = class_logits(necked, self.classifier.weight, 1.0)  # (B, C)
        own = own_cosines(cosines.detach(), labels)
        parts["own_cosine"] = float(own.mean())
        if config.constraint == "exponential":
            excess = exponential_excess(cosines, labels, config.exponential_margin, config.kappa)
        else:
            excess = intra_excess(cosines, labels, self._margin(own, parts))
        parts["violating"] = float((excess.detach() > 0).float().mean())
        return selected_hinge(excess, config.selection, config.hard_share)

    def _margin(self, own: Tensor, parts: dict[str, float]) -> Tensor | float:
        """For this batch; one that adapts has seen the batches before it."""
        if self.adaptive is None:
            return self.config.margin
        margin = self.adaptive.margin.clone()
        if self.training:
            self.adaptive.follow(own)
        parts["margin"] = float(margin)
        return margin
