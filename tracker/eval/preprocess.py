"""MOTChallenge preprocessing: remove results matched to distractor or ignored ground truth before scoring."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.boxes import iou
from tracker.eval.mot_files import BoxTable, GroundTruth
from tracker.eval.overlap import MIN_IOU, SLACK, by_frame
from tracker.types import BoolArray


def prepare(truth: GroundTruth, results: BoxTable) -> tuple[BoxTable, BoxTable]:
    """The ground truth that counts, and the results without those that matched an ignored box."""
    return truth.table.take(truth.counts), results.take(~matched_to_ignored(truth, results))


def matched_to_ignored(truth: GroundTruth, results: BoxTable) -> BoolArray:
    """(R,) True for the results to drop.

    In each frame results are matched one to one with *all* ground truth, largest sum of IoU first, only pairs of at
    least MIN_IOU. A person in front of a distractor thereby keeps its result, and a second result on it is dropped.
    """
    drop = np.zeros(len(results), dtype=bool)
    for _, theirs, ours in by_frame(truth.table, results):
        if not truth.ignored[theirs].any():
            continue
        overlap = iou(truth.table.boxes[theirs], results.boxes[ours])
        overlap[overlap < MIN_IOU - SLACK] = 0.0
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        real = overlap[rows, columns] > 0
        drop[ours[columns[real]]] = truth.ignored[theirs[rows[real]]]
    return drop
