"""Running estimates against all data at once, densities against scipy, and what the scene learns of a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from tracker.association import scene as sc
from tracker.association.scene import Normal, Scene, places_of

# tau_same, tau_diff, sigma: both bundled networks, and embeddings of the caller
CALIBRATIONS = [(0.655, 0.954, 0.464), (0.619, 0.916, 0.404), (0.45, 0.65, 0.15)]
DIST = np.linspace(0, 2, 2001)


# --------------------------------------------------------------------------------------------- normal distributions


@pytest.mark.parametrize("k", [1, 3])
def test_normal_below_its_memory_has_mean_and_covariance_of_all_data(rng, k):
    data = rng.normal(size=(500, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)
    normal = Normal(0.0, np.zeros(k), np.zeros((k, k)))
    start = 0
    for m in (1, 0, 7, 92, 400):
        normal.add(data[start : start + m], memory=1000)
        start += m
    assert normal.n == 500
    np.testing.assert_allclose(normal.mean, data.mean(axis=0))
    np.testing.assert_allclose(normal.cov, np.cov(data.T, bias=True).reshape(k, k))


def test_normal_counts_its_prior_as_data(rng):
    prior, data = rng.normal(2, 3, (40, 2)), rng.normal(size=(60, 2))
    normal = Normal(40.0, prior.mean(axis=0), np.cov(prior.T, bias=True))
    normal.add(data, memory=1000)
    everything = np.concatenate([prior, data])
    np.testing.assert_allclose(normal.mean, everything.mean(axis=0))
    np.testing.assert_allclose(normal.cov, np.cov(everything.T, bias=True))


def test_normal_beyond_its_memory_follows_the_data(rng):
    normal = Normal(0.0, np.zeros(1), np.zeros((1, 1)))
    normal.add(rng.normal(5, 2, (5000, 1)), memory=100)
    for _ in range(200):
        normal.add(rng.normal(-1, 0.5, (10, 1)), memory=100)
        assert normal.n <= 100
    assert normal.mean[0] == pytest.approx(-1, abs=0.2)
    assert math.sqrt(normal.cov[0, 0]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("blur", [np.zeros(3), np.array([0.5, 0.1, 2.0])])
def test_normal_log_density_is_scipys(rng, blur):
    root = rng.normal(size=(3, 3))
    mean, cov, values = rng.normal(size=3), root @ root.T + np.eye(3), rng.normal(size=(20, 3))
    wanted = multivariate_normal(mean, cov + np.diag(blur**2)).logpdf(values)
    np.testing.assert_allclose(Normal(9.0, mean, cov).log_density(values, blur), wanted)


# --------------------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.1), (0.4, 0.2), (0.1, 0.05)])
def test_same_person_is_the_normal_distribution_of_both_measures(mean, std):
    """99 % nearer than tau_diff, and root mean square sigma: measured on a distribution, it is found again."""
    tau_diff, sigma = norm(mean, std).ppf(0.99), math.sqrt(norm(mean, std).moment(2))
    assert sc._same_person(tau_diff, sigma) == pytest.approx((mean, std), abs=1e-3)


@pytest.mark.parametrize(("tau_diff", "sigma"), [(0.65, 0.15), (0.5, 0.5), (0.5, 2.0), (0.01, 0.001), (2.0, 0.01)])
def test_same_person_without_a_solution_is_still_a_distribution(tau_diff, sigma):
    mean, std = sc._same_person(tau_diff, sigma)
    assert 0 <= mean <= tau_diff
    assert sc.LEAST_STD <= std < 1


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_log_ratio_falls_with_the_distance_and_changes_sign(rng, calibration):
    """Also after the scene taught it much smaller distances than the other views of its calibration."""
    scene = Scene(*calibration)
    ratio = scene.log_ratio(DIST)
    assert (np.diff(ratio) <= 0).all()
    assert ratio[calibration[0] / 2 > DIST].min() > 0
    assert ratio[calibration[1] < DIST].max() < -1
    for _ in range(100):
        scene.observe_distances(rng.normal(0.05, 0.02, 30), rng.normal(0.2, 0.05, 100))
    assert (np.diff(scene.log_ratio(DIST)) <= 0).all()
    assert scene.log_ratio(DIST)[DIST > 0.2].max() < -1


def test_log_ratio_is_that_of_the_mixtures():
    """scipy's densities, between the mean of one person and that of different people."""
    tau_same, tau_diff, sigma = CALIBRATIONS[1]
    one = norm(*sc._same_person(tau_diff, sigma))
    std = (1 - tau_same) / 2.326
    dist = DIST[(one.mean() + 0.01 < DIST) & (tau_same > DIST)]
    different = (1 - sc.LOOKALIKES) * norm(tau_same + 1.282 * std, std).pdf(dist) + sc.LOOKALIKES / 2
    same = (1 - sc.SPOILED) * one.pdf(dist) + sc.SPOILED * different
    np.testing.assert_allclose(Scene(*CALIBRATIONS[1]).log_ratio(dist), np.log(same / different), atol=2e-3)


