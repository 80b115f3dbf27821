"""The verification of use C against loops and hand-made tables."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.config import ProposalConfig
from tracker.proposals import verify


def test_best_candidates_against_a_loop(rng):
    for _ in range(30):
        track = np.sort(rng.choice([3, 5, 11], 25))
        prior, dist = -rng.uniform(0, 3, 25), rng.uniform(0, 1, 25)
        found = verify.best_candidates(track, prior, dist, 0.2)
        wanted = []
        for t in sorted(set(track)):
            rows = [k for k in range(25) if track[k] == t]
            wanted.append(max(rows, key=lambda k: prior[k] - dist[k] ** 2 / (2 * 0.2**2)))
        assert found.tolist() == wanted


def test_equal_distances_are_decided_by_the_prior():
    """A constant embedding: the argmax is the predicted box, which comes first (property 2)."""
    track = np.array([0, 0, 0, 1, 1])
    prior = np.array([0.0, -0.5, 0.0, 0.0, -1.0])
    assert verify.best_candidates(track, prior, np.full(5, 1.2e-7), 0.15).tolist() == [0, 3]


def test_background_control_rejects_equal_distances():
    same = np.array([0.0])
    for margin in (0.1, 0.01):
        config = ProposalConfig(background_margin=margin)
        assert not verify.accepted(same, same, 0.45, config).any()


# dist, control, accepted?  tau 0.4, margin 0.1
DECISIONS = [
    (0.1, 0.5, True),
    (0.1, 0.15, False),
    (0.39, 0.5, True),
    (0.4, 0.9, False),
    (0.1, np.inf, False),  # no control inside the image
    (1.0, 2.0, False),
]


@pytest.mark.parametrize(("dist", "control", "wanted"), DECISIONS)
def test_accepted_follows_the_thresholds(dist, control, wanted):
    found = verify.accepted(np.array([dist]), np.array([control]), 0.4, ProposalConfig(background_margin=0.1))
    assert found.tolist() == [wanted]


def test_mean_control_ignores_boxes_outside():
    nan = np.nan
    table = np.array([[0.2, 0.4, nan, 0.6], [nan, nan, nan, nan], [0.1, nan, nan, nan]])
    np.testing.assert_allclose(verify.mean_control(table), [0.4, np.inf, 0.1])
    assert verify.mean_control(np.zeros((2, 0, 4))).shape == (2, 0)


@pytest.mark.parametrize("budget", [0, 14, 15, 29, 30, 44, 100])
def test_budget_goes_to_those_seen_last(budget):
    cost = np.array([15, 15, 14])
    age_s = np.array([0.2, 0.04, 0.1])
    chosen = verify.within_budget(cost, age_s, budget)
    spent, wanted = 0, [False] * 3
    for k in np.argsort(age_s):
        if spent + cost[k] > budget:
            break
        spent += cost[k]
        wanted[k] = True
    assert chosen.tolist() == wanted
    assert cost[chosen].sum() <= budget
