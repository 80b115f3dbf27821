"""Which detections need no look, because motion alone says who they are.

The network is most of the work of a frame, and most people walk alone: their detection lies on their own prediction and
near nobody else's. Whatever such a pair looks like, nothing else could be made of it. So it counts as looking as it did
last time, and is looked at again from time to time. Who is new, found again, near somebody else or off the prediction
is looked at always.
"""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import AppearanceConfig
from tracker.types import BoolArray, FloatArray, IntArray


def plain(predicted: FloatArray, boxes: FloatArray, settled: BoolArray, config: AppearanceConfig) -> IntArray:
    """(N,) row of the settled track on whose prediction each detection lies, nobody else near; -1 where it is not so.

    predicted (T, 4) xyxy of all tracks that motion may match, boxes (N, 4) of all detections, settled (T,): how it
    looks is known, and not due for refresh.
    """
    if not settled.any() or len(boxes) == 0:
        return np.full(len(boxes), -1, np.int64)
    overlap = bx.iou(predicted, boxes)
    near = overlap >= config.near_iou
    alone = near & (near.sum(axis=1) == 1)[:, None] & (near.sum(axis=0) == 1)[None]
    sure = alone & settled[:, None] & (overlap >= config.plain_iou)
    return np.where(sure.any(axis=0), sure.argmax(axis=0), -1)
