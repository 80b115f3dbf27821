"""Networks with a row for each anchor point that are no YOLO: Tracklet's own, and NanoDet.

Reference: the boxes of NanoDet are those of Generalized Focal Loss (Li et al., 2020), https://arxiv.org/abs/2006.04388.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from tracker.detector.layouts import base
from tracker.detector.layouts.base import STRIDES, Layout, Output, Picture, n_points
from tracker.types import FloatArray, IntArray

_MORE_STRIDES = (*STRIDES, 64)
_BINS = 8  # of each side of a box of NanoDet (reg_max + 1)
_SIDES = 4 * _BINS


def _is_person(table: Output, height: int, width: int) -> bool:
    upright = (table[:, 2:4] > table[:, :2]).all()
    return bool(upright and base.in_unit(table[:, 4])) and base.spread(table, height, width)


def _shaped_nanodet(table: Output, height: int, width: int) -> bool:
    points = n_points(height, width), n_points(height, width, _MORE_STRIDES)
    return table.shape[1] > _SIDES and len(table) in points


def _is_nanodet(table: Output, height: int, width: int) -> bool:
    """Class scores have passed the sigmoid, the bins of the sides are raw."""
    return base.in_unit(table[:, :-_SIDES]) and not base.in_unit(table[:, -_SIDES:])


def _nanodet_boxes(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """Behind the class scores, for each side of the box the raw weights of the distances 0 .. 7 strides from the point:
    left, top, right, bottom.

    With three strides (NanoDet) the point is the middle of its cell; with four (NanoDet-Plus) the top left corner.
    """
    plus = len(table) != n_points(height, width)
    cells, strides = base.grid(height, width, _MORE_STRIDES if plus else STRIDES)
    bins = table[rows, -_SIDES:].astype(np.float64).reshape(-1, 4, _BINS)
    sides = softmax(bins, axis=2) @ np.arange(_BINS)
    point = cells[rows] + (0.0 if plus else 0.5)
    return np.concatenate([point - sides[:, :2], point + sides[:, 2:]], axis=1) * strides[rows, None]


LAYOUTS = (
    Layout(
        "person", "(1, {n}, 5)", heads=base.only, shaped=lambda table, height, width: table.shape[1] == 5,
        plausible=_is_person, n_classes=lambda table: 1, score=base.score_alone, boxes=base.corners,
        picture=Picture("corner", "bgr", "255", smooth=True),
    ),
    Layout(
        "nanodet", "(1, points, C + 32)", heads=base.only, shaped=_shaped_nanodet, plausible=_is_nanodet,
        n_classes=lambda table: table.shape[1] - _SIDES,
        score=lambda table, classes: base.best_of(table[:, :-_SIDES], classes), boxes=_nanodet_boxes,
        picture=Picture("stretch", "bgr", "imagenet"),
    ),
)  # fmt: skip
