"""Overlaps of ground truth and results in every frame, the input of all measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracker.boxes import iou
from tracker.eval.mot_files import BoxTable
from tracker.types import BoolArray, FloatArray, IntArray

MIN_IOU = 0.5  # MOTChallenge's, for CLEAR, identity measures and preprocessing
SLACK = float(np.finfo(np.float64).eps)  # a pair at exactly the threshold counts, however the division was rounded


@dataclass(frozen=True, slots=True)
class FrameOverlap:
    """One frame that holds a box of either side; P people and R results in it, either may be 0."""

    frame: int  # from 1
    people: IntArray  # (P,) rows of `SequenceOverlap.people_boxes`
    found: IntArray  # (R,) rows of `SequenceOverlap.identity_boxes`
    iou: FloatArray  # (P, R)

    @property
    def possible(self) -> BoolArray:
        """(P, R) the pairs that overlap enough to be a correspondence."""
        return np.asarray(self.iou >= MIN_IOU - SLACK)


@dataclass(frozen=True, slots=True)
class SequenceOverlap:
    """A sequence whose people and identities are numbered from 0, without gaps, in the order of their ids."""

    frames: tuple[FrameOverlap, ...]  # in time; frames without any box are left out
    people_boxes: IntArray  # (people,) boxes each person has in the sequence
    identity_boxes: IntArray  # (identities,) boxes each identity has


def compare(truth: BoxTable, results: BoxTable) -> SequenceOverlap:
    """All overlaps of a sequence, both sides after `preprocess.prepare`."""
    people, people_boxes = _numbered(truth)
    found, identity_boxes = _numbered(results)
    frames = tuple(
        FrameOverlap(frame, people[left], found[right], iou(truth.boxes[left], results.boxes[right]))
        for frame, left, right in by_frame(truth, results)
    )
    return SequenceOverlap(frames, people_boxes, identity_boxes)


def by_frame(truth: BoxTable, results: BoxTable) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Every frame with a box, in time: its number and the rows of both tables, in the order of the files."""
    frames = np.union1d(truth.frame, results.frame)
    for frame, left, right in zip(frames, _rows(truth, frames), _rows(results, frames), strict=True):
        yield int(frame), left, right


def _rows(table: BoxTable, frames: IntArray) -> Iterator[IntArray]:
    order = np.argsort(table.frame, kind="stable")
    ascending = table.frame[order]
    start = np.searchsorted(ascending, frames, side="left")
    end = np.searchsorted(ascending, frames, side="right")
    return (order[a:b] for a, b in zip(start, end, strict=True))


def _numbered(table: BoxTable) -> tuple[IntArray, IntArray]:
    """The id of every row as a number from 0, and how many rows each number has."""
    ids, numbers = np.unique(table.id, return_inverse=True)
    return numbers.reshape(-1), np.bincount(numbers.reshape(-1), minlength=len(ids))
