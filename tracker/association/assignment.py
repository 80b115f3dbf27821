"""Linear assignment with forbidden pairs (Hungarian method), on sparse pairs."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from tracker.types import FloatArray, IntArray


def assign(cost: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs of rows and columns, as many as the allowed ones permit, and among those of least total cost.

    cost (T, N); +inf forbids a pair. Returns (rows, columns), each (k,), rows ascending; a forbidden pair is never in
    it. Raises ValueError for NaN.
    """
    rows, columns = (cost != np.inf).nonzero()
    chosen = assign_pairs(rows, columns, cost[rows, columns])
    return rows[chosen], columns[chosen]


def assign_pairs(rows: IntArray, columns: IntArray, cost: FloatArray) -> IntArray:
    """The same where few pairs are allowed: their rows, columns and finite costs (P,), each pair once.

    Returns which of the pairs are chosen (k,), rows ascending. Raises ValueError for NaN.
    """
    if np.count_nonzero(np.isnan(cost)):
        raise ValueError("costs must not be NaN")
    # A pair whose row and column are in no other pair is always matched. Most people walk alone, so this leaves a small
    # problem for the cubic method.
    sure = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    chosen = sure.nonzero()[0]
    if len(chosen) < len(rows):
        rest = (~sure).nonzero()[0]
        chosen = np.concatenate([chosen, rest[_hungarian(rows[rest], columns[rest], cost[rest])]])
    ordered: IntArray = chosen[rows[chosen].argsort()]
    return ordered


def _hungarian(rows: IntArray, columns: IntArray, cost: FloatArray) -> IntArray:
    """Which of the pairs (P,) are chosen (k,), in no particular order."""
    i, n_rows = _renumbered(rows)
    j, n_columns = _renumbered(columns)
    # One forbidden pair costs more than any whole matching of allowed ones can save.
    most, least = float(cost.max()), float(cost.min())
    forbidden = most + (most - least + 1.0) * (min(n_rows, n_columns) + 1)
    table = np.full((n_rows, n_columns), forbidden)
    table[i, j] = cost
    pair = np.full((n_rows, n_columns), -1, np.int64)
    pair[i, j] = np.arange(len(cost))
    chosen: IntArray = pair[linear_sum_assignment(table)]
    return chosen[chosen >= 0]


def _renumbered(numbers: IntArray) -> tuple[IntArray, int]:
    """The same numbers (P,) without gaps from 0 on, in the same order, and how many different ones there are."""
    used = np.zeros(numbers.max() + 1, bool)
    used[numbers] = True
    place = used.cumsum()
    return place[numbers] - 1, int(place[-1])
