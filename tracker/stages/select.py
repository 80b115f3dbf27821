"""Which detections of a frame count."""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import TrackerConfig
from tracker.types import BoolArray, Detections, IntArray


def select(detections: Detections, config: TrackerConfig) -> tuple[Detections, IntArray, BoolArray]:
    """Detections above the weak score after non-maximum suppression, and their rows in what was given.

    They come out by descending score, so that shuffled detections give the same tracks. Also (N,) True for those of
    which another one covers too much to remember how they look.
    """
    usable = (detections.scores >= config.detection.weak_score).nonzero()[0]
    rows = usable[bx.by_score(detections.boxes[usable], detections.scores[usable])]
    boxes = detections.boxes[rows]
    i, j = bx.meeting_among(boxes)
    common, own = bx.paired_intersection(boxes[i], boxes[j]), bx.area(boxes)
    size, other = own[i], own[j]
    kept = bx.best_alone(len(rows), i, j, common / (size + other - common) > config.detection.nms_iou)
    covered, limit = np.zeros(len(rows), bool), config.appearance.max_cover
    both = kept[i] & kept[j]
    covered[i[both & (common / size > limit)]] = True
    covered[j[both & (common / other > limit)]] = True
    rows = rows[kept]
    return detections.take(rows), rows, covered[kept]
