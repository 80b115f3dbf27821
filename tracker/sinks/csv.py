"""A table for pandas, R and spreadsheets: one line per box under a header."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from tracker.analytics.ground import GroundPlane
from tracker.sinks.base import COLUMNS, GROUND_COLUMNS, class_name, plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, State, Tracks


class CsvSink(FrameFileSink):
    """frame from 1; time_s seconds from the start of the source; x1, y1, x2, y2 pixels from 0, x right, y down.

    source is a word: detected, proposed (found by use C where the detector missed), occluded, predicted or
    interpolated. class_name is UTF-8. A frame's lines are on disk as soon as it is written.

    With a ground plane gx, gy are metres on the floor, empty where that is not known.

    class_names: by class number; 0 is a person unless it says otherwise. resume: see `FrameFile`.
    """

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        resume: State | None = None,
        *,
        class_names: Mapping[int, str] | None = None,
        ground: GroundPlane | None = None,
    ) -> None:
        self.HEAD = (",".join([*COLUMNS, *(GROUND_COLUMNS if ground else ())]) + "\n").encode()
        super().__init__(path, overwrite, resume)
        self._names, self._ground = class_names or {}, ground

    def write(self, frame: Frame, tracks: Tracks) -> None:
        lines = [
            f"{frame.index + 1},{frame.time_s:.6f},{row.id},"
            + ",".join(f"{edge:.2f}" for edge in row.xyxy)
            + f",{row.score:.4f},{row.class_id},{row.source},{_cell(class_name(row.class_id, self._names))}"
            + ("" if self._ground is None else "".join("," if m is None else f",{m:.3f}" for m in row.ground))
            + "\n"
            for row in plain_rows(tracks, self._ground)
        ]
        if lines:
            self._file.append("".join(lines).encode(), frame.index)


def _cell(text: str) -> str:
    """Text as one cell of one line, in quotes where it has commas or quotes."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([" ".join(text.split())])
    return stream.getvalue()
