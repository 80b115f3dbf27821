"""Sparse candidate pairs: only boxes that share area, instead of a table of all tracks and detections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of a track and a detection, ascending by track, then by detection."""

    track: IntArray  # (P,) row of the track
    detection: IntArray  # (P,) row of the detection
    iou: FloatArray  # (P,) of the predicted box of the track and the detection

    def __len__(self) -> int:
        return len(self.track)

    def keep(self, rows: IntArray | BoolArray) -> Pairs:
        return Pairs(self.track[rows], self.detection[rows], self.iou[rows])

    def among(self, tracks: BoolArray, detections: BoolArray, min_iou: float) -> Pairs:
        """Pairs of the chosen tracks (T,) and detections (N,) with at least that IoU."""
        return self.keep(tracks[self.track] & detections[self.detection] & (self.iou >= min_iou))

    def within(self, tracks: BoolArray, detections: BoolArray) -> Pairs:
        """Pairs of the chosen tracks (T,) and detections (N,), numbered by their place among the chosen rows."""
        pairs = self.among(tracks, detections, 0.0)
        return Pairs((tracks.cumsum() - 1)[pairs.track], (detections.cumsum() - 1)[pairs.detection], pairs.iou)


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Which boxes of a frame share area."""

    detections: Pairs  # predicted boxes with detections
    tracks: tuple[IntArray, IntArray]  # (Q,) two rows of predicted boxes, each pair once


def find_overlaps(predicted: FloatArray, detected: FloatArray, all_pairs: bool = False) -> Overlaps:
    """Overlaps of predicted boxes (T, 4) with each other and with detections (N, 4), xyxy in the same pixels.

    all_pairs: `Overlaps.detections` also has the pairs that share no area, for association without a minimal IoU.
    """
    i, j = bx.overlapping_within(np.concatenate([predicted, detected]))
    if all_pairs:
        track, detection = np.ones((len(predicted), len(detected)), bool).nonzero()
    else:
        track, detection = bx.across(i, j, len(predicted), len(detected))
    among = j < len(predicted)
    return Overlaps(Pairs(track, detection, bx.paired_iou(predicted[track], detected[detection])), (i[among], j[among]))
