"""JSON lines: one line per frame, also for a frame without people, to read while it grows."""

from __future__ import annotations

import json
from pathlib import Path

from tracker.analytics.ground import GroundPlane
from tracker.sinks.base import GROUND_COLUMNS, plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, State, Tracks


class JsonLinesSink(FrameFileSink):
    """{"frame": 1, "time_s": 0.0, "tracks": [{"id", "xyxy", "score", "class", "source"}, ...]}; units as in the CSV.

    With a ground plane also "gx" and "gy", null where the floor is not known. resume: see `FrameFile`.
    """

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        resume: State | None = None,
        *,
        ground: GroundPlane | None = None,
    ) -> None:
        super().__init__(path, overwrite, resume)
        self._ground = ground

    def write(self, frame: Frame, tracks: Tracks) -> None:
        people = [
            {"id": row.id, "xyxy": row.xyxy, "score": row.score, "class": row.class_id, "source": row.source}
            | ({} if self._ground is None else dict(zip(GROUND_COLUMNS, row.ground, strict=True)))
            for row in plain_rows(tracks, self._ground)
        ]
        line = {"frame": frame.index + 1, "time_s": round(frame.time_s, 6), "tracks": people}
        self._file.append((json.dumps(line, separators=(",", ":")) + "\n").encode("ascii"), frame.index)
