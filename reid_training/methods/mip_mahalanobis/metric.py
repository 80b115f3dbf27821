"""M as a matrix, as the solver's vector of unknowns, and its distance from the Euclidean metric.

M >= 0 and trace M = p, as in the package docstring; the paper's terms of higher order are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds
from scipy.spatial.distance import cdist

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NEGATIVE = -1e-6  # an eigenvalue below it is cut off; above, `repaired` makes it 0


def root(metric: FloatArray) -> FloatArray:
    """The symmetric square root of `metric` (p, p); exact for a diagonal one."""
    if np.count_nonzero(metric - np.diag(np.diag(metric))) == 0:
        return np.diag(np.sqrt(np.maximum(np.diag(metric), 0.0)))
    values, vectors = np.linalg.eigh(metric)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def squared_distances(a: FloatArray, b: FloatArray, metric: FloatArray) -> FloatArray:
    """a (n, p), b (m, p). Returns (n, m)."""
    half = root(metric)
    return np.asarray(cdist(a @ half, b @ half, "sqeuclidean"))


def distortion(metric: FloatArray) -> float:
    return float(np.abs(metric - np.eye(len(metric))).sum())


def is_psd(metric: FloatArray) -> bool:
    return float(np.linalg.eigvalsh(metric)[0]) > NEGATIVE


def repaired(metric: FloatArray) -> FloatArray:
    """The metric with no negative eigenvalue, its trace p again."""
    p = len(metric)
    if np.count_nonzero(metric - np.diag(np.diag(metric))) == 0:
        found = np.diag(np.maximum(np.diag(metric), 0.0))
    else:
        values, vectors = np.linalg.eigh(metric)
        found = (vectors * np.maximum(values, 0.0)) @ vectors.T
        found = (found + found.T) / 2
    return np.asarray(found * (p / np.trace(found)))


def between(metric: FloatArray) -> list[FloatArray]:
    """Steps from Euclid to the metric: each has its trace, and no negative eigenvalue."""
    eye = np.eye(len(metric))
    return [eye + share * (metric - eye) for share in (0.25, 0.5, 0.75)] + [metric]


@dataclass(frozen=True, slots=True)
class Unknowns:
    """The entries of M that are free, q of them: its diagonal, or its upper triangle."""

    p: int
    full: bool

    def places(self) -> tuple[IntArray, IntArray]:
        diagonal = np.arange(self.p)
        return np.triu_indices(self.p) if self.full else (diagonal, diagonal)

    def times(self) -> FloatArray:
        """Number of entries of M for each unknown, (q,)."""
        rows, columns = self.places()
        return np.where(rows == columns, 1.0, 2.0)

    def vector(self, metric: FloatArray) -> FloatArray:
        return metric[self.places()]

    def matrix(self, vector: FloatArray) -> FloatArray:
        metric = np.zeros((self.p, self.p))
        rows, columns = self.places()
        metric[rows, columns] = metric[columns, rows] = vector
        return metric

    def coefficients(self, differences: FloatArray) -> FloatArray:
        """x - y (..., p) to the factors (..., q) of the unknowns in d(x, y)."""
        rows, columns = self.places()
        return differences[..., rows] * differences[..., columns] * self.times()

    def largest(self, near: FloatArray, far: FloatArray, reach: float = np.inf) -> FloatArray:
        """The largest d(near) - d(far) that a metric of trace p and distortion <= `reach` gives, or a bound of it.

        near and far: differences (..., p).
        """
        moved = min(reach / 2, self.p - 1.0)  # of the trace, from some coordinates to others
        if not self.full:
            gains = np.sort(near**2 - far**2, axis=-1)
            given = np.clip(moved - np.arange(self.p), 0.0, 1.0)  # the worst coordinates first, none below 0
            return np.asarray(gains.sum(-1) + moved * gains[..., -1] - gains @ given)
        a, b, c = (near**2).sum(-1), (far**2).sum(-1), (near * far).sum(-1)
        # Eigenvalues of C = near near' - far far'. With trace 0, tr EC <= (largest - smallest) |E|_nuclear / 2, and the
        # nuclear norm is at most the sum of all entries' sizes.
        spread = np.sqrt(np.maximum((a + b) ** 2 - 4 * c**2, 0.0))
        return np.asarray(np.minimum(self.p * (a - b + spread) / 2, a - b + spread * reach / 2))

    def bounds(self) -> Bounds:
        rows, columns = self.places()
        return Bounds(np.where(rows == columns, 0.0, -self.p / 2), np.where(rows == columns, float(self.p), self.p / 2))

    def first_cuts(self) -> FloatArray:
        """Directions v with v' M v >= 0, (c, p): those that bound an entry by its two on the diagonal."""
        if not self.full or self.p == 1:
            return np.empty((0, self.p))
        rows, columns = np.triu_indices(self.p, k=1)
        eye = np.eye(self.p)
        return np.concatenate([eye[rows] + eye[columns], eye[rows] - eye[columns]])
