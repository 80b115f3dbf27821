"""The log odds that a detection is the person of a track: one number for uses A and B.

log odds = log likelihood ratio of the appearance distance, the same person against different people
         + w (log density of the prediction - log density of newcomers)

The first term is `Scene.log_ratio`. w = `association.motion_weight` is less than 1, because the errors of a detector
are neither normal nor independent from frame to frame. Source: docs/method.md, 2.
"""

from __future__ import annotations

import math

import numpy as np

from tracker.association.scene import Scene
from tracker.types import BoolArray, FloatArray

_LOG_2PI = math.log(2.0 * math.pi)


def log_motion(mean: FloatArray, variance: FloatArray, places: FloatArray) -> FloatArray:
    """Log density of detections given predictions, per square pixel and unit of log height.

    mean (..., >= 4) predicted [cx, cy, a, h], variance (..., 4) the diagonal of S, places (..., 3) from `places_of`.
    The leading dimensions are broadcast: (T, 1) and (1, N) give (T, N).
    """
    height = np.maximum(mean[..., 3], 1.0)
    of_log_height = variance[..., 3] / height**2
    square = np.log(of_log_height) + (places[..., 2] - np.log(height)) ** 2 / of_log_height
    for k in range(2):
        square = square + np.log(variance[..., k]) + (places[..., k] - mean[..., k]) ** 2 / variance[..., k]
    return np.asarray(-0.5 * (square + 3.0 * _LOG_2PI))


def log_odds(
    scene: Scene, dist: FloatArray, known: BoolArray, motion: FloatArray, newcomers: FloatArray, motion_weight: float
) -> FloatArray:
    """Log odds of each pair, from arrays of one shape, or broadcast to it.

    dist: cosine distance of the detection to the mean embedding of the track; known: the track has one, else appearance
    says nothing; motion from `log_motion`, newcomers from `Scene.log_newcomers`.
    """
    return np.where(known, scene.log_ratio(dist), 0.0) + motion_weight * (motion - newcomers)


def posterior(odds: FloatArray) -> FloatArray:
    """(T, N) probability that detection j is track i, given that it is one of the T tracks or a newcomer.

    odds (T, N): log odds of each track against a newcomer.
    """
    most = np.maximum(odds.max(axis=0, initial=0.0), 0.0)
    weight = np.exp(odds - most)
    return np.asarray(weight / (weight.sum(axis=0) + np.exp(-most)))
