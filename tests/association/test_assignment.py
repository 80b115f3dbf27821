"""`assign` against every permutation, and against scipy on a padded problem (property 8)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tracker.association.assignment import assign


def best_by_trying_all(cost: np.ndarray) -> tuple[int, float]:
    """(most pairs, least cost of so many): rows take a column or none, in every possible way."""
    n_rows, n_columns = cost.shape
    best = (0, 0.0)
    columns = [*range(n_columns), *[-1] * n_rows]
    for choice in set(itertools.permutations(columns, n_rows)) if n_rows <= 3 else _choices(n_rows, n_columns):
        pairs = [(i, j) for i, j in enumerate(choice) if j >= 0]
        if all(np.isfinite(cost[i, j]) for i, j in pairs):
            total = sum(cost[i, j] for i, j in pairs)
            best = min(best, (-len(pairs), total))
    return -best[0], best[1]


def _choices(n_rows: int, n_columns: int):
    """Every way to give rows different columns or none (-1)."""
    if n_rows == 0:
        yield ()
        return
    for rest in _choices(n_rows - 1, n_columns):
        for j in (-1, *(j for j in range(n_columns) if j not in rest)):
            yield (*rest, j)


def check_is_matching(cost, rows, columns):
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert (np.diff(rows) > 0).all()
    assert np.isfinite(cost[rows, columns]).all()


SIZES = [(1, 1), (1, 5), (5, 1), (2, 3), (3, 3), (4, 4), (4, 6), (6, 4), (5, 5)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("forbidden", [0.0, 0.3, 0.6, 0.9])
def test_assign_equals_brute_force(rng, size, forbidden):
    for _ in range(3):
        cost = rng.uniform(-2, 2, size)
        cost[rng.random(size) < forbidden] = np.inf
        rows, columns = assign(cost)
        check_is_matching(cost, rows, columns)
        n_pairs, total = best_by_trying_all(cost)
        assert len(rows) == n_pairs
        assert cost[rows, columns].sum() == pytest.approx(total)


def test_assign_equals_brute_force_at_six_by_six(rng):
    for forbidden in (0.0, 0.5, 0.8):
        cost = rng.uniform(0, 1, (6, 6))
        cost[rng.random((6, 6)) < forbidden] = np.inf
        rows, columns = assign(cost)
        n_pairs, total = best_by_trying_all(cost)
        assert len(rows) == n_pairs
        assert cost[rows, columns].sum() == pytest.approx(total)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (120, 120)])
@pytest.mark.parametrize("forbidden", [0.2, 0.9, 0.97])
def test_assign_equals_scipy_on_the_padded_problem(rng, size, forbidden):
    cost = rng.uniform(0, 1, size)
    cost[rng.random(size) < forbidden] = np.inf
    rows, columns = assign(cost)
    check_is_matching(cost, rows, columns)
    padded = np.where(np.isfinite(cost), cost, 1e4)
    i, j = linear_sum_assignment(padded)
    real = np.isfinite(cost[i, j])
    assert len(rows) == real.sum()
    assert cost[rows, columns].sum() == pytest.approx(cost[i, j][real].sum())


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_cost_scale_does_not_matter(rng, scale):
    cost = rng.uniform(0, 1, (8, 8))
    cost[rng.random((8, 8)) < 0.4] = np.inf
    assert [a.tolist() for a in assign(cost)] == [a.tolist() for a in assign(cost * scale)]


def test_more_pairs_beat_cheaper_pairs():
    rows, columns = assign(np.array([[0.0, 9.0], [5.0, np.inf]]))
    assert rows.tolist() == [0, 1]
    assert columns.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_nothing_to_assign(shape):
    rows, columns = assign(np.zeros(shape))
    assert len(rows) == len(columns) == 0


def test_all_forbidden():
    rows, columns = assign(np.full((3, 3), np.inf))
    assert rows.tolist() == columns.tolist() == []


def test_nan_raises():
    with pytest.raises(ValueError, match="NaN"):
        assign(np.array([[0.1, np.nan]]))
