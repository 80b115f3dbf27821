"""Use C, the prior: places where a missed track may be (docs/method.md, 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.types import BoolArray, FloatArray, IntArray

MAX_OUTSIDE = 0.3  # share of a place that may lie outside the image


@dataclass(frozen=True, slots=True)
class Candidates:
    """C places to compare."""

    track: IntArray  # (C,) row of the track
    boxes: FloatArray  # (C, 4) xyxy
    log_prior: FloatArray  # (C,) -1/2 (b - y)' S^-1 (b - y), 0 at the predicted box

    def __len__(self) -> int:
        return len(self.track)

    def take(self, rows: IntArray | BoolArray) -> Candidates:
        return Candidates(self.track[rows], self.boxes[rows], self.log_prior[rows])

    @staticmethod
    def none() -> Candidates:
        return Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


def inside(boxes: FloatArray, width: int, height: int) -> BoolArray:
    """(C,) boxes (C, 4) with an area, and not too far outside the image."""
    within = bx.area(bx.clip(boxes, width, height)) >= (1 - MAX_OUTSIDE) * bx.area(boxes)
    return np.asarray(bx.valid(boxes) & within)
