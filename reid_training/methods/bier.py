"""Boosted independent embeddings: the embedding is split into learners, each weighted by the errors of those before it.

BIER: Boosting Independent Embeddings Robustly. Michael Opitz, Georg Waltner, Horst Possegger, Horst Bischof. ICCV 2017.
Deep Metric Learning with BIER: Boosting Independent Embeddings Robustly. Same authors. TPAMI 2020 (2018),
https://arxiv.org/abs/1801.04815: the extended version, with two diversity losses.

What we take:
(1) Learner k is a block of rows W_k of the last linear map, the smallest learner first.
(2) Each learner has a binomial deviance. The weight of a pair is the gradient of the boosted loss of the learners
    before it.
(3) Two diversity losses of W_k times *fixed* features: the activation loss, and the adversarial loss with regressors
    behind a gradient reversal. They move the embedding matrices and the regressors, and nothing below.
(4) Either of them also as an initialisation of the W_k before training, as in the ICCV version.
(5) In the embedding each learner has unit length times its share of the dimensions.
Where we differ:
(1) No bias, because our networks project without one.
(3) The penalty on the length of the weights takes the weight vector of one output everywhere; the authors' code takes
    another axis in one of its losses.
The authors' tenfold rate of the embedding, for a network that starts from ImageNet, is `schedule.body_rate` = 0.1.
Optional, for re-identification: identity classification behind a BN-neck over all learners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Annotated

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import losses
from reid_training.methods.base import IdentityMethod, Loss, check_batch
from reid_training.nets.heads import unit_blocks, unit_rows
from reid_training.nets.projected import ProjectedNet
from tracker.settings import BelowOne, Count, NotNegative, OneOf, Positive, Range, Settings, Whole, require

BOOSTING = ("shrinkage", "online")
DIVERSITY = ("none", "activation", "adversarial")
SHARES = (96, 160, 256)  # of the embedding: the learners of the release, for 512 dimensions
START = 0.5  # score of a pair before any learner saw it, with shrinkage; the release's
# Of a negative's boosting weight with shrinkage, beside its cost inside the loss; the release's, which has none online.
NEGATIVE_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class BIERConfig(Settings):
    """Sources: the authors' TensorFlow code, unless said otherwise."""

    sizes: tuple[Count, ...] = ()  # of the learners, ascending, summing to net.embedding_size; empty = 3 : 5 : 8 of it
    boosting: Annotated[str, OneOf(BOOSTING)] = "shrinkage"  # or "online": steps of 2 / (k + 1) from 0, the paper's
    eta: NotNegative = 0.06  # step of shrinkage; 0 = independent learners
    alpha: Positive = 2.0  # of the binomial deviance: its slope
    beta: Annotated[float, Range("(-1, 1)")] = 0.5  # the cosine between same and different
    negative_cost: Positive = 25.0  # of a negative beside a positive
    diversity: Annotated[str, OneOf(DIVERSITY)] = "activation"  # the loss that decorrelates the learners
    # The release, for SOP and GoogLeNet, has 5e-5 and 1e5: hardly more than a penalty of lambda_div * lambda_w = 5 on
    # the length of the weights. That product is kept; of 0.1 and 1 for lambda_div, 1 was better by a point of R@1 and
    # still a weak term (4 epochs, Omniglot, validation characters; tools/experiments/configs/bier_activation.toml).
    lambda_div: NotNegative = 1.0
    lambda_w: NotNegative = 5.0  # of the penalty, *inside* lambda_div
    hidden: Count = 512  # of the regressors of the adversarial loss
    init_steps: Whole = 0  # of the diversity loss alone, on the features of the first batch; 0 = none
    init_rate: Positive = 1e-2  # of Adam, for these steps; ours: 100 of them divide the activation loss by 15
    id_weight: NotNegative = 0.0  # identity softmax behind a BN-neck; the paper has none
    label_smoothing: BelowOne = 0.1  # of the identity softmax; as in the shipped recipe

    def check_together(self) -> None:
        require(list(self.sizes) == sorted(self.sizes), f"method.sizes must ascend, got {self.sizes}")
        # A setting that would have no effect is refused.
        require(self.boosting == "shrinkage" or self.eta == 0.06, "method.eta has no meaning for online boosting")
        require(self.init_steps == 0 or self.diversity != "none", "method.init_steps needs a method.diversity")


