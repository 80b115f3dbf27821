"""Layouts of detectors' outputs, how each is recognised and decoded. All known layouts are listed in `LAYOUTS`.

C classes; N anchor points, (H/s)(W/s) summed over the strides s = 8, 16, 32. All decoded boxes are xyxy in pixels of
the network's input.

References: YOLOX (Ge et al., 2021), https://arxiv.org/abs/2107.08430; RT-DETR (Zhao et al., 2023),
https://arxiv.org/abs/2304.08069; NanoDet, whose boxes are those of Generalized Focal Loss (Li et al., 2020),
https://arxiv.org/abs/2006.04388.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tracker.detector.letterbox import Place
from tracker.errors import ModelError
from tracker.types import FloatArray, IntArray

STRIDES = (8, 16, 32)
_MORE_STRIDES = (*STRIDES, 64)
_MAX_LOG_SIZE = 12.0  # keeps exp() of a bad output from overflowing
_SLACK = 1e-3  # of scores and of shares of the input: float16 rounds
_BINS = 8  # of each side of a box of NanoDet (reg_max + 1)

Output: TypeAlias = NDArray[Any]  # float32, without the batch axis
Blob: TypeAlias = NDArray[np.float32]  # (1, 3, H, W)
Found: TypeAlias = tuple[FloatArray, FloatArray, IntArray]  # boxes (M, 4), scores (M,), class numbers (M,)


# ------------------------------------------------------------------------------------------ pixels, from BGR 0 to 255


def as_bgr(blob: Blob) -> Blob:
    return blob


def as_rgb_unit(blob: Blob) -> Blob:
    """RGB, 0 to 1."""
    return blob[:, ::-1] / np.float32(255)


def as_standard_bgr(blob: Blob) -> Blob:
    """BGR with the mean and deviation of ImageNet's pixels taken off."""
    return (blob - _MEAN) / _DEVIATION


_MEAN = np.array([103.53, 116.28, 123.675], np.float32)[:, None, None]
_DEVIATION = np.array([57.375, 57.12, 58.395], np.float32)[:, None, None]


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout: how to recognise it, what picture its network expects, and how to decode its output.

    Shapes alone do not tell layouts apart: six columns are NMS output, YOLOX or YOLOv5 with one class, or RT-DETR with
    two. `plausible` looks at the numbers that the network gives for an empty picture.
    """

    name: str
    words: str  # for messages; {n}: the number of anchor points
    shaped: Callable[[Output, int, int], bool]  # (output, height and width of the input): whether the shape is possible
    plausible: Callable[[Output, int, int], bool]  # whether the numbers are, too
    n_classes: Callable[[Output], int]  # 0: the output does not tell
    decode: Callable[[Output, int, int, IntArray, float], Found]  # (output, height, width, wanted classes, least score)
    place: Place  # of the picture in the input
    pixels: Callable[[Blob], Blob]
    smooth: bool = False  # shrink by averaging areas, see `letterbox`

    def __reduce__(self) -> tuple[Callable[[str], Layout], tuple[str]]:
        return layout_named, (self.name,)


def layout_named(name: str) -> Layout:
    """The layout of this name, one of LAYOUT_NAMES but "auto"."""
    return next(layout for layout in LAYOUTS if layout.name == name)


def n_points(height: int, width: int, strides: Sequence[int] = STRIDES) -> int:
    """Number of anchor points of an input of this size."""
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in strides)


# ----------------------------------------------------------------------------------------------------- plausible?


def is_decoded(centre_size: Output, height: int, width: int) -> bool:
    """Whether (N, 4) of all anchor points are centres and sizes in pixels of the input.

    Raw centres are in cells from their own anchor point, a few at most; decoded ones spread over the whole input, and
    decoded sizes are positive, while raw ones are logarithms.
    """
    return _spread(centre_size, height, width) and bool((centre_size[:, 2:4] >= 0).all())


def _spread(boxes: Output, height: int, width: int) -> bool:
    """Whether the first two columns of the rows of all anchor points are pixels: they spread over the input."""
    return bool(np.ptp(boxes[:, 0]) > width / 2 and np.ptp(boxes[:, 1]) > height / 2)


def _in_unit(values: Output) -> bool:
    return bool(((values >= -_SLACK) & (values <= 1 + _SLACK)).all())  # false for NaN as well


def _whole(values: Output) -> bool:
    return bool((values == np.rint(values)).all())


def _is_person(output: Output, height: int, width: int) -> bool:
    upright = (output[:, 2:4] > output[:, :2]).all()
    return bool(upright and _in_unit(output[:, 4])) and _spread(output, height, width)


def _is_yolox(output: Output, height: int, width: int) -> bool:
    return is_decoded(output, height, width) and _in_unit(output[:, 4:]) and not (output[:, 4] == 1).all()


def _is_raw_yolox(output: Output, height: int, width: int) -> bool:
    return not _spread(output, height, width) and _in_unit(output[:, 4:])


def _is_yolov5(output: Output, height: int, width: int) -> bool:
    """Not YOLOX, which has one row for each point and learned objectness; YOLOv6 writes 1 there."""
    several = len(output) != n_points(height, width) or bool((output[:, 4] == 1).all())
    return several and is_decoded(output, height, width) and _in_unit(output[:, 4:]) and not _whole(output[:, -1])


def _is_yolo(output: Output, height: int, width: int) -> bool:
    return is_decoded(output[:4].T, height, width) and _in_unit(output[4:])


def _is_end2end(output: Output, height: int, width: int) -> bool:
    """A picture without people may leave nothing but rows of zeros, or no rows."""
    rows = output[output[:, 4] > 0]
    upright = (rows[:, 2:4] >= rows[:, :2]).all()
    pixels = len(rows) == 0 or np.abs(rows[:, :4]).max() > 1 + _SLACK
    return bool(upright and pixels) and _in_unit(output[:, 4]) and _whole(output[:, 5])


def _is_rtdetr(output: Output, height: int, width: int) -> bool:
    return _in_unit(output) and bool((output[:, 2:4] > 0).all()) and not _whole(output[:, -1])


def _is_nanodet(output: Output, height: int, width: int) -> bool:
    """Class scores have passed the sigmoid, the bins of the sides are raw."""
    return _in_unit(output[:, : -4 * _BINS]) and not _in_unit(output[:, -4 * _BINS :])


# ---------------------------------------------------------------------------------------------------------- decode


def decode_person(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """Our own layout (N, 5): x1, y1, x2, y2, score. All rows are of class 0."""
    keep = np.flatnonzero(output[:, 4] >= score)
    rows = output[keep].astype(np.float64)
    return rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int64)


def decode_raw_yolox(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOX (N, 5 + C): with g an anchor point's cell, centre = (xy + g) s, size = exp(wh) s."""
    keep, scores, numbers = _scored_yolox(output, classes, score)
    rows = output[keep].astype(np.float64)
    cells, strides = _grid(height, width, STRIDES)
    stride = strides[keep, None]
    centre = (rows[:, :2] + cells[keep]) * stride
    half = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_SIZE)) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), scores, numbers


