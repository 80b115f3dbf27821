"""The points, and the cost of a metric on them: sum_i u_i + mu |M - I|_1, from distances alone.

All reported results of a metric are computed here, whatever solver or heuristic found it. Ours: copies of a point are
merged, and the margin delta is in units of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from reid_training.methods.mip_mahalanobis.config import MIPMahalanobisConfig
from reid_training.methods.mip_mahalanobis.metric import BoolArray, FloatArray, IntArray, distortion, root

# A margin met within the solver's own tolerance (1e-6) counts as met; typical squared distances are 1.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Problem:
    """Different points with their classes, and what a metric costs on them."""

    points: FloatArray  # (n, p); typical squared distance to another class 1
    labels: IntArray  # (n,)
    k: int
    delta: float
    mu: float
    full: bool

    @property
    def p(self) -> int:
        return int(self.points.shape[1])

    def needs(self) -> IntArray:
        """Number of neighbours of its class that each point needs, (n,): k, or all others; 0 for a single point."""
        _, place, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        return np.minimum(self.k, counts[place] - 1)

    def take(self, rows: IntArray) -> Problem:
        return Problem(self.points[rows], self.labels[rows], self.k, self.delta, self.mu, self.full)


def reaches(problem: Problem, metric: FloatArray, chunk: int = 512) -> tuple[FloatArray, FloatArray]:
    """Squared distance of every point to its k-th neighbour of its class, and to the nearest point of another class.

    The first is 0 where no neighbour is needed. Memory: chunk * n.
    """
    needs = problem.needs()
    most = max(int(needs.max()), 1)
    bent, labels = problem.points @ root(metric), problem.labels
    own, impostor = np.zeros(len(bent)), np.zeros(len(bent))
    for start in range(0, len(bent), chunk):
        rows = np.arange(start, min(start + chunk, len(bent)))
        dist = cdist(bent[rows], bent, "sqeuclidean")
        same = labels[rows, None] == labels
        impostor[rows] = np.where(same, np.inf, dist).min(1)
        same[np.arange(len(rows)), rows] = False  # no point is its own neighbour
        members = np.sort(np.partition(np.where(same, dist, np.inf), most - 1, axis=1)[:, :most], axis=1)
        own[rows] = members[np.arange(len(rows)), np.maximum(needs[rows] - 1, 0)]
    return np.where(needs > 0, own, 0.0), impostor


def given_up(problem: Problem, metric: FloatArray) -> BoolArray:
    """Points too near to another class, (n,). The only point of a class needs no neighbours."""
    own, impostor = reaches(problem, metric)
    return (problem.needs() > 0) & (impostor - own < problem.delta - TOLERANCE)


def objective(problem: Problem, metric: FloatArray) -> float:
    bent = distortion(metric)
    return float(given_up(problem, metric).sum()) + (problem.mu * bent if bent > 0 else 0.0)


def best_of(problem: Problem, metrics: Sequence[FloatArray]) -> FloatArray:
    """The first of those with the smallest objective."""
    return metrics[int(np.argmin([objective(problem, metric) for metric in metrics]))]


def make_problem(points: FloatArray, labels: IntArray, config: MIPMahalanobisConfig) -> tuple[Problem, IntArray, float]:
    """The problem of the distinct points in sorted order, the place of each given point there, and the unit of length.

    A copy would be a neighbour of its original at distance 0; it adds no information and is left out.
    """
    table, place = np.unique(np.column_stack([labels, points]), axis=0, return_inverse=True)
    kinds, different = table[:, 0].astype(np.int64), table[:, 1:]
    scale = unit(different, kinds)
    problem = Problem(different / scale, kinds, config.k, config.margin, config.mu, config.form == "full")
    return problem, place.reshape(-1), scale


def unit(points: FloatArray, labels: IntArray) -> float:
    """The median distance of a point to the nearest of another class: what the margin is a share of (squared)."""
    _, impostor = reaches(Problem(points, labels, 1, 0.0, 0.0, False), np.eye(points.shape[1]))
    nearest = np.sqrt(impostor)
    found = float(np.median(nearest)) or float(nearest.mean())  # 0 where most points coincide with another class
    return found or 1.0
