"""State of all tracks as columns: one row for each track, oldest first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from tracker.types import BoolArray, FloatArray, IntArray, State


@dataclass(frozen=True, slots=True)
class TrackBank:
    """The T live tracks. Columns only; `keep`, `append` and `with_` return a new bank."""

    key: IntArray  # (T,) number in the order of creation, never reused; names a track before it has an identity
    id: IntArray  # (T,) identity >= 1 once confirmed, 0 while tentative
    mean: FloatArray  # (T, 8) Kalman state [cx, cy, a, h, velocities per second]
    cov: FloatArray  # (T, 3, 4) its covariance, see motion/kalman.py
    hits: IntArray  # (T,) detections matched so far; proposals do not count
    seen_s: FloatArray  # (T,) time of the last detection
    seen_xy: FloatArray  # (T, 2) centre of that detection, pixels
    shown_index: IntArray  # (T,) index of the last frame in which the track was output, -1: never
    score: FloatArray  # (T,) of the last detection or proposal
    group: IntArray  # (T,) of classes, see `Classes`; never changes
    class_id: IntArray  # (T,) the class of most of its detections, each counted by its score
    class_lead: FloatArray  # (T,) how many more votes it has than all others, about (Boyer and Moore's majority vote)
    slot: IntArray  # (T,) of the track in the gallery

    def __len__(self) -> int:
        return len(self.key)

    @property
    def confirmed(self) -> BoolArray:
        return self.id > 0

    def keep(self, rows: IntArray | BoolArray) -> TrackBank:
        return TrackBank(*[column[rows] for column in _columns_of(self)])

    def append(self, other: TrackBank) -> TrackBank:
        columns = zip(_columns_of(self), _columns_of(other), strict=True)
        return TrackBank(*[np.concatenate(column) for column in columns])

    def with_(self, **columns: FloatArray | IntArray) -> TrackBank:
        return TrackBank(**{**self.state(), **columns})

    def state(self) -> State:
        """The columns by name."""
        return dict(zip(_COLUMNS, _columns_of(self), strict=True))

    @staticmethod
    def restored(state: State) -> TrackBank:
        return TrackBank(**state)

    @staticmethod
    def empty() -> TrackBank:
        none, no_track = np.zeros(0), np.zeros(0, np.int64)
        return TrackBank(
            key=no_track, id=no_track, mean=np.zeros((0, 8)), cov=np.zeros((0, 3, 4)), hits=no_track, seen_s=none,
            seen_xy=np.zeros((0, 2)), shown_index=no_track, score=none,
            group=no_track, class_id=no_track, class_lead=none, slot=no_track,
        )  # fmt: skip


_COLUMNS = tuple(field.name for field in dataclasses.fields(TrackBank))
_columns_of = attrgetter(*_COLUMNS)
