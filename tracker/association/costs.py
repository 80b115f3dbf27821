"""From overlap and appearance to one cost for each pair of track and detection, and what appearance decides alone."""

from __future__ import annotations

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray

TIE = 1e-5  # equal float32 embeddings differ in distance by rounding alone, and 1e-7 / 1e-8 is no clear winner


def fuse(iou: FloatArray, look: FloatArray, weight: float) -> FloatArray:
    """Overlap and appearance in one cost: lambda (1 - IoU) + (1 - lambda) d / 2, methods 05 §2.5.4.

    iou (P,), look (P,) cosine distance in [0, 2], weight = 1 - lambda in [0, 1]. With a weight of 0 this is SORT's cost
    (Bewley et al., 2016).
    """
    return (1.0 - weight) * (1.0 - iou) + weight * look / 2.0


def swaps(
    rows: IntArray, columns: IntArray, vetoed: BoolArray, dist: FloatArray, allowed: BoolArray, gain: float
) -> tuple[IntArray, BoolArray]:
    """Use A: two pairs that look better exchanged are exchanged, other vetoed pairs stay vetoed (methods 05 §2.5.5).

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
    dist: FloatArray, rivals: FloatArray, gated: BoolArray, tau_same: float, second_best_ratio: float
) -> FloatArray:
    """Use B: cost of giving a detection back to a lost track; +inf where appearance does not say so clearly.

    dist (T, N): distance of each detection to the nearest embedding of each lost track; rivals (T, N): the least
    distance of the detection to anything that is surely *not* that track (other tracks, or the background control);
    +inf where there is nothing to compare with. gated (T, N): motion and size permit the pair.

    Accepted if dist < tau_same and rivals / dist > second_best_ratio (methods 05 §2.5.7). 0/0 is a tie and refused, so
    an embedding that calls everything alike re-links nothing. The single-candidate rule: where no rival exists at all,
    tau_same and the motion gate decide alone.
    """
    clear = rivals > second_best_ratio * np.maximum(dist, 0.0) + TIE
    return np.where(gated & (dist < tau_same) & clear, dist, np.inf)
