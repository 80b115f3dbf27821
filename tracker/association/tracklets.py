"""The log odds that two tracks show one person, by appearance alone: across videos, cameras and days.

A track is the mean of its embeddings, not scaled to unit length, so that 1 - the product of two means is the mean
cosine distance over all pairs of their embeddings. That has the same expectation for tracks of one crop and of many,
and the thresholds of the network, which are of single crops, keep their meaning.

log likelihood ratio = SLOPE (1 - d) / (1 - tau_same) + OFFSET, at most MOST

1 - d is measured in units of the network: 0 for unrelated people on average, 1 at tau_same. The line is a logistic
regression on tracks of the 75 people of Market-1501's training part that no bundled network was trained on, pairs of
different cameras, reid_fast and reid_accurate together (1,979 pairs of one person and 118,602 of two, each). Alone
they give 7.5 and -5.3, 8.1 and -6.1. Source: docs/identities.md; `python -m tools.benchmarks.cross_camera --fit`.
"""

from __future__ import annotations

import numpy as np

from tracker.types import FloatArray

SLOPE, OFFSET = 7.7, -5.6
MOST = 10.0  # those pairs cannot show that a distance proves more


def mean_dist(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, M) mean cosine distance of all pairs of embeddings, from the means of tracks: a (N, D), b (M, D)."""
    return np.asarray(1.0 - a @ b.T)


def log_ratio(dist: FloatArray, tau_same: float) -> FloatArray:
    """Log likelihood ratio of mean distances, one person against two; the same shape. tau_same: of the network."""
    return np.minimum(SLOPE * (1.0 - dist) / (1.0 - tau_same) + OFFSET, MOST)
