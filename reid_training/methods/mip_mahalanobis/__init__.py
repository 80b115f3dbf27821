"""Optimal Mahalanobis metric: a mixed-integer program that sacrifices few points and distorts space little.

Active Metric Learning for Supervised Classification. Krishnan Kumaran, Dimitri Papageorgiou, Yutong Chang, Minhan Li,
Martin Takáč. 2018, https://arxiv.org/abs/1803.10647. Only its abstract was available to us.

What we take:
(1) No neighbours, triplets or pairs are fixed beforehand; the program chooses them.
(2) Space is distorted as little as possible while the points of a class form local clusters.
(3) Small sets are solved exactly, larger ones approximately.
(4) The metric selects the points to label next: those on a class boundary, and outliers.
Where we differ:
(1, 2) The formulation is our reconstruction. With d(x, y) = (x - y)' M (x - y), M >= 0, trace M = p,

        min  sum_i u_i + mu |M - I|_1
        s.t. d(i, l) >= d(i, j) + delta     where z_ij = 1, for every l of another class      u_i, z_ij in {0, 1}
             sum_j z_ij >= k (1 - u_i)      over the others j of the class of i

    z_ij: j is a neighbour of i; u_i: i is given up. The paper's metric has terms of higher order; ours has the second
    order alone, so that the metric is a linear map and then the Euclidean distance. The trace fixes the scale: without
    it, inflating M would satisfy the margin.
(3) Rows, and the cuts that keep M >= 0, are added where a solution violates them; every bound of such a relaxation is
    valid for the whole program. Results are counted again from distances, never read from the solver's variables. With
    a time limit the bound may stay below the value; the status says so.
(4) Of boundary points and outliers, those that represent many unlabelled points come first (`most_telling`). The
    abstract's boundary, the smallest margin alone, is better than random choice on some sets and not on others; ours
    is mostly better than that, and as good under Euclid as under the learned metric (`questions`).

Modules: `metric` M; `problem` its cost on points; `rows` constraints of both programs; `heuristic` the approximate
solution; `program` the mixed-integer program; `solver` chooses between them within the time limit; `questions` selects
points to label; `estimator` the scikit-learn interface; `config` settings.
"""

from __future__ import annotations

from reid_training.methods.mip_mahalanobis.config import FORMS, MIPMahalanobisConfig
from reid_training.methods.mip_mahalanobis.estimator import MIPMahalanobis
from reid_training.methods.mip_mahalanobis.heuristic import along_coordinates, fixed_neighbours, improve, near_triples
from reid_training.methods.mip_mahalanobis.metric import (
    NEGATIVE,
    BoolArray,
    FloatArray,
    IntArray,
    Unknowns,
    between,
    distortion,
    is_psd,
    repaired,
    root,
    squared_distances,
)
from reid_training.methods.mip_mahalanobis.problem import (
    TOLERANCE,
    Problem,
    best_of,
    given_up,
    make_problem,
    objective,
    reaches,
    unit,
)
from reid_training.methods.mip_mahalanobis.program import Program
from reid_training.methods.mip_mahalanobis.questions import (
    DOUBT_POWER,
    MOST_COMPARED,
    OUTLIER_QUANTILE,
    OUTLIER_SHARE,
    most_telling,
)
from reid_training.methods.mip_mahalanobis.rows import FIRST_IMPOSTORS, bending_rows, psd_rows, trace_row
from reid_training.methods.mip_mahalanobis.solver import (
    GAP_CLOSED,
    HEURISTIC,
    OPTIMAL,
    SUBSAMPLES,
    TIME_LIMIT,
    TOLERANCE_LIMIT,
    Solution,
    balanced_rows,
    from_subsamples,
    hopeless,
    prove,
    solve,
)

__all__ = [
    "DOUBT_POWER", "FIRST_IMPOSTORS", "FORMS", "GAP_CLOSED", "HEURISTIC", "MOST_COMPARED", "NEGATIVE", "OPTIMAL",
    "OUTLIER_QUANTILE", "OUTLIER_SHARE", "SUBSAMPLES", "TIME_LIMIT", "TOLERANCE", "TOLERANCE_LIMIT", "BoolArray",
    "FloatArray", "IntArray", "MIPMahalanobis", "MIPMahalanobisConfig", "Problem", "Program", "Solution",
    "Unknowns", "along_coordinates", "balanced_rows", "bending_rows", "best_of", "between", "distortion",
    "fixed_neighbours", "from_subsamples", "given_up", "hopeless", "improve", "is_psd", "make_problem",
    "most_telling", "near_triples", "objective", "prove", "psd_rows", "reaches", "repaired", "root", "solve",
    "squared_distances", "trace_row", "unit",
]  # fmt: skip
