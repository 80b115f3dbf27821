"""CLEAR and identity measures by motmetrics, fed so that they are MOTChallenge's.

References:
    K. Bernardin, R. Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008,
    https://doi.org/10.1155/2008/246309
    E. Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016,
    https://arxiv.org/abs/1609.01775
    TrackEval 1.3.0 (MIT), the program that MOTChallenge scores with, https://github.com/JonathonLuiten/TrackEval

Where motmetrics and MOTChallenge differ, and what makes them equal (tests/eval/test_trackeval.py compares):
    1. A person and an identity that were a pair stay one for ever in motmetrics, over any gap; MOTChallenge prefers
       the pair of the last frame alone, and fits the most of those. So `correspondences` chooses the pairs, and
       motmetrics sees no others: it still decides what is a match, a switch, a miss or a false positive.
    2. Mostly tracked is > 80 % there, >= 80 % here                              -> `_mostly_tracked`
    3. A fragmentation there is a run of frames without a match between two with, whether the person was there or
       not; frames in which either side is empty are no frames. Here: misses between matches -> `_fragmentations`
Identity measures need no choice of pairs; they get all that overlap enough, from an event list of their own.

Where motmetrics 1.4.0 breaks, and what stands here instead (tests/eval/test_motmetrics_breaks.py keeps the list true):
    distances.iou_matrix (lines 117, 118)      np.asfarray, gone in NumPy 2       -> eval/overlap.py
    utils.compare_to_groundtruth, utils.CLEAR_MOT_M, preprocess.preprocessResult call it
                                                                         -> `clear_events`, eval/preprocess.py
    mot.merge_event_dataframes (line 459)      DataFrame.append, gone in pandas 2 -> `combine`: sums of counts
    io.load_motchallenge (`-= (1, 1)`)         deprecated by pandas 3, still works -> eval/mot_files.py
What is used, the accumulator's update() and the metrics' compute(), works with NumPy 2.4 and pandas 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.eval.mot_files import BoxTable
from tracker.eval.overlap import MIN_IOU, SequenceOverlap, compare
from tracker.types import FloatArray, IntArray

# More than any sum of overlaps in a frame, so that kept pairs come first. TrackEval's number: ties then round alike.
KEEP_BONUS = 1000.0
NO_MATCH = -1

# Field of `Scores` -> motmetrics' name of the count.
_CLEAR = {
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
}
_IDENTITY = {"id_true_positives": "idtp"}


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of one or more sequences; every rate follows from them, so that counts of sequences can be added."""

    n_frames: int  # frames with a person that counts or a result
    n_truth: int  # boxes of people that count
    n_results: int  # boxes reported, after preprocessing
    n_people: int
    false_positives: int
    misses: int
    switches: int  # a person's identity is not the one they had last
    fragmentations: int  # a person is lost and found again
    mostly_tracked: int  # people found in > 80 % of their frames
    mostly_lost: int  # people found in < 20 % of their frames
    id_true_positives: int  # boxes explained by the best one-to-one map of identities over the whole sequence

    @property
    def mota(self) -> float:
        """1 - (FP + FN + IDs) / GT; below 0 for a bad tracker."""
        return 1.0 - _ratio(self.false_positives + self.misses + self.switches, self.n_truth)

    @property
    def idf1(self) -> float:
        """2 IDTP / (GT + results)."""
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

    sequence = compare(truth, results)
    host = motmetrics.metrics.create()
    host.register(_mostly_tracked, name="mostly_tracked")
    host.register(_fragmentations, name="num_fragmentations")
    counts: dict[str, int] = {}
    for events, names in ((clear_events(sequence), _CLEAR), (identity_events(sequence), _IDENTITY)):
        values = host.compute(events, metrics=list(names.values()), return_dataframe=False)
        counts |= {field: round(float(values[name])) for field, name in names.items()}
    return Scores(**counts)


def clear_events(sequence: SequenceOverlap) -> Any:
    """motmetrics' event list (a MOTAccumulator) of the pairs that `correspondences` chooses."""
    pairs = correspondences(sequence)
    return _events(sequence, (_at(frame.iou, chosen) for frame, chosen in zip(sequence.frames, pairs, strict=True)))


def identity_events(sequence: SequenceOverlap) -> Any:
    """motmetrics' event list of all pairs of at least MIN_IOU; to the bit here, as in TrackEval's identity measures."""
    return _events(sequence, (np.where(frame.iou >= MIN_IOU, 1.0 - frame.iou, np.nan) for frame in sequence.frames))


def correspondences(sequence: SequenceOverlap) -> Iterator[tuple[IntArray, IntArray]]:
    """The pairs of every frame, one to one: (K,) rows and (K,) columns of its overlap.

    Of all one-to-one maps the one that keeps most pairs of the frame before, and of those the one with the largest
    sum of IoU, pairs of at least MIN_IOU alone. "The frame before" is the last one with boxes on both sides.
    """
    before = np.full(len(sequence.people_boxes), NO_MATCH)  # identity of each person in the frame before
    for frame in sequence.frames:
        kept = before[frame.people][:, None] == frame.found[None]  # (P, R)
        score = np.where(frame.possible, KEEP_BONUS * kept + frame.iou, 0.0)
        rows, columns = linear_sum_assignment(score, maximize=True)
        real = frame.possible[rows, columns]
        rows, columns = rows[real], columns[real]
        if frame.iou.size:
            before[:] = NO_MATCH
            before[frame.people[rows]] = frame.found[columns]
        yield rows, columns


def combine(scores: Iterable[Scores]) -> Scores:
    """Several sequences as one: counts are added, rates follow, as MOTChallenge does it."""
    columns = zip(*(dataclasses.astuple(one) for one in scores), strict=True)
    return Scores(*(sum(column) for column in columns))


def _at(overlap: FloatArray, pairs: tuple[IntArray, IntArray]) -> FloatArray:
    """1 - IoU at the pairs; NaN elsewhere, which forbids every other pair."""
    distance = np.full_like(overlap, np.nan)
    distance[pairs] = 1.0 - overlap[pairs]
    return distance


def _events(sequence: SequenceOverlap, distances: Iterable[FloatArray]) -> Any:
    import motmetrics

    accumulator = motmetrics.MOTAccumulator(auto_id=False)
    for frame, distance in zip(sequence.frames, distances, strict=True):
        accumulator.update(frame.people, frame.found, distance, frameid=frame.frame)
    return accumulator


def _mostly_tracked(events: Any, track_ratios: Any) -> int:
    """People found in more than 80 % of their frames; motmetrics makes the ratios."""
    return int((track_ratios > 0.8).sum())


def _fragmentations(events: Any) -> int:
    """Gaps between two matches of a person, counted in frames that hold boxes of both sides; motmetrics' events."""
    rows = events.noraw.reset_index()
    both_sides = (rows.groupby("FrameId")[["OId", "HId"]].count() > 0).all(axis=1)
    time = rows["FrameId"].map(both_sides.cumsum())
    found = rows["Type"].isin(["MATCH", "SWITCH"])
    return int((time[found].groupby(rows["OId"][found]).diff() > 1).sum())


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
