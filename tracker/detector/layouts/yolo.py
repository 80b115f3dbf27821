"""YOLO: YOLOX, YOLOv5 to YOLO26, their poses and masks, and NMS inside.

References: YOLOX (Ge et al., 2021), https://arxiv.org/abs/2107.08430; masks as weights of prototypes: YOLACT (Bolya et
al., 2019), https://arxiv.org/abs/1904.02689. Columns of poses and masks: docs.ultralytics.com/guides/end2end-detection.
"""

from __future__ import annotations

import numpy as np

from tracker.detector.layouts import base
from tracker.detector.layouts.base import STRIDES, Facts, Heads, Layout, Output, Outputs, Picture, Scored, n_points
from tracker.types import FloatArray, IntArray

_MAX_LOG_SIZE = 12.0  # keeps exp() of a bad output from overflowing
_LETTERBOX = Picture("centre", "rgb", "unit")
_YOLOX_PICTURE = Picture("corner", "bgr", "255")


# ------------------------------------------------------------------------------------------------------------- heads


def _points(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """(1, 4 + C + extra columns, N): one column a point."""
    first = next(iter(outputs.values()))
    if first.ndim != 3 or len(first) != 1:
        return None
    return _with_extras(first[0].T, 4 + facts.n_names, list(outputs.values())[1:], facts)


def _rows(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """(1, N, 6 + extra columns); YOLOv7's (N, 7), whose first column is the number of the picture; or four outputs."""
    four = [outputs.get(name) for name in ("det_boxes", "det_scores", "det_classes")]
    if len(outputs) == 4 and "num_dets" in outputs and not any(output is None for output in four):
        n = int(outputs["num_dets"].flat[0])
        return base.joined(*(output[0][:n] for output in four if output is not None))
    first = next(iter(outputs.values()))
    if len(outputs) == 1 and first.ndim == 2 and first.shape[1] == 7:
        return Heads(first[:, [1, 2, 3, 4, 6, 5]])
    if first.ndim != 3 or len(first) != 1:
        return None
    return _with_extras(first[0], 6, list(outputs.values())[1:], facts)


def _with_extras(rows: Output, n_columns: int, others: list[Output], facts: Facts) -> Heads | None:
    """Rows whose last columns are keypoints, or weights of the prototypes in the other output (1, P, h, w).

    n_columns: of the rest, for poses. None: there are other outputs than that.
    """
    if others:
        if len(others) != 1 or others[0].ndim != 4 or others[0].shape[1] > rows.shape[1] - 5:
            return None
        n_weights = others[0].shape[1]
        return Heads(rows[:, :-n_weights], masks=rows[:, -n_weights:], prototypes=others[0][0])
    if facts.keypoints is None or rows.shape[1] != n_columns + facts.keypoints[0] * facts.keypoints[1]:
        return Heads(rows)
    points = rows[:, n_columns:].reshape(len(rows), *facts.keypoints)
    if points.shape[2] == 2:
        points = np.concatenate([points, np.ones_like(points[:, :, :1])], axis=2)
    return Heads(rows[:, :n_columns], keypoints=points)


# -------------------------------------------------------------------------------------------------------- plausible?


def _is_decoded(table: Output, height: int, width: int) -> bool:
    """Whether (N, 4) of all anchor points are centres and sizes in pixels of the input.

    Raw centres are in cells from their own anchor point, a few at most; decoded ones spread over the whole input, and
    decoded sizes are positive, while raw ones are logarithms.
    """
    return base.spread(table, height, width) and bool((table[:, 2:4] >= 0).all())


def _is_yolox(table: Output, height: int, width: int) -> bool:
    return _is_decoded(table, height, width) and base.in_unit(table[:, 4:]) and not (table[:, 4] == 1).all()


def _is_raw_yolox(table: Output, height: int, width: int) -> bool:
    return not base.spread(table, height, width) and base.in_unit(table[:, 4:])


def _is_yolov5(table: Output, height: int, width: int) -> bool:
    """Not YOLOX, which has one row for each point and learned objectness; YOLOv6 writes 1 there."""
    several = len(table) != n_points(height, width) or bool((table[:, 4] == 1).all())
    return several and _is_decoded(table, height, width) and base.in_unit(table[:, 4:]) and not base.whole(table[:, -1])


def _is_yolo(table: Output, height: int, width: int) -> bool:
    return _is_decoded(table, height, width) and base.in_unit(table[:, 4:])


# ------------------------------------------------------------------------------------------------- shape, score, boxes


def _shaped_yolox(table: Output, height: int, width: int) -> bool:
    return len(table) == n_points(height, width) and table.shape[1] >= 6


def _shaped_yolov5(table: Output, height: int, width: int) -> bool:
    return len(table) >= n_points(height, width, STRIDES[1:]) and table.shape[1] >= 6  # the smallest have two strides


def _shaped_yolo(table: Output, height: int, width: int) -> bool:
    """Strides do not matter here: the network has decoded its boxes."""
    return bool(5 <= table.shape[1] < len(table) and table.shape[1] != n_points(height, width))


def _shaped_end2end(table: Output, height: int, width: int) -> bool:
    return table.shape[1] == 6 and len(table) != n_points(height, width)


def _with_objectness(table: Output, classes: IntArray) -> Scored:
    """Objectness x class score."""
    scores, numbers = base.best_of(table[:, 5:], classes)
    return scores * table[:, 4], numbers


def _raw_boxes(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """With g an anchor point's cell and s its stride, centre = (xy + g) s, size = exp(wh) s."""
    values = table[rows, :4].astype(np.float64)
    cells, strides = base.grid(height, width, STRIDES)
    stride = strides[rows, None]
    centre = (values[:, :2] + cells[rows]) * stride
    half = np.exp(np.minimum(values[:, 2:], _MAX_LOG_SIZE)) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1)


LAYOUTS = (
    Layout(
        "yolox", "(1, {n}, 5 + C)", heads=base.only, shaped=_shaped_yolox, plausible=_is_yolox,
        n_classes=lambda table: table.shape[1] - 5, score=_with_objectness, boxes=base.centre_size,
        picture=_YOLOX_PICTURE,
    ),
    Layout(
        "yolox-raw", "(1, {n}, 5 + C)", heads=base.only, shaped=_shaped_yolox, plausible=_is_raw_yolox,
        n_classes=lambda table: table.shape[1] - 5, score=_with_objectness, boxes=_raw_boxes,
        picture=_YOLOX_PICTURE,
    ),
    Layout(
        "yolov5", "(1, rows, 5 + C)", heads=base.only, shaped=_shaped_yolov5, plausible=_is_yolov5,
        n_classes=lambda table: table.shape[1] - 5, score=_with_objectness, boxes=base.centre_size,
        picture=_LETTERBOX,
    ),
    Layout(
        "yolo", "(1, 4 + C, {n}), for masks with (1, P, h, w)", heads=_points, shaped=_shaped_yolo,
        plausible=_is_yolo, score=base.class_columns, boxes=base.centre_size, picture=_LETTERBOX,
    ),
    Layout(
        "end2end", "(1, rows, 6), (rows, 7) or num_dets, det_boxes, det_scores, det_classes", heads=_rows,
        shaped=_shaped_end2end, plausible=base.is_nms_output, n_classes=lambda table: 0,
        score=base.score_and_class, boxes=base.corners, picture=_LETTERBOX,
    ),
)  # fmt: skip
