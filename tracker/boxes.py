"""Boxes as arrays: conversions, overlap, clipping, non-maximum suppression; xyxy unless a name says otherwise."""

from __future__ import annotations

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray

MAX_PX = 1e9  # of any coordinate that comes in or goes out; sums of larger numbers overflow


def xyxy_to_cxcyah(boxes: FloatArray) -> FloatArray:
    """(N, 4) xyxy -> (N, 4) centre x, centre y, aspect = width / height, height. Heights must be positive."""
    out = np.empty((len(boxes), 4))
    size = boxes[:, 2:] - boxes[:, :2]
    np.add(boxes[:, :2], size / 2, out=out[:, :2])
    np.divide(size[:, 0], size[:, 1], out=out[:, 2])
    out[:, 3] = size[:, 1]
    return out


def cxcyah_to_xyxy(state: FloatArray) -> FloatArray:
    """(N, 4) centre x, centre y, aspect, height -> (N, 4) xyxy."""
    half = state[:, 2:4] / 2  # aspect and height
    half[:, 0] = state[:, 2] * state[:, 3] / 2
    return np.concatenate([state[:, :2] - half, state[:, :2] + half], axis=1)


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


def overlapping(a: FloatArray, b: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs of boxes that share area: rows (P,) of a (A, 4) and rows (P,) of b (B, 4), ascending by both."""
    i, j = overlapping_within(np.concatenate([a, b]))
    return across(i, j, len(a), len(b))


def overlapping_within(boxes: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs of rows i < j (P,) of boxes (N, 4) that share area, each pair once, in no particular order.

    In a crowd nearly all pairs are far apart, and a table of all grows with the square of its size. A sweep from left
    to right visits only boxes that overlap in x: of two that do, one starts within the other.
    """
    left, top, right, bottom = boxes.T
    order = left.argsort(kind="stable")
    n_behind = left[order].searchsorted(right[order]) - np.arange(1, len(boxes) + 1)
    np.maximum(n_behind, 0, out=n_behind)
    place = np.arange(len(boxes)).repeat(n_behind)
    first_behind = n_behind.cumsum() - n_behind
    behind = np.arange(1, len(place) + 1) + (place - first_behind[place])
    i, j = order[place], order[behind]
    met = np.minimum(bottom[i], bottom[j]) > np.maximum(top[i], top[j])
    i, j = i[met], j[met]
    return np.minimum(i, j), np.maximum(i, j)


def across(i: IntArray, j: IntArray, n_first: int, n_second: int) -> tuple[IntArray, IntArray]:
    """Of pairs i < j (P,) in two concatenated tables of n_first and n_second rows, those with a row in each.

    Returns rows of the first and rows of the second, ascending by both.
    """
    between = (i < n_first) & (j >= n_first)
    i, j = i[between], j[between] - n_first
    order = (i * n_second + j).argsort()
    return i[order], j[order]


def paired_intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    """Common area of each box of a (P, 4) with the box of the same row of b (P, 4): (P,) square pixels."""
    size = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    np.maximum(size, 0.0, out=size)
    return np.asarray(size[:, 0] * size[:, 1])


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
    i, j = overlapping_within(boxes)
    return order[suppress(len(boxes), i, j, paired_iou(boxes[i], boxes[j]) > max_iou)]


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
