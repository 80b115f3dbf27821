"""Replay of a MOT detection file: `frame, -1, left, top, width, height, score, ...`, one row per box.

Frames and pixels count from 1 in such a file: frame 1 is index 0, and left = 1 is the left edge of the picture. Columns
are separated by commas, or by spaces or tabs.
"""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path

import numpy as np

from tracker.boxes import MAX_PX
from tracker.detector.base import DetectorBase
from tracker.detector.inputs import SCORE_SLACK
from tracker.errors import DetectionError
from tracker.types import Detections, FloatArray, Frame

SCORE_KINDS = ("auto", "probability", "margin", "boosted", "absent")

_log = logging.getLogger(__name__)
_TAKEN_FOR = {
    "absent": "no scores, all count as 1",
    "probability": "scores are probabilities",
    "margin": "scores are margins, mapped to probabilities",
    "boosted": "scores are sums of boosted trees, mapped to probabilities",
}

_COLUMNS = "frame, id, left, top, width, height, score"
_N_REQUIRED, _N_USED = 6, 7
_MAX_FRAME = 2**31 - 1
# Where precision is about one half, and how fast it rises, by deciles of the score: DPM and ACF public detections.
_MARGIN_HALF, _MARGIN_SLOPE = 0.3, 2.0
_BOOSTED_HALF, _BOOSTED_WIDTH = 25.0, 12.0
_BOOSTED_FROM = 20.0  # margins of support vector machines stay far below, sums of boosted trees go far above


class PublicDetections(DetectorBase):
    """The detections of a file, by frame index.

    path: a MOT det.txt. scores: how to map its scores to [0, 1], see `scores_to_unit`. width, height: of the video;
    if given, boxes without a pixel inside it are dropped. Boxes without area are dropped, too, with a warning that
    counts them; `note` says what the scores were taken for. Raises DetectionError with the file, the line, the mistake
    and what is allowed.
    """

    def __init__(
        self, path: str | Path, scores: str = "auto", width: int | None = None, height: int | None = None
    ) -> None:
        self.path = Path(path)
        self.name = self.path.name
        table = _read(self.path)
        # MOT files list frames in order, but nothing says they must: stable, so rows of a frame keep their order.
        table = table[np.argsort(table[:, 0], kind="stable")]
        self.last_frame = int(table[-1, 0]) - 1  # 0-based index of the last frame with a detection
        kind = _kind_of(table[:, 6]) if scores == "auto" else scores
        try:
            unit = scores_to_unit(table[:, 6], kind)
        except DetectionError as error:
            raise DetectionError(f"{self.path}: {error}") from error
        self.note = _TAKEN_FOR[kind]
        has_area = (table[:, 4:6] > 0).all(axis=1)
        if not has_area.all():
            n_dropped = int((~has_area).sum())
            _log.warning("%s: dropped %d of %d detections: they have no area", self.path, n_dropped, len(table))
            table, unit = table[has_area], unit[has_area]
        left_top = table[:, 2:4] - 1.0
        boxes = np.concatenate([left_top, left_top + table[:, 4:6]], axis=1)
        numbers = table[:, 0].astype(np.int64)
        inside = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        inside &= boxes[:, 0] < (math.inf if width is None else width)
        inside &= boxes[:, 1] < (math.inf if height is None else height)
        if width is not None or height is not None:
            boxes, unit, numbers = boxes[inside], unit[inside], numbers[inside]
        self.n_boxes = len(boxes)
        self._all = Detections(boxes, unit, np.zeros(len(boxes), np.int64))
        first, start = np.unique(numbers, return_index=True)
        self._rows = {
            int(number) - 1: slice(int(begin), int(end))
            for number, begin, end in zip(first, start, [*start, len(numbers)][1:], strict=True)
        }

    def detect(self, frame: Frame) -> Detections:
        return self.at(frame.index)

    def at(self, index: int) -> Detections:
        """Detections of the frame with this 0-based index."""
        rows = self._rows.get(index)
        if rows is None:
            return Detections.empty()
        return Detections(self._all.boxes[rows].copy(), self._all.scores[rows].copy(), self._all.classes[rows].copy())


