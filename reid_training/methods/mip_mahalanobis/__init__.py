"""Optimal Mahalanobis metric: a mixed-integer program gives up as few points as possible, and bends space little.

Active Metric Learning for Supervised Classification. Kumaran, Papageorgiou, Chang, Li, Takáč. 2018, arXiv 1803.10647.

What we take, all from the abstract, which is what we could read: (1) no neighbours, triplets or pairs are designated
before; the program chooses, (2) space is distorted as little as possible while points of a class gather in local
clusters, (3) small sets are solved exactly, larger ones approximately, (4) the metric says which points to label next:
those on a boundary, and outliers.
Where we differ: the formulation is our reconstruction. With d(x, y) = (x - y)' M (x - y), M >= 0, trace M = p,

    min  sum_i u_i + mu |M - I|_1
    s.t. d(i, l) >= d(i, j) + delta     where z_ij = 1, for every l of another class      u_i, z_ij in {0, 1}
         sum_j z_ij >= k (1 - u_i)      over the others j of the class of i

z_ij: i gathers round itself j; u_i: i is given up. The paper's metric has terms of further orders; here is the second
order alone, so that "transform, then Euclid" is the metric. The trace holds the scale: without it the margin is met by
inflating M. Rows and the cuts that keep M >= 0 are added where a solution violates them; every bound of such a program
holds for the whole one, and what counts as found is counted again from distances, never read off the solver's
variables. With a limit of time the bound may stay below the value; then the status says so. Of boundary points and
outliers those come first that stand for many unlabelled ones (`most_telling`): by their margin alone they are no better
to ask about than random points.

File by file: `metric` is M, `problem` what it costs on points, `rows` what both programs share, `heuristic` the
approximate part, `program` the mixed-integer one, `solver` which of them and for how long, `questions` what to label
next, `estimator` all of it for scikit-learn, `config` its settings.
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
