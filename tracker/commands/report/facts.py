"""What a result says: who was there when, with which gaps, and how many people at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker.commands.report.table import TrackTable
from tracker.types import FloatArray, IntArray, Source

SAME_STEP = 1.5  # rows of one identity that are farther apart than so many steps of the source have a gap between them


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of one identity in a row whose boxes come from the same source."""

    start_s: float
    end_s: float  # of the last frame, and its own length
    source: int


@dataclass(frozen=True, slots=True)
class Person:
    """One identity."""

    id: int
    n_boxes: int
    n_of_source: tuple[int, ...]  # by value of `Source`
    start_s: float
    end_s: float
    stretches: tuple[Stretch, ...]
    gaps_s: tuple[float, ...]  # seconds without a box between two that have one

    @property
    def seen_s(self) -> float:
        """Seconds in view."""
        return sum(stretch.end_s - stretch.start_s for stretch in self.stretches)


def frame_length_s(table: TrackTable) -> float:
    """Seconds from one frame to the next, by the most frequent step; a 30th of a second where nothing tells."""
    assert table.time_s is not None
    times = np.unique(table.time_s)
    return float(np.median(np.diff(times))) if len(times) > 1 else 1 / 30


def people(table: TrackTable) -> list[Person]:
    """Everybody, in the order of appearance."""
    assert table.time_s is not None
    length_s = frame_length_s(table)
    found = [_person(table.take(table.id == identity), length_s) for identity in np.unique(table.id)]
    return sorted(found, key=lambda person: (person.start_s, person.id))


def _person(rows: TrackTable, length_s: float) -> Person:
    assert rows.time_s is not None
    step_s = np.diff(rows.time_s)
    broken = step_s > SAME_STEP * length_s
    cuts = np.flatnonzero(broken | (np.diff(rows.source) != 0)) + 1
    starts, ends = np.r_[0, cuts], np.r_[cuts, len(rows)] - 1
    stretches = tuple(
        Stretch(float(rows.time_s[a]), float(rows.time_s[b]) + length_s, int(rows.source[a]))
        for a, b in zip(starts, ends, strict=True)
    )
    counts = np.bincount(rows.source, minlength=len(Source))
    return Person(
        int(rows.id[0]), len(rows), tuple(counts.tolist()), stretches[0].start_s, stretches[-1].end_s, stretches,
        tuple((step_s[broken] - length_s).tolist()),
    )  # fmt: skip


def people_over_time(table: TrackTable, n_bins: int) -> tuple[FloatArray, IntArray]:
    """Time is cut into equal bins: their edges in seconds (B + 1,), and the most people in one frame of each (B,)."""
    assert table.time_s is not None
    end_s = float(table.time_s.max(initial=0.0)) + frame_length_s(table)
    edges = np.linspace(0.0, end_s, n_bins + 1)
    times, counts = np.unique(table.time_s, return_counts=True)
    most = np.zeros(n_bins, np.int64)
    np.maximum.at(most, np.minimum(np.searchsorted(edges, times, side="right") - 1, n_bins - 1), counts)
    return edges, most