@pytest.mark.parametrize("calibration", [*CALIBRATIONS, (1e-9, 1e-9, 1e-9), (2.0, 2.0, 2.0), (0.9, 0.1, 0.01)])
def test_log_ratio_is_bounded_by_lookalikes_and_spoiled_crops(calibration):
    """So that no single distance can outweigh everything else."""
    scene = Scene(*calibration)
    sharpest = norm(0, sc.LEAST_STD).pdf(0)
    for _ in range(3):
        ratio = scene.log_ratio(DIST)
        assert ratio.min() >= math.log(sc.SPOILED) - 1e-9
        assert ratio.max() <= math.log(sc.SPOILED + sharpest / (sc.LOOKALIKES / 2))
        scene.observe_distances(np.full(5000, 0.3), np.full(5000, 0.31))


def test_scene_learns_the_boundary_of_another_network(rng):
    """Calibrated for one network, shown the distances of another: most decisions about either are right."""
    same, different = norm(0.12, 0.04), norm(0.45, 0.1)
    scene = Scene(*CALIBRATIONS[0])
    asked = same.rvs(1000, rng), different.rvs(1000, rng)

    def right() -> float:
        return min((scene.log_ratio(asked[0]) > 0).mean(), (scene.log_ratio(asked[1]) < 0).mean())

    assert right() < 0.4
    for _ in range(100):
        scene.observe_distances(same.rvs(30, rng), different.rvs(100, rng))
    assert right() > 0.93


def test_scene_with_few_pairs_stays_near_the_calibration():
    scene, calibrated = Scene(*CALIBRATIONS[0]), Scene(*CALIBRATIONS[0])
    scene.observe_distances(np.array([0.1]), np.array([0.2]))
    assert np.abs(scene.log_ratio(DIST) - calibrated.log_ratio(DIST)).max() < 1


def test_constant_distances_end_without_a_say():
    """Everybody alike: less than one nat, whatever the network said before."""
    scene = Scene(*CALIBRATIONS[2])
    at_zero = np.zeros(1)
    assert scene.log_ratio(at_zero)[0] > 3
    for _ in range(200):
        scene.observe_distances(np.zeros(20), np.zeros(100))
    assert abs(scene.log_ratio(at_zero)[0]) < 1


# --------------------------------------------------------------------------------------------------------- newcomers


def boxes_of(rng, n: int, height: float = 120.0) -> np.ndarray:
    corner = rng.uniform((50, 50), (500, 300), (n, 2))
    size = height * rng.uniform(0.8, 1.2, (n, 1)) * (0.4, 1.0)
    return np.concatenate([corner, corner + size], axis=1)


def observed(scene: Scene, boxes: np.ndarray, n_new: int) -> None:
    scene.observe_boxes(places_of(boxes), boxes[:, 2:], n_new)


def test_places_of_boxes():
    np.testing.assert_allclose(places_of(np.array([[10.0, 20, 30, 120]])), [[20, 70, math.log(100)]])
    assert places_of(np.zeros((0, 4))).shape == (0, 3)


def test_newcomers_before_anything_is_known_are_the_prior():
    wanted = math.log(sc.PRIOR_NEWCOMERS / sc.LOG_HEIGHTS)
    assert Scene(*CALIBRATIONS[0]).log_newcomers(np.zeros((2, 3))).tolist() == pytest.approx([wanted] * 2)


