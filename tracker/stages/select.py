"""Score filter and non-maximum suppression: the detections of a frame that the tracker uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.classes import Classes
from tracker.config import DetectionConfig
from tracker.types import BoolArray, Detections, FeatureArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class FrameDetections:
    """The N detections of one frame that count, by descending score."""

    boxes: FloatArray  # (N, 4) xyxy, pixels of the frame
    scores: FloatArray  # (N,) in [weak_score, 1]
    classes: IntArray  # (N,) class number of the detector
    group: IntArray  # (N,) of the class, see `Classes`
    features: FeatureArray | None  # (N, D) unit rows, zeros for low scores; None where nothing was embedded
    row: IntArray  # (N,) row in the detector's output
    high: BoolArray  # (N,) score of at least strong_score: may create tracks
    embeddable: BoolArray  # (N,) appearance tells objects of this class apart; those of high scores are embedded
    reused: BoolArray  # (N,) the embedding is the latest one of a track, not computed in this frame

    def __len__(self) -> int:
        return len(self.boxes)


def select(detections: Detections, config: DetectionConfig, classes: Classes) -> FrameDetections:
    """Detections with at least `weak_score` after greedy non-maximum suppression at `nms_iou`, group by group.

    They are ordered by score and box, so that the order of the input changes nothing.
    """
    usable = (detections.scores >= config.weak_score).nonzero()[0]
    row = usable[bx.by_score(detections.boxes[usable], detections.scores[usable])]
    boxes = detections.boxes[row]
    group = classes.group(detections.classes[row])
    i, j = bx.overlapping_within(boxes)
    kept = bx.suppress(len(row), i, j, (bx.paired_iou(boxes[i], boxes[j]) > config.nms_iou) & (group[i] == group[j]))
    row, group = row[kept], group[kept]
    scores = detections.scores[row]
    return FrameDetections(
        boxes=boxes[kept],
        scores=scores,
        classes=detections.classes[row],
        group=group,
        features=None if detections.features is None else detections.features[row],
        row=row,
        high=scores >= config.strong_score,
        embeddable=classes.embedded(group),
        reused=np.zeros(len(row), bool),
    )
