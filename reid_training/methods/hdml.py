"""Hardness-aware deep metric learning: adds synthetic negatives, as hard as the network can use at that time.

Hardness-Aware Deep Metric Learning. Wenzhao Zheng, Zhaodong Chen, Jiwen Lu, Jie Zhou. CVPR 2019,
https://arxiv.org/abs/1903.05503. Authors' code, TensorFlow: https://github.com/wzzheng/HDML.

Notation: y are the pooled features, z = g(y) the embedding, i the generator from z back to y.
What we take:
(1) Each negative of a tuple moves towards its anchor, the further the smaller the metric loss has been.
(2) The generator maps it to a feature, and the head g of the real features, not a copy, maps that to an embedding.
    Anchors and positives go the same way.
(3) The weight of the loss of the real tuples is e^(-beta / J_gen); the synthetic tuples get the rest.
(4) The generator learns to reconstruct y and to keep the labels of negatives and anchors, according to a classifier of
    y that learns from real features alone.
(5) Three objectives; each moves its own parameters.
Where we differ:
(1) Embeddings have unit length where losses and interpolation see them, as in our other methods. A synthetic negative
    lies on the chord, inside the ball, and has unit length again after g; so N-pair needs no penalty on lengths.
    The position on the chord is a constant for the gradient, which flows through both ends of the chord: otherwise the
    network could make its negatives easier by moving its positives away.
(2) g has no batch normalisation. That of the generator keeps no running statistics: it is used in training only.
(3) All losses are divided by their value at chance level: J_avg by log(1 + negatives) or the triplet margin, the
    reconstruction by the variance of y in the batch, the two cross-entropies by 2 log(classes). So alpha and beta mean
    the same for every batch, feature size and base loss, and the code's 10^4 on the cross-entropy becomes 1. Its
    beta = 10^4 corresponds to about 0.2 here: J_gen of 98 classes at chance is 0.5 * 10^4 * 2 log 98 there and 1 here.
    J_avg is the mean of the plain metric loss, as in the paper; the code uses the loss with its weight e^(-beta /
    J_gen) and with weight decay. Windows of 64 steps and the start at 10^6 are the code's.
(4) The classifier sees y minus its mean, divided by its spread (both of the batch's real features), and learns at ten
    times the network's rate. On y itself at the same rate its loss was still 4.7 of log 150 = 5.0 after 370 steps from
    scratch (Omniglot); with both changes it was 1.8 to 2.0.
Optional, for re-identification: identity classification behind a BN-neck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import distances, losses, mining
from reid_training.methods.base import IdentityMethod, Loss, check_batch
from reid_training.nets.heads import unit_rows
from reid_training.nets.projected import ProjectedNet
from tracker.settings import BelowOne, Count, NotNegative, OneOf, Positive, Settings, Share

BASES = ("n_pair", "triplet")
START = 1e6  # of both running means, the code's: negatives where they are, hardly any weight on synthetic tuples
TINY = 1e-12  # below every distance, variance and mean loss that is not 0


@dataclass(frozen=True, slots=True)
class HDMLConfig(Settings):
    """Settings of `HDML`."""

    base: Annotated[str, OneOf(BASES)] = "n_pair"  # the metric loss that gets harder negatives
    miner: Annotated[str, OneOf(mining.MINERS)] = "hard"  # of the triplet base
    margin: Positive = 0.3  # of the triplet base; as in the Siamese method
    n_pair_scale: Positive = 16.0  # of the N-pair base; as in the Siamese method
    # A negative keeps e^(-alpha / J_avg) of its distance beyond the positive; 0 = it stays where it is. At 0.2 the
    # generator's negatives lose their labels, at 0.03 they keep them; retrieval on validation did not tell the two
    # apart (one seed; tools/experiments/configs/hdml_n_pair.toml has the command).
    alpha: NotNegative = 0.2
    beta: NotNegative = 0.2  # 0 = the base loss; the code's 1e4 (Cars196) in our units
    soft_share: Share = 0.5  # of the label in J_gen, the rest is reconstruction; the code's lambda_g
    hidden: Count = 512  # of the generator; the code's
    window: Count = 64  # steps over which J_avg and J_gen are means; the code's
    # Factor of the learning rate. The code's is 1e-2 beside 7e-5 for a network that is only fine-tuned. Ours learns
    # from scratch at about 2e-3: a factor of 5 gained nothing on validation characters.
    generator_rate: Positive = 1.0
    # Factor of the learning rate of the classifier of y, which must keep up with the network. The code's is 1e-3.
    classifier_rate: Positive = 10.0
    pair_weight: Positive = 1.0  # of the metric loss, real and synthetic, beside the identity classification
    id_weight: NotNegative = 0.0  # > 0: identity classification beside it, behind a BN-neck
    label_smoothing: BelowOne = 0.1  # of the identity classification; Luo et al., section 3.4


def pulls(anchors: Tensor, positives: Tensor, negatives: Tensor, slack: Tensor | float) -> Tensor:
    """How far each negative moves towards its anchor, in [0, 1), as a share of their distance; no gradient.

    anchors, positives, negatives (..., D); slack in [0, 1], the paper's lambda. Returns (..., 1):
    (1 - slack) (1 - d+ / d-) where d- > d+, else 0, so that the new distance is slack d- + (1 - slack) d+.

    References: Zheng et al. 2019, the hardness-aware augmentation.
    """
    with torch.no_grad():
        near = (anchors - positives).norm(dim=-1, keepdim=True)
        far = (anchors - negatives).norm(dim=-1, keepdim=True)
        pull: Tensor = (1.0 - slack) * (1.0 - near / far.clamp_min(TINY)).clamp_min(0.0)
        return pull


def harder_negatives(anchors: Tensor, positives: Tensor, negatives: Tensor, slack: Tensor | float) -> Tensor:
    """Negatives moved towards their anchors as `pulls` says: (..., D) all, and so is the result.

    A slack of 1 and a negative not beyond the positive leave the negative as it is, to the bit; a slack of 0 puts it
    at the distance of the positive.
    """
    return negatives + pulls(anchors, positives, negatives, slack) * (anchors - negatives)


@dataclass(frozen=True, slots=True)
class NPairs:
    """The N-pair loss over one batch. Every pair's anchor sees the positives of all M pairs."""

    anchors: Tensor  # (M,) rows of the batch
    positives: Tensor  # (M,)
    labels: Tensor  # (M,)
    scale: float

    def triplets(self) -> mining.Triplets:
        """M * M; an anchor's own positive stands in the place of a negative, too, and stays where it is."""
        m = len(self.anchors)
        return self.anchors.repeat_interleave(m), self.positives.repeat_interleave(m), self.positives.repeat(m)

    def real(self, unit: Tensor) -> Tensor:
        return losses.n_pair_loss(unit[self.anchors], unit[self.positives], self.labels, self.scale)

    def synthetic(self, rows: Tensor, negatives: Tensor) -> Tensor:
        """rows (B, D) of the batch, negatives (M * M, D) of the triplets; both from the generator."""
        m = len(self.anchors)
        sim = torch.einsum("id,ijd->ij", rows[self.anchors], negatives.view(m, m, rows.shape[1]))
        return losses.n_pair_of_logits(self.scale * sim, self.labels)

    def chance(self) -> float:
        """The loss where all similarities are the same."""
        others = (self.labels[:, None] != self.labels[None]).sum(1).clamp_min(1)
        return float(torch.log1p(others.float()).mean()) if len(others) else 1.0


