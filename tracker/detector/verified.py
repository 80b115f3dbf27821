"""Boxes of a file, verified by a detector that looks at the same frames: the evidence of both is added up.

References: Real-time Multiple People Tracking with Deeply Learned Candidate Selection and Person Re-Identification
(Chen et al., 2018), https://arxiv.org/abs/1809.04427, rescores incoming boxes with a classifier of its own. The mean
box is that of weighted boxes fusion (Solovyev et al., 2021), https://arxiv.org/abs/1910.13302.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker import boxes as bx
from tracker.detector.base import Detector, DetectorBase, with_defaults
from tracker.types import BoolArray, Detections, FloatArray, Frame

MIN_IOU = 0.5  # of two boxes around the same person, as in the scores of MOTChallenge
MISSED = 0.25  # probability of a person that one of the detectors gives to a box that it does not report
_SURE = 0.02  # scores count as at least this far from 0 and 1: no detector is surer


class VerifiedDetections(DetectorBase):
    """The boxes of one detector, as a rule a replayed file, verified by another one.

    Deterministic, and without memory from frame to frame. verifier: also looks at windows around missed people.
    """

    def __init__(self, given: Detector | DetectorBase, verifier: Detector | DetectorBase) -> None:
        self._given, self.verifier = with_defaults(given), with_defaults(verifier)
        self.name, self.path, self.last_frame = self._given.name, self._given.path, self._given.last_frame
        self.class_names, self.provider = self._given.class_names, self.verifier.provider
        self.note = self._given.note
        self.second_look, self.n_at_once = self.verifier, self.verifier.n_at_once

    def detect(self, frame: Frame) -> Detections:
        return pool(self._given.detect(frame), self.verifier.detect(frame))


def pool(given: Detections, seen: Detections, people: BoolArray | None = None) -> Detections:
    """The given boxes, then the others that were seen, with the belief of both detectors as scores.

    Scores are taken for probabilities, and the evidence of the detectors for independent, so that log odds add up:
    logit p = logit p_given + logit p_seen, with MISSED for what a detector does not report. The place of a box that
    both report is their mean, weighted by score. Boxes are paired one to one for the largest sum of IoU. given, seen:
    (N,) and (M,) boxes of one frame, without embeddings; row i of the result is row i of `given`. people (N,): which of
    the given boxes the other detector may have seen, None: all. Impossible boxes among those seen are left out.
    """
    people = np.full(len(given), True) if people is None else people
    seen = seen.take(bx.valid(seen.boxes) & np.isfinite(seen.scores))
    iou = bx.iou(given.boxes, seen.boxes)
    iou[~people] = 0.0
    i, j = linear_sum_assignment(-np.where(iou >= MIN_IOU, iou, 0.0))
    paired = iou[i, j] >= MIN_IOU
    i, j = i[paired], j[paired]
    other = np.full(len(given), MISSED)  # what the detector gives to each of the given boxes
    other[i] = seen.scores[j]
    boxes = given.boxes.copy()
    share = seen.scores[j] / np.maximum(given.scores[i] + seen.scores[j], 1e-9)
    boxes[i] += share[:, None] * (seen.boxes[j] - boxes[i])
    alone = np.ones(len(seen), bool)
    alone[j] = False
    log_odds = np.concatenate([_logit(given.scores) + _logit(other), _logit(seen.scores[alone]) + _logit(MISSED)])
    scores = 1.0 / (1.0 + np.exp(-log_odds))
    scores[: len(given)][~people] = given.scores[~people]
    return Detections(
        np.concatenate([boxes, seen.boxes[alone]]),
        scores,
        np.concatenate([given.classes, seen.classes[alone]]),
    )


def _logit(scores: FloatArray | float) -> FloatArray:
    p = np.clip(scores, _SURE, 1.0 - _SURE)
    return np.asarray(np.log(p / (1.0 - p)))
