"""Boxes as arrays: conversions, overlap, clipping, non-maximum suppression; xyxy unless a name says otherwise."""

from __future__ import annotations

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray

MAX_PX = 1e9  # of any coordinate that comes in or goes out; sums of larger numbers overflow


def xyxy_to_cxcyah(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy -> (N, 4) centre x, centre y, aspect = width / height, height. Heights must be positive."""
    left, top, right, bottom = boxes.T  # column by column: numpy is slow on rows of two
    width, height = right - left, bottom - top
    out = np.empty((len(boxes), 4))
    np.add(left, width / 2, out=out[:, 0])
    np.add(top, height / 2, out=out[:, 1])
    np.divide(width, height, out=out[:, 2])
    out[:, 3] = height
    return out


def cxcyah_to_xyxy(state: FloatArray) -> FloatArray:
    """(N, 4) centre x, centre y, aspect, height -> (N, 4) xyxy."""
    x, y, aspect, height = state.T
    half_width, half_height = aspect * height / 2, height / 2
    out = np.empty((len(state), 4))
    np.subtract(x, half_width, out=out[:, 0])
    np.subtract(y, half_height, out=out[:, 1])
    np.add(x, half_width, out=out[:, 2])
    np.add(y, half_height, out=out[:, 3])
    return out


def xyxy_to_ltwh(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy -> (N, 4) left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def mot_ltwh(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy, pixels from 0 -> left, top, width, height as a MOT file has them: from 1, two decimals.

    What rounds to a width or height of 0 gets 0.01: a box without area means nothing to a reader.
    """
    ltwh = xyxy_to_ltwh(boxes)
    ltwh[:, :2] += 1
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    out: FloatArray = np.asarray(np.clip(ltwh, -MAX_PX, MAX_PX).round(2) + 0.0, np.float64)
    out[:, 2:] = np.maximum(out[:, 2:], 0.01)
    return out


def ltwh_to_xyxy(boxes: FloatArray) -> FloatArray:
    """(N, 4) left, top, width, height -> (N, 4) xyxy."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def area(boxes: FloatArray) -> FloatArray:
    """(N, 4) -> (N,) square pixels; 0 for a box of negative width or height."""
    left, top, right, bottom = boxes.T
    return np.asarray(np.maximum(right - left, 0.0) * np.maximum(bottom - top, 0.0))


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
    own = area(a)[:, None]
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


def overlapping(a: FloatArray, b: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of boxes that share area, ascending by both: rows (P,) of a (A, 4), rows (P,) of b (B, 4), and IoU (P,)."""
    i, j, overlap = overlapping_within(np.concatenate([a, b]))
    pairs = across(i, j, len(a), len(b))
    return i[pairs], j[pairs] - len(a), overlap[pairs]


def overlapping_within(boxes: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Pairs of boxes (N, 4) that share area: rows i < j (P,) and IoU (P,), each pair once, in no particular order.

    In a crowd nearly all pairs are far apart, and a table of all grows with the square of its size. A sweep from left
    to right visits only boxes that overlap in x: of two that do, one starts within the other.
    """
    order = boxes[:, 0].argsort(kind="stable")
    boxes = boxes.take(order, axis=0)
    left, top, right, bottom = boxes.T.copy()
    at = np.arange(len(boxes))
    n_behind = np.maximum(left.searchsorted(right) - at - 1, 0)
    first = at.repeat(n_behind)
    second = np.arange(1, len(first) + 1) + (at - n_behind.cumsum() + n_behind).repeat(n_behind)
    height = np.minimum(bottom.repeat(n_behind), bottom.take(second))
    height -= np.maximum(top.repeat(n_behind), top.take(second))
    met = (height > 0).nonzero()[0]
    first, second = first.take(met), second.take(met)
    common = (np.minimum(right.take(first), right.take(second)) - left.take(second)) * height.take(met)
    own = area(boxes)
    i, j = order.take(first), order.take(second)
    return np.minimum(i, j), np.maximum(i, j), common / (own.take(first) + own.take(second) - common)


def across(i: IntArray, j: IntArray, n_first: int, n_second: int) -> IntArray:
    """Of pairs i < j (P,) in two concatenated tables of n_first and n_second rows, those with a row in each.

    Returns indices of the pairs, ascending by both rows.
    """
    between = ((i < n_first) & (j >= n_first)).nonzero()[0]
    return between[(i[between] * (n_first + n_second) + j[between]).argsort()]


def paired_intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    """Common area of each box of a (P, 4) with the box of the same row of b (P, 4): (P,) square pixels."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    return np.asarray(np.maximum(width, 0.0) * np.maximum(height, 0.0))


def paired_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union, row by row: a, b (P, 4) with an area above 0 -> (P,) in [0, 1]."""
    common = paired_intersection(a, b)
    return np.asarray(common / (area(a) + area(b) - common))


def nms(boxes: FloatArray, scores: FloatArray, max_iou: float) -> IntArray:
    """Greedy non-maximum suppression: indices kept, in descending score.

    boxes (N, 4), scores (N,). Of two boxes with IoU > max_iou the one with the lower score is removed. Equal scores are
    ordered by the coordinates of the box, so that the result does not depend on the order of the rows.
    """
    order = by_score(boxes, scores)
    boxes = boxes[order]
    i, j, overlap = overlapping_within(boxes)
    return order[suppress(len(boxes), i, j, overlap > max_iou)]


def by_score(boxes: FloatArray, scores: FloatArray) -> IntArray:
    """Rows (N,) by descending score; equal scores by coordinates, so that the input order changes nothing."""
    order = (-scores).argsort(kind="stable")
    ordered = scores[order]
    if np.count_nonzero(ordered[1:] == ordered[:-1]):
        order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores))
    return order


def suppress(n: int, i: IntArray, j: IntArray, alike: BoolArray) -> BoolArray:
    """Greedy suppression, first row first: (n,) rows kept if a kept row i removes row j of an alike pair i < j."""
    keep = [True] * n
    if np.count_nonzero(alike):
        first, second = i[alike], j[alike]
        ascending = first.argsort()
        for better, worse in zip(first[ascending].tolist(), second[ascending].tolist(), strict=True):
            if keep[better]:
                keep[worse] = False
    return np.array(keep, bool)
