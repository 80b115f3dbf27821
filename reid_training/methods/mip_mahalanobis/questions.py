"""Active labelling: points on a class boundary and outliers, as the metric defines them.

Both are from the abstract, (4) of the package docstring. Ours: points that represent many unlabelled ones come first
(`most_telling`). Points of 1-NN accuracy above random choice, mean over curves of heuristic fits, 8 seeds (iris 20),
with standard errors, by `most_telling` under the learned metric / under Euclid / by the smallest margin alone:
moons +2.4 +- 2.5 / +1.1 +- 2.6 / +1.9 +- 2.0; wine +1.4 +- 0.7 / +1.8 +- 0.5 / +1.4 +- 0.5; breast cancer
+3.4 +- 0.8 / +4.5 +- 0.8 / +2.3 +- 1.1; iris +0.4 +- 0.5 / +0.6 +- 0.5 / -0.4 +- 0.6. So the margin alone does help on
some sets, and what saves labels is the cover of the pool rather than the learned metric.
"""

from __future__ import annotations

import numpy as np

from reid_training.methods.mip_mahalanobis.metric import BoolArray, FloatArray, IntArray

OUTLIER_QUANTILE = 0.95
# What is asked about, chosen on seeds 100 to 119 of four pools (moons; iris, wine and breast cancer of scikit-learn),
# four questions at a time. Points of accuracy above random choice, mean over the curve, on moons / iris / wine / breast
# cancer, standard errors 0.9, 0.4, 0.6, 0.7:
#   doubt to the power 1: +3.4 +1.2 +1.7 +1.6;  2: +3.1 +1.0 +2.0 +2.3
#   a quarter for outliers, power 1: +2.6 +1.1 +1.8 +2.0;  2: +2.9 +0.8 +1.8 +2.0;  4: +3.0 +1.2 +1.7 +2.2
# On moons alone: +0.8 the nearest to the boundary by the difference of both distances, none beside another, and a
# quarter of outliers, the farthest first; +0.2 the farthest of all; +1.6 what says most, whatever its doubt; +2.1 doubt
# times density; +3.3 distances half way to Euclid. With ten questions at a time, power 2, on moons / wine / breast
# cancer: +3.2 +0.1 +0.8 without outliers, +3.6 +0.1 +0.8 with a tenth, +3.8 +0.3 +1.1 with a quarter. Powers and shares
# are within chance of one another.
DOUBT_POWER = 2.0
OUTLIER_SHARE = 0.1
MOST_COMPARED = 2000  # rows of a pool; their distances among each other take 32 MB


def thinned(n_rows: int, n: int) -> IntArray:
    """Rows of a pool that are compared, evenly from its first to its last: MOST_COMPARED, or n if that is more."""
    return np.linspace(0, n_rows - 1, min(n_rows, max(MOST_COMPARED, n))).astype(np.int64)


def doubt_of(to_labelled: FloatArray, labels: IntArray) -> FloatArray:
    """Ratio of the distances to the nearest and the next class, (m,): 1 on the boundary, towards 0 inside a class.

    to_labelled (m, n): distances; labels (n,), classes 0, 1 and so on, at least two.
    """
    by_class = np.stack([to_labelled[:, labels == one].min(1) for one in range(int(labels.max()) + 1)], axis=1)
    first, second = np.sort(by_class, axis=1)[:, :2].T
    return np.asarray(np.divide(first, second, out=np.ones_like(first), where=second > 0) ** DOUBT_POWER)


def is_outlying(to_labelled: FloatArray, spacing: FloatArray, given_up: BoolArray) -> BoolArray:
    """Rows farther than usual from labelled points, or nearest to one given up, (m,).

    to_labelled (m, n): distances; spacing (n,): how far each labelled point is from the others; given_up (n,).
    """
    usual = np.quantile(spacing, OUTLIER_QUANTILE)
    return np.asarray((to_labelled.min(1) > usual) | given_up[to_labelled.argmin(1)])


def mutual_nearest(dist: FloatArray) -> IntArray:
    """Pairs of rows (s, 2), the smaller first, that are each other's nearest by dist (n, n)."""
    nearest = dist.argmin(1)
    ends = np.arange(len(nearest))
    mutual = (nearest[nearest] == ends) & (ends < nearest)
    return np.asarray(np.column_stack([ends, nearest])[mutual], dtype=np.int64)


def most_telling(
    among: FloatArray, near: FloatArray, doubt: FloatArray, outlying: BoolArray, n: int, share: float
) -> IntArray:
    """n rows, chosen greedily: each is the row that adds most information about all rows to those chosen before.

    among (m, m); near (m,) to the nearest labelled point; doubt (m,). The information of a row about another is the
    relative reduction of the other's distance to a labelled point, times the other's doubt: a question covers the
    unlabelled points around it. A `share` of the questions goes to `outlying` rows (m,) as long as there are any,
    whatever their doubt.
    """
    per_way = np.divide(1.0, near, out=np.zeros_like(near), where=near > 0)  # 0: it lies on a labelled point
    left, free = near.copy(), np.ones(len(near), dtype=bool)
    chosen: list[int] = []
    n_outliers = 0
    while len(chosen) < n:
        rare = n_outliers < round(share * (len(chosen) + 1)) and bool((free & outlying).any())
        said = (per_way if rare else per_way * doubt) @ np.maximum(left[:, None] - among, 0.0)
        said[~(free & outlying if rare else free)] = -1.0
        row = int(said.argmax())
        chosen.append(row)
        free[row] = False
        left = np.minimum(left, among[row])
        n_outliers += bool(outlying[row])
    return np.array(chosen, dtype=np.int64)
