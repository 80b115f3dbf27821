"""Facts about a result: when each person is in view, with which gaps, and how many people at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracker.analytics.ground import walked
from tracker.commands.report.table import TrackTable
from tracker.types import FloatArray, IntArray, Source

SAME_STEP = 1.5  # more than so many frames between two boxes of an identity are a gap
MAX_BINS = 400  # of the curve: a page is about 1200 pixels wide


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive frames of one identity whose boxes come from the same source."""

    start_s: float
    end_s: float  # of the last frame, its length included
    kind: str  # name of the `Source`, in small letters


@dataclass(frozen=True, slots=True)
class Person:
    """One identity."""

    id: int
    n_of_kind: Mapping[str, int]  # boxes by the name of their `Source`; only those that occur
    start_s: float
    end_s: float
    stretches: tuple[Stretch, ...]
    gaps_s: tuple[float, ...]  # seconds without a box between two boxes
    walked_m: float = math.nan  # on the floor; NaN: not known
    walked_s: float = math.nan  # seconds that took

    @property
    def seen_s(self) -> float:
        """Seconds in view."""
        return sum(stretch.end_s - stretch.start_s for stretch in self.stretches)


def frame_length_s(table: TrackTable) -> float:
    """Seconds from one frame to the next: the median step, or 1/30 for a single frame."""
    assert table.time_s is not None
    times = np.unique(table.time_s)
    return float(np.median(np.diff(times))) if len(times) > 1 else 1 / 30


def people(table: TrackTable) -> list[Person]:
    """All identities in the order of appearance."""
    length_s = frame_length_s(table)
    found = [_person(table.take(table.id == identity), length_s) for identity in np.unique(table.id)]
    return sorted(found, key=lambda person: (person.start_s, person.id))


def _person(rows: TrackTable, length_s: float) -> Person:
    assert rows.time_s is not None
    step_s = np.diff(rows.time_s)
    is_gap = step_s > SAME_STEP * length_s
    cuts = np.flatnonzero(is_gap | (np.diff(rows.source) != 0)) + 1
    starts, ends = np.r_[0, cuts], np.r_[cuts, len(rows)] - 1
    stretches = tuple(
        Stretch(float(rows.time_s[a]), float(rows.time_s[b]) + length_s, _kind(rows.source[a]))
        for a, b in zip(starts, ends, strict=True)
    )
    walked_m, walked_s = (math.nan, math.nan) if rows.metres is None else walked(rows.time_s, rows.metres)
    values, counts = np.unique(rows.source, return_counts=True)
    return Person(
        id=int(rows.id[0]),
        n_of_kind={_kind(value): int(n) for value, n in zip(values, counts, strict=True)},
        start_s=stretches[0].start_s,
        end_s=stretches[-1].end_s,
        stretches=stretches,
        gaps_s=tuple((step_s[is_gap] - length_s).tolist()),
        walked_m=walked_m,
        walked_s=walked_s,
    )


def _kind(source: int) -> str:
    return Source(source).name.lower()


def people_over_time(table: TrackTable, max_bins: int = MAX_BINS) -> tuple[FloatArray, IntArray]:
    """Edges in seconds (B + 1,) of equal bins of time, and the most people in one frame of each bin (B,).

    There are at most `max_bins` bins, and not more than frames. A frame belongs to the bin that its middle is in.
    """
    assert table.time_s is not None
    length_s = frame_length_s(table)
    end_s = float(table.time_s.max(initial=0.0)) + length_s
    n_bins = max(1, round(min(max_bins, end_s / length_s)))
    edges = np.linspace(0.0, end_s, n_bins + 1)
    times, counts = np.unique(table.time_s, return_counts=True)
    most = np.zeros(n_bins, np.int64)
    bins = np.searchsorted(edges, times + length_s / 2, side="right") - 1
    np.maximum.at(most, np.minimum(bins, n_bins - 1), counts)
    return edges, most
