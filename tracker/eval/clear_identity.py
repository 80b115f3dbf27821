"""CLEAR and identity measures by motmetrics, without the parts of it that current NumPy and pandas break.

References:
    K. Bernardin, R. Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008,
    https://doi.org/10.1155/2008/246309
    E. Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016,
    https://arxiv.org/abs/1609.01775

Where motmetrics 1.4.0 breaks, and what stands here instead (tests/eval/test_motmetrics_breaks.py keeps the list true):
    distances.iou_matrix (lines 117, 118)      np.asfarray, gone in NumPy 2       -> `distances` below
    utils.compare_to_groundtruth, utils.CLEAR_MOT_M, preprocess.preprocessResult call it
                                                                                  -> `accumulate`, eval/preprocess.py
    mot.merge_event_dataframes (line 459)      DataFrame.append, gone in pandas 2 -> `combine`: sums of counts
    io.load_motchallenge (`-= (1, 1)`)         deprecated by pandas 3, still works -> eval/mot_files.py
What is used, the accumulator's update() and the metrics' compute(), works with NumPy 2.4 and pandas 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker.boxes import iou
from tracker.eval.mot_files import BoxTable
from tracker.types import FloatArray

MIN_IOU = 0.5

# Field of `Scores` -> motmetrics' name of the count.
_COUNTS = {
    "n_frames": "num_frames",
    "n_truth": "num_objects",
    "n_results": "num_predictions",
    "n_people": "num_unique_objects",
    "false_positives": "num_false_positives",
    "misses": "num_misses",
    "switches": "num_switches",
    "fragmentations": "num_fragmentations",
    "mostly_tracked": "mostly_tracked",
    "mostly_lost": "mostly_lost",
    "id_true_positives": "idtp",
}


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of one or more sequences; every rate follows from them, so that counts of sequences can be added."""

    n_frames: int  # frames with a person that counts or a result
    n_truth: int  # boxes of people that count
    n_results: int  # boxes reported, after preprocessing
    n_people: int
    false_positives: int
    misses: int
    switches: int  # a person's identity changes
    fragmentations: int  # a person is lost and found again
    mostly_tracked: int  # people found in >= 80 % of their frames
    mostly_lost: int  # people found in < 20 % of their frames
    id_true_positives: int  # boxes explained by the best one-to-one map of identities over the whole sequence

    @property
    def mota(self) -> float:
        """1 - (FP + FN + IDs) / GT; below 0 for a bad tracker."""
        return 1.0 - _ratio(self.false_positives + self.misses + self.switches, self.n_truth)

    @property
    def idf1(self) -> float:
        return _ratio(2 * self.id_true_positives, self.n_truth + self.n_results)

    @property
    def precision(self) -> float:
        return _ratio(self.n_results - self.false_positives, self.n_results)

    @property
    def recall(self) -> float:
        return _ratio(self.n_truth - self.misses, self.n_truth)


def evaluate(truth: BoxTable, results: BoxTable) -> Scores:
    """Scores of one sequence: the ground truth that counts against the results, both after `preprocess.prepare`."""
    import motmetrics  # here, not above: it loads pandas, which the table of another's scores does not need

    values = motmetrics.metrics.create().compute(
        accumulate(truth, results), metrics=list(_COUNTS.values()), return_dataframe=False
    )
    return Scores(**{field: round(float(values[name])) for field, name in _COUNTS.items()})


def accumulate(truth: BoxTable, results: BoxTable) -> Any:
    """motmetrics' event list (a MOTAccumulator) of one sequence."""
    import motmetrics

    accumulator = motmetrics.MOTAccumulator(auto_id=False)
    for frame in np.union1d(truth.frame, results.frame):
        people, found = truth.frame == frame, results.frame == frame
        accumulator.update(
            truth.id[people],
            results.id[found],
            distances(truth.boxes[people], results.boxes[found]),
            frameid=int(frame),
        )
    return accumulator


def distances(truth: FloatArray, results: FloatArray) -> FloatArray:
    """1 - IoU of every pair: (G, 4), (N, 4) xyxy -> (G, N); NaN where IoU < MIN_IOU, which forbids the pair."""
    overlap = iou(truth, results)
    return np.where(overlap >= MIN_IOU, 1.0 - overlap, np.nan)


def combine(scores: Iterable[Scores]) -> Scores:
    """Several sequences as one: counts are added, rates follow, as MOTChallenge does it."""
    columns = zip(*(dataclasses.astuple(one) for one in scores), strict=True)
    return Scores(*(sum(column) for column in columns))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
