"""What a layout declares, and the parts that several layouts share.

C classes; N rows, one for each anchor point, query or box. All decoded boxes are xyxy in pixels of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tracker.detector.letterbox import Place
from tracker.errors import ModelError
from tracker.types import FloatArray, IntArray

STRIDES = (8, 16, 32)
_SLACK = 1e-3  # of scores and of shares of the input: float16 rounds

Output: TypeAlias = NDArray[Any]  # float32, or whole numbers
Outputs: TypeAlias = Mapping[str, Output]  # all outputs of one run, by name, in the model's order, with the batch axis
Blob: TypeAlias = NDArray[np.float32]  # (B, 3, H, W)
Order: TypeAlias = Literal["rgb", "bgr"]  # of the channels
Scored: TypeAlias = tuple[Output, IntArray]  # (N,) score of the best of the wanted classes, and its number


# ------------------------------------------------------------------------------------------------------- the picture

_MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of ImageNet's pixels, and their deviation: RGB
_DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
# Mean and deviation of the pixels 0 .. 255, RGB, that are taken off.
SCALES = {
    "255": (np.zeros(3, np.float32), np.ones(3, np.float32)),
    "unit": (np.zeros(3, np.float32), np.full(3, 255, np.float32)),
    "signed": (np.full(3, 127.5, np.float32), np.full(3, 127.5, np.float32)),  # -1 .. 1
    "mean": (_MEAN, np.ones(3, np.float32)),
    "imagenet": (_MEAN, _DEVIATION),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture that a network expects."""

    place: Place  # of the frame in the input
    order: Order
    scale: str  # of the pixels, one of SCALES
    smooth: bool = False  # shrink by averaging areas, see `letterbox`

    def changed(self, words: str) -> Picture:
        """With other words for order, scale or place, separated by commas, such as "bgr,imagenet"."""
        kinds = {"order": get_args(Order), "scale": tuple(SCALES), "place": get_args(Place)}
        changes: dict[str, Any] = {}
        for word in words.split(","):
            kind = next((kind for kind, known in kinds.items() if word.strip() in known), None)
            if kind is None:
                listed = "; ".join(f"{kind}: {', '.join(known)}" for kind, known in kinds.items())
                raise ModelError(f"a detector's picture cannot be {word.strip()!r}; there are {listed}")
            changes[kind] = word.strip()
        return replace(self, **changes)

    def pixels(self, blob: Blob) -> Blob:
        """BGR 0 .. 255 (B, 3, H, W) as the network expects it."""
        mean, deviation = SCALES[self.scale]
        if self.order == "rgb":
            blob = blob[:, ::-1]
        else:
            mean, deviation = mean[::-1], deviation[::-1]
        return blob if self.scale == "255" else (blob - mean[:, None, None]) / deviation[:, None, None]


# -------------------------------------------------------------------------------------------------------- the layout


class Facts(NamedTuple):
    """What a file says besides its outputs."""

    n_names: int = 0  # class names in its metadata
    keypoints: tuple[int, int] | None = None  # their number and columns, as ultralytics writes "kpt_shape"
    sized: bool = False  # a second input takes the size to which boxes are scaled


