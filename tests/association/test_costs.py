"""Costs, and the decisions of uses A and B, against tables that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.association import costs

INF = np.inf


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_fuse_is_the_weighted_mean(rng, weight):
    iou, appearance = rng.uniform(0, 1, 5), rng.uniform(0, 2, 5)
    found = costs.fuse(iou, appearance, weight)
    for k in range(5):
        assert found[k] == pytest.approx((1 - weight) * (1 - iou[k]) + weight * appearance[k] / 2)


# pair 0 = track 0 with detection 0, and so on; the distances are of appearance
CROSSED = np.array([[0.9, 0.1], [0.1, 0.9]])
RIGHT = np.array([[0.1, 0.9], [0.9, 0.1]])
# distances, vetoed, columns wanted, vetoes wanted
SWAPS = [
    (CROSSED, [True, True], [1, 0], [False, False]),  # two people crossed: exchanged
    (CROSSED, [True, False], [1, 0], [False, False]),  # one veto is enough
    (CROSSED, [False, False], [0, 1], [False, False]),  # nothing was vetoed: nothing moves
    (RIGHT, [True, False], [0, 1], [True, False]),  # the swap has a higher appearance cost: cancelled
    (np.array([[0.9, 0.85], [0.9, 0.9]]), [True, True], [0, 1], [True, True]),  # gain of 0.05 < 0.1
]


@pytest.mark.parametrize(("dist", "vetoed", "columns", "left"), SWAPS)
def test_swaps_of_two_pairs(dist, vetoed, columns, left):
    pair = np.arange(2)
    got, still = costs.swaps(pair, pair, np.array(vetoed), dist, np.ones((2, 2), bool), 0.1)
    assert got.tolist() == columns
    assert still.tolist() == left


def test_no_swap_outside_the_motion_gate():
    pair = np.arange(2)
    allowed = np.array([[True, True], [False, True]])
    got, still = costs.swaps(pair, pair, np.ones(2, bool), CROSSED, allowed, 0.1)
    assert got.tolist() == [0, 1]
    assert still.all()


def test_best_swap_is_first_and_each_pair_swaps_once(rng):
    for _ in range(50):
        n = 6
        dist = rng.uniform(0, 2, (n, n))
        vetoed = rng.random(n) < 0.6
        allowed = rng.random((n, n)) < 0.7
        pair = np.arange(n)
        columns, still = pair.copy(), vetoed.copy()
        free = set(range(n))
        while True:  # slow: repeatedly search the best swap
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
    (0.1, 0.5, False, False),  # outside the motion gate
    (0.5, 2.0, True, False),  # appearance too different
    (0.3, 0.32, True, False),  # another track is nearly as close
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
def test_reassociation_rules(dist, rival, gated, accepted):
    found = costs.reassociation_cost(np.array([[dist]]), np.array([[rival]]), np.array([[gated]]), 0.45, 1.1)
    assert np.isfinite(found[0, 0]) == accepted
    if accepted:
        assert found[0, 0] == dist
