"""Why a track went unmatched: behind whom it is, and whether its prediction is still good enough to stand for it.

A detector does not see who is behind somebody. Such a person needs no second look (there is nothing to see) but
patience: the filter's prediction is put out while it is tight, and the track waits for its person on the other side.
"""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import OcclusionConfig
from tracker.types import BoolArray, FloatArray

SHAPE_MEMORY = 0.2  # weight of the newest height in the running mean and variance of a track's heights


def covered(boxes: FloatArray, front: FloatArray) -> FloatArray:
    """(T,) largest share of each box (T, 4) that one box of `front` (M, 4) hides.

    Only who stands nearer hides: with a level camera and level ground, whose feet are lower in the picture.
    """
    nearer = front[None, :, 3] > boxes[:, None, 3]  # (T, M)
    return np.asarray(np.where(nearer, bx.cover(boxes, front), 0.0).max(axis=1, initial=0.0))


def steady(shape: FloatArray, hits: FloatArray, config: OcclusionConfig) -> BoolArray:
    """(T,) tracks whose boxes kept their height: what half hidden people or a bad detector jolted cannot be foretold.

    shape (T, 2): running mean and variance of the logarithm of the height, see `with_height`.
    """
    return np.asarray((hits >= config.min_hits) & (np.sqrt(shape[:, 1]) <= config.max_jitter))


def tight(mean: FloatArray, cov: FloatArray, config: OcclusionConfig) -> BoolArray:
    """(T,) predictions whose centre is known to within a share of the height: one standard deviation, sideways."""
    return np.asarray(np.sqrt(cov[:, 0, 0]) <= config.max_std * mean[:, 3])


def with_height(shape: FloatArray, height: FloatArray) -> FloatArray:
    """Running mean and variance of log height (T, 2) after one more height (T,), pixels."""
    step = np.log(np.maximum(height, 1.0)) - shape[:, 0]
    return np.stack(
        [
            shape[:, 0] + SHAPE_MEMORY * step,
            (1 - SHAPE_MEMORY) * (shape[:, 1] + SHAPE_MEMORY * step**2),
        ],
        axis=1,
    )
