"""JSON lines: one line per frame, also for a frame without people, to read while it grows."""

from __future__ import annotations

import json

from tracker.sinks.base import plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, Tracks


class JsonLinesSink(FrameFileSink):
    """{"frame": 1, "time_s": 0.0, "tracks": [{"id", "xyxy", "score", "class", "source"}, ...]}; units as in the CSV."""

    def write(self, frame: Frame, tracks: Tracks) -> None:
        people = [
            {"id": row.id, "xyxy": row.xyxy, "score": row.score, "class": row.class_id, "source": row.source}
            for row in plain_rows(tracks)
        ]
        line = {"frame": frame.index + 1, "time_s": round(frame.time_s, 6), "tracks": people}
        self._file.append((json.dumps(line, separators=(",", ":")) + "\n").encode("ascii"), frame.index)