def boosting_weights(
    sims: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    beta: float = 0.5,
    negative_cost: float = 25.0,
    eta: float = 0.06,
    *,
    online: bool = False,
) -> Tensor:
    """Weights of all pairs for each learner: 1 for the first, then the remaining error of the learners before.

    sims (K, B, B): cosines of the learners in their order, labels (B,). Returns (K, B, B) without a gradient: after
    learner k the score of a pair is s += eta * alpha (D_k - beta) m, m = 1 for positives and -`negative_cost` for
    negatives, and the next weight is -d/ds log(1 + e^-s) = sigmoid(-s), twice that for negatives. `online`:
    s = (1 - nu) s + nu alpha (D_k - beta) m with nu = 2 / (k + 1), from 0, and negatives have no factor.

    References: Opitz et al. 2018 and their code.
    """
    same = labels[:, None] == labels[None]
    sign, factor = torch.ones_like(sims[0]), torch.ones_like(sims[0])
    sign[~same], factor[~same] = -negative_cost, 1.0 if online else NEGATIVE_FACTOR
    score = torch.full_like(sims[0], 0.0 if online else START)
    weights = [torch.ones_like(sims[0])]
    for k, sim in enumerate(sims.detach()[:-1], 1):
        gained = alpha * (sim - beta) * sign
        nu = 2.0 / (k + 1)
        score = (1.0 - nu) * score + nu * gained if online else score + eta * gained
        weights.append(torch.sigmoid(-score) * factor)
    return torch.stack(weights)


def boosted_deviance_loss(
    sims: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    beta: float = 0.5,
    negative_cost: float = 25.0,
    eta: float = 0.06,
    *,
    online: bool = False,
) -> Tensor:
    """Mean over K learners of their binomial deviance, with the pairs weighted by `boosting_weights`.

    sims (K, B, B), labels (B,); one learner costs what `losses.binomial_deviance_loss` says.

    References: Opitz et al. 2018, the discriminative loss of their code.
    """
    weights = boosting_weights(sims, labels, alpha, beta, negative_cost, eta, online=online)
    terms = [
        losses.binomial_deviance_loss(sim, labels, alpha, beta, negative_cost, weight)
        for sim, weight in zip(sims, weights, strict=True)
    ]
    return torch.stack(terms).mean()


def activation_loss(learners: Sequence[Tensor]) -> Tensor:
    """Sum over pairs i < j of learners of the mean, over images and pairs of activations, of (f_i f_j)^2.

    `learners`: (B, d_k) each, not normalised. Joint large activations on one image cost most. 0 for one.

    References: Opitz et al. 2018, the activation loss.
    """
    # mean over a, b of f_a^2 f_b^2 is the product of the two means.
    strength = [learner.pow(2).mean(1) for learner in learners]  # (B,) each
    return sum(((a * b).mean() for a, b in combinations(strength, 2)), start=learners[0].sum() * 0.0)


def row_norm_penalty(weight: Tensor) -> Tensor:
    """Mean over rows of (|w|^2 - 1)^2: without it the diversity losses would shrink all weights to 0. weight (D, F)."""
    return (weight.pow(2).sum(1) - 1.0).pow(2).mean()


def reverse_gradient(x: Tensor) -> Tensor:
    """x, to the bit; its gradient is the negative of what arrives.

    References: Unsupervised Domain Adaptation by Backpropagation. Ganin, Lempitsky. ICML 2015.
    """
    return 2.0 * x.detach() - x


class AdversarialLoss(nn.Module):
    """Regressors R_ji predict learner i from the larger learner j; the learners are trained against them.

    The loss is -sum over i < j of mean (f_i * R_ji(f_j))^2, element by element. Its gradient makes the regressors find
    agreement; on its way to the learners it is reversed, so that they lose it.

    References: Opitz et al. 2018, the adversarial loss: two layers, the first with a ReLU.
    """

    def __init__(self, sizes: Sequence[int], hidden: int = 512) -> None:
        super().__init__()
        self.pairs = list(combinations(range(len(sizes)), 2))
        self.regressors = nn.ModuleList(
            nn.Sequential(nn.Linear(sizes[j], hidden), nn.ReLU(), nn.Linear(hidden, sizes[i])) for i, j in self.pairs
        )

    def forward(self, learners: Sequence[Tensor]) -> Tensor:
        """`learners`: (B, d_k) each, not normalised. Returns a scalar <= 0."""
        reversed_ = [reverse_gradient(learner) for learner in learners]
        total = learners[0].sum() * 0.0
        for (i, j), regressor in zip(self.pairs, self.regressors, strict=True):
            total = total - (reversed_[i] * regressor(reversed_[j])).pow(2).mean()
        return total

    def penalty(self) -> Tensor:
        """Keeps the regressors bounded; otherwise large weights alone would raise the agreement."""
        layers = [module for module in self.regressors.modules() if isinstance(module, nn.Linear)]
        lengths = [row_norm_penalty(layer.weight) + (layer.bias.pow(2).sum() - 1.0).clamp_min(0.0) for layer in layers]
        return torch.stack(lengths).sum() if lengths else torch.zeros(())