@dataclass(frozen=True, slots=True)
class Triplets:
    """The triplet loss over one batch."""

    mined: mining.Triplets  # 3 x (K,) rows of the batch
    margin: float
    active_only: bool

    def triplets(self) -> mining.Triplets:
        return self.mined

    def real(self, unit: Tensor) -> Tensor:
        dist = distances.euclidean(unit, unit)
        return losses.triplet_loss(dist, self.mined, self.margin, active_only=self.active_only)

    def synthetic(self, rows: Tensor, negatives: Tensor) -> Tensor:
        """rows (B, D) of the batch, negatives (K, D) of the triplets; both from the generator."""
        anchors, positives, _ = self.mined
        dist = distances.euclidean(rows, torch.cat([rows, negatives]))  # (B, B + K)
        own = len(rows) + torch.arange(len(negatives), device=rows.device)
        return losses.triplet_loss(dist, (anchors, positives, own), self.margin, active_only=self.active_only)

    def chance(self) -> float:
        """The loss where all distances are the same."""
        return self.margin


def tuples(unit: Tensor, labels: Tensor, config: HDMLConfig, rng: np.random.Generator | None) -> NPairs | Triplets:
    """Of one batch: unit (B, D), rows of unit length; labels (B,)."""
    if config.base == "n_pair":
        anchors, positives = mining.n_pairs(labels)
        return NPairs(anchors, positives, labels[anchors], config.n_pair_scale)
    dist = distances.euclidean(unit.detach(), unit.detach())
    mined = mining.mine(config.miner, dist, labels, config.margin, unit.shape[1], rng)
    return Triplets(mined, config.margin, config.miner == "all")


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and spread of the features of a batch; both are constants for the gradient."""

    mean: Tensor  # (F,)
    spread: Tensor  # (): root of the mean variance of a feature

    @staticmethod
    def of(features: Tensor) -> Scale:  # (B, F)
        mean = features.mean(0)
        return Scale(mean, (features - mean).pow(2).mean().clamp_min(TINY).sqrt())

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread


@dataclass(frozen=True, slots=True)
class Terms:
    """The three objectives, scalars, and what is worth logging."""

    metric: Tensor
    generator: Tensor
    classifier: Tensor
    parts: dict[str, float]


class HardnessAware(nn.Module):
    """The losses of HDML over one batch, for any network with features y and a head g; y may have any size.

    Keeps J_avg and J_gen, relative to chance level, as means over the last full window of steps.
    """

    means: Tensor  # (2,): J_avg, J_gen
    sums: Tensor  # (2,) over the steps of the window that is not full yet
    steps: Tensor  # (), in that window

    def __init__(self, n_features: int, size: int, n_classes: int, config: HDMLConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = nn.Sequential(
            nn.Linear(size, config.hidden),
            nn.ReLU(),
            nn.BatchNorm1d(config.hidden, track_running_stats=False),
            nn.Linear(config.hidden, n_features),
        )
        self.classifier = nn.Linear(n_features, n_classes)  # of y
        self.register_buffer("means", torch.full((2,), START))
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        features: Tensor,
        unit: Tensor,
        head: Callable[[Tensor], Tensor],
        labels: Tensor,
        rng: np.random.Generator | None = None,
    ) -> Terms:
        """features y (B, F); unit (B, D), the rows head(y) scaled to unit length; labels (B,) in 0 .. n_classes - 1."""
        batch = tuples(unit, labels, self.config, rng)
        anchors, positives, negatives = batch.triplets()
        slack, real_weight, synthetic_weight = self.weights()
        harder = harder_negatives(unit[anchors], unit[positives], unit[negatives], slack)  # (K, D)
        # In one batch: anchors and negatives must have the same normalisation.
        rows = torch.cat([unit, harder])

        real = batch.real(unit)
        fixed = {name: parameter.detach() for name, parameter in self.generator.named_parameters()}
        back = unit_rows(head(torch.func.functional_call(self.generator, fixed, (rows,))))
        synthetic = batch.synthetic(back[: len(unit)], back[len(unit) :])
        metric = real_weight * real + synthetic_weight * synthetic

        scale = Scale.of(features.detach())
        made = self.generator(rows.detach())  # (B + K, F)
        # Squares of differences: the mean of the features drops out.
        reconstruction = (scale(made[: len(unit)]) - scale(features.detach())).pow(2).mean()
        soft_anchors, _ = self.label_loss(scale(made[anchors]), labels[anchors])
        soft, label_accuracy = self.label_loss(scale(made[len(unit) :]), labels[negatives])
        share = self.config.soft_share
        generation = (1.0 - share) * reconstruction + share * 0.5 * (soft_anchors + soft)
        classification = F.cross_entropy(self.classifier(scale(features.detach())), labels)
        if self.training:
            self.remember(torch.stack([real.detach() / batch.chance(), generation.detach()]))
        parts = {
            self.config.base: real,
            "synthetic": synthetic,
            "reconstruction": reconstruction,
            "soft_anchors": soft_anchors,
            "soft": soft,
            "soft_accuracy": label_accuracy,
            "y_classifier": classification,
            "slack": slack,
            "synthetic_weight": synthetic_weight,
        }
        logged = {name: float(value.detach()) for name, value in parts.items()}
        return Terms(metric, generation, classification, logged)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """e^(-alpha / J_avg); the weights e^(-beta / J_gen) of the real and 1 - that of the synthetic tuples."""
        j_avg, j_gen = self.means.clamp_min(TINY)
        real_weight = torch.exp(-self.config.beta / j_gen)
        return torch.exp(-self.config.alpha / j_avg), real_weight, 1.0 - real_weight

    def label_loss(self, made: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """How well generated features keep their labels, according to the classifier, which it does not move.

        made (K, F), scaled; labels (K,). Returns the cross-entropy, of which 1 is chance and more is a wrong label,
        and the share of right labels; two scalars.
        """
        logits = F.linear(made, self.classifier.weight.detach(), self.classifier.bias.detach())  # (K, n_classes)
        # Sums over the number, not means: a batch may hold no tuple.
        n = max(len(labels), 1)
        loss = F.cross_entropy(logits, labels, reduction="sum") / (n * math.log(max(logits.shape[1], 2)))
        return loss, (logits.argmax(1) == labels).sum() / n

    @torch.no_grad()
    def remember(self, values: Tensor) -> None:
        """values (2,) of one step."""
        self.sums += values
        self.steps += 1
        if int(self.steps) == self.config.window:
            self.means.copy_(self.sums / self.config.window)
            self.sums.zero_()
            self.steps.zero_()


class HDML(IdentityMethod):
    """Embedding: that of the Siamese method; the generator and the classifier of y are for training alone."""

    net: ProjectedNet

    def __init__(self, net: ProjectedNet, size: int, config: HDMLConfig) -> None:
        super().__init__(net, size, config.id_weight, config.label_smoothing)
        self.config = config
        self.synthesis: HardnessAware | None = None

    def prepare(self, n_classes: int) -> None:
        super().prepare(n_classes)
        self.synthesis = HardnessAware(self.net.project.in_features, self.size, n_classes, self.config)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        assert self.synthesis is not None
        generator = list(self.synthesis.generator.parameters())
        classifier = list(self.synthesis.classifier.parameters())
        others = {id(parameter) for parameter in (*generator, *classifier)}
        metric = [parameter for parameter in self.parameters() if id(parameter) not in others]
        return {"metric": metric, "generator": generator, "classifier": classifier}

    def rates(self) -> dict[str, float]:
        return {"generator": self.config.generator_rate, "classifier": self.config.classifier_rate}

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("hdml", images, labels)
        pooled = self.net.pooled(images)  # (B, F)
        features = self.net.project(pooled)  # (B, D)
        with torch.autocast(images.device.type, enabled=False):
            return self._loss(pooled.float(), features.float(), labels, rng)

    def _loss(self, pooled: Tensor, features: Tensor, labels: Tensor, rng: np.random.Generator | None) -> Loss:
        assert self.synthesis is not None
        terms = self.synthesis(pooled, unit_rows(features), self.net.project, labels, rng)
        metric, parts = self.config.pair_weight * terms.metric, terms.parts
        necked = self.neck(features)
        metric = metric + self.identity_loss(necked, labels, parts)
        objectives = {"metric": metric, "generator": terms.generator, "classifier": terms.classifier}
        return Loss(metric + terms.generator + terms.classifier, parts, unit_rows(necked), objectives)
