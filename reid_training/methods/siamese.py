"""Siamese network: a pair, triplet or tuple loss within a batch, with optional identity classification.

Dimensionality Reduction by Learning an Invariant Mapping. Raia Hadsell, Sumit Chopra, Yann LeCun. CVPR 2006,
https://doi.org/10.1109/CVPR.2006.100.
In Defense of the Triplet Loss for Person Re-Identification. Alexander Hermans, Lucas Beyer, Bastian Leibe. 2017,
https://arxiv.org/abs/1703.07737.
Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. Hao Luo et al. CVPRW 2019,
https://arxiv.org/abs/1903.07071.
The papers of the other losses and miners are cited in `losses` and `mining`.

What we take:
(1) One network for both images of a pair.
(2) The pair losses (Hadsell equation 4, Hermans equation 5 and others) and the miners.
(3) Label-smoothed classification of the training identities behind a BN-neck (Luo et al.).
(4) The centre loss on the features before the neck (Luo et al.).
(5) Any loss and miner of pytorch-metric-learning in place of (2), with a cross-batch memory; see `pml`.
Where we differ:
(2) The pair losses work on features of unit length: a margin then has the same meaning at every scale, and unit
    features are what the tracker compares. The contrastive loss averages positives and negatives separately, because
    a PK batch has far more negatives. So does whatever takes their place (5).
(4) The centre loss works on features of unit length too.
Each loss is an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from reid_training import distances, losses, mining, pml
from reid_training.errors import ConfigError
from reid_training.methods.base import IdentityMethod, Loss, check_batch
from reid_training.nets.heads import unit_rows
from tracker.settings import BelowOne, NotNegative, OneOf, Positive, Range, Settings, Whole, require

PAIR_LOSSES = ("contrastive", "triplet", "n_pair", "binomial_deviance", "squared_contrastive")
MINERS = mining.MINERS


class OneOfOrPackage(OneOf):
    """The allowed values, or a class of pytorch-metric-learning by name."""

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or (isinstance(value, str) and pml.is_named(value))

    def __str__(self) -> str:
        return f"{super().__str__()}, or {pml.PREFIX}NAME, a class of pytorch-metric-learning"


@dataclass(frozen=True, slots=True)
class SiameseConfig(Settings):
    """Settings of `Siamese`."""

    # squared_contrastive is ABE's. pml:MultiSimilarityLoss, pml:ProxyAnchorLoss, ...: any loss of
    # pytorch-metric-learning (the extra `losses`); sizes are filled in.
    pair_loss: Annotated[str, OneOfOrPackage(PAIR_LOSSES)] = "triplet"
    # Of a pml: loss: the arguments of its class, whose defaults are the package's. `distance` and `reducer` are names
    # of classes, such as CosineSimilarity.
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    # Of a pml: loss with weights of its own (proxies, centres): factor of their learning rate. The paper of proxy
    # anchor uses 100.
    loss_rate: Positive = 1.0
    # Of the triplet loss; our other losses have nothing to choose. A pml: loss takes pml: miners alone, such as
    # pml:MultiSimilarityMiner, and else all pairs or triplets that it can use.
    miner: Annotated[str, OneOfOrPackage(MINERS)] = "hard"
    miner_options: Mapping[str, Any] = field(default_factory=dict)  # of a pml: miner: the arguments of its class
    # Of a pml: loss: embeddings of earlier batches (cross-batch memory) that each batch is compared with too; 0 = none.
    # At least a batch. Wang et al. (CVPR 2020) start it after 1000 batches; here it starts with the first.
    memory: Whole = 0
    soft_margin: bool = False  # of the triplet loss; the margin then serves the semi-hard miner alone
    # Euclidean distance of unit vectors; Hermans et al. and the Bag of Tricks use 0.3. Of its square in
    # squared_contrastive, where ABE uses 1.
    margin: Positive = 0.3
    n_pair_scale: Positive = 16.0  # of the similarities, in [-1, 1], that N-pair compares; a guess, not tuned
    deviance_alpha: Positive = 2.0  # of the binomial deviance: its slope, as BIER sets it
    deviance_beta: Annotated[float, Range("(-1, 1)")] = 0.5  # the cosine between same and different; BIER's
    deviance_negative_cost: Positive = 25.0  # of a negative beside a positive; BIER's
    pair_weight: NotNegative = 1.0  # of the pair loss; 0 = classification alone
    id_weight: NotNegative = 1.0  # 0 = a pure Siamese network
    centre_weight: NotNegative = 0.0  # 0 = no centres; Luo et al. use 0.0005 on free features, these are of length 1
    label_smoothing: BelowOne = 0.1  # Luo et al., section 3.4
    logit_scale: NotNegative = 0.0  # 0 = plain linear classifier; > 0 = cosine classifier with this scale
    id_margin: BelowOne = 0.0  # of the cosine classifier: AM-softmax, 0.35 with a scale of 30 in Intel's networks
    confidence_penalty: NotNegative = 0.0  # on sure classifications, beside the identity loss; 0.3 there

    def check_together(self) -> None:
        require(self.pair_weight + self.id_weight > 0, "method.pair_weight and method.id_weight must not both be 0")
        require(self.id_margin == 0 or self.logit_scale > 0, "method.id_margin needs method.logit_scale > 0")
        from_package, mined = pml.is_named(self.pair_loss), pml.is_named(self.miner)
        for name, given in (
            ("loss_options", self.loss_options),
            ("loss_rate", self.loss_rate != 1.0),
            ("memory", self.memory),
            (f"miner = {self.miner}", mined),
        ):
            require(
                not given or from_package, f"method.{name} needs a loss of the package: method.pair_loss = pml:NAME"
            )
        require(not self.miner_options or mined, "method.miner_options needs a miner of the package: pml:NAME")
        if from_package:
            pml.check("method.pair_loss", self.pair_loss, "losses", self.loss_options)
        if mined:
            pml.check("method.miner", self.miner, "miners", self.miner_options)
        if self.memory:
            pml.check_memory("method.memory", self.pair_loss)


class Siamese(IdentityMethod):
    """Embedding: the features behind the BN-neck, where there is one, scaled to unit length."""

    def __init__(self, net: nn.Module, size: int, config: SiameseConfig) -> None:
        super().__init__(net, size, config.id_weight, config.label_smoothing)
        self.config = config
        self.classifier_std = 0.001 if config.logit_scale == 0 else 0.1
        self.centres: nn.Parameter | None = None  # (n_classes, D)
        self.package_loss: pml.PackageLoss | None = None

    def prepare(self, n_classes: int) -> None:
        super().prepare(n_classes)
        if self.config.centre_weight > 0:
            # At 0 a centre pulls along the feature's own length, which is then divided out: no class is sent anywhere.
            self.centres = nn.Parameter(torch.zeros(n_classes, self.size))
        config = self.config
        if config.pair_weight > 0 and pml.is_named(config.pair_loss):
            miner = config.miner if pml.is_named(config.miner) else None
            options = (config.loss_options, miner, config.miner_options, config.memory)
            self.package_loss = pml.PackageLoss(config.pair_loss, *options, n_classes, self.size)
            if config.loss_rate != 1.0 and not self._package_weights():
                raise ConfigError(f"method.loss_rate: {config.pair_loss} has no weights of its own")

    def _package_weights(self) -> list[nn.Parameter]:
        return [] if self.package_loss is None else list(self.package_loss.parameters())

    def groups(self) -> dict[str, list[nn.Parameter]]:
        own = self._package_weights()
        if not own:
            return super().groups()
        known = {id(parameter) for parameter in own}
        return {"net": [p for p in self.parameters() if id(p) not in known], "loss": own}

    def rates(self) -> dict[str, float]:
        return {"loss": self.config.loss_rate} if self._package_weights() else {}

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        if self.config.pair_weight > 0:
            check_batch("siamese", images, labels)
        features = self.net(images).float()  # (B, D)
        # Under autocast the products of the losses would be rounded to bf16: a distance of 0.4 to 0.003, and worse
        # where a similarity is multiplied by 16 or 50.
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(features, labels, rng)

    def _loss(self, features: Tensor, labels: Tensor, rng: np.random.Generator | None) -> Loss:
        parts: dict[str, float] = {}
        total = features.new_zeros(())
        config = self.config
        unit = unit_rows(features)
        if config.pair_weight > 0:
            value = self._pair_loss(unit, labels, rng)
            total = total + config.pair_weight * value
            parts[self.package_loss.name if self.package_loss else config.pair_loss] = float(value.detach())
        if self.centres is not None:
            value = losses.centre_loss(unit, self.centres.detach(), labels)
            total = total + config.centre_weight * value + losses.centre_pull(unit, self.centres, labels)
            parts["centre"] = float(value.detach())
        necked = self.neck(features)
        total = total + self.identity_loss(
            necked, labels, parts, config.logit_scale, config.id_margin, config.confidence_penalty
        )
        return Loss(total, parts, unit_rows(necked))

    def _pair_loss(self, unit: Tensor, labels: Tensor, rng: np.random.Generator | None) -> Tensor:
        config = self.config
        if self.package_loss is not None:
            value: Tensor = self.package_loss(unit, labels, rng)
            return value
        if config.pair_loss in ("n_pair", "binomial_deviance"):
            return self._similarity_loss(unit, labels)
        if config.pair_loss == "squared_contrastive":
            return losses.squared_contrastive_loss(distances.squared_euclidean(unit, unit), labels, config.margin)
        dist = distances.euclidean(unit, unit)  # (B, B)
        if config.pair_loss == "contrastive":
            return losses.contrastive_loss(dist, labels, config.margin)
        triplets = mining.mine(config.miner, dist.detach(), labels, config.margin, self.size, rng)
        if config.soft_margin:
            return losses.soft_margin_triplet_loss(dist, triplets)
        return losses.triplet_loss(dist, triplets, config.margin, active_only=config.miner == "all")

    def _similarity_loss(self, unit: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        if config.pair_loss == "n_pair":
            anchors, positives = mining.n_pairs(labels)
            return losses.n_pair_loss(unit[anchors], unit[positives], labels[anchors], config.n_pair_scale)
        constants = (config.deviance_alpha, config.deviance_beta, config.deviance_negative_cost)
        return losses.binomial_deviance_loss(unit @ unit.T, labels, *constants)
