"""Hold frames until their tracks are decided: a confirmed track has its first boxes (backfill), a person one number."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tracker.stages.recognise import renumbered
from tracker.types import FeatureArray, Frame, FrameTracks, IntArray, State, Tracks


class FrameBuffer:
    """Takes frames as they are tracked and returns them final, in order."""

    def __init__(self) -> None:
        self._held: deque[tuple[Frame, Tracks]] = deque()

    def __len__(self) -> int:
        """Frames held."""
        return len(self._held)

    def hold(self, frame: Frame, tracks: Tracks) -> None:
        """Add a frame that an interrupted run held; in order."""
        self._held.append((frame, tracks))

    def state(self) -> list[State]:
        """The frames held, without their images."""
        return [{"index": frame.index, "tracks": tracks.state()} for frame, tracks in self._held]

    def push(
        self,
        frame: Frame,
        tracks: Tracks,
        backfilled: list[FrameTracks],
        settled_before: int | None,
        numbers: Mapping[int, int] | None = None,
    ) -> list[tuple[Frame, Tracks]]:
        """Add a frame and the backfilled rows of earlier ones; returns the frames that are final now.

        settled_before: index of the first frame that may still change, None if none can. numbers: new ones of tracks in
        frames that are held, see `Engine.renumbered`.
        """
        self.renumber(numbers or {})
        self._held.append((frame, tracks))
        for late in backfilled:
            for at, (held, known) in enumerate(self._held):
                if held.index == late.frame_index:
                    self._held[at] = (held, merged(known, late.tracks))
        final: list[tuple[Frame, Tracks]] = []
        while self._held and (settled_before is None or self._held[0][0].index < settled_before):
            final.append(self._held.popleft())
        return final

    def renumber(self, numbers: Mapping[int, int]) -> None:
        """Give tracks in the frames that are held other numbers."""
        if numbers:
            self._held = deque((frame, renumbered(tracks, numbers)) for frame, tracks in self._held)

    def flush(self) -> list[tuple[Frame, Tracks]]:
        """The frames still held, at the end of the source; tracks that are tentative then are not output."""
        final = list(self._held)
        self._held.clear()
        return final


def merged(a: Tracks, b: Tracks) -> Tracks:
    """Rows of both, sorted by identity."""
    order = np.argsort(np.concatenate([a.id, b.id]), kind="stable")
    columns = {
        name: np.concatenate([getattr(a, name), getattr(b, name)])[order]
        for name in ("xyxy", "id", "score", "class_id", "det_index", "source")
    }
    return replace(a, **columns, features=_merged_features(a, b, order))


def _merged_features(a: Tracks, b: Tracks, order: IntArray) -> FeatureArray | None:
    """Embeddings of both in that order, None unless all rows have one; a record without rows does not count."""
    parts = [tracks.features for tracks in (a, b) if len(tracks)]
    known = [part for part in parts if part is not None]
    return np.concatenate(known)[order] if known and len(known) == len(parts) else None
