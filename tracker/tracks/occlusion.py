"""Occlusion between tracks: occluders, detections that an occluded track may not take, and detections that are cut.

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

CUT_WIDTH = 0.9  # share of the usual width; a narrower box may be cut by an occluder
CUT_COVER = 0.5  # share of the missing width that an occluder, or the outside of the image, must cover


def covered_share(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(P,) share of each box (P, 4) that the box of `front` (P, 4) in the same row covers, in [0, 1].

    0 where the feet of `front` are not lower: only a nearer person occludes.
    """
    share = bx.paired_intersection(boxes, front) / bx.area(boxes)
    return np.where(front[:, 3] > boxes[:, 3], share, 0.0)


def largest_covered_share(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(T,) largest share of each box (T, 4) that one nearer box of `front` (M, 4) covers, in [0, 1]."""
    common = bx.intersection(boxes, front) * (front[:, 3] > boxes[:, None, 3])  # a nearer person has lower feet
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


def widened(
    boxes: FloatArray, predicted: FloatArray, front: FloatArray, width: int, config: OcclusionConfig
) -> FloatArray:
    """(T, 4) detections of known tracks, wider where one side of the person is occluded or outside the image.

    boxes (T, 4) detected, predicted (T, 4) of the same tracks, front (M, 4) possible occluders, xyxy; width of the
    image in pixels, 0: unknown. A detector frames the visible part of a person, which is a poor measurement. A box that
    is narrower for its height than predicted gets the share `complete` of the missing width, on the side where a nearer
    person or the outside of the image covers it. Not all of it: a track that started with a box around two people would
    never become narrow.
    """
    x1, y1, x2, y2 = boxes.T
    expected = predicted[:, 2] - predicted[:, 0]
    usual = np.minimum(expected, (y2 - y1) * expected / (predicted[:, 3] - predicted[:, 1]))
    narrow = (x2 - x1 < CUT_WIDTH * usual).nonzero()[0]  # few, and only they need the pairs below
    if config.complete == 0 or len(narrow) == 0:
        return boxes
    missing = config.complete * (usual - (x2 - x1))[narrow]
    x1, y1, x2, y2 = boxes.take(narrow, axis=0).T
    left, right = _taken(np.array([x1 - missing, x2]), np.array([x1, x2 + missing]), y1, y2, front, width)
    # Occluded on both sides: around the predicted centre, as far as the detection lies within.
    middle = (predicted[narrow, 0] + predicted[narrow, 2] - (x2 - x1) - missing) / 2
    from_middle = x1 - np.minimum(np.maximum(middle, x1 - missing), x1)
    one_side = np.where(left > right, missing, 0.0)
    to_left = np.where(np.minimum(left, right) >= CUT_COVER, from_middle, one_side)
    to_right = missing - to_left
    taken = np.maximum(left, right) >= CUT_COVER
    whole = boxes.copy()
    whole[narrow, 0] = x1 - np.where(taken, to_left, 0.0)
    whole[narrow, 2] = x2 + np.where(taken, to_right, 0.0)
    return whole


def _taken(
    low: FloatArray, high: FloatArray, top: FloatArray, bottom: FloatArray, front: FloatArray, width: int
) -> FloatArray:
    """(2, T) share of each strip that one nearer person covers, or that is outside the image.

    low, high (2, T): x of the strips to the left and to the right of a box; top, bottom (T,) of both.
    """
    x1, y1, x2, y2 = front.T
    size = high - low
    height = np.minimum(bottom[:, None], y2) - np.maximum(top[:, None], y1)
    height = np.maximum(height, 0.0) * (y2 > bottom[:, None])  # (T, M) that is covered; a nearer person has lower feet
    covered = np.maximum(np.minimum(high[..., None], x2) - np.maximum(low[..., None], x1), 0.0)
    share = (covered * height).max(axis=2, initial=0.0) / (size * (bottom - top))
    if width > 0:
        inside = np.maximum(np.minimum(high, width) - np.maximum(low, 0.0), 0.0)
        share = np.maximum(share, 1.0 - inside / size)
    return np.asarray(share)
