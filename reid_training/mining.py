"""Miners: choose pairs and triplets of a batch from distances and labels, as indices.

A triplet miner returns anchors, positives and negatives, each (M,) int64; M is 0 where the batch holds no triplet.
Pass distances without a gradient: the choice is not part of the loss.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Triplets = tuple[Tensor, Tensor, Tensor]
# The two ends of distance-weighted mining, as public code sets them. Nearer negatives are drawn as if they were at the
# first: the direction of so short a difference is mostly noise. The second is just below sqrt(2), where random points
# of a space of many dimensions lie: beyond it a negative is as far as chance alone would put it.
NEAREST = 0.5
FARTHEST = 1.4


MINERS = ("all", "semi_hard", "hard", "distance_weighted")


def mine(
    miner: str, dist: Tensor, labels: Tensor, margin: float, size: int, rng: np.random.Generator | None
) -> Triplets:
    """The triplets that `miner`, one of MINERS, finds; unused arguments are ignored.

    dist (B, B), Euclidean between unit vectors of `size` dimensions; labels (B,).
    """
    if miner == "all":
        return batch_all(labels)
    if miner == "semi_hard":
        return semi_hard(dist, labels, margin)
    if miner == "distance_weighted":
        if rng is None:
            raise ValueError("the distance_weighted miner draws at random: loss() needs an rng")
        return distance_weighted(dist, labels, size, rng)
    return batch_hard(dist, labels)


def same_identity(labels: Tensor) -> Tensor:
    """labels (B,). Returns (B, B) booleans, False on the diagonal: a sample is not its own positive."""
    same = labels[:, None] == labels[None]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def batch_all(labels: Tensor) -> Triplets:
    """Every triplet there is, ordered by anchor, positive, negative.

    labels (B,). A batch of P identities and K images of each has
    M = P K (K - 1) (P - 1) K triplets.

    References: In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe. 2017,
        https://arxiv.org/abs/1703.07737, "batch all".
    """
    anchors, positives = _positive_pairs(labels)
    rows, negatives = torch.nonzero(_negatives(labels)[anchors], as_tuple=True)
    return anchors[rows], positives[rows], negatives


def semi_hard(dist: Tensor, labels: Tensor, margin: float) -> Triplets:
    """For every anchor and positive the nearest negative beyond the positive, if it lies within the margin.

    dist (B, B), labels (B,). Keeps d(a, p) < d(a, n) < d(a, p) + margin; the lowest index on a tie. A pair without
    such a negative gives no triplet: the negatives nearer than the positive, which may collapse a young network to
    one point, are left to the other pairs.

    References: FaceNet: A Unified Embedding for Face Recognition and Clustering. Schroff, Kalenichenko, Philbin.
        CVPR 2015, https://arxiv.org/abs/1503.03832, equation 4. The nearest of them is our choice.
    """
    anchors, positives = _positive_pairs(labels)
    reach = dist[anchors, positives][:, None]  # (M, 1)
    wanted = _negatives(labels)[anchors] & (dist[anchors] > reach) & (dist[anchors] < reach + margin)  # (M, B)
    return _keep(wanted.any(1), anchors, positives, dist[anchors].masked_fill(~wanted, torch.inf).argmin(1))


def batch_hard(dist: Tensor, labels: Tensor) -> Triplets:
    """The farthest positive and the nearest negative of every anchor that has both.

    dist (B, B), labels (B,). Returns anchors, positives, negatives, each (A,) with A <= B; the lowest index on a tie.

    References: In Defense of the Triplet Loss for Person Re-Identification. Hermans, Beyer, Leibe. 2017,
        https://arxiv.org/abs/1703.07737, equation 5.
    """
    positive = same_identity(labels)
    negative = _negatives(labels)
    positives = dist.masked_fill(~positive, -torch.inf).argmax(1)
    negatives = dist.masked_fill(~negative, torch.inf).argmin(1)
    anchors = torch.nonzero(positive.any(1) & negative.any(1)).squeeze(1)
    return anchors, positives[anchors], negatives[anchors]


def distance_weighted(
    dist: Tensor,
    labels: Tensor,
    size: int,
    rng: np.random.Generator,
    nearest: float = NEAREST,
    farthest: float = FARTHEST,
) -> Triplets:
    """For every anchor and positive one negative, drawn so that every *distance* is about equally likely.

    dist (B, B), Euclidean between unit vectors of `size` dimensions; labels (B,). Pr(n | a) is in proportion to
    exp(`log_inverse_density`) of d(a, n). A negative beyond `farthest` is drawn only for an anchor that has no nearer
    one, and then all of its negatives are alike.

    References: Sampling Matters in Deep Embedding Learning. Wu, Manmatha, Smola, Krähenbühl. ICCV 2017,
        https://arxiv.org/abs/1706.07567, section 4.
    """
    anchors, positives = _positive_pairs(labels)
    negative = _negatives(labels)
    near = negative & (dist < farthest)
    log_weights = torch.where(near.any(1, keepdim=True), log_inverse_density(dist, size, nearest, farthest), 0.0)
    allowed = torch.where(near.any(1, keepdim=True), near, negative)
    log_weights = log_weights.masked_fill(~allowed, -torch.inf)  # (B, B)
    # log-weight + Gumbel noise is largest at n with probability Pr(n | a). Nothing is exponentiated: with 128
    # dimensions the weights span fifty orders of magnitude.
    noise = torch.from_numpy(rng.gumbel(size=(len(anchors), len(labels)))).to(dist.device)
    drawn = (log_weights[anchors] + noise).argmax(1)
    return _keep(negative.any(1)[anchors], anchors, positives, drawn)


def log_inverse_density(dist: Tensor, size: int, nearest: float = NEAREST, farthest: float = FARTHEST) -> Tensor:
    """-log q(d), but for a constant: q is the density of the distance of two random points on the unit sphere.

    dist of any shape, 0 < nearest <= farthest < 2; returns the same shape, float64.
    q(d) = d^(n - 2) (1 - d^2 / 4)^((n - 3) / 2), n = `size`. Distances are cut off at both ends; the lower cut is the
    bound on the weights, min(lambda, 1 / q(d)), because q grows up to sqrt(2) in every n > 2.
    """
    d = dist.double().clamp(nearest, farthest)
    return (2 - size) * d.log() - 0.5 * (size - 3) * (1.0 - 0.25 * d * d).log()


def n_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The images of every identity paired in the order of the batch; an odd one is left out.

    labels (B,). Returns anchors, positives (M,); ordered by anchor. With two images of each identity these are the
    N pairs of Sohn's batch.
    """
    same = labels[:, None] == labels[None]
    earlier = torch.ones_like(same).tril(-1)
    rank = (same & earlier).sum(1)  # how many images of the identity come before
    anchors, positives = torch.nonzero(
        same & (rank[:, None] % 2 == 0) & (rank[None] == rank[:, None] + 1), as_tuple=True
    )
    return anchors, positives


def _positive_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    anchors, positives = torch.nonzero(same_identity(labels), as_tuple=True)
    return anchors, positives


def _negatives(labels: Tensor) -> Tensor:
    return labels[:, None] != labels[None]


def _keep(rows: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor) -> Triplets:
    return anchors[rows], positives[rows], negatives[rows]
