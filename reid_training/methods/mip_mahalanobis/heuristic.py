"""Heuristic: alternate between a linear program with fixed neighbours and new neighbours; the cost never rises.

The abstract says that larger sets are solved approximately, not how: this heuristic is ours. The exact part starts
from its metric, because the solver alone may find nothing better than Euclid within its time limit.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack

from reid_training.methods.mip_mahalanobis.metric import (
    FloatArray,
    IntArray,
    Unknowns,
    between,
    repaired,
    squared_distances,
)
from reid_training.methods.mip_mahalanobis.problem import Problem, best_of
from reid_training.methods.mip_mahalanobis.rows import FIRST_IMPOSTORS, bending_rows, psd_rows, trace_row


def improve(problem: Problem, metric: FloatArray, rounds: int = 8) -> FloatArray:
    """Alternates a linear program for fixed neighbours with new neighbours, then moves along single coordinates."""
    best, at = metric, metric
    for _ in range(rounds):
        at = fixed_neighbours(problem, at)
        found = best_of(problem, [best, *between(at)])
        if found is best:
            break
        best = found
    return along_coordinates(problem, best)


def fixed_neighbours(problem: Problem, metric: FloatArray) -> FloatArray:
    """The metric of least hinge loss and distortion for the neighbours that `metric` has."""
    unknowns = Unknowns(problem.p, problem.full)
    n, q = len(problem.points), len(unknowns.times())
    anchors, members, impostors = near_triples(problem, metric, FIRST_IMPOSTORS)
    points = problem.points
    slopes = unknowns.coefficients(points[anchors] - points[impostors])
    slopes -= unknowns.coefficients(points[anchors] - points[members])
    # d(i, l) - d(i, j) + delta s_i >= delta: a point costs 1 where both are equally far.
    slack = csr_array((np.full(len(anchors), problem.delta), (np.arange(len(anchors)), anchors)), (len(anchors), n))
    rows = hstack([csr_array(slopes), csr_array((len(anchors), q)), slack])
    bent, least = bending_rows(unknowns, n)
    cuts = psd_rows(unknowns, unknowns.first_cuts(), n)
    lower = np.concatenate([np.full(len(anchors), problem.delta), least, np.zeros(cuts.shape[0])])
    cost = np.concatenate([np.zeros(q), problem.mu * unknowns.times(), np.ones(n)])
    free = unknowns.bounds()
    result = linprog(
        cost,
        A_ub=-vstack([rows, bent, cuts]).tocsr(),
        b_ub=-lower,
        A_eq=trace_row(unknowns, n),
        b_eq=[problem.p],
        bounds=np.column_stack([np.r_[free.lb, np.zeros(q + n)], np.r_[free.ub, np.full(q + n, np.inf)]]),
        method="highs",
    )
    return metric if result.x is None else repaired(unknowns.matrix(result.x[:q]))


def near_triples(problem: Problem, metric: FloatArray, n_impostors: int) -> tuple[IntArray, IntArray, IntArray]:
    """For each point its present neighbours, each with the nearest points of other classes."""
    dist = squared_distances(problem.points, problem.points, metric)
    same = problem.labels[:, None] == problem.labels
    impostors = np.argsort(np.where(same, np.inf, dist), axis=1, kind="stable")
    np.fill_diagonal(same, False)
    members = np.argsort(np.where(same, dist, np.inf), axis=1, kind="stable")
    found = [
        (i, members[i, place], impostors[i, other])
        for i, need in enumerate(problem.needs())
        for place in range(need)
        for other in range(min(n_impostors, int((problem.labels != problem.labels[i]).sum())))
    ]
    anchors, near, far = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return anchors, near, far


def along_coordinates(problem: Problem, metric: FloatArray, passes: int = 2) -> FloatArray:
    """Shrinks or stretches one coordinate at a time, as long as that helps."""
    best = metric
    for _ in range(passes):
        before = best
        for axis in range(problem.p):
            moved = []
            for factor in (0.0, 0.5, 2.0):
                scale = np.ones(problem.p)
                scale[axis] = np.sqrt(factor)
                candidate = best * np.outer(scale, scale)
                if np.trace(candidate) > 0:
                    moved.append(candidate * (problem.p / np.trace(candidate)))
            best = best_of(problem, [best, *moved])
        if best is before:
            break
    return best
