"""Score filter and non-maximum suppression: the detections of a frame that the tracker uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.config import DetectionConfig
from tracker.types import BoolArray, Detections, FeatureArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class FrameDetections:
    """The N detections of one frame that count, by descending score."""

    boxes: FloatArray  # (N, 4) xyxy, pixels of the frame
    scores: FloatArray  # (N,) in [weak_score, 1]
    classes: IntArray  # (N,) class number of the detector
    features: FeatureArray | None  # (N, D) unit rows, zeros for low scores; None where nothing was embedded
    row: IntArray  # (N,) row in the detector's output
    high: BoolArray  # (N,) score of at least strong_score: embedded, re-associated, and may create tracks
    covered: BoolArray  # (N,) another detection covers too much of the box to store its embedding
    reused: BoolArray  # (N,) the embedding is the latest one of a track, not computed in this frame

    def __len__(self) -> int:
        return len(self.boxes)


def select(detections: Detections, config: DetectionConfig, max_cover: float) -> FrameDetections:
    """Detections with at least `weak_score` after greedy non-maximum suppression at `nms_iou`.

    They are ordered by score and box, so that the order of the input changes nothing. max_cover in [0, 1]: a detection
    of which another one covers a larger share is marked as covered.
    """
    usable = (detections.scores >= config.weak_score).nonzero()[0]
    row = usable[bx.by_score(detections.boxes[usable], detections.scores[usable])]
    boxes = detections.boxes[row]
    i, j = bx.overlapping_within(boxes)
    common, area = bx.paired_intersection(boxes[i], boxes[j]), bx.area(boxes)
    area_i, area_j = area[i], area[j]
    kept = bx.suppress(len(row), i, j, common / (area_i + area_j - common) > config.nms_iou)
    covered, both = np.zeros(len(row), bool), kept[i] & kept[j]
    covered[i[both & (common / area_i > max_cover)]] = True
    covered[j[both & (common / area_j > max_cover)]] = True
    row = row[kept]
    scores = detections.scores[row]
    return FrameDetections(
        boxes=boxes[kept],
        scores=scores,
        classes=detections.classes[row],
        features=None if detections.features is None else detections.features[row],
        row=row,
        high=scores >= config.strong_score,
        covered=covered[kept],
        reused=np.zeros(len(row), bool),
    )