def test_newcomers_are_the_rate_times_the_mixture_of_places(rng):
    """The rate is the mean of all frames, places are half a normal distribution of all boxes, half anywhere."""
    scene, per_frame, n_new = Scene(*CALIBRATIONS[0]), [boxes_of(rng, n) for n in (5, 0, 8, 3)], [5, 0, 2, 1]
    for boxes, new in zip(per_frame, n_new, strict=True):
        observed(scene, boxes, new)
    every = np.concatenate(per_frame)
    rate = (sc.PRIOR_NEWCOMERS * sc.PRIOR_FRAMES + sum(n_new)) / (sc.PRIOR_FRAMES + len(n_new))
    first, places = places_of(per_frame[0]), places_of(every)
    height = math.exp(first[:, 2].mean())
    weight = sc.PRIOR_BOXES + len(places)
    mean = (sc.PRIOR_BOXES * first.mean(axis=0) + places.sum(axis=0)) / weight
    prior = np.diag([16 * height**2, 4 * height**2, 0.25]) + np.outer(first.mean(axis=0), first.mean(axis=0))
    cov = (sc.PRIOR_BOXES * prior + places.T @ places) / weight - np.outer(mean, mean)
    blur = (sc.BLUR * np.array([math.exp(mean[2])] * 2 + [1.0])) ** 2
    anywhere = 1 / (every[:, 2].max() * every[:, 3].max() * sc.LOG_HEIGHTS)
    asked = places_of(boxes_of(rng, 6))
    density = 0.5 * multivariate_normal(mean, cov + np.diag(blur)).pdf(asked) + 0.5 * anywhere
    np.testing.assert_allclose(np.exp(scene.log_newcomers(asked)), rate * density, rtol=1e-6)


def test_newcomers_never_become_impossible(rng):
    scene, boxes = Scene(*CALIBRATIONS[0]), boxes_of(rng, 5)
    for _ in range(5000):
        observed(scene, boxes, 0)
    far = np.array([[1e6, 1e6, 20.0]])
    extent = boxes[:, 2].max() * boxes[:, 3].max()
    assert scene.log_newcomers(far)[0] >= math.log(sc.LEAST_NEWCOMERS * 0.5 / (extent * sc.LOG_HEIGHTS)) - 1e-9


@pytest.mark.parametrize("n_people", [1, 2, 3])
def test_people_who_never_move_leave_finite_newcomers(rng, n_people):
    """A frozen picture: the variance of places fades to zero, or to a line between two people."""
    scene, boxes = Scene(*CALIBRATIONS[0]), boxes_of(rng, n_people)
    crowd = np.repeat(boxes, 3000, axis=0)
    with np.errstate(all="raise", under="ignore"):
        for _ in range(800):
            observed(scene, crowd, 0)
        found = scene.log_newcomers(places_of(np.concatenate([boxes, boxes + 50])))
    assert np.isfinite(found).all()
    assert (found[:n_people] > found[n_people:]).all()
    assert found.max() < 5


def test_newcomers_scale_with_the_picture(rng):
    """Twice the size: a quarter of the density per square pixel."""
    small, large, boxes = Scene(*CALIBRATIONS[0]), Scene(*CALIBRATIONS[0]), boxes_of(rng, 20)
    observed(small, boxes, 3)
    observed(large, 2 * boxes, 3)
    asked = boxes_of(rng, 6)
    difference = small.log_newcomers(places_of(asked)) - large.log_newcomers(places_of(2 * asked))
    np.testing.assert_allclose(difference, math.log(4))


# ------------------------------------------------------------------------------------------------------------- state


def test_restored_scene_continues_to_the_last_bit(rng):
    scene = Scene(*CALIBRATIONS[0])
    for empty in (True, False):
        if not empty:
            observed(scene, boxes_of(rng, 5), 5)
            scene.observe_distances(rng.uniform(0, 0.5, 8), rng.uniform(0.3, 1, 30))
        other = Scene(*CALIBRATIONS[0])
        other.restore(scene.state())
        boxes, same, different = boxes_of(rng, 4), rng.uniform(0, 0.5, 3), rng.uniform(0.3, 1, 9)
        for each in (scene, other):
            observed(each, boxes, 1)
            each.observe_distances(same, different)
        assert np.array_equal(scene.log_ratio(DIST), other.log_ratio(DIST))
        asked = places_of(boxes_of(rng, 6))
        assert np.array_equal(scene.log_newcomers(asked), other.log_newcomers(asked))
