"""Log odds of pairs against scipy's densities, and the posterior against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from tracker.association import evidence
from tracker.association.scene import Scene, places_of

BOXES = np.array([[100.0, 100, 140, 220], [300.0, 90, 360, 250], [-20.0, -10, 30, 90]])


def prediction(std_share: float) -> tuple[np.ndarray, np.ndarray]:
    """(1, 8) mean of a track and (1, 4) variance of its innovation; std_share of its height of 120."""
    return np.array([[125.0, 158, 0.4, 120, 0, 0, 0, 0]]), np.array([[36.0, 49, 0.01, (std_share * 120) ** 2]])


def test_log_motion_is_the_sum_of_three_normal_densities():
    mean, variance = prediction(0.1)
    found = evidence.log_motion(mean[:, None], variance[:, None], places_of(BOXES)[None])
    assert found.shape == (1, 3)
    for j, (x1, y1, x2, y2) in enumerate(BOXES):
        wanted = norm.logpdf((x1 + x2) / 2, 125, 6) + norm.logpdf((y1 + y2) / 2, 158, 7)
        wanted += norm.logpdf(math.log(y2 - y1), math.log(120), 0.1)
        assert found[0, j] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("height", [118.0, 120.0, 121.0])
def test_log_motion_changes_variable_from_height_to_log_height(height):
    """density of log h = density of h times dh / d(log h) = h; the same while the variance is small."""
    mean, variance = prediction(0.01)
    box = np.array([[105.0, 158 - height / 2, 145, 158 + height / 2]])
    of_height = norm.logpdf(height, 120, 1.2) + math.log(height)
    wanted = norm.logpdf(125, 125, 6) + norm.logpdf(158, 158, 7) + of_height
    assert evidence.log_motion(mean, variance, places_of(box))[0] == pytest.approx(wanted, abs=0.05)


def test_log_motion_pairs_equal_the_table(rng):
    mean = np.column_stack([rng.uniform(0, 500, (4, 2)), rng.uniform(0.3, 0.6, 4), rng.uniform(50, 200, 4)])
    variance = rng.uniform(1, 100, (4, 4))
    places = places_of(BOXES)
    table = evidence.log_motion(mean[:, None], variance[:, None], places[None])
    for i in range(4):
        for j in range(3):
            assert evidence.log_motion(mean[[i]], variance[[i]], places[[j]])[0] == table[i, j]


def test_log_motion_of_empty_boxes_is_finite():
    mean, variance = prediction(0.1)
    mean[0, 3] = 0.0
    flat = np.array([[10.0, 20, 10, 20]])
    with np.errstate(all="raise"):
        assert np.isfinite(evidence.log_motion(mean, variance, places_of(flat))).all()


def scene() -> Scene:
    return Scene(0.45, 0.65, 0.15)


def test_log_odds_add_appearance_and_weighted_motion():
    dist, motion, newcomers = np.array([0.1, 0.5, 0.9]), np.array([-9.0, -11, -20]), np.array([-13.0, -14, -12])
    known = np.array([True, True, False])
    found = evidence.log_odds(scene(), dist, known, motion, newcomers, 0.3)
    by_appearance = scene().log_ratio(dist)
    for k in range(3):
        assert found[k] == pytest.approx(known[k] * by_appearance[k] + 0.3 * (motion[k] - newcomers[k]))


def test_far_detection_needs_more_appearance_than_a_near_one():
    """The largest distance at which the odds still are for the track shrinks with the way from the prediction."""
    mean, variance = prediction(0.1)
    dist = np.linspace(0, 1, 1001)
    largest = []
    for aside in (0.0, 15.0, 30.0, 45.0):
        place = places_of(np.array([[105.0 + aside, 98, 145 + aside, 218]]))
        motion = evidence.log_motion(mean, variance, place)
        odds = evidence.log_odds(scene(), dist, np.ones(1001, bool), motion, np.array([-13.0]), 0.3)
        largest.append(dist[odds > 0].max(initial=-1.0))
    assert largest == sorted(largest, reverse=True)
    assert largest[0] > largest[2] > 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (5, 7)])
def test_posterior_is_the_share_of_each_track(rng, shape):
    odds = rng.normal(0, 4, shape)
    found = evidence.posterior(odds)
    assert found.shape == shape
    for j in range(shape[1]):
        total = 1.0 + sum(math.exp(odds[i, j]) for i in range(shape[0]))
        for i in range(shape[0]):
            assert found[i, j] == pytest.approx(math.exp(odds[i, j]) / total)
    assert (found.sum(axis=0) <= 1 + 1e-12).all()


def test_posterior_of_extreme_odds_does_not_overflow():
    odds = np.array([[1000.0, -1000, 1000, 0], [-1000.0, -1000, 1000, -1000]])
    with np.errstate(all="raise", under="ignore"):
        found = evidence.posterior(odds)
    np.testing.assert_allclose(found, [[1, 0, 0.5, 0.5], [0, 0, 0.5, 0]], atol=1e-300)
