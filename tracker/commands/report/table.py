"""Read results of `track`: MOT text, CSV, JSON lines, SQLite or Parquet."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.errors import TrackletError
from tracker.eval.mot_files import read_results
from tracker.sinks.base import GROUND_COLUMNS
from tracker.sinks.parquet import check_pyarrow
from tracker.types import BoolArray, FloatArray, IntArray, Source, Tracks

KINDS = {source.name.lower(): int(source) for source in Source}
CSV_COLUMNS = ("frame", "time_s", "id", "x1", "y1", "x2", "y2", "score", "source")
LARGEST = 1e9  # of any number in a result; sums of larger ones overflow


class TableError(TrackletError):
    """A result file that is missing or malformed; names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class TrackTable:
    """All boxes of a result, one row each, sorted by frame and identity."""

    frame: IntArray  # (R,) from 0
    time_s: FloatArray | None  # (R,) seconds since the start of the source; None: the format has no times
    id: IntArray  # (R,)
    boxes: FloatArray  # (R, 4) xyxy, pixels of the source frame, from 0
    score: FloatArray  # (R,) in [0, 1]
    source: NDArray[np.uint8]  # (R,) values of `Source`
    has_sources: bool  # False: the format does not say where boxes come from
    metres: FloatArray | None = None  # (R, 2) on the floor, NaN where not known; None: the run had no ground plane

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: BoolArray | IntArray) -> TrackTable:
        """The selected rows."""
        time_s = None if self.time_s is None else self.time_s[rows]
        metres = None if self.metres is None else self.metres[rows]
        return TrackTable(
            self.frame[rows], time_s, self.id[rows], self.boxes[rows], self.score[rows], self.source[rows],
            self.has_sources, metres,
        )  # fmt: skip

    def timed(self, fps: float) -> TrackTable:
        """The table with a time for every row: the one it has, or that of its frame at `fps` frames per second."""
        if self.time_s is not None:
            return self
        return replace(self, time_s=self.frame / fps)

    def of_frames(self) -> Mapping[int, Tracks]:
        """Frame (from 0) -> its tracks, for frames that have tracks."""
        starts = np.flatnonzero(np.diff(self.frame, prepend=-1))
        return {
            int(self.frame[start]): self._tracks(slice(start, end))
            for start, end in zip(starts, [*starts[1:], len(self)], strict=True)
        }

    def _tracks(self, rows: slice) -> Tracks:
        n = len(self.id[rows])
        return Tracks(
            self.boxes[rows], self.id[rows], self.score[rows], np.zeros(n, np.int64), np.full(n, -1), self.source[rows]
        )


def read_table(path: str | Path, run: int | None = None) -> TrackTable:
    """Read .csv, .jsonl, .db, .parquet, or MOT text (any other ending).

    run: of a database that has several. Raises TableError, or MotFileError for MOT text.
    """
    path = Path(path)
    ending = path.suffix.lower()
    readers: dict[str, Callable[[Path], TrackTable]] = {
        ".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet,
    }  # fmt: skip
    if ending == ".json":
        raise TableError(f"{path}: COCO JSON has no sources of boxes; give the .csv, .jsonl or .txt of the same run")
    if run is not None and ending != ".db":
        raise TableError(f"{path}: holds one run; a run is chosen (--run) in a .db")
    table = _read_database(path, run) if ending == ".db" else readers.get(ending, _read_mot)(path)
    return table.take(np.lexsort((table.id, table.frame)))


def _read_mot(path: Path) -> TrackTable:
    found = read_results(path)
    n = len(found)
    return TrackTable(
        found.frame - 1, None, found.id, found.boxes - 1.0, np.ones(n), np.full(n, Source.DETECTED, np.uint8), False
    )


def _read_csv(path: Path) -> TrackTable:
    reader = csv.DictReader(io.StringIO(_text(path)))
    try:
        missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]
        if not missing:
            return _of_rows(path, ((number, row) for number, row in enumerate(reader, start=2)))
    except csv.Error as error:
        raise TableError(f"{path}: line {reader.line_num} is malformed: {error}") from error
    raise TableError(f"{path}: the header lacks {', '.join(missing)}; a table of `track --out FILE.csv` has them")


def _read_json_lines(path: Path) -> TrackTable:
    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(io.StringIO(_text(path)), start=1):
            try:
                frame = json.loads(line)
                for person in frame["tracks"]:
                    edges = dict(zip(("x1", "y1", "x2", "y2"), person["xyxy"], strict=True))
                    yield number, {**person, **edges, "frame": frame["frame"], "time_s": frame["time_s"]}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise TableError(f"{path}: line {number} is not a frame of tracks: {error!r}") from error

    return _of_rows(path, rows())


def _read_database(path: Path, run: int | None) -> TrackTable:
    if not path.is_file():
        raise TableError(f"{path}: cannot be read: there is no such file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            runs = dict(database.execute("SELECT run, source FROM runs ORDER BY run"))
            if (run is None and len(runs) != 1) or (run is not None and run not in runs):
                listed = "; ".join(f"{number} of {source}" for number, source in runs.items()) or "none"
                raise TableError(f"{path}: choose one of its runs with --run; there are: {listed}")
            database.row_factory = sqlite3.Row
            names = ", ".join([*CSV_COLUMNS, *GROUND_COLUMNS])
            found = database.execute(f"SELECT {names} FROM tracks WHERE run = ?", (run or next(iter(runs)),))
            return _of_rows(path, enumerate(map(dict, found), start=1))
    except sqlite3.Error as error:
        raise TableError(f"{path}: is no database of `track --out FILE.db`: {error}") from error


def _read_parquet(path: Path) -> TrackTable:
    check_pyarrow(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        missing = [name for name in CSV_COLUMNS if name not in there]
        if not missing:
            names = [*CSV_COLUMNS, *(name for name in GROUND_COLUMNS if name in there)]
            return _of_rows(path, enumerate(pq.read_table(path, columns=names).to_pylist(), start=1))
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    raise TableError(f"{path}: lacks the columns {', '.join(missing)}; a table of `track --out FILE.parquet` has them")


def _of_rows(path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]]) -> TrackTable:
    numbers: list[list[float]] = []
    for line, row in rows:
        try:
            values = [float(row[name]) for name in CSV_COLUMNS[:-1]]
            kind = KINDS[row["source"]]
            place = [float("nan" if row.get(name) in (None, "") else row[name]) for name in GROUND_COLUMNS]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"{path}: line {line} is not a box: {error!r}") from error
        if not np.isfinite(values).all() or np.isinf(place).any() or values[0] < 1 or values[2] < 1:
            raise TableError(f"{path}: line {line}: frame and id count from 1, and all values must be finite")
        if not max(map(abs, values)) <= LARGEST or values[0] != int(values[0]) or values[2] != int(values[2]):
            raise TableError(f"{path}: line {line}: frame and id must be whole, and no value above {LARGEST:g}")
        numbers.append([*values, kind, *place])
    table = np.array(numbers).reshape(-1, len(CSV_COLUMNS) + len(GROUND_COLUMNS))
    metres = table[:, 9:]
    return TrackTable(
        table[:, 0].astype(np.int64) - 1, table[:, 1], table[:, 2].astype(np.int64), table[:, 3:7], table[:, 7],
        table[:, 8].astype(np.uint8), True, None if np.isnan(metres).all() else metres,
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not text: {error.reason}") from error
