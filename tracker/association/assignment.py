"""Which row goes with which column: the Hungarian method with forbidden pairs."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.types import FloatArray, IntArray


def assign(cost: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs of rows and columns, as many as the allowed ones permit, and among those of least total cost.

    cost (T, N); +inf forbids a pair. Returns (rows, columns), each (k,), rows ascending; a forbidden pair is never in
    it. Raises ValueError for NaN.
    """
    if np.isnan(cost).any():
        raise ValueError("costs must not be NaN")
    allowed = np.isfinite(cost)
    in_row, in_column = allowed.sum(axis=1), allowed.sum(axis=0)  # how many pairs each row and column allows

    # A pair whose row and column allow nothing else is a component of its own and surely matched. Most people walk
    # alone, so this leaves a small problem for the cubic method.
    sure_rows, sure_columns = np.nonzero(allowed & (in_row == 1)[:, None] & (in_column == 1)[None])
    in_row[sure_rows] = in_column[sure_columns] = 0
    rows, columns = np.flatnonzero(in_row), np.flatnonzero(in_column)
    if len(rows):
        sub, sub_allowed = cost[np.ix_(rows, columns)], allowed[np.ix_(rows, columns)]
        finite = sub[sub_allowed]
        # One forbidden pair costs more than any whole matching of allowed ones can save.
        spread = float(finite.max() - finite.min())
        forbidden = finite.max() + (spread + 1.0) * (min(sub.shape) + 1)
        i, j = linear_sum_assignment(np.where(sub_allowed, sub, forbidden))
        keep = sub_allowed[i, j]
        sure_rows = np.concatenate([sure_rows, rows[i[keep]]])
        sure_columns = np.concatenate([sure_columns, columns[j[keep]]])
    order = np.argsort(sure_rows, kind="stable")
    return sure_rows[order].astype(np.int64), sure_columns[order].astype(np.int64)