def scores_to_unit(scores: FloatArray, kind: str = "auto") -> FloatArray:
    """Scores of any detector as numbers in [0, 1] that are about 0.5 where every second detection is a person.

    "probability": as they are. "margin": support vector machines such as DPM, about -0.5 .. 4.5. "boosted": sums of
    boosted trees such as ACF, about 0 .. 140. "absent": all count as 1. "auto": by the range of this file; "absent" if
    it is -1 in every row. Rounding may leave probabilities a little outside 0 to 1.
    """
    if kind not in SCORE_KINDS:
        raise DetectionError(f"unknown kind of scores {kind!r}; there are: {', '.join(SCORE_KINDS)}")
    if kind == "auto":
        kind = _kind_of(scores)
    if kind == "absent":
        return np.ones_like(scores)
    if kind == "probability":
        wrong = (scores < -SCORE_SLACK) | (scores > 1 + SCORE_SLACK)
        if wrong.any():
            raise DetectionError(f"score {scores[wrong][0]:g} is no probability; expected 0 to 1, or margin or boosted")
        return np.clip(scores, 0.0, 1.0)
    # Clipped, so that absurd scores saturate instead of overflowing.
    if kind == "margin":
        z = np.clip(_MARGIN_SLOPE * (scores - _MARGIN_HALF), -500, 500)
    else:
        z = np.clip((scores - _BOOSTED_HALF) / _BOOSTED_WIDTH, -500, 500)
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


def _kind_of(scores: FloatArray) -> str:
    if len(scores) == 0 or (scores.min() >= -SCORE_SLACK and scores.max() <= 1 + SCORE_SLACK):
        return "probability"
    if (scores == -1).all():
        return "absent"
    return "boosted" if scores.max() > _BOOSTED_FROM else "margin"


def _read(path: Path) -> FloatArray:
    """(N, 7) float64, N >= 1: the columns that are used, checked."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DetectionError(f"{path}: cannot read detections: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DetectionError(f"{path}: no text file; expected lines of `{_COLUMNS}`") from error
    if not text.strip():
        raise DetectionError(f"{path}: the file is empty; expected lines of `{_COLUMNS}`")
    table = _parse_fast(text)
    return _parse_lines(path, text) if table is None else table


def _parse_fast(text: str) -> FloatArray | None:
    """Parse all lines at once; None if any of them may be wrong."""
    try:
        table = np.loadtxt(io.StringIO(text), delimiter="," if "," in text else None, comments=None, ndmin=2)
    except ValueError:
        return None
    if table.shape[1] < _N_REQUIRED:
        return None
    if table.shape[1] == _N_REQUIRED:
        table = np.column_stack([table, np.ones(len(table))])
    table = table[:, :_N_USED]
    good = np.isfinite(table).all() and (np.abs(table[:, 2:6]) <= MAX_PX).all()
    good = good and (table[:, 0] >= 1).all() and (table[:, 0] <= _MAX_FRAME).all()
    return table if good and (table[:, 0] == np.floor(table[:, 0])).all() else None


def _parse_lines(path: Path, text: str) -> FloatArray:
    rows = []
    # Not splitlines(): it also breaks at form feeds and the like, and the numbers would not be those of an editor.
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        try:
            if line.strip():
                rows.append(_parse_line(line))
        except DetectionError as error:
            raise DetectionError(f"{path}, line {number}: {error}") from None
    return np.array(rows)


def _parse_line(line: str) -> list[float]:
    cells = [cell.strip() for cell in line.split(",")] if "," in line else line.split()
    if len(cells) < _N_REQUIRED:
        raise DetectionError(f"{len(cells)} column{'s' * (len(cells) > 1)}; expected at least 6: `{_COLUMNS}`")
    row = []
    for name, cell in zip(_COLUMNS.split(", "), cells, strict=False):
        try:
            row.append(float(cell))
        except ValueError:
            raise DetectionError(f"{name} {cell[:40]!r} is no number; expected `{_COLUMNS}`") from None
        if not math.isfinite(row[-1]):
            raise DetectionError(f"{name} is {cell}; expected a finite number")
    if row[0] != math.floor(row[0]) or not 1 <= row[0] <= _MAX_FRAME:
        raise DetectionError(f"frame {cells[0]}; expected a whole number, counted from 1")
    for name, value in zip(("left", "top", "width", "height"), row[2:6], strict=True):
        if abs(value) > MAX_PX:
            raise DetectionError(f"{name} {value:g}; expected pixels, {MAX_PX:g} at most")
    return row if len(row) == _N_USED else [*row, 1.0]
