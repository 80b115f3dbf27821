"""Tracks and detections that may belong together, pair by pair instead of as a table of all."""

from __future__ import annotations

from dataclasses import dataclass

from tracker import boxes as bx
from tracker.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Pairs:
    """One row a pair: ascending by track, then by detection."""

    track: IntArray  # (P,) row of the track
    detection: IntArray  # (P,) row of the detection
    iou: FloatArray  # (P,) of its box and the one predicted for the track

    def __len__(self) -> int:
        return len(self.track)

    def keep(self, rows: IntArray | BoolArray) -> Pairs:
        return Pairs(self.track[rows], self.detection[rows], self.iou[rows])

    def among(self, tracks: BoolArray, detections: BoolArray, min_iou: float) -> Pairs:
        """Pairs of those tracks (T,) and detections (N,) that overlap so much."""
        return self.keep(tracks[self.track] & detections[self.detection] & (self.iou >= min_iou))

    def within(self, tracks: BoolArray, detections: BoolArray) -> Pairs:
        """Pairs of those tracks (T,) and detections (N,), with the numbers that their rows have among those."""
        pairs = self.among(tracks, detections, 0.0)
        return Pairs((tracks.cumsum() - 1)[pairs.track], (detections.cumsum() - 1)[pairs.detection], pairs.iou)

    @staticmethod
    def of(predicted: FloatArray, detected: FloatArray, track: IntArray, detection: IntArray) -> Pairs:
        """Pairs of boxes predicted (T, 4) and detected (N, 4): their rows (P,), ascending by both."""
        return Pairs(track, detection, bx.paired_iou(predicted[track], detected[detection]))