def decode_yolov5(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOv5, YOLOv6, YOLOv7 (rows, 5 + C), and YOLOX with its decoding inside: centre and size in input pixels,
    objectness, class scores.
    """
    keep, scores, numbers = _scored_yolox(output, classes, score)
    return _corners(output[keep, :4].astype(np.float64)), scores, numbers


def decode_yolo(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """YOLOv8 and later (4 + C, points): centre and size in input pixels, class scores."""
    best, scores = _best(output[4:], classes)
    keep = np.flatnonzero(scores >= score)
    return _corners(output[:4, keep].T.astype(np.float64)), scores[keep].astype(np.float64), best[keep]


def decode_end2end(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """Output (rows, 6) with NMS inside, or MMDeploy's two outputs side by side: x1, y1, x2, y2 in input pixels, score,
    class.
    """
    found = output[output[:, 4] >= score].astype(np.float64)
    numbers = np.rint(found[:, 5])
    wrong = np.flatnonzero(~(numbers == found[:, 5]))
    if len(wrong):
        raise ModelError(
            f"the detector's row {', '.join(f'{value:g}' for value in found[wrong[0]])} is not x1, y1, x2, y2, score "
            f"and a class, so its layout is not end2end: name the right one with --layout, {', '.join(LAYOUT_NAMES)}"
        )
    keep = np.isin(numbers, classes)
    return found[keep, :4], found[keep, 4], numbers[keep].astype(np.int64)


def decode_rtdetr(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """RT-DETR (queries, 4 + C): centre and size as shares of the input, class scores."""
    best, scores = _best(output[:, 4:].T, classes)
    keep = np.flatnonzero(scores >= score)
    boxes = _corners(output[keep, :4].astype(np.float64)) * [width, height, width, height]
    return boxes, scores[keep].astype(np.float64), best[keep]


def decode_nanodet(output: Output, height: int, width: int, classes: IntArray, score: float) -> Found:
    """NanoDet (N, C + 4 x 8): class scores, then for each side of the box the raw weights of the distances 0 .. 7
    strides from the point: left, top, right, bottom.

    With three strides (NanoDet) the point is the middle of its cell; with four (NanoDet-Plus) the top left corner.
    """
    best, scores = _best(output[:, : -4 * _BINS].T, classes)
    keep = np.flatnonzero(scores >= score)
    plus = len(output) != n_points(height, width)
    cells, strides = _grid(height, width, _MORE_STRIDES if plus else STRIDES)
    bins = output[keep, -4 * _BINS :].astype(np.float64).reshape(-1, 4, _BINS)
    sides = softmax(bins, axis=2) @ np.arange(_BINS)
    point = cells[keep] + (0.0 if plus else 0.5)
    boxes = np.concatenate([point - sides[:, :2], point + sides[:, 2:]], axis=1) * strides[keep, None]
    return boxes, scores[keep].astype(np.float64), best[keep]


def _corners(rows: FloatArray) -> FloatArray:
    """(M, 4) centre and size -> xyxy."""
    half = rows[:, 2:] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)


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


def _grid(height: int, width: int, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Cell (N, 2) as x, y and stride (N,) of every anchor point: strides ascending, rows of cells from the top left."""
    cells, of_cells = [], []
    for stride in strides:
        y, x = np.mgrid[0 : math.ceil(height / stride), 0 : math.ceil(width / stride)]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64))
        of_cells.append(np.full(x.size, float(stride)))
    return np.concatenate(cells), np.concatenate(of_cells)


