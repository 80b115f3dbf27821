"""A metric that sharpens on a camera's own people while it runs: one online metric layer behind the re-ID network.

Online Deep Metric Learning. Wenbin Li, Jing Huo, Yinghuan Shi, Yang Gao, Lei Wang, Jiebo Luo. 2018,
https://arxiv.org/abs/1805.05510: the metric layer, M_t = M_t-1 - tau A with
A = (x - p)(x - p)' - (x - q)(x - q)' where a triplet x, p, q has the loss 1 + tr(M A) > 0.
Ours: tau is the proximal step min(rate, loss / |A|^2); the triplets come from the tracks (see `frame_triplets`); M is
kept within |M - I| <= reach < 1 (Frobenius), so that it stays positive definite without further ado, a run of wrong
tracks does a bounded harm, and the thresholds calibrated for the network keep their meaning, nearly; cosines are
compared, between rows that are scaled to unit length again.
reid_training/methods/odml has the same layer with more to set; this package does not import it, and a test compares
them.
"""

from __future__ import annotations

import numpy as np

from tracker.types import FeatureArray, FloatArray, State


class OnlineMetric:
    """A positive definite M (D, D), at first and after `reset` the identity: then rows go through untouched."""

    def __init__(self, rate: float, reach: float) -> None:
        """rate >= 0: the largest tau; 0 <= reach < 1: the largest |M - I|."""
        self._rate = rate
        self._reach = reach
        self.learning = True  # False: it stays as it is
        self.reset()

    def reset(self) -> None:
        """Measure as the network alone does, to the last bit. It goes on learning from there if it was learning."""
        self._offset: FloatArray | None = None  # M - I (D, D); None: 0, of any size
        self._factor: FeatureArray | None = None  # lower triangle C with C C' = M; None: the identity

    def state(self) -> State:
        return {"offset": self._offset, "factor": self._factor}

    def restore(self, state: State) -> None:
        self._offset, self._factor = state["offset"], state["factor"]

    @property
    def has_learned(self) -> bool:
        """Whether it measures otherwise than the network alone does."""
        return self._offset is not None

    @property
    def offset(self) -> FloatArray | None:
        """M - I (D, D), or None where nothing was learned."""
        return None if self._offset is None else self._offset.copy()

    def transform(self, rows: FeatureArray) -> FeatureArray:
        """Unit rows (..., D) whose cosines are those of the given rows under M; rows of zeros stay."""
        if self._factor is None or rows.shape[-1] == 0:
            return rows
        moved = rows @ self._factor  # C'x for each row x
        length = np.linalg.norm(moved, axis=-1, keepdims=True)
        return np.asarray(np.divide(moved, length, out=np.zeros_like(moved), where=length > 1e-12))

    def learn(self, triplets: FeatureArray) -> None:
        """One step for each triplet (n, 3, D) in this order: unit rows x, p of the same person, q of another."""
        if not self.learning:
            return
        offset = self._offset
        for triplet in triplets.astype(np.float64):
            offset = self._stepped(triplet, offset)
        if offset is not self._offset and offset is not None:
            self._offset = offset
            self._factor = np.linalg.cholesky(np.eye(len(offset)) + offset).astype(np.float32)

    def _stepped(self, triplet: FloatArray, offset: FloatArray | None) -> FloatArray | None:
        """M - I after one triplet (3, D); the very same object where it has no loss."""
        near, far = triplet[0] - triplet[1], triplet[0] - triplet[2]
        loss = 1.0 + near @ near - far @ far  # with M = I + offset
        if offset is not None:
            loss += near @ offset @ near - far @ offset @ far
        squared = (near @ near) ** 2 + (far @ far) ** 2 - 2.0 * (near @ far) ** 2  # |A|^2, Frobenius
        if loss <= 0.0 or squared <= 0.0 or self._rate == 0.0:
            return offset
        step = min(self._rate, loss / squared) * (np.outer(far, far) - np.outer(near, near))
        moved = step if offset is None else offset + step
        return np.asarray(moved * min(1.0, self._reach / max(float(np.linalg.norm(moved)), 1e-300)))


def frame_triplets(features: FeatureArray, earlier: FeatureArray) -> FeatureArray:
    """(n, 3, D): each person of a frame, how they looked earlier, and the other person of the frame most like them.

    features, earlier (n, D): unit rows of n different people seen in one frame, and an earlier one of each of them. Two
    people in one frame are never the same one. Fewer than two people give no triplet. `earlier` is one look, not a
    mean of many: then what changes from look to look is in x - p as much as in x - q, and the metric does not grow
    along it.
    """
    if len(features) < 2:
        return np.zeros((0, 3, features.shape[1]), np.float32)
    alike = features @ features.T
    np.fill_diagonal(alike, -np.inf)
    return np.stack([features, earlier, features[alike.argmax(axis=1)]], axis=1)
