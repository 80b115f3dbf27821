"""What detectors' networks put out, as boxes in input pixels; `detector.onnx` says which layouts, and whose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.types import FloatArray, IntArray

STRIDES = (8, 16, 32)
_MAX_LOG_SIZE = 12.0  # exp() of a broken model's output must not overflow


def is_decoded(output: NDArray[Any], height: int, width: int) -> bool:
    """Whether YOLOX output (N, 5 + C) holds pixels already.

    Raw centres are cells from the point's own one, a few at most; decoded ones spread over the whole input, and decoded
    sizes are positive, while raw ones are logarithms.
    """
    spread = np.ptp(output[:, 0]) > width / 2 and np.ptp(output[:, 1]) > height / 2
    return bool(spread and (output[:, 2:4] > 0).all())


def decode_yolox(
    output: NDArray[Any], height: int, width: int, classes: IntArray, score: float, *, decoded: bool = False
) -> tuple[FloatArray, FloatArray, IntArray]:
    """YOLOX output (N, 5 + C) -> boxes (M, 4) xyxy in input pixels, scores (M,), class numbers (M,)."""
    best, scores = _best(output[:, 5:].T, classes)
    scores = scores * output[:, 4]
    keep = np.flatnonzero(scores >= score)
    rows = output[keep].astype(np.float64)
    if decoded:
        centre, half = rows[:, :2], rows[:, 2:4] / 2
    else:
        cells, strides = _grid(height, width)
        stride = strides[keep, None]
        centre = (rows[:, :2] + cells[keep]) * stride
        half = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_SIZE)) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores[keep].astype(np.float64), best[keep]


def decode_person(output: NDArray[Any], score: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """Output (N, 5) of x1, y1, x2, y2, score -> the rows that count, all of class 0."""
    keep = np.flatnonzero(output[:, 4] >= score)
    rows = output[keep].astype(np.float64)
    return rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64)


def decode_yolo(output: NDArray[Any], classes: IntArray, score: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """YOLO output (4 + C, N) -> boxes (M, 4) xyxy in input pixels, scores (M,), class numbers (M,)."""
    best, scores = _best(output[4:], classes)
    keep = np.flatnonzero(scores >= score)
    rows = output[:4, keep].T.astype(np.float64)
    half = rows[:, 2:] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    return boxes, scores[keep].astype(np.float64), best[keep]


def decode_end2end(output: NDArray[Any], classes: IntArray, score: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """Output (N, 6) of x1, y1, x2, y2, score, class -> the rows that count."""
    numbers = output[:, 5].astype(np.int64)
    keep = np.flatnonzero((output[:, 4] >= score) & np.isin(numbers, classes))
    return output[keep, :4].astype(np.float64), output[keep, 4].astype(np.float64), numbers[keep]


def _best(scores: NDArray[Any], classes: IntArray) -> tuple[IntArray, NDArray[Any]]:
    """Of the chosen classes the likeliest one: scores (C, N) -> class numbers (N,), scores (N,).

    Classes not asked for do not compete: a cyclist who looks more like a bicycle is still a person.
    """
    if len(classes) == 1:  # the usual case without an argmax over every point
        return np.full(scores.shape[1], classes[0], dtype=np.int64), scores[classes[0]]
    chosen = scores[classes]
    row = chosen.argmax(axis=0)
    return classes[row], chosen[row, np.arange(chosen.shape[1])]


def _grid(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Cell (N, 2) as x, y and stride (N,) of every anchor point: strides ascending, rows of cells from the top left."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[0 : math.ceil(height / stride), 0 : math.ceil(width / stride)]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64))
        strides.append(np.full(x.size, float(stride)))
    return np.concatenate(cells), np.concatenate(strides)
