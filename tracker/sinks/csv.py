"""A table for pandas, R and spreadsheets: one line per box under a header."""

from __future__ import annotations

from pathlib import Path

from tracker.sinks.base import ClosedByWith
from tracker.sinks.frame_file import FrameFile
from tracker.sinks.rows import plain_rows
from tracker.types import Frame, State, Tracks

HEADER = "frame,time_s,id,x1,y1,x2,y2,score,class,source\n"


class CsvSink(ClosedByWith):
    """frame from 1; time_s seconds from the start of the source; x1, y1, x2, y2 pixels from 0, x right, y down.

    source is a word: detected, proposed (C found whom the detector missed), occluded or predicted. A frame's lines are
    on disk as soon as it is written.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, resume: State | None = None) -> None:
        self._file = FrameFile(path, overwrite, resume=resume)
        if resume is None:
            self._file.begin(HEADER.encode("ascii"))

    def write(self, frame: Frame, tracks: Tracks) -> None:
        lines = [
            f"{frame.index + 1},{frame.time_s:.6f},{row.id},"
            + ",".join(f"{edge:.2f}" for edge in row.xyxy)
            + f",{row.score:.4f},{row.class_id},{row.source}\n"
            for row in plain_rows(tracks)
        ]
        if lines:
            self._file.append("".join(lines).encode("ascii"), frame.index)

    def state(self) -> State | None:
        return self._file.state()

    def close(self) -> None:
        self._file.close()
