"""Layouts of detectors' outputs and how each is decoded. All known layouts are listed in `LAYOUTS`.

C classes; N anchor points, (H/s)(W/s) summed over the strides s = 8, 16, 32. All decoded boxes are xyxy in pixels of
the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tracker.types import FloatArray, IntArray

STRIDES = (8, 16, 32)
_MAX_LOG_SIZE = 12.0  # keeps exp() of a bad output from overflowing

Output: TypeAlias = NDArray[Any]  # float32, without the batch axis
Found: TypeAlias = tuple[FloatArray, FloatArray, IntArray]  # boxes (M, 4), scores (M,), class numbers (M,)


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout: how to recognise it, what picture its network expects, and how to decode its output."""

    name: str
    words: str  # for messages; {n}: the number of anchor points
    fits: Callable[[Output, int, int], bool]  # (output, height and width of the input)
    n_classes: Callable[[Output], int]  # 0: the output does not tell
    decode: Callable[[Output, int, int, IntArray, float], Found]  # (output, height, width, wanted classes, least score)
    centred: bool  # the picture lies in the middle of the input; False: at the top left
    rgb: bool  # RGB, 0 to 1; False: BGR, 0 to 255
    smooth: bool = False  # shrink by averaging areas, see `letterbox`


def n_points(height: int, width: int) -> int:
    """Number of anchor points of an input of this size."""
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in STRIDES)


def is_decoded(output: Output, height: int, width: int) -> bool:
    """Whether YOLOX output (N, 5 + C) holds pixels already.

    Raw centres are in cells from their own anchor point, a few at most; decoded ones spread over the whole input, and
    decoded sizes are positive, while raw ones are logarithms.
    """
    spread = np.ptp(output[:, 0]) > width / 2 and np.ptp(output[:, 1]) > height / 2
    return bool(spread and (output[:, 2:4] > 0).all())


def decode_person(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """Our own layout (N, 5): x1, y1, x2, y2, score. All rows are of class 0."""
    keep = np.flatnonzero(output[:, 4] >= score)
    rows = output[keep].astype(np.float64)
    return rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64)


def decode_raw_yolox(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOX (N, 5 + C): with g an anchor point's cell, centre = (xy + g) s, size = exp(wh) s."""
    keep, scores, numbers = _scored_yolox(output, classes, score)
    rows = output[keep].astype(np.float64)
    cells, strides = _grid(height, width)
    stride = strides[keep, None]
    centre = (rows[:, :2] + cells[keep]) * stride
    half = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_SIZE)) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, numbers


def decode_decoded_yolox(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOX (N, 5 + C), exported with its decoding inside: centre and size in input pixels."""
    keep, scores, numbers = _scored_yolox(output, classes, score)
    rows = output[keep].astype(np.float64)
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, numbers


def decode_yolo(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOv8 and later (4 + C, points): centre and size in input pixels, class scores."""
    best, scores = _best(output[4:], classes)
    keep = np.flatnonzero(scores >= score)
    rows = output[:4, keep].T.astype(np.float64)
    half = rows[:, 2:] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    return boxes, scores[keep].astype(np.float64), best[keep]


def decode_end2end(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """Output (rows, 6) with NMS inside: x1, y1, x2, y2 in input pixels, score, class."""
    numbers = output[:, 5].astype(np.int64)
    keep = np.flatnonzero((output[:, 4] >= score) & np.isin(numbers, classes))
    return output[keep, :4].astype(np.float64), output[keep, 4].astype(np.float64), numbers[keep]


def _scored_yolox(output: Output, classes: IntArray, score: float) -> tuple[IntArray, FloatArray, IntArray]:
    """Rows with objectness x class score >= score, with these scores and their class numbers."""
    best, scores = _best(output[:, 5:].T, classes)
    scores = scores * output[:, 4]
    keep = np.flatnonzero(scores >= score)
    return keep, scores[keep].astype(np.float64), best[keep]


def _best(scores: NDArray[Any], classes: IntArray) -> tuple[IntArray, NDArray[Any]]:
    """The best of the chosen classes: scores (C, N) -> class numbers (N,), scores (N,).

    Other classes do not compete: a person who scores higher as a bicycle is still a person.
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


def _fits_yolox(output: Output, height: int, width: int) -> bool:
    return bool(output.shape[0] == n_points(height, width) and output.shape[1] >= 6)


_YOLOX_WORDS = "(1, {n}, 5 + classes) for YOLOX"
LAYOUTS = (
    Layout(
        "person", "(1, {n}, 5) for Tracklet's own",
        fits=lambda output, height, width: output.shape[1] == 5,  # no other layout has five columns
        n_classes=lambda output: 1, decode=decode_person, centred=False, rgb=False, smooth=True,
    ),
    Layout(
        "yolox", _YOLOX_WORDS,
        fits=lambda output, height, width: _fits_yolox(output, height, width) and is_decoded(output, height, width),
        n_classes=lambda output: output.shape[1] - 5, decode=decode_decoded_yolox, centred=False, rgb=False,
    ),
    Layout(
        "yolox", _YOLOX_WORDS, fits=_fits_yolox,
        n_classes=lambda output: output.shape[1] - 5, decode=decode_raw_yolox, centred=False, rgb=False,
    ),
    Layout(
        "yolo", "(1, 4 + classes, {n}) for YOLO",
        # Strides do not matter here: the network has decoded its boxes.
        fits=lambda output, height, width: 5 <= output.shape[0] < output.shape[1] and (
            output.shape[0] != n_points(height, width)
        ),
        n_classes=lambda output: output.shape[0] - 4, decode=decode_yolo, centred=True, rgb=True,
    ),
    Layout(
        "end2end", "(1, rows, 6) with suppression inside",
        fits=lambda output, height, width: output.shape[1] == 6 and output.shape[0] != n_points(height, width),
        n_classes=lambda output: 0, decode=decode_end2end, centred=True, rgb=True,
    ),
)  # fmt: skip
