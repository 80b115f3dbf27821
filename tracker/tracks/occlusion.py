"""Occlusion between tracks: occluders, and detections that an occluded track may not take.

An occluded person cannot be seen, so use C cannot help; but the occluder is known, and the Kalman filter predicts the
place. The predicted box is output for a short time, and an occluded track must not take the detection of its
occluder. A track without a detection that is not occluded is either proposed by use C or not output. Source:
docs/method.md, 6.
"""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import OcclusionConfig
from tracker.types import BoolArray, FloatArray, IntArray


def covered_share(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(P,) share of each box (P, 4) that the box of `front` (P, 4) in the same row covers, in [0, 1].

    0 where the feet of `front` are not lower: only a nearer person occludes.
    """
    share = bx.paired_intersection(boxes, front) / bx.area(boxes)
    return np.where(front[:, 3] > boxes[:, 3], share, 0.0)


def largest_covered_share(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(T,) largest share of each box (T, 4) that one nearer box of `front` (M, 4) covers, in [0, 1]."""
    common = bx.intersection(boxes, front)
    common[front[:, 3] <= boxes[:, None, 3]] = 0.0  # only a nearer person occludes: lower feet
    most, own = common.max(axis=1, initial=0.0), bx.area(boxes)
    return np.asarray(np.divide(most, own, out=most, where=own > 0))


def occluder(
    predicted: FloatArray, unseen: BoolArray, front: BoolArray, i: IntArray, j: IntArray, config: OcclusionConfig
) -> IntArray:
    """(T,) row of the track of `front` that covers most of each unseen track, at least `min_cover`; -1: none.

    predicted (T, 4) boxes in this frame; unseen (T,): not detected in the frame before; front (T,): possible occluders;
    i, j (P,) pairs of rows whose boxes share area, each pair once.
    """
    behind = np.full(len(predicted), -1, np.int64)
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    asked = unseen[i] & front[j]
    i, j = i[asked], j[asked]
    if len(i) == 0:
        return behind
    share = covered_share(predicted[i], predicted[j])
    # By ascending share, so that the last entry written stands for the largest; of equal ones the first row wins.
    order = np.lexsort((-j, share))
    order = order[(share[order] > 0) & (share[order] >= config.min_cover)]
    behind[i[order]] = j[order]
    return behind


def stolen(
    track: IntArray, overlap: FloatArray, detected: FloatArray, predicted: FloatArray, occluder: IntArray
) -> BoolArray:
    """(P,) pairs of an occluded track and a detection that overlaps its occluder more.

    track (P,) row of the track, overlap (P,) IoU of the pair, detected (P, 4) box of the detection; predicted (T, 4)
    and occluder (T,) as in `occluder`. Without this rule a crossing often ends with the occluded track on the visible
    person, whose identity is lost.
    """
    out = np.zeros(len(track), bool)
    hidden = (occluder[track] >= 0).nonzero()[0]
    in_front = predicted[occluder[track[hidden]]]
    out[hidden] = bx.paired_iou(in_front, detected[hidden]) > overlap[hidden]
    return out
