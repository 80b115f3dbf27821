"""Matches of a frame from the detection of each track."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tracker.stages.associate import Matches


def matches_of(detection: ArrayLike, n_detections: int) -> Matches:
    """detection (T,): row of the detection of each track, -1: none."""
    detection = np.asarray(detection, np.int64).reshape(-1)
    of_track = {int(row): track for track, row in enumerate(detection)}
    track = np.array([of_track.get(row, -1) for row in range(n_detections)], np.int64)
    return Matches(detection, track, np.zeros(len(detection), bool), np.full(len(detection), -1))
