"""A table for pandas, R and spreadsheets: one line per box under a header."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from tracker.sinks.base import COLUMNS, class_name, plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, State, Tracks


class CsvSink(FrameFileSink):
    """frame from 1; time_s seconds from the start of the source; x1, y1, x2, y2 pixels from 0, x right, y down.

    source is a word: detected, proposed (found by use C where the detector missed), occluded, predicted or
    interpolated. class_name is UTF-8. A frame's lines are on disk as soon as it is written.

    class_names: by class number; 0 is a person unless it says otherwise. resume: see `FrameFile`.
    """

    HEAD = (",".join(COLUMNS) + "\n").encode()

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        resume: State | None = None,
        *,
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(path, overwrite, resume)
        self._names = class_names or {}

    def write(self, frame: Frame, tracks: Tracks) -> None:
        lines = [
            f"{frame.index + 1},{frame.time_s:.6f},{row.id},"
            + ",".join(f"{edge:.2f}" for edge in row.xyxy)
            + f",{row.score:.4f},{row.class_id},{row.source},{_cell(class_name(row.class_id, self._names))}\n"
            for row in plain_rows(tracks)
        ]
        if lines:
            self._file.append("".join(lines).encode(), frame.index)


def _cell(text: str) -> str:
    """Text as one cell of one line, in quotes where it has commas or quotes."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([" ".join(text.split())])
    return stream.getvalue()