class Heads(NamedTuple):
    """The outputs of one run, as a layout has sorted them; without the batch axis."""

    table: Output  # (N, columns), what `score` and `boxes` of the layout read
    keypoints: Output | None = None  # (N, K, 3): x, y in pixels of the input, score in [0, 1]
    masks: Output | None = None  # (N, h, w) logits over the whole input; (N, P) weights where there are prototypes
    prototypes: Output | None = None  # (P, h, w)

    def mask_logits(self, rows: IntArray) -> Output | None:
        """(n, h, w) logits of the masks of these rows over the whole input; positive: the person."""
        if self.masks is None or self.prototypes is None:
            return None if self.masks is None else self.masks[rows]
        return np.tensordot(self.masks[rows], self.prototypes, axes=1)


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout: how to recognise it, what picture its network expects, and how to decode its output.

    Shapes alone do not tell layouts apart: six columns are NMS output, YOLOX or YOLOv5 with one class, or RT-DETR with
    two. `plausible` looks at the numbers that the network gives for an empty picture.
    """

    name: str
    words: str  # its outputs, for messages; {n}: the number of anchor points
    # The outputs in its terms, (outputs, height and width of the input, what the file says); None: they are not its
    heads: Callable[[Outputs, int, int, Facts], Heads | None]
    score: Callable[[Output, IntArray], Scored]  # (table, wanted classes)
    boxes: Callable[[Output, IntArray, int, int], FloatArray]  # (table, rows, height, width) -> (n, 4)
    picture: Picture
    shaped: Callable[[Output, int, int], bool] = lambda table, height, width: True  # whether the table's shape fits
    plausible: Callable[[Output, int, int], bool] = lambda table, height, width: True  # whether its numbers do, too
    n_classes: Callable[[Output], int] = lambda table: table.shape[1] - 4  # 0: the table does not tell
    category_ids: bool = False  # class numbers are COCO's category ids, 1 .. 90, where the file has no names


def n_points(height: int, width: int, strides: Sequence[int] = STRIDES) -> int:
    """Number of anchor points of an input of this size."""
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in strides)


# ------------------------------------------------------------------------------------------------------------- heads


def only(outputs: Outputs, height: int, width: int, facts: Facts) -> Heads | None:
    """The only output (1, N, columns)."""
    first = next(iter(outputs.values()))
    return Heads(first[0]) if len(outputs) == 1 and first.ndim == 3 and len(first) == 1 else None


def joined(boxes: Output, scores: Output, classes: Output) -> Heads:
    """Boxes (N, 4), scores (N,) and class numbers (N,) of NMS output as one table."""
    return Heads(np.column_stack([boxes, scores, classes]).astype(np.float32))


def sigmoid(logits: Output) -> Output:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))), np.float32)


# -------------------------------------------------------------------------------------------------------- plausible?


def in_unit(values: Output) -> bool:
    return bool(((values >= -_SLACK) & (values <= 1 + _SLACK)).all())  # false for NaN as well


def whole(values: Output) -> bool:
    return bool((values == np.rint(values)).all())


def spread(boxes: Output, height: int, width: int) -> bool:
    """Whether the first two columns of the rows of all anchor points are pixels: they spread over the input."""
    return bool(np.ptp(boxes[:, 0]) > width / 2 and np.ptp(boxes[:, 1]) > height / 2)


def is_nms_output(table: Output, height: int, width: int) -> bool:
    """x1, y1, x2, y2 in pixels, score, class. A picture without people may leave nothing but zeros, or no rows."""
    rows = table[table[:, 4] > 0]
    upright = (rows[:, 2:4] >= rows[:, :2]).all()
    pixels = len(rows) == 0 or np.abs(rows[:, :4]).max() > 1 + _SLACK
    return bool(upright and pixels) and in_unit(table[:, 4]) and whole(table[:, 5])


# ------------------------------------------------------------------------------------------------------------- score


def best_of(scores: Output, classes: IntArray) -> Scored:
    """The best of the wanted classes: scores (N, C) of all.

    Other classes do not compete: a person who scores higher as a bicycle is still a person.
    """
    if len(classes) == 1:  # the usual case without an argmax over every row
        return scores[:, classes[0]], np.full(len(scores), classes[0], np.int64)
    chosen = scores[:, classes]
    column = chosen.argmax(axis=1)
    return chosen[np.arange(len(chosen)), column], classes[column]


def class_columns(table: Output, classes: IntArray) -> Scored:
    """Scores of all classes from the fifth column on."""
    return best_of(table[:, 4:], classes)


def score_and_class(table: Output, classes: IntArray) -> Scored:
    """NMS output: a score and a class number behind the box. Rows of other classes score 0."""
    numbers = np.rint(table[:, 5])
    wrong = np.flatnonzero((table[:, 4] > 0) & (numbers != table[:, 5]))
    if len(wrong):
        raise ModelError(
            f"the detector's row {', '.join(f'{value:g}' for value in table[wrong[0]])} is not x1, y1, x2, y2, score "
            "and a class, so its layout is not end2end: name the right one with --layout"
        )
    return np.where(np.isin(numbers, classes), table[:, 4], 0), numbers.astype(np.int64)


def score_alone(table: Output, classes: IntArray) -> Scored:
    """A score behind the box; all rows are of class 0."""
    return table[:, 4], np.zeros(len(table), np.int64)


# ------------------------------------------------------------------------------------------------------------- boxes


def corners(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """x1, y1, x2, y2 in pixels."""
    return table[rows, :4].astype(np.float64)


def corner_shares(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """x1, y1, x2, y2 as shares of the input."""
    return corners(table, rows, height, width) * [width, height, width, height]


def centre_size(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """Centre x, y, width and height in pixels."""
    boxes = table[rows, :4].astype(np.float64)
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def centre_size_shares(table: Output, rows: IntArray, height: int, width: int) -> FloatArray:
    """Centre x, y, width and height as shares of the input."""
    return centre_size(table, rows, height, width) * [width, height, width, height]


def grid(height: int, width: int, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Cell (N, 2) as x, y and stride (N,) of every anchor point: strides ascending, rows of cells from the top left."""
    cells, of_cells = [], []
    for stride in strides:
        y, x = np.mgrid[0 : math.ceil(height / stride), 0 : math.ceil(width / stride)]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64))
        of_cells.append(np.full(x.size, float(stride)))
    return np.concatenate(cells), np.concatenate(of_cells)
