"""Losses as pure functions of distances, similarities or embeddings.

All return a scalar. A batch that holds no pair or triplet of the kind costs 0 with a gradient of 0, never NaN: small
or unlucky batches exist. `dist` (B, B) and `sim` (B, B) are between the images of one batch, labels (B,) int64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from reid_training import mining


def contrastive_loss(dist: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Positives are pulled to 0, negatives pushed beyond the margin: mean d^2 + mean max(0, margin - d)^2.

    dist (B, B), labels (B,). A batch without positives (or negatives) has no such term. The means are taken apart:
    a batch has far more negatives.

    References: Dimensionality Reduction by Learning an Invariant Mapping. Hadsell, Chopra, LeCun. CVPR 2006,
        equation 4, without its factor 1/2.
    """
    positive = mining.same_identity(labels)
    negative = labels[:, None] != labels[None]
    total = dist.sum() * 0.0  # keeps the graph when neither term exists
    if positive.any():
        total = total + dist[positive].pow(2).mean()
    if negative.any():
        total = total + (margin - dist[negative]).clamp_min(0.0).pow(2).mean()
    return total


def squared_contrastive_loss(squared: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Contrastive, with its hinge on the square: mean d^2 of positives + mean max(0, margin - d^2) of negatives.

    squared (B, B): squared distances, labels (B,). A negative's push does not fade as it nears the margin, and is
    mild where d is small: the gradient of its square is 2 d, that of Hadsell's 2 (margin - d). The means are taken
    apart, as in `contrastive_loss`.

    References: Attention-based Ensemble for Deep Metric Learning. Kim et al. ECCV 2018,
        https://arxiv.org/abs/1804.00382; its batches hold as many positive pairs as negative ones.
    """
    positive = mining.same_identity(labels)
    negative = labels[:, None] != labels[None]
    total = squared.sum() * 0.0  # keeps the graph when neither term exists
    if positive.any():
        total = total + squared[positive].mean()
    if negative.any():
        total = total + (margin - squared[negative]).clamp_min(0.0).mean()
    return total


def triplet_loss(dist: Tensor, triplets: mining.Triplets, margin: float, *, active_only: bool = False) -> Tensor:
    """Mean over triplets of max(0, margin + d(a, p) - d(a, n)).

    dist (B, B); triplets of any miner, 3 x (M,). `active_only`: the mean over the triplets above 0 alone. It belongs
    to batch-all, where after a while nearly all triplets are solved and a mean over them all would fade.

    References: In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe. 2017,
        https://arxiv.org/abs/1703.07737, equation 5 with `batch_hard`, "batch all" with
        `batch_all`, and its variant without zeros with `active_only`.
    """
    anchors, positives, negatives = triplets
    if len(anchors) == 0:
        return dist.sum() * 0.0
    terms = (margin + dist[anchors, positives] - dist[anchors, negatives]).clamp_min(0.0)
    if active_only:
        return terms.sum() / (terms > 0).sum().clamp_min(1)
    return terms.mean()


def soft_margin_triplet_loss(dist: Tensor, triplets: mining.Triplets) -> Tensor:
    """Mean over triplets of log(1 + exp(d(a, p) - d(a, n))): its gradient never vanishes, and it has no margin.

    dist (B, B); triplets of any miner, 3 x (M,).

    References: Hermans et al. 2017, as above, section 2, "soft-margin".
    """
    anchors, positives, negatives = triplets
    if len(anchors) == 0:
        return dist.sum() * 0.0
    return F.softplus(dist[anchors, positives] - dist[anchors, negatives]).mean()


def n_pair_loss(
    anchors: Tensor, positives: Tensor, labels: Tensor, scale: float = 1.0, norm_weight: float = 0.0
) -> Tensor:
    """Mean over pairs i of log(1 + sum over j of exp(s a_i.p_j - s a_i.p_i)), j the pairs of other identities.

    anchors, positives (M, D), labels (M,) of the pairs; `mining.n_pairs` makes them. Scale s = 1 on free embeddings
    is the paper's; unit vectors need a larger one, or the exponents span no more than e^-2 .. e^2. `norm_weight`
    times the mean squared length of the embeddings keeps free embeddings from growing.

    References: Improved Deep Metric Learning with Multi-class N-pair Loss Objective. Sohn. NIPS 2016, the loss
        N-pair-mc; there every identity has one pair, here it may have several, which are no negatives of each other.
    """
    if len(anchors) == 0:
        return (anchors.sum() + positives.sum()) * 0.0
    loss = n_pair_of_logits(scale * anchors @ positives.T, labels)
    if norm_weight > 0:
        loss = loss + norm_weight * 0.5 * (anchors.pow(2).sum(1) + positives.pow(2).sum(1)).mean()
    return loss


def n_pair_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """`n_pair_loss` where the scaled similarities are known: logits (M, M) of anchor i and column j, labels (M,)."""
    if len(logits) == 0:
        return logits.sum() * 0.0
    own = torch.arange(len(labels), device=labels.device)
    return F.cross_entropy(logits.masked_fill(mining.same_identity(labels), -torch.inf), own)


def binomial_deviance_loss(
    sim: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    beta: float = 0.5,
    negative_cost: float = 25.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean over positives of log(1 + e^(-alpha (s - beta))) + mean over negatives of log(1 + e^(alpha c (s - beta))).

    sim (B, B) cosines, labels (B,). alpha is the slope, beta the similarity between same and different,
    c = `negative_cost`; the defaults are those that the boosted ensembles (BIER) use, too. `weights` (B, B) multiply
    the losses of the pairs; the means are over their number.

    References: Deep Metric Learning for Practical Person Re-Identification. Yi, Lei, Li. 2014,
        https://arxiv.org/abs/1407.4979, the binomial deviance with its weights 1/n1 and 1/n2.
    """
    positive = mining.same_identity(labels)
    negative = labels[:, None] != labels[None]
    total = sim.sum() * 0.0  # keeps the graph when neither term exists
    if positive.any():
        terms = F.softplus(-alpha * (sim[positive] - beta))
        total = total + (terms if weights is None else weights[positive] * terms).mean()
    if negative.any():
        terms = F.softplus(alpha * negative_cost * (sim[negative] - beta))
        total = total + (terms if weights is None else weights[negative] * terms).mean()
    return total


def identity_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against 1 - smoothing on the own class, and smoothing spread evenly over all C classes.

    logits (B, C), labels (B,) in 0 .. C - 1.

    References: Rethinking the Inception Architecture for Computer Vision. Szegedy et al. CVPR 2016,
        https://arxiv.org/abs/1512.00567, section 7.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def confidence(logits: Tensor) -> Tensor:
    """Minus the mean entropy of the predicted classes, in nats: logits (B, C). From -log C (undecided) to 0 (certain).

    References: Regularizing Neural Networks by Penalizing Confident Output Distributions. Pereyra et al. 2017,
        https://arxiv.org/abs/1701.06548, equation 1.
    """
    log_shares = F.log_softmax(logits, dim=1)
    return (log_shares.exp() * log_shares).sum(1).mean()


def with_margin(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """logits (B, C), scaled cosines, less `margin` at the own class; labels (B,). Added to the loss, a large margin.

    References: Additive Margin Softmax for Face Verification. Wang, Liu, Liu, Cheng. 2018,
        https://arxiv.org/abs/1801.05599, equation 6, where the margin is m * s; also CosFace.
    """
    return logits - margin * F.one_hot(labels, logits.shape[1])


def centre_loss(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Half the mean squared distance of every image to the centre of its class: 1/(2B) sum |x_i - c_y(i)|^2.

    features (B, D), centres (C, D), labels (B,) in 0 .. C - 1. The paper's sum is a mean here, so that its weight
    does not depend on the batch size.

    References: A Discriminative Feature Learning Approach for Deep Face Recognition. Wen, Zhang, Li, Qiao. ECCV 2016,
        equation 2.
    """
    return 0.5 * (features - centres[labels]).pow(2).sum(1).mean()


def centre_pull(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """0, with a gradient for the centres alone: that of class j is sum of (c_j - x_i) over its images / (1 + count).

    features (B, D), centres (C, D), labels (B,). The centres follow their images at their own pace, whatever weight
    the centre loss has for the network.

    References: Wen et al. 2016, as above, equation 4.
    """
    counts = torch.bincount(labels, minlength=len(centres))[labels].to(centres.dtype)  # (B,)
    terms = 0.5 * ((centres[labels] - features.detach()).pow(2).sum(1) / (1.0 + counts)).sum()
    return terms - terms.detach()
