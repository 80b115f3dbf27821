"""Score filter and non-maximum suppression: the detections of a frame that the tracker uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.association.pairs import Overlaps, find_overlaps
from tracker.association.scene import places_of
from tracker.classes import Classes
from tracker.config import DetectionConfig
from tracker.types import BoolArray, Detections, FeatureArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class FrameDetections:
    """The N detections of one frame that count, by descending score."""

    boxes: FloatArray  # (N, 4) xyxy, pixels of the frame
    places: FloatArray  # (N, 3) of the boxes, see `places_of`
    scores: FloatArray  # (N,) in [weak_score, 1]
    classes: IntArray  # (N,) class number of the detector
    group: IntArray  # (N,) of the class, see `Classes`
    features: FeatureArray | None  # (N, D) unit rows, zeros for low scores; None where nothing was embedded
    embedded: BoolArray  # (N,) features are not zero: the crop was not empty
    row: IntArray  # (N,) row in the detector's output
    high: BoolArray  # (N,) score of at least strong_score: may create tracks
    embeddable: BoolArray  # (N,) appearance tells objects of this class apart; those of high scores are embedded
    reused: BoolArray  # (N,) the embedding is the latest one of a track, not computed in this frame

    def __len__(self) -> int:
        return len(self.boxes)


def select(
    detections: Detections,
    predicted: FloatArray,
    config: DetectionConfig,
    classes: Classes,
    all_pairs: bool = False,
) -> tuple[FrameDetections, Overlaps]:
    """Detections with at least `weak_score` after greedy non-maximum suppression at `nms_iou`, group by group.

    They are ordered by score and box, so that the order of the input changes nothing. Also returns their overlaps with
    the boxes of the tracks, predicted (T, 4), see `find_overlaps`.
    """
    usable = (detections.scores >= config.weak_score).nonzero()[0]
    row = usable[bx.by_score(detections.boxes.take(usable, axis=0), detections.scores[usable])]
    boxes, class_id = detections.boxes.take(row, axis=0), detections.classes[row]
    group = classes.group(class_id)
    overlaps = find_overlaps(predicted, boxes, all_pairs)
    i, j, iou = overlaps.among_detections
    kept = bx.suppress(len(row), i, j, (iou > config.nms_iou) & (group[i] == group[j]))
    if not kept.all():
        row, boxes, class_id, group = row[kept], boxes[kept], class_id[kept], group[kept]
        overlaps = overlaps.keep_detections(kept)
    scores = detections.scores[row]
    features = None if detections.features is None else detections.features.take(row, axis=0)
    dets = FrameDetections(
        boxes=boxes,
        places=places_of(boxes),
        scores=scores,
        classes=class_id,
        group=group,
        features=features,
        embedded=np.zeros(len(row), bool) if features is None else np.asarray(features.any(axis=1)),
        row=row,
        high=scores >= config.strong_score,
        embeddable=classes.embedded(group),
        reused=np.zeros(len(row), bool),
    )
    return dets, overlaps
