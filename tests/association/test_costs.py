"""Costs and the decisions A and B take from them, against tables that one can check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.association import costs

INF = np.inf


def test_overlap_cost_forbids_below_the_gate():
    found = costs.overlap_cost(np.array([[0.9, 0.3, 0.29]]), 0.3)
    np.testing.assert_allclose(found, [[0.1, 0.7, INF]])


def test_fuse_is_the_weighted_mean_and_takes_unknown_tracks_for_strangers(rng):
    cost, look = rng.uniform(0, 1, (3, 4)), rng.uniform(0, 2, (3, 4))
    cost[0, 1] = INF
    known = np.array([True, False, True])
    found = costs.fuse(cost, look, known, 0.3)
    for i in range(3):
        for j in range(4):
            dist = look[i, j] if known[i] else max(look[0, j], look[2, j])
            wanted = 0.7 * cost[i, j] + 0.3 * dist / 2
            assert found[i, j] == pytest.approx(wanted)


def test_fuse_leaves_the_overlap_alone_where_nobody_is_known(rng):
    cost = rng.uniform(0, 1, (2, 3))
    assert (costs.fuse(cost, rng.uniform(0, 2, (2, 3)), np.zeros(2, bool), 0.5) == cost).all()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_fuse_never_allows_a_forbidden_pair(weight):
    found = costs.fuse(np.array([[INF]]), np.array([[0.0]]), np.array([True]), weight)
    assert found[0, 0] == INF


def test_gate_forbids_beyond_the_limit():
    found = costs.gate(np.array([[1.0, 2.0, 3.0]]), np.array([[9.0, 9.5, 9.4877]]), 9.4877)
    assert found.tolist() == [[1.0, INF, 3.0]]


# pair 0 = track 0 with detection 0, and so on; the distances say what looks like what
CROSSED = np.array([[0.9, 0.1], [0.1, 0.9]])
RIGHT = np.array([[0.1, 0.9], [0.9, 0.1]])
# distances, vetoed, columns wanted, vetoes wanted
SWAPS = [
    (CROSSED, [True, True], [1, 0], [False, False]),  # two people crossed: exchanged
    (CROSSED, [True, False], [1, 0], [False, False]),  # one veto is enough
    (CROSSED, [False, False], [0, 1], [False, False]),  # nothing was vetoed: nothing moves
    (RIGHT, [True, False], [0, 1], [True, False]),  # exchange would look worse: cancelled
    (np.array([[0.9, 0.85], [0.9, 0.9]]), [True, True], [0, 1], [True, True]),  # gain of 0.05 < 0.1
]


@pytest.mark.parametrize(("dist", "vetoed", "columns", "left"), SWAPS)
def test_swaps_of_two_pairs(dist, vetoed, columns, left):
    pair = np.arange(2)
    got, still = costs.swaps(pair, pair, np.array(vetoed), dist, np.ones((2, 2), bool), 0.1)
    assert got.tolist() == columns
    assert still.tolist() == left


def test_no_swap_to_a_place_that_motion_forbids():
    pair = np.arange(2)
    allowed = np.array([[True, True], [False, True]])
    got, still = costs.swaps(pair, pair, np.ones(2, bool), CROSSED, allowed, 0.1)
    assert got.tolist() == [0, 1]
    assert still.all()


def test_the_best_swap_goes_first_and_each_pair_moves_once(rng):
    for _ in range(50):
        n = 6
        dist = rng.uniform(0, 2, (n, n))
        vetoed = rng.random(n) < 0.6
        allowed = rng.random((n, n)) < 0.7
        pair = np.arange(n)
        columns, still = pair.copy(), vetoed.copy()
        free = set(range(n))
        while True:  # the slow way: look for the best exchange again and again
            options = [
                (dist[a, a] + dist[b, b] - dist[a, b] - dist[b, a], a, b)
                for a in free
                for b in free
                if a < b and allowed[a, b] and allowed[b, a] and (vetoed[a] or vetoed[b])
            ]
            options = [o for o in options if o[0] >= 0.1]
            if not options:
                break
            _, a, b = max(options)
            columns[a], columns[b] = b, a
            still[a] = still[b] = False
            free -= {a, b}
        got, left = costs.swaps(pair, pair, vetoed, dist, allowed, 0.1)
        assert got.tolist() == columns.tolist()
        assert left.tolist() == still.tolist()
        assert sorted(got) == list(range(n))


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 2), (5, 0), (5, 7)])
def test_least_of_others_against_a_loop(rng, shape):
    dist = rng.uniform(0, 1, shape).round(1)  # with ties
    dist[rng.random(shape) < 0.2] = INF
    found = costs.least_of_others(dist)
    for i in range(shape[0]):
        for j in range(shape[1]):
            assert found[i, j] == min([dist[k, j] for k in range(shape[0]) if k != i], default=INF)


# dist, rival, gated, accepted?
RELINKS = [
    (0.1, 0.5, True, True),
    (0.1, 0.5, False, False),  # motion says no
    (0.5, 2.0, True, False),  # does not look like it
    (0.3, 0.32, True, False),  # somebody else looks nearly as much like it
    (0.3, 0.34, True, True),
    (0.0, 0.0, True, False),  # 0/0 is a tie
    (0.0, 0.5, True, True),
    (0.1, INF, True, True),  # the single-candidate rule: no rival, tau_same and the gate decide
    (0.46, INF, True, False),
    (-1e-7, 0.0, True, False),  # rounding of equal float32 vectors is a tie as well
    (6e-8, 2e-7, True, False),
    (-2e-7, 2e-7, True, False),
]


@pytest.mark.parametrize(("dist", "rival", "gated", "accepted"), RELINKS)
def test_relink_rules(dist, rival, gated, accepted):
    found = costs.relink_cost(np.array([[dist]]), np.array([[rival]]), np.array([[gated]]), 0.45, 1.1)
    assert np.isfinite(found[0, 0]) == accepted
    if accepted:
        assert found[0, 0] == dist
