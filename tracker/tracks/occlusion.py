"""Tracks that were not detected because somebody stands in front of them.

Where a person is hidden there is nothing to look at, so use C cannot help; but we know by whom, and the filter says
where. The prediction is put out while it can be trusted, and a hidden track must not take the detection of whoever
hides it. (An unmatched track that nobody hides is either proposed, after a second look, or not put out at all.)
"""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import OcclusionConfig
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FloatArray, IntArray

HEIGHT_MEMORY = 0.2  # weight of the newest box in the running mean and variance of a track's heights


def covered(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(T,) the largest share of each box (T, 4) that one box of `front` (M, 4) hides, in [0, 1]."""
    return np.asarray(_hiding(boxes, front).max(axis=1, initial=0.0))


def occluder(predicted: FloatArray, visible: BoolArray, config: OcclusionConfig) -> IntArray:
    """(T,) row of the visible track behind which each unseen track probably is, -1 where there is none.

    predicted (T, 4) boxes in this frame; visible (T,): detected in the frame before.
    """
    if len(predicted) == 0:
        return np.zeros(0, np.int64)
    hiding = np.where(visible[None], _hiding(predicted, predicted), 0.0)
    hidden = ~visible & (hiding.max(axis=1) >= config.min_cover)
    return np.where(hidden, hiding.argmax(axis=1), -1)


def stolen(overlap: FloatArray, occluder: IntArray) -> BoolArray:
    """(T, N) pairs of a hidden track and a detection that fits the one who hides it better.

    overlap (T, N): IoU of predictions and detections; occluder (T,) as above. Without this rule a crossing often ends
    with the hidden track on the visible person, and the visible one's identity lost.
    """
    hidden = occluder >= 0
    return np.asarray(hidden[:, None] & (overlap[occluder] > overlap))


def trusted(bank: TrackBank, config: OcclusionConfig) -> BoolArray:
    """(T,) tracks whose prediction may stand for the person: detected often, of steady height, well known in place."""
    steady = np.sqrt(bank.height[:, 1]) <= config.max_jitter
    tight = np.sqrt(bank.cov[:, 0, 0]) <= config.max_std * bank.mean[:, 3]
    return np.asarray((bank.hits >= config.min_hits) & steady & tight)


def first_height(boxes: FloatArray) -> FloatArray:
    """(T, 2) mean and variance of the logarithm of the height of one box (T, 4) each: `TrackBank.height` at birth."""
    return np.stack([_log_height(boxes), np.zeros(len(boxes))], axis=1)


def next_height(height: FloatArray, boxes: FloatArray) -> FloatArray:
    """(T, 2) exponentially weighted mean and variance of log height after one more box (T, 4) each.

    The logarithm, so that it means the same for people near and far. Jumps come from boxes that are cut by an occluder
    or stand for two people, and nothing can be foretold from those.
    """
    step = _log_height(boxes) - height[:, 0]
    mean = height[:, 0] + HEIGHT_MEMORY * step
    variance = (1 - HEIGHT_MEMORY) * (height[:, 1] + HEIGHT_MEMORY * step**2)
    return np.stack([mean, variance], axis=1)


def _hiding(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(T, M) share of each box that each of `front` hides. Only who stands nearer hides: whose feet are lower."""
    nearer = front[None, :, 3] > boxes[:, None, 3]
    return np.where(nearer, bx.cover(boxes, front), 0.0)


def _log_height(boxes: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)))
