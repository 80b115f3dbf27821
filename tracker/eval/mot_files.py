"""Read MOTChallenge ground truth and result files.

Frames and pixels stay as the files have them, counted from 1: both sides of a comparison are in the same coordinates.
Ground truth has two layouts. MOT16 and later: 8 or 9 columns, `consider` (7th) and the class (8th); class 1 is the
pedestrian that counts. MOT15: 7 or 10 columns, no class; a box with a non-zero 7th value counts. A box of the classes
in `DISTRACTORS` is neither a person to find nor a false positive if found. As in the official evaluation, other boxes
that do not count (`consider` = 0) do not excuse a result on them.

Columns are separated by commas, or by spaces or tabs. A box without area is kept, overlaps nothing (IoU 0), and is
counted in one warning.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tracker.boxes import MAX_PX, ltwh_to_xyxy, mot_ltwh, valid
from tracker.errors import TrackletError
from tracker.types import BoolArray, FloatArray, IntArray, Source, Tracks

PEDESTRIAN = 1
DISTRACTORS = (2, 7, 8, 12)  # person on vehicle, static person, distractor, reflection
CLASSES = range(1, 14)
MAX_COLUMNS = 10
MAX_FRAME = 10_000_000  # four days at 30 frames per second: a higher number is an error, and would fill the memory

_log = logging.getLogger(__name__)
_LineCheck: TypeAlias = Callable[[list[float]], str | None]  # what is wrong with a line, or None


class MotFileError(TrackletError):
    """A ground-truth or result file that is missing or malformed; names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class BoxTable:
    """Boxes of a sequence, one row each, in the order of the file."""

    frame: IntArray  # (R,) from 1
    id: IntArray  # (R,) unique within a frame
    boxes: FloatArray  # (R, 4) xyxy, MOT's pixels, which count from 1

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: BoolArray | IntArray) -> BoxTable:
        """The selected rows."""
        return BoxTable(self.frame[rows], self.id[rows], self.boxes[rows])


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """All annotated boxes of a sequence and what each means for the score."""

    table: BoxTable
    counts: BoolArray  # (R,) a person that must be found
    ignored: BoolArray  # (R,) a result on it is dropped; on a box that is neither, it is a false positive


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Ground truth of MOT15, MOT16 or MOT17. Raises MotFileError, also where no box of it counts."""
    path = Path(path)
    values = _read_numbers(path, _check_truth_line)
    table = _table(values)
    n_columns = values.shape[1]
    considered = values[:, 6] != 0 if n_columns >= 7 else np.zeros(0, bool)
    if n_columns in (8, 9):
        kind = values[:, 7].astype(np.int64)
        ignored = np.isin(kind, DISTRACTORS)
        counts = considered & (kind == PEDESTRIAN)
    else:
        ignored, counts = np.zeros_like(considered), considered
    if not counts.any():
        raise MotFileError(f"{path}: no box that counts (pedestrian with a non-zero 7th value)")
    return GroundTruth(table, counts, ignored)


def read_results(path: str | Path) -> BoxTable:
    """Output of a tracker: frame, id, left, top, width, height, ... An empty file has no tracks."""
    return _table(_read_numbers(Path(path), _check_line))


def read_tracks(path: str | Path) -> list[Tracks]:
    """Output of a tracker as `Tracks` of every frame up to the last one with a box; frames and pixels from 0.

    Where a box comes from is not in the file: all are DETECTED, their class is 0. Without a 7th column the score is 1.
    Boxes without area are left out. Raises MotFileError.
    """
    values = _read_numbers(Path(path), _check_line)
    values = values[np.lexsort((values[:, 1], values[:, 0]))]
    last = int(values[-1, 0]) if len(values) else 0
    values = values[valid(ltwh_to_xyxy(values[:, 2:6]))]
    table = _table(values)
    n = len(table)
    scores = values[:, 6] if values.shape[1] > 6 else np.ones(n)
    everything = Tracks(
        table.boxes - 1, table.id, scores, np.zeros(n, np.int64), np.full(n, -1), np.full(n, Source.DETECTED, np.uint8)
    )
    frames = [Tracks()] * last  # one for all empty frames: numbers may be far apart
    starts = np.flatnonzero(np.diff(table.frame, prepend=0))
    for begin, end in pairwise([*starts.tolist(), n]):
        frames[int(table.frame[begin]) - 1] = everything[begin:end]
    return frames


def as_read(frame: IntArray, ids: IntArray, xyxy: FloatArray) -> BoxTable:
    """The table that `read_results` gives of a file with these tracks: frames and pixels from 0 in, from 1 out."""
    return BoxTable(frame + 1, ids, ltwh_to_xyxy(mot_ltwh(xyxy)))


def check_frames(path: Path, table: BoxTable, n_frames: int | None) -> None:
    """Raise MotFileError for a box after the last frame of the sequence; n_frames None: the length is not known."""
    last = int(table.frame.max(initial=0))
    if n_frames is not None and last > n_frames:
        raise MotFileError(f"{path}: has a box in frame {last}, but the sequence ends with frame {n_frames}")


def _table(values: FloatArray) -> BoxTable:
    return BoxTable(values[:, 0].astype(np.int64), values[:, 1].astype(np.int64), ltwh_to_xyxy(values[:, 2:6]))


def _read_numbers(path: Path, check: _LineCheck) -> FloatArray:
    """(R, C) with C >= 6; every row is valid, but may lack area. Only a malformed file is read line by line, for the
    message.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise MotFileError(f"{path}: cannot be read: {reason}") from error
    if not text.strip():
        return np.zeros((0, 6))
    try:
        values = np.loadtxt(io.StringIO(text), delimiter="," if "," in text else None, ndmin=2, comments=None)
    except ValueError:
        values = np.zeros((0, 0))
    if not _valid(values) or (check is _check_truth_line and not _valid_truth(values)):
        values = _read_lines(path, text, check)
    empty = int((values[:, 4:6] <= 0).any(axis=1).sum())
    if empty:
        _log.warning("%s: %d of %d boxes have no area; they overlap nothing", path, empty, len(values))
    return values


