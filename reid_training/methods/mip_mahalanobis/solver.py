"""Solve a problem: exactly if the time suffices, else the best metric found; the result says which.

Small sets are solved exactly and larger ones approximately, (3) of the package docstring. Ours: larger ones use
class-balanced subsamples, and every value comes with a lower bound.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from reid_training.methods.mip_mahalanobis.config import MIPMahalanobisConfig
from reid_training.methods.mip_mahalanobis.heuristic import improve
from reid_training.methods.mip_mahalanobis.metric import FloatArray, IntArray, between, is_psd, repaired
from reid_training.methods.mip_mahalanobis.problem import Problem, best_of, given_up, objective
from reid_training.methods.mip_mahalanobis.program import Program
from reid_training.methods.mip_mahalanobis.rows import FIRST_IMPOSTORS

OPTIMAL, TIME_LIMIT, TOLERANCE_LIMIT = "optimal", "time limit", "limit of the solver's tolerance"
HEURISTIC, SUBSAMPLES = "heuristic", "subsamples"
GAP_CLOSED = 1e-5


@dataclass(frozen=True, slots=True)
class Solution:
    metric: FloatArray  # (p, p)
    value: float  # of the objective, counted from distances
    bound: float  # no metric of this form is below it
    status: str

    @property
    def gap(self) -> float:
        return max(self.value - self.bound, 0.0)


def solve(problem: Problem, config: MIPMahalanobisConfig) -> Solution:
    """The better of heuristic, exact part and Euclid; sets above `max_points` by subsamples."""
    euclid = np.eye(problem.p)
    if np.isinf(problem.mu) or problem.p == 1 or not given_up(problem, euclid).any():
        # The objective cannot be smaller: no metric is less distorted, or no point is given up.
        value = objective(problem, euclid)
        return Solution(euclid, value, value, OPTIMAL)
    if len(problem.points) > config.max_points:
        return from_subsamples(problem, config)
    found = improve(problem, euclid)
    if config.time_limit_s == 0:
        return Solution(found, objective(problem, found), 0.0, HEURISTIC)
    return prove(problem, found, config.time_limit_s)


def from_subsamples(problem: Problem, config: MIPMahalanobisConfig) -> Solution:
    """The best on all points, of class-balanced subsamples' metrics and their mean. The bound 0 proves nothing."""
    rng = np.random.default_rng(config.seed)
    metrics = []
    for _ in range(config.n_subsamples):
        part = problem.take(balanced_rows(problem.labels, config.max_points, config.k + 1, rng))
        metric = improve(part, np.eye(problem.p))
        if config.time_limit_s > 0:
            metric = prove(part, metric, config.time_limit_s / config.n_subsamples).metric
        metrics.append(metric)
    candidates = [step for metric in (np.mean(metrics, axis=0), *metrics) for step in between(metric)]
    best = best_of(problem, [np.eye(problem.p), *candidates])
    return Solution(best, objective(problem, best), 0.0, SUBSAMPLES)


def balanced_rows(labels: IntArray, n: int, least: int, rng: np.random.Generator) -> IntArray:
    """About n rows, as many of each class as there are, at least `least` where that leaves two classes or more."""
    classes = np.unique(labels)
    each = max(n // len(classes), least)
    chosen = rng.permutation(classes)[: max(n // each, 2)]
    rows = [rng.permutation(np.flatnonzero(labels == one))[:each] for one in chosen]
    return np.sort(np.concatenate(rows))


def prove(problem: Problem, start: FloatArray, seconds: float, slack: float = 1.0) -> Solution:
    """The best metric, if the time suffices; else the best of those seen, with the bound that was reached."""
    ends = time.monotonic() + seconds
    best, value = start, objective(problem, start)
    # A better metric distorts space less than that; the bound tightens every row.
    program = Program(problem, value / problem.mu if problem.mu > 0 else np.inf, slack)
    for metric in (np.eye(problem.p), start):
        program.add_impostors(metric, FIRST_IMPOSTORS)
    bound = hopeless(problem, program)
    while value - bound > GAP_CLOSED:
        left = ends - time.monotonic()
        if left <= 0:
            return Solution(best, value, bound, TIME_LIMIT)
        result = program.solve(value + GAP_CLOSED, left)
        if result.status == 2:  # nothing at or below the best one
            bound = value
            break
        if result.mip_dual_bound is not None and np.isfinite(result.mip_dual_bound):
            bound = max(bound, float(result.mip_dual_bound))
        if result.x is None:
            return Solution(best, value, bound, TIME_LIMIT)
        found = program.polished(result.x)
        best = best_of(problem, [best, repaired(found)])
        value = objective(problem, best)
        gathered = np.flatnonzero(result.x[2 * program.q :][: len(program.pairs)] > 0.5)
        # Both, always: a row that is violated by a metric that is none may be violated by the next one too.
        new = [program.add_violated(found, gathered) if is_psd(found) else False, program.add_cut(found)]
        if not any(new) and result.status == 0:
            break
    return Solution(best, value, min(bound, value), OPTIMAL if value - bound <= GAP_CLOSED else TOLERANCE_LIMIT)


def hopeless(problem: Problem, program: Program) -> float:
    """Number of points with too few possible neighbours, which every metric gives up: a bound without solving."""
    n_possible = np.bincount(program.pairs[program.possible, 0], minlength=len(problem.points))
    return float((n_possible < problem.needs()).sum())