# ---------------------------------------------------------------------------------------------------------- layouts


def _shaped_yolox(output: Output, height: int, width: int) -> bool:
    return bool(output.shape[0] == n_points(height, width) and output.shape[1] >= 6)


_YOLOX_WORDS = "(1, {n}, 5 + classes) for YOLOX"
LAYOUTS = (
    Layout(
        "person", "(1, {n}, 5) for Tracklet's own",
        shaped=lambda output, height, width: output.shape[1] == 5, plausible=_is_person,
        n_classes=lambda output: 1, decode=decode_person, place="corner", pixels=as_bgr, smooth=True,
    ),
    Layout(
        "yolox", _YOLOX_WORDS, shaped=_shaped_yolox, plausible=_is_yolox,
        n_classes=lambda output: output.shape[1] - 5, decode=decode_yolov5, place="corner", pixels=as_bgr,
    ),
    Layout(
        "yolox-raw", _YOLOX_WORDS, shaped=_shaped_yolox, plausible=_is_raw_yolox,
        n_classes=lambda output: output.shape[1] - 5, decode=decode_raw_yolox, place="corner", pixels=as_bgr,
    ),
    Layout(
        "yolov5", "(1, rows, 5 + classes) for YOLOv5 to v7",
        shaped=lambda output, height, width: output.shape[0] >= n_points(height, width, STRIDES[1:]) and (
            output.shape[1] >= 6  # the smallest have two strides
        ),
        plausible=_is_yolov5,
        n_classes=lambda output: output.shape[1] - 5, decode=decode_yolov5, place="centre", pixels=as_rgb_unit,
    ),
    Layout(
        "yolo", "(1, 4 + classes, {n}) for YOLOv8 and later",
        # Strides do not matter here: the network has decoded its boxes.
        shaped=lambda output, height, width: 5 <= output.shape[0] < output.shape[1] and (
            output.shape[0] != n_points(height, width)
        ),
        plausible=_is_yolo,
        n_classes=lambda output: output.shape[0] - 4, decode=decode_yolo, place="centre", pixels=as_rgb_unit,
    ),
    Layout(
        "end2end", "(1, rows, 6) with suppression inside",
        shaped=lambda output, height, width: output.shape[1] == 6 and output.shape[0] != n_points(height, width),
        plausible=_is_end2end,
        n_classes=lambda output: 0, decode=decode_end2end, place="centre", pixels=as_rgb_unit,
    ),
    Layout(
        "rtdetr", "(1, queries, 4 + classes) for RT-DETR",
        shaped=lambda output, height, width: output.shape[1] >= 5 and output.shape[0] != n_points(height, width),
        plausible=_is_rtdetr,
        n_classes=lambda output: output.shape[1] - 4, decode=decode_rtdetr, place="stretch", pixels=as_rgb_unit,
    ),
    Layout(
        "nanodet", "(1, points, classes + 32) for NanoDet",
        shaped=lambda output, height, width: output.shape[1] > 4 * _BINS and (
            output.shape[0] in (n_points(height, width), n_points(height, width, _MORE_STRIDES))
        ),
        plausible=_is_nanodet,
        n_classes=lambda output: output.shape[1] - 4 * _BINS, decode=decode_nanodet, place="stretch",
        pixels=as_standard_bgr,
    ),
    Layout(
        "mmdeploy", "dets (1, rows, 5) with labels (1, rows) for MMDeploy",
        # Known by the names of its two outputs alone.
        shaped=lambda output, height, width: False, plausible=lambda output, height, width: False,
        n_classes=lambda output: 0, decode=decode_end2end, place="corner", pixels=as_standard_bgr,
    ),
)  # fmt: skip
LAYOUT_NAMES = ("auto", *(layout.name for layout in LAYOUTS))