def _valid(values: FloatArray) -> bool:
    """Whether all rows pass `_check_line`."""
    if not 6 <= values.shape[1] <= MAX_COLUMNS or not np.isfinite(values).all():
        return False
    whole = (values[:, :2] == np.rint(values[:, :2])).all() and np.abs(values[:, :2]).max() < 2**53
    keys = np.unique(values[:, :2], axis=0)
    framed = (values[:, 0] >= 1).all() and (values[:, 0] <= MAX_FRAME).all()
    sized = (np.abs(values[:, 2:6]) <= MAX_PX).all()
    return bool(whole and framed and sized and len(keys) == len(values))


def _valid_truth(values: FloatArray) -> bool:
    return values.shape[1] >= 7 and (values.shape[1] not in (8, 9) or bool(np.isin(values[:, 7], CLASSES).all()))


def _read_lines(path: Path, text: str, check: _LineCheck) -> FloatArray:
    """The same numbers line by line; raises MotFileError at the first malformed line."""
    rows: list[list[float]] = []
    first_line: dict[tuple[float, float], int] = {}
    for number, line in enumerate(io.StringIO(text), start=1):  # splitlines() would also break at form feeds
        if not line.strip():
            continue
        fields = fields_of(line)
        try:
            row = [float(field) for field in fields]
        except ValueError:
            wrong = next(field for field in fields if not _is_number(field))
            raise MotFileError(f"{path}:{number}: {wrong.strip()!r} is not a number") from None
        problem = check(row)
        if problem is None and rows and len(row) != len(rows[0]):
            problem = f"{len(row)} columns, but {len(rows[0])} in the lines before"
        key = (row[0], row[1]) if len(row) > 1 else (0.0, 0.0)
        if problem is None and key in first_line:
            problem = f"frame {key[0]:.0f} has id {key[1]:.0f} twice, first in line {first_line[key]}"
        if problem is not None:
            raise MotFileError(f"{path}:{number}: {problem}")
        first_line[key] = number
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def fields_of(line: str) -> list[str]:
    """The columns of a line; [] for an empty one. The last comma may have nothing behind it."""
    return line.strip().rstrip(",").split(",") if "," in line else line.split()


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _check_line(row: list[float]) -> str | None:
    """What is wrong with a line, or None."""
    if not 6 <= len(row) <= MAX_COLUMNS:
        return f"{len(row)} columns; expected frame, id, left, top, width, height and at most {MAX_COLUMNS - 6} more"
    if not np.isfinite(row).all():
        return "a value that is not finite"
    if row[0] != int(row[0]) or not 1 <= row[0] <= MAX_FRAME:
        return f"frame must be a whole number from 1 to {MAX_FRAME}, got {row[0]:g}"
    if row[1] != int(row[1]) or abs(row[1]) >= 2**53:
        return f"id must be a whole number, got {row[1]:g}"
    if max(map(abs, row[2:6])) > MAX_PX:
        return f"left, top, width and height are pixels, {MAX_PX:g} at most, got {max(row[2:6], key=abs):g}"
    return None


def _check_truth_line(row: list[float]) -> str | None:
    problem = _check_line(row)
    if problem is not None:
        return problem
    if len(row) < 7:
        return f"{len(row)} columns; ground truth needs at least 7"
    if len(row) in (8, 9) and row[7] not in CLASSES:
        return f"class must be a whole number from {CLASSES[0]} to {CLASSES[-1]}, got {row[7]:g}"
    return None
