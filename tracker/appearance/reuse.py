"""Which detections need no new embedding, because motion alone identifies them.

The network takes most of the time of a frame, and most people walk alone: one detection lies on one prediction, and no
other box is near. Appearance cannot change the match of such a pair, so the latest embedding of the track is reused,
for `appearance.refresh_s` at most. Everything else is embedded: new tracks, tracks that were not detected in the frame
before, boxes near others, and detections off the prediction.
"""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.types import BoolArray, FloatArray, IntArray

PLAIN_IOU = 0.6  # least IoU of the detection with the prediction
# IoU with another prediction, or of the prediction with another detection, that is too near. With 0.02 and a refresh_s
# of 0.15 IDF1 falls by 2 on one of eleven runs (docs/results.md).
NEAR_IOU = 0.1


def reusable(predicted: FloatArray, boxes: FloatArray, settled: BoolArray) -> IntArray:
    """(N,) row of the settled track that alone can match the detection; -1: there is none.

    predicted (T, 4) xyxy of all tracks that motion may match, boxes (N, 4) of all detections, settled (T,): the gallery
    is large enough, and the last embedding recent enough. A pair has an IoU of at least PLAIN_IOU, and no other
    prediction or detection has NEAR_IOU with either of them.
    """
    if not settled.any() or len(boxes) == 0:
        return np.full(len(boxes), -1, np.int64)
    iou = bx.iou(predicted, boxes)
    near = iou >= NEAR_IOU
    alone = near & (near.sum(axis=1) == 1)[:, None] & (near.sum(axis=0) == 1)[None]
    sure = alone & settled[:, None] & (iou >= PLAIN_IOU)
    return np.where(sure.any(axis=0), sure.argmax(axis=0), -1)
