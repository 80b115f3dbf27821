"""Costs of track-detection pairs from overlap and appearance, and the decision rules of uses A and B."""

from __future__ import annotations

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray

TIE = 1e-5  # cosine distance; equal float32 embeddings differ by rounding, and 1e-7 / 1e-8 is no clear winner


def fuse(iou: FloatArray, dist: FloatArray, weight: float) -> FloatArray:
    """One cost of overlap and appearance: (1 - w) (1 - IoU) + w d / 2 (docs/method.md, 2).

    iou (P,), dist (P,) cosine distance d in [0, 2], weight = w in [0, 1]. A weight of 0 is the cost of
    SORT (Bewley et al., 2016).
    """
    return (1.0 - weight) * (1.0 - iou) + weight * dist / 2.0


def swaps(
    rows: IntArray, columns: IntArray, vetoed: BoolArray, dist: FloatArray, allowed: BoolArray, gain: float
) -> tuple[IntArray, BoolArray]:
    """Use A: exchange two pairs that appearance prefers exchanged; other vetoed pairs stay vetoed (docs/method.md, 2).

    rows, columns (k,) pairs; vetoed (k,); dist (T, N) appearance distance; allowed (T, N) pairs that motion permits;
    gain = how much the summed distance must fall. Returns the new columns (k,) and the remaining vetoes (k,). The best
    exchange goes first; each pair takes part in one at most.
    """
    columns, vetoed = columns.copy(), vetoed.copy()
    if not vetoed.any() or len(rows) < 2:
        return columns, vetoed
    own = dist[rows, columns]
    crossed = dist[np.ix_(rows, columns)]  # (k, k): row of pair i with column of pair j
    saved = own[:, None] + own[None] - crossed - crossed.T
    permitted = allowed[np.ix_(rows, columns)]
    possible = permitted & permitted.T & (vetoed[:, None] | vetoed[None]) & (saved >= gain)
    i, j = np.nonzero(np.triu(possible, 1))
    used: set[int] = set()
    for pair in np.argsort(-saved[i, j], kind="stable"):
        a, b = int(i[pair]), int(j[pair])
        if a not in used and b not in used:
            columns[a], columns[b] = columns[b], columns[a]
            vetoed[a] = vetoed[b] = False
            used.update((a, b))
    return columns, vetoed


def least_of_others(dist: FloatArray) -> FloatArray:
    """For each entry of (T, N) the least of its column without itself: (T, N), +inf where a column has no other."""
    if len(dist) < 2:
        return np.full_like(dist, np.inf)
    two: FloatArray = np.partition(dist, 1, axis=0)[:2]
    first = dist.argmin(axis=0)[None] == np.arange(len(dist))[:, None]
    return np.asarray(np.where(first, two[1], two[0]))


def reassociation_cost(
    dist: FloatArray, second_best: FloatArray, gated: BoolArray, tau_same: float, second_best_ratio: float
) -> FloatArray:
    """Use B: cost of re-associating a detection with a lost track; +inf where appearance is not clear enough.

    dist (T, N): distance of each detection to the nearest embedding of each lost track; second_best (T, N): least
    distance of the detection to anything that is certainly not that track (other tracks, or the background control),
    +inf where there is nothing to compare with. gated (T, N): motion and size permit the pair. Cosine distances.

    Accepted if dist < tau_same and second_best / dist > second_best_ratio (docs/method.md, 3). 0/0 is a tie and
    rejected, so an embedding that is the same for everything re-associates nothing. Without a second-best candidate,
    tau_same and the motion gate decide alone.
    """
    clear = second_best > second_best_ratio * np.maximum(dist, 0.0) + TIE
    return np.where(gated & (dist < tau_same) & clear, dist, np.inf)
