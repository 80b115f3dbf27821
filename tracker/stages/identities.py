"""Track keys, identity numbers, and the boxes of tentative tracks, kept until the track is confirmed or deleted."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from tracker.tracks.bank import TrackBank
from tracker.types import FrameTracks, IntArray, State, Tracks


class Identities:
    """Numbers of one stream: identities in the order of confirmation, keys 0, 1, ... in that of creation."""

    def __init__(self, first_id: int = 1) -> None:
        self.n_ids = first_id - 1
        self._n_keys = 0
        # Output rows of tentative tracks in earlier frames, with their keys; starts at the first undecided frame.
        self._tentative: deque[tuple[int, IntArray, Tracks]] = deque()

    @property
    def n_undecided_frames(self) -> int:
        """Frames whose tentative rows are kept."""
        return len(self._tentative)

    def new_keys(self, n: int) -> IntArray:
        """(n,) keys that were never used."""
        self._n_keys += n
        return np.arange(self._n_keys - n, self._n_keys)

    def new_ids(self, n: int) -> IntArray:
        """(n,) identities that were never used, ascending."""
        self.n_ids += n
        return np.arange(self.n_ids - n, self.n_ids) + 1

    def resolve(self, keys: IntArray, ids: IntArray, after: IntArray) -> list[FrameTracks]:
        """Backfill: the earlier frames of tentative tracks whose identity is known now.

        keys (n,), ids (n,): track keys[i] is ids[i]. after (n,): only frames with a larger index count, because that
        identity was output in frame after[i] already.
        """
        if len(keys) == 0:
            return []
        backfilled = []
        order = np.argsort(keys)
        for index, tentative, tracks in self._tentative:
            at = order[np.searchsorted(keys, tentative, sorter=order).clip(max=len(keys) - 1)]
            rows = ((keys[at] == tentative) & (after[at] < index)).nonzero()[0]
            if len(rows):
                backfilled.append(FrameTracks(index, replace(tracks[rows], id=ids[at[rows]])))
        return backfilled

    def keep_tentative(self, index: int, keys: IntArray, tracks: Tracks) -> None:
        """Keep the output rows of the tentative tracks of a frame; drop frames in which all tracks are decided.

        keys (n,): the tracks that are tentative after frame `index`; tracks: their rows, in the same order.
        """
        if len(keys):
            self._tentative.append((index, keys, tracks))
        undecided = set(keys.tolist())
        while self._tentative and undecided.isdisjoint(self._tentative[0][1].tolist()):
            self._tentative.popleft()

    def settled_before(self, bank: TrackBank) -> int | None:
        """Index of the first frame to which a later confirmation can still add rows; None if there is none."""
        if not self._tentative:
            return None
        undecided = set(bank.key[~bank.confirmed].tolist())
        return next((index for index, keys, _ in self._tentative if not undecided.isdisjoint(keys.tolist())), None)

    def state(self) -> State:
        """All that later numbers and backfilled frames depend on."""
        return {
            "n_ids": self.n_ids,
            "n_keys": self._n_keys,
            "tentative": [{"index": i, "keys": keys, "tracks": rows.state()} for i, keys, rows in self._tentative],
        }

    def restore(self, state: State) -> None:
        self.n_ids, self._n_keys = state["n_ids"], state["n_keys"]
        kept = ((late["index"], late["keys"], Tracks.restored(late["tracks"])) for late in state["tentative"])
        self._tentative = deque(kept)