@torch.no_grad()
def learner_correlation(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean absolute correlation, over the images, between dimensions of different learners.

    features (B, D), `sizes` summing to D, at least two. Chance alone gives sqrt(2 / (pi B)): 0.1 for 64 images.
    """
    centred = features - features.mean(0)
    table = (unit_rows(centred.T) @ unit_rows(centred.T).T).abs()  # (D, D)
    learner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes))).to(features.device)
    return table[learner[:, None] != learner[None]].mean()


def sizes_of(size: int, sizes: Sequence[int] = ()) -> tuple[int, ...]:
    """`sizes`, which must sum to `size`; without any three learners in the proportions of the release."""
    if not sizes:
        bounds = [round(size * sum(SHARES[:k]) / sum(SHARES)) for k in range(len(SHARES) + 1)]
        sizes = [end - start for start, end in pairwise(bounds)]
        require(min(sizes) >= 1, f"net.embedding_size {size} is too small for three learners; give method.sizes")
    require(sum(sizes) == size, f"method.sizes must sum to net.embedding_size, {size}, got {tuple(sizes)}")
    return tuple(sizes)


class BIER(IdentityMethod):
    """Embedding: the learners, each at unit length times its share of the dimensions; the whole at unit length."""

    net: ProjectedNet

    def __init__(self, net: ProjectedNet, size: int, config: BIERConfig) -> None:
        super().__init__(net, size, config.id_weight, config.label_smoothing)
        self.config = config
        self.sizes = sizes_of(size, config.sizes)
        self.adversary = AdversarialLoss(self.sizes, config.hidden) if config.diversity == "adversarial" else None
        self.started: Tensor
        self.register_buffer("started", torch.tensor(config.init_steps == 0))  # whether `init_steps` are done

    def embed(self, images: Tensor) -> Tensor:
        return unit_blocks(self.neck(self.net(images).float()), self.sizes)

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("bier", images, labels)
        pooled = self.net.pooled(images)  # (B, F)
        fixed = pooled.detach().float()
        if self.training and not self.started:
            self.start(fixed)
        features = self.net.project(pooled).float()  # (B, D)
        with torch.autocast(features.device.type, enabled=False):  # as in the Siamese network
            return self._loss(features, fixed, labels)

    def _loss(self, features: Tensor, fixed: Tensor, labels: Tensor) -> Loss:
        config = self.config
        unit = [unit_rows(learner) for learner in self._learners(features)]
        sims = torch.stack([learner @ learner.T for learner in unit])  # (K, B, B)
        constants = (config.alpha, config.beta, config.negative_cost, config.eta)
        total = boosted_deviance_loss(sims, labels, *constants, online=config.boosting == "online")
        parts = {"binomial_deviance": float(total.detach())}
        if config.diversity != "none":
            diversity, penalty = self.diversity(fixed)
            total = total + config.lambda_div * (diversity + config.lambda_w * penalty)
            parts |= {config.diversity: float(diversity.detach()), "norm_penalty": float(penalty.detach())}
        if len(self.sizes) > 1:
            parts["learner_correlation"] = float(learner_correlation(features, self.sizes))
        necked = self.neck(features)
        total = total + self.identity_loss(necked, labels, parts)
        return Loss(total, parts, unit_blocks(necked, self.sizes))

    def diversity(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """fixed (B, F): pooled features without a gradient. Returns the diversity loss and the penalty on lengths.

        Both move the embedding matrices and the regressors; the network below learns from the labels alone.
        """
        weights = torch.split_with_sizes(self.net.project.weight, list(self.sizes))
        learners = [F.linear(fixed, weight) for weight in weights]
        penalty = torch.stack([row_norm_penalty(weight) for weight in weights]).sum()
        if self.adversary is None:
            return activation_loss(learners), penalty
        return self.adversary(learners), penalty + self.adversary.penalty()

    def start(self, fixed: Tensor) -> None:
        """Initialisation (4): steps of the diversity loss alone, on one batch of features; the body is fixed."""
        trained = [self.net.project.weight, *(self.adversary.parameters() if self.adversary else ())]
        optimiser = torch.optim.Adam(trained, lr=self.config.init_rate)
        with torch.enable_grad(), torch.autocast(fixed.device.type, enabled=False):
            for _ in range(self.config.init_steps):
                diversity, penalty = self.diversity(fixed)
                gradients = torch.autograd.grad(diversity + self.config.lambda_w * penalty, trained)
                for parameter, gradient in zip(trained, gradients, strict=True):
                    parameter.grad = gradient
                optimiser.step()
        optimiser.zero_grad()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in trained:  # each process used its own batch
                torch.distributed.broadcast(parameter.data, 0)
        self.started.fill_(True)

    def _learners(self, features: Tensor) -> Sequence[Tensor]:
        return torch.split_with_sizes(features, list(self.sizes), dim=1)
