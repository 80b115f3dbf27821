"""The mixed-integer program of the package docstring, with the rows added so far.

A margin d(i, l) >= d(i, j) + delta holds where z_ij = 1; a constant B, the smallest that any metric needs, switches it
off elsewhere. Margins and the cuts v' M v >= 0 are added where a solution violates them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, hstack, vstack

from reid_training.methods.mip_mahalanobis.metric import (
    NEGATIVE,
    BoolArray,
    FloatArray,
    IntArray,
    Unknowns,
    squared_distances,
)
from reid_training.methods.mip_mahalanobis.problem import TOLERANCE, Problem
from reid_training.methods.mip_mahalanobis.rows import bending_rows, psd_rows, trace_row


class Program:
    """The mixed-integer program over (theta, t, z, u), with the rows it has so far.

    `reach`: an upper bound on the distortion of interest. `slack` multiplies the constants that switch a row off:
    any value >= 1 gives the same optimum.
    """

    def __init__(self, problem: Problem, reach: float = np.inf, slack: float = 1.0) -> None:
        self.problem = problem
        self.reach = reach
        self.slack = slack
        self.unknowns = Unknowns(problem.p, problem.full)
        self.q = len(self.unknowns.times())
        same = problem.labels[:, None] == problem.labels
        np.fill_diagonal(same, False)
        self.pairs: IntArray = np.argwhere(same)  # (m, 2): i gathers j
        self.pair_of = np.full(same.shape, -1)
        self.pair_of[same] = np.arange(len(self.pairs))
        self.possible = self._possible()
        self.triples: set[tuple[int, int]] = set()  # (pair, impostor)
        self.cuts = self.unknowns.first_cuts()

    def _possible(self) -> BoolArray:
        """Pairs that some metric makes nearer than every other class, (m,). The others need no variable."""
        points, labels = self.problem.points, self.problem.labels
        possible = np.ones(len(self.pairs), dtype=bool)
        for row, (i, j) in enumerate(self.pairs):
            far = points[i] - points[labels != labels[i]]
            near = np.broadcast_to(points[i] - points[j], far.shape)
            possible[row] = bool((self.unknowns.largest(far, near, self.reach) >= self.problem.delta).all())
        return possible

    def add_impostors(self, metric: FloatArray, n_impostors: int) -> None:
        """The rows of each possible pair with the nearest other classes of its point."""
        dist = squared_distances(self.problem.points, self.problem.points, metric)
        dist[self.problem.labels[:, None] == self.problem.labels] = np.inf
        order = np.argsort(dist, axis=1, kind="stable")[:, :n_impostors]
        for pair in np.flatnonzero(self.possible):
            i = self.pairs[pair, 0]
            self.triples.update((int(pair), int(other)) for other in order[i] if np.isfinite(dist[i, other]))

    def add_violated(self, metric: FloatArray, gathered: IntArray) -> bool:
        """The row that each pair chosen by the solver violates most. Returns whether there was one."""
        before = len(self.triples)
        dist = squared_distances(self.problem.points, self.problem.points, metric)
        for pair in gathered:
            i, j = self.pairs[pair]
            lack = dist[i, j] + self.problem.delta - TOLERANCE - dist[i]
            lack[self.problem.labels == self.problem.labels[i]] = -np.inf
            if lack.max() > 0:
                self.triples.add((int(pair), int(lack.argmax())))
        return len(self.triples) > before

    def add_cut(self, metric: FloatArray) -> bool:
        """Along the directions in which this metric is negative. Returns whether there is one."""
        values, vectors = np.linalg.eigh(metric)
        negative = vectors[:, values < NEGATIVE].T
        self.cuts = np.concatenate([self.cuts, negative])
        return len(negative) > 0

    def solve(self, cutoff: float, seconds: float) -> Any:
        """scipy's result. `cutoff`: solutions above it are of no interest.

        HiGHS, since OR-Tools 9.15 closes no more. Of the whole programs of iris and wine with 30 and 60 points, 20 s
        and one thread each, HiGHS and CP-SAT solve iris 30; for iris 60 HiGHS alone has a bound above 0, 9.0 of 14.0;
        SCIP has none.
        """
        constraint, cost = self._rows(cutoff)
        q, m, n = self.q, len(self.pairs), len(self.problem.points)
        free = self.unknowns.bounds()
        lower = np.concatenate([free.lb, np.zeros(q + m + n)])
        upper = np.concatenate([free.ub, np.full(q, np.inf), self.possible.astype(float), np.ones(n)])
        return milp(
            cost,
            constraints=constraint,
            bounds=Bounds(lower, upper),
            integrality=np.concatenate([np.zeros(2 * q), np.ones(m + n)]),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )

    def polished(self, solution: FloatArray) -> FloatArray:
        """M for the solver's choice, its integers rounded: 0.999999 B would violate a margin."""
        constraint, cost = self._rows(np.inf)
        free = self.unknowns.bounds()
        whole = np.rint(solution[2 * self.q :])
        bounds = Bounds(np.r_[free.lb, np.zeros(self.q), whole], np.r_[free.ub, np.full(self.q, np.inf), whole])
        result = milp(cost, constraints=constraint, bounds=bounds)
        return self.unknowns.matrix((solution if result.x is None else result.x)[: self.q])

    def _rows(self, cutoff: float) -> tuple[LinearConstraint, FloatArray]:
        problem, q, m, n = self.problem, self.q, len(self.pairs), len(self.problem.points)
        bent, least_bent = bending_rows(self.unknowns, m + n)
        margins, least_margin = self._margin_rows()
        needs = problem.needs().astype(float)
        counts = csr_array((np.ones(m), (self.pairs[:, 0], np.arange(m))), (n, m))
        gather = hstack([csr_array((n, 2 * q)), counts, csr_array(np.diag(needs))])
        cuts = psd_rows(self.unknowns, self.cuts, m + n)
        cost = np.concatenate([np.zeros(q), problem.mu * self.unknowns.times(), np.zeros(m), np.ones(n)])
        blocks = [bent, margins, gather, cuts, trace_row(self.unknowns, m + n), csr_array(cost[None])]
        lower = np.concatenate([least_bent, least_margin, needs, np.zeros(cuts.shape[0]), [problem.p, -np.inf]])
        n_open = sum(block.shape[0] for block in blocks[:4])
        upper = np.concatenate([np.full(n_open, np.inf), [problem.p, cutoff]])
        return LinearConstraint(vstack(blocks).tocsr(), lower, upper), cost

    def _margin_rows(self) -> tuple[csr_array, FloatArray]:
        """d(i, l) - d(i, j) - B z_ij >= delta - B, with the smallest B that disables the row for z_ij = 0."""
        chosen = np.array(sorted(self.triples), dtype=np.int64).reshape(-1, 2)
        (i, j), far = self.pairs[chosen[:, 0]].T, chosen[:, 1]
        points = self.problem.points
        to_member, to_impostor = points[i] - points[j], points[i] - points[far]
        big = (self.unknowns.largest(to_member, to_impostor, self.reach) + self.problem.delta) * self.slack
        rows = big > 0  # the others hold for every metric
        slopes = self.unknowns.coefficients(to_impostor) - self.unknowns.coefficients(to_member)
        n_rows, m = int(rows.sum()), len(self.pairs)
        switch = csr_array((-big[rows], (np.arange(n_rows), chosen[rows, 0])), (n_rows, m))
        rest = (csr_array((n_rows, self.q)), switch, csr_array((n_rows, len(points))))
        return hstack([csr_array(slopes[rows]), *rest]), self.problem.delta - big[rows]
