"""JSON lines: one line per frame, also for a frame without people, to read while it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tracker.analytics.ground import GroundPlane
from tracker.sinks.base import GROUND_COLUMNS, plain_rows
from tracker.sinks.frame_file import FrameFileSink
from tracker.types import Frame, State, Tracks


class JsonLinesSink(FrameFileSink):
    """{"frame": 1, "time_s": 0.0, "tracks": [{"id", "xyxy", "score", "class", "source"}, ...]}; units as in the CSV.

    With a ground plane also "gx" and "gy", null where the floor is not known; of a network for poses also "keypoints",
    [x, y, score] each, null where the person was not detected. resume: see `FrameFile`.
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
        people: list[dict[str, Any]] = [
            {"id": row.id, "xyxy": row.xyxy, "score": row.score, "class": row.class_id, "source": row.source}
            | ({} if self._ground is None else dict(zip(GROUND_COLUMNS, row.ground, strict=True)))
            for row in plain_rows(tracks, self._ground)
        ]
        if tracks.keypoints is not None:
            for person, points in zip(people, _rounded(tracks), strict=True):
                person["keypoints"] = points
        line = {"frame": frame.index + 1, "time_s": round(frame.time_s, 6), "tracks": people}
        self._file.append((json.dumps(line, separators=(",", ":")) + "\n").encode("ascii"), frame.index)


def _rounded(tracks: Tracks) -> list[list[list[float]] | None]:
    """Keypoints of the rows, ids ascending: hundredths of a pixel, scores of four digits; None where there are none."""
    assert tracks.keypoints is not None
    points = tracks.keypoints[np.argsort(tracks.id, kind="stable")]
    points = np.concatenate([np.round(points[:, :, :2], 2), np.round(points[:, :, 2:], 4)], axis=2) + 0.0
    return [None if np.isnan(row).any() else row.tolist() for row in points]
