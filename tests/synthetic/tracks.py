"""Tracks and grey frames for tests of sinks."""

from __future__ import annotations

import numpy as np

from tracker.types import Frame, Tracks


def tracks_of(ids, boxes, sources=None, classes=None) -> Tracks:
    n = len(ids)
    sources = np.zeros(n, np.uint8) if sources is None else np.array(sources, np.uint8)
    classes = np.zeros(n, np.int64) if classes is None else np.array(classes, np.int64)
    return Tracks(
        np.array(boxes, float).reshape(n, 4), np.array(ids, np.int64), np.full(n, 0.5), classes, np.arange(n), sources
    )


def frame_of(index: int, image: bool = True) -> Frame:
    return Frame(index, index / 10, np.full((120, 160, 3), 90, np.uint8) if image else None, 160, 120)
