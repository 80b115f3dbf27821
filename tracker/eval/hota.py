"""HOTA: detection and association in one number, at 19 localisation thresholds.

J. Luiten, A. Osep, P. Dendorfer, P. Torr, A. Geiger, L. Leal-Taixe, B. Leibe, "HOTA: A Higher Order Metric for
Evaluating Multi-Object Tracking", IJCV 2021, https://arxiv.org/abs/2009.07736

What we take; c is a true positive at the threshold alpha, a pair of a person p and an identity i in one frame:
    DetA(alpha) = |TP| / (|TP| + |FN| + |FP|)
    A(c)        = |TPA(c)| / (|TPA(c)| + |FNA(c)| + |FPA(c)|), all boxes of p and of i over the whole sequence: TPA
                  where they are a true positive together, FNA the other boxes of p, FPA the other boxes of i
    AssA(alpha) = mean of A(c) over the true positives
    HOTA(alpha) = sqrt(DetA(alpha) AssA(alpha))
    HOTA, DetA, AssA = means over alpha = 0.05, 0.10 .. 0.95
Where the paper leaves a choice, we choose as TrackEval 1.3.0 does, the program that MOTChallenge scores with:
    1. The pairs of a frame are matched once for all alpha: the one-to-one map with the largest sum of
       IoU x alignment(p, i); those of at least alpha are its true positives.
    2. alignment(p, i) = S / (boxes of p + boxes of i - S), S the sum over frames of IoU(p, i) divided by
       (all IoU of p + all IoU of i in the frame - IoU(p, i)): a Jaccard index over the sequence, before any matching.
    3. Several sequences: |TP|, |FN|, |FP| and the sum of A(c) are added at every alpha, then the formulas above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.eval.mot_files import BoxTable
from tracker.eval.overlap import SLACK, SequenceOverlap, compare
from tracker.types import FloatArray, IntArray

ALPHAS = 0.05 + 0.05 * np.arange(19)


@dataclass(frozen=True, slots=True, eq=False)
class HotaScores:
    """Counts at every alpha, each (19,); they can be added."""

    true_positives: FloatArray
    misses: FloatArray
    false_positives: FloatArray
    association: FloatArray  # sum of A(c) over the true positives

    @property
    def deta_at(self) -> FloatArray:
        """(19,) in [0, 1]."""
        return self.true_positives / np.maximum(self.true_positives + self.misses + self.false_positives, 1)

    @property
    def assa_at(self) -> FloatArray:
        """(19,) in [0, 1]; 0 where nothing is found."""
        return self.association / np.maximum(self.true_positives, 1)

    @property
    def hota_at(self) -> FloatArray:
        """(19,) in [0, 1]."""
        return np.asarray(np.sqrt(self.deta_at * self.assa_at))

    @property
    def deta(self) -> float:
        return float(self.deta_at.mean())

    @property
    def assa(self) -> float:
        return float(self.assa_at.mean())

    @property
    def hota(self) -> float:
        return float(self.hota_at.mean())


def evaluate(truth: BoxTable, results: BoxTable) -> HotaScores:
    """Scores of one sequence: the ground truth that counts against the results, both after `preprocess.prepare`."""
    sequence = compare(truth, results)
    pair, overlap = _matches(sequence)
    hit = overlap >= ALPHAS[:, None] - SLACK  # (19, K)
    found = hit.sum(axis=1).astype(np.float64)
    codes, number = np.unique(pair, return_inverse=True)
    together = np.array([np.bincount(number[row], minlength=len(codes)) for row in hit])  # (19, pairs): |TPA|
    person, identity = np.divmod(codes, max(len(sequence.identity_boxes), 1))
    either = sequence.people_boxes[person] + sequence.identity_boxes[identity] - together
    # Each of the |TPA| true positives of a pair has the same A(c).
    association = (together * (together / either)).sum(axis=1)
    return HotaScores(found, len(truth) - found, len(results) - found, association)


def combine(scores: Iterable[HotaScores]) -> HotaScores:
    """Several sequences as one; every true positive weighs the same, whatever its sequence."""
    each = list(scores)
    return HotaScores(
        sum((one.true_positives for one in each), np.zeros(len(ALPHAS))),
        sum((one.misses for one in each), np.zeros(len(ALPHAS))),
        sum((one.false_positives for one in each), np.zeros(len(ALPHAS))),
        sum((one.association for one in each), np.zeros(len(ALPHAS))),
    )


def alignment(sequence: SequenceOverlap) -> FloatArray:
    """(people, identities) in [0, 1]: how much of both is the same, before any matching; 2. above."""
    shared = np.zeros((len(sequence.people_boxes), len(sequence.identity_boxes)))
    for frame in sequence.frames:
        either = frame.iou.sum(axis=1)[:, None] + frame.iou.sum(axis=0)[None] - frame.iou
        # A person has one box in a frame, so no entry is added to twice.
        shared[np.ix_(frame.people, frame.found)] += np.divide(
            frame.iou, either, out=np.zeros_like(either), where=either > SLACK
        )
    return np.asarray(shared / (sequence.people_boxes[:, None] + sequence.identity_boxes[None] - shared))


def _matches(sequence: SequenceOverlap) -> tuple[IntArray, FloatArray]:
    """The matched pairs of all frames: (K,) person x identities + identity, and (K,) their IoU."""
    aligned = alignment(sequence)
    pairs, overlaps = [np.zeros(0, np.int64)], [np.zeros(0)]
    for frame in sequence.frames:
        score = aligned[np.ix_(frame.people, frame.found)] * frame.iou
        rows, columns = linear_sum_assignment(score, maximize=True)
        pairs.append(frame.people[rows] * len(sequence.identity_boxes) + frame.found[columns])
        overlaps.append(frame.iou[rows, columns])
    return np.concatenate(pairs), np.concatenate(overlaps)
