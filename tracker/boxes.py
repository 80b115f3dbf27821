"""Boxes as arrays: conversions, overlap, clipping, non-maximum suppression; xyxy unless a name says otherwise."""

from __future__ import annotations

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray


def xyxy_to_cxcyah(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy -> (N, 4) centre x, centre y, aspect = width / height, height. Heights must be positive."""
    width = boxes[:, 2] - boxes[:, 0]
    height = boxes[:, 3] - boxes[:, 1]
    return np.stack([boxes[:, 0] + width / 2, boxes[:, 1] + height / 2, width / height, height], axis=1)


def cxcyah_to_xyxy(state: FloatArray) -> FloatArray:
    """(N, 4) centre x, centre y, aspect, height -> (N, 4) xyxy."""
    half = np.stack([state[:, 2] * state[:, 3], state[:, 3]], axis=1) / 2
    return np.concatenate([state[:, :2] - half, state[:, :2] + half], axis=1)


def xyxy_to_ltwh(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy -> (N, 4) left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def ltwh_to_xyxy(boxes: FloatArray) -> FloatArray:
    """(N, 4) left, top, width, height -> (N, 4) xyxy."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def area(boxes: FloatArray) -> FloatArray:
    """(N, 4) -> (N,) square pixels; 0 for a box turned inside out."""
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return size[:, 0] * size[:, 1]


def intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    """Common area of every pair: a (A, 4), b (B, 4) -> (A, B) square pixels."""
    # Coordinate by coordinate: a quarter of the memory traffic of one (A, B, 2) array.
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    common: FloatArray = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return common


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union of every pair: a (A, 4), b (B, 4) -> (A, B) in [0, 1]; 0 where both areas are 0."""
    common = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def cover(a: FloatArray, b: FloatArray) -> FloatArray:
    """Share of each box of a (A, 4) that each box of b (B, 4) covers -> (A, B) in [0, 1]; 0 for an empty box of a."""
    common = intersection(a, b)
    own = np.broadcast_to(area(a)[:, None], common.shape)
    return np.divide(common, own, out=np.zeros_like(common), where=own > 0)


def clip(boxes: FloatArray, width: int, height: int) -> FloatArray:
    """Boxes cut to the image: (N, 4) -> (N, 4)."""
    return np.stack(
        [
            np.clip(boxes[:, 0], 0, width),
            np.clip(boxes[:, 1], 0, height),
            np.clip(boxes[:, 2], 0, width),
            np.clip(boxes[:, 3], 0, height),
        ],
        axis=1,
    )


def valid(boxes: FloatArray) -> BoolArray:
    """(N,) True where all four numbers are finite and width and height are positive."""
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        return finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def nms(boxes: FloatArray, scores: FloatArray, max_iou: float) -> IntArray:
    """Greedy non-maximum suppression: indices kept, in descending score.

    boxes (N, 4), scores (N,). Of two boxes with IoU > max_iou the one with the lower score goes. Equal scores are
    ordered by the coordinates of the box, so that the result does not depend on the order of the rows.
    """
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores))
    keep = [True] * len(order)
    for better, worse in zip(*_alike(boxes[order], max_iou), strict=True):
        if keep[better]:
            keep[worse] = False
    kept: IntArray = order[np.array(keep, dtype=bool)].astype(np.int64)
    return kept


def _alike(boxes: FloatArray, max_iou: float) -> tuple[list[int], list[int]]:
    """Pairs of rows i < j whose IoU is above `max_iou`, in ascending order of i.

    Only pairs that share a column of pixels are looked at, found by a sweep from left to right: a detector's hundreds
    of candidates lie in heaps, and the table of all pairs would take twenty times as long.
    """
    by_left = np.argsort(boxes[:, 0], kind="stable")
    left, top, right, bottom = np.ascontiguousarray(boxes[by_left].T)
    n_behind = np.maximum(np.searchsorted(left, right, "left") - np.arange(1, len(left) + 1), 0)
    i = np.repeat(np.arange(len(left)), n_behind)
    j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(n_behind) - n_behind, n_behind)
    height = np.minimum(bottom[i], bottom[j]) - np.maximum(top[i], top[j])
    met = np.flatnonzero(height > 0)
    i, j = i[met], j[met]
    common = (np.minimum(right[i], right[j]) - left[j]) * height[met]
    size = (right - left) * (bottom - top)
    hit = np.flatnonzero(common / (size[i] + size[j] - common) > max_iou)
    first, second = by_left[i[hit]], by_left[j[hit]]
    first, second = np.minimum(first, second), np.maximum(first, second)
    ascending = np.argsort(first, kind="stable")
    return first[ascending].tolist(), second[ascending].tolist()
