"""A table for pandas, R and spreadsheets: one line per box under a header."""

from __future__ import annotations

from tracker.sinks.base import plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, Tracks


class CsvSink(FrameFileSink):
    """frame from 1; time_s seconds from the start of the source; x1, y1, x2, y2 pixels from 0, x right, y down.

    source is a word: detected, proposed (found by use C where the detector missed), occluded or predicted. A frame's
    lines are on disk as soon as it is written.
    """

    HEAD = b"frame,time_s,id,x1,y1,x2,y2,score,class,source\n"

    def write(self, frame: Frame, tracks: Tracks) -> None:
        lines = [
            f"{frame.index + 1},{frame.time_s:.6f},{row.id},"
            + ",".join(f"{edge:.2f}" for edge in row.xyxy)
            + f",{row.score:.4f},{row.class_id},{row.source}\n"
            for row in plain_rows(tracks)
        ]
        if lines:
            self._file.append("".join(lines).encode("ascii"), frame.index)
