"""Who is who: keys of tracks, identities of people, and frames that wait until their tentative tracks are somebody."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from tracker.stages.frame_state import rows_of
from tracker.tracks.bank import TrackBank
from tracker.types import FrameTracks, IntArray, State, Tracks


class Register:
    """Numbers of one stream: identities 1, 2, ... in the order of confirmation, keys in that of birth."""

    def __init__(self) -> None:
        self.n_ids = 0
        self.backfilled: list[FrameTracks] = []  # earlier frames of the tracks identified since `open`
        self._n_keys = 0
        # Rows of tentative tracks in the frames before, with their keys; from the first that is still undecided on.
        self._waiting: deque[tuple[int, IntArray, Tracks]] = deque()

    def __len__(self) -> int:
        """Frames that wait."""
        return len(self._waiting)

    def open(self) -> None:
        """Begin a step."""
        self.backfilled = []

    def new_keys(self, n: int) -> IntArray:
        """(n,) keys that nobody had."""
        self._n_keys += n
        return np.arange(self._n_keys - n, self._n_keys)

    def new_identities(self, n: int) -> int:
        """The first of n identities that nobody had."""
        self.n_ids += n
        return self.n_ids - n + 1

    def identified(self, keys: IntArray, ids: IntArray, after: IntArray) -> None:
        """Track keys[i], tentative so far, is known as ids[i]: its earlier frames are backfilled.

        Only frames later than after[i] count, in which that identity was not shown already.
        """
        if len(keys) == 0:
            return
        order = np.argsort(keys)
        for index, waiting, tracks in self._waiting:
            at = order[np.searchsorted(keys, waiting, sorter=order).clip(max=len(keys) - 1)]
            rows = rows_of((keys[at] == waiting) & (after[at] < index))
            if len(rows):
                self.backfilled.append(FrameTracks(index, replace(tracks[rows], id=ids[at[rows]])))

    def wait(self, index: int, keys: IntArray, tracks: Tracks) -> None:
        """Keep the rows of the tentative tracks of a frame."""
        self._waiting.append((index, keys, tracks))

    def forget(self, keys: IntArray) -> None:
        """Let go of the first frames in which none of the tracks that are still tentative was."""
        undecided = set(keys.tolist())
        while self._waiting and undecided.isdisjoint(self._waiting[0][1].tolist()):
            self._waiting.popleft()

    def settled_before(self, bank: TrackBank) -> int | None:
        """Index of the first frame that a later confirmation can still add to; None if there is no such frame."""
        if not self._waiting:
            return None
        undecided = set(bank.key[~bank.confirmed].tolist())
        return next((index for index, keys, _ in self._waiting if not undecided.isdisjoint(keys.tolist())), None)

    def state(self) -> State:
        """All that later numbers and frames depend on."""
        return {
            "n_ids": self.n_ids,
            "n_keys": self._n_keys,
            "waiting": [{"index": i, "keys": keys, "tracks": rows.state()} for i, keys, rows in self._waiting],
        }

    def restore(self, state: State) -> None:
        self.n_ids, self._n_keys = state["n_ids"], state["n_keys"]
        kept = ((late["index"], late["keys"], Tracks.restored(late["tracks"])) for late in state["waiting"])
        self._waiting = deque(kept)
