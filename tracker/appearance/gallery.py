"""Gallery: the latest embeddings of each track in a ring of bounded size, and their mean direction.

Every track owns a slot, allocated at its creation and released at its deletion. The memory is that of the largest
number of tracks at once, and no array is copied when tracks are created or deleted. Distances are cosine distances,
d = 1 - cos, in [0, 2].
"""

from __future__ import annotations

import numpy as np

from tracker.types import FeatureArray, FloatArray, IntArray, State

NO_LENGTH = 1e-12  # unitless; a sum of embeddings no longer than this has no direction


class Gallery:
    """Rings of unit-length embeddings, `size` for each slot.

    `Appearance.store` decides what is written (docs/method.md, 5). The dimension D is set by the first embeddings and
    fixed from then on.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rings: FeatureArray = np.zeros((0, size, 0), np.float32)  # (S, K, D)
        self._sums = np.zeros((0, 0))  # (S, D) float64, so that adding and taking away does not drift
        self._counts = np.zeros(0, np.int64)  # (S,) entries in the ring
        self._next = np.zeros(0, np.int64)  # (S,) where the next entry goes
        # The direction of the sums; kept because it is read more often than it changes.
        self._means: FeatureArray = np.zeros((0, 0), np.float32)  # (S, D) unit rows; zeros where there is none
        self._embedded_s = np.zeros(0)  # (S,) see `mark_embedded`
        self._free: list[int] = []

    @property
    def dim(self) -> int:
        """Embedding size D, or 0 before the first embedding."""
        return int(self._rings.shape[2])

    def allocate(self, n: int) -> IntArray:
        """n empty slots, lowest numbers first."""
        missing = n - len(self._free)
        if missing > 0:
            self._grow(max(missing, len(self._counts)))
        taken = [self._free.pop() for _ in range(n)]
        return np.array(taken, np.int64)

    def release(self, slots: IntArray) -> None:
        """Empty the slots of deleted tracks for others."""
        if len(slots) == 0:
            return
        self._counts[slots] = 0
        self._next[slots] = 0
        self._sum_up(slots, np.zeros((len(slots), self.dim)))
        self._free.extend(int(slot) for slot in slots[::-1])

    def write(self, slots: IntArray, embeddings: FeatureArray) -> None:
        """Add one embedding to each slot, for its oldest entry: slots (n,) distinct, embeddings (n, D) unit rows."""
        if len(slots) == 0:
            return
        self._set_dim(embeddings.shape[1])
        at, count = self._next[slots], self._counts[slots]
        leaving = self._rings[slots, at]
        leaving[count < self._size] = 0.0  # nothing yet, or a rest of the slot's earlier owner
        sums = self._sums.take(slots, axis=0) + (embeddings - leaving.astype(np.float64))
        self._rings[slots, at] = embeddings
        self._next[slots] = (at + 1) % self._size
        self._counts[slots] = np.minimum(count + 1, self._size)
        self._sum_up(slots, sums)

    def counts(self, slots: IntArray) -> IntArray:
        """(n,) entries in each slot."""
        return self._counts[slots]

    def mark_embedded(self, slots: IntArray, now_s: float) -> None:
        """The latest entry of these slots was computed in the frame at now_s, not reused."""
        self._embedded_s[slots] = now_s

    def embedded_s(self, slots: IntArray) -> FloatArray:
        """(n,) time of the latest computed entry of each slot, seconds; undefined where there is none."""
        return self._embedded_s[slots]

    def latest(self, slots: IntArray) -> FeatureArray:
        """(n, D) latest entry of each slot; undefined where there is none."""
        return self._rings[slots, self._next[slots] - 1]

    def entries(self, slot: int) -> FeatureArray:
        """(k, D) the embeddings of one slot, in no particular order."""
        return self._rings[slot, : self._counts[slot]]

    def means(self, slots: IntArray) -> FeatureArray:
        """(n, D) mean direction of each slot's entries, unit rows; zeros where there are none."""
        return self._means.take(slots, axis=0)

    def dist_mean(self, slots: IntArray, embeddings: FeatureArray) -> FloatArray:
        """Distance of (N, D) embeddings to the mean of each slot: (n, N); 1 (orthogonal) where a slot is empty."""
        if self.dim == 0:
            return np.ones((len(slots), len(embeddings)))
        return np.asarray(1.0 - self.means(slots) @ embeddings.T, np.float64)

    def dist_pairs(self, slots: IntArray, embeddings: FeatureArray) -> FloatArray:
        """Pair by pair, the distance of embedding i to the mean of slot i: (n,); 1 where the slot is empty."""
        if self.dim == 0:
            return np.ones(len(slots))
        return np.asarray(1.0 - np.einsum("nd,nd->n", self.means(slots), embeddings), np.float64)

    def state(self) -> State:
        return {
            "rings": self._rings, "sums": self._sums, "counts": self._counts, "next": self._next,
            "embedded_s": self._embedded_s, "free": np.array(self._free, np.int64),
        }  # fmt: skip

    def restore(self, state: State) -> None:
        self._rings, self._sums = state["rings"], state["sums"]
        self._counts, self._next = state["counts"], state["next"]
        self._embedded_s = state["embedded_s"]
        self._free = state["free"].tolist()  # the order decides which slot the next track gets
        self._means = np.zeros(self._sums.shape, np.float32)
        self._sum_up(np.arange(len(self._sums)), self._sums)

    def _sum_up(self, slots: IntArray, sums: FloatArray) -> None:
        """Set the sums (n, D) of these slots (n,), and their direction."""
        self._sums[slots] = sums
        lengths = np.sqrt(np.add.reduce(sums * sums, axis=1))
        directions = sums / np.maximum(lengths, NO_LENGTH)[:, None]
        directions[lengths <= NO_LENGTH] = 0.0
        self._means[slots] = directions

    def _set_dim(self, dim: int) -> None:
        if self.dim == dim:
            return
        if self.dim:
            raise ValueError(f"the gallery holds embeddings of size {self.dim}, got size {dim}")
        n = len(self._counts)
        self._rings = np.zeros((n, self._size, dim), np.float32)
        self._sums, self._means = np.zeros((n, dim)), np.zeros((n, dim), np.float32)

    def _grow(self, more: int) -> None:
        old = len(self._counts)
        self._rings = np.concatenate([self._rings, np.zeros((more, self._size, self.dim), np.float32)])
        self._sums = np.concatenate([self._sums, np.zeros((more, self.dim))])
        self._means = np.concatenate([self._means, np.zeros((more, self.dim), np.float32)])
        self._counts = np.concatenate([self._counts, np.zeros(more, np.int64)])
        self._next = np.concatenate([self._next, np.zeros(more, np.int64)])
        self._embedded_s = np.concatenate([self._embedded_s, np.zeros(more)])
        self._free = [*range(old + more - 1, old - 1, -1), *self._free]
