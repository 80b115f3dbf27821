"""The batched filter against one filterpy.kalman.KalmanFilter per track (property 7)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import textbook_filter, textbook_noise, textbook_predict, textbook_update
from tracker.boxes import cxcyah_to_xyxy
from tracker.config import MotionConfig
from tracker.motion import kalman

CONFIG = MotionConfig()


def people(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 4) measurements cx, cy, a, h."""
    return np.stack(
        [rng.uniform(0, 1920, n), rng.uniform(0, 1080, n), rng.uniform(0.2, 0.9, n), rng.uniform(20, 500, n)], 1
    )


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_batched_filter_equals_filterpy_over_any_sequence(seed, n):
    rng = np.random.default_rng(seed)
    z = people(rng, n)
    mean, cov = kalman.initiate(z, CONFIG)
    textbook = [textbook_filter(row, CONFIG) for row in z]
    for _ in range(60):
        if rng.random() < 0.6:
            dt_s = float(rng.choice([0.0, 1 / 120, 1 / 30, 0.1, 0.7]))
            mean, cov = kalman.predict(mean, cov, dt_s, CONFIG)
            for kf in textbook:
                textbook_predict(kf, dt_s, CONFIG)
        else:
            z = mean[:, :4] * rng.normal(1, 0.03, (n, 4))
            factor = rng.choice([1.0, 4.0], n)
            mean, cov = kalman.correct(mean, cov, z, CONFIG, factor)
            for kf, row, times in zip(textbook, z, factor, strict=True):
                textbook_update(kf, row, CONFIG, times)
        np.testing.assert_allclose(mean, [kf.x[:, 0] for kf in textbook], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(kalman.dense(cov), [kf.P for kf in textbook], rtol=1e-9, atol=1e-9)


def camera_jacobian(motion) -> np.ndarray:
    """(8, 8): what a similarity (2, 3) does to [cx, cy, a, h] and to their velocities."""
    J = np.eye(4)
    J[:2, :2] = motion[:, :2]
    J[3, 3] = np.sqrt(np.linalg.det(motion[:, :2]))
    return np.kron(np.eye(2), J)


def any_motion(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) similarity of a camera."""
    p, q = rng.uniform(0.8, 1.25) * np.array([np.cos(turn := rng.uniform(-0.4, 0.4)), np.sin(turn)])
    return np.array([[p, -q, rng.normal(0, 50)], [q, p, rng.normal(0, 50)]])


@pytest.mark.parametrize("seed", range(4))
def test_moving_camera_equals_filterpy_with_dense_matrices(seed):
    """filterpy's own prediction, F = J and no noise, is the camera's motion: the blocks lose nothing."""
    rng = np.random.default_rng(seed)
    z = people(rng, 5)
    mean, cov = kalman.initiate(z, CONFIG)
    textbook = [textbook_filter(row, CONFIG) for row in z]
    for step in range(45):
        if step % 3 == 0:
            mean, cov = kalman.predict(mean, cov, 0.04, CONFIG)
            for kf in textbook:
                textbook_predict(kf, 0.04, CONFIG)
        elif step % 3 == 1:
            motion = any_motion(rng)
            mean, cov = kalman.moved_by_camera(mean, cov, motion)
            for kf in textbook:
                kf.predict(F=camera_jacobian(motion), Q=np.zeros((8, 8)))
                kf.x[:2, 0] += motion[:, 2]
        else:
            z = mean[:, :4] * rng.normal(1, 0.03, (5, 4))
            mean, cov = kalman.correct(mean, cov, z, CONFIG)
            for kf, row in zip(textbook, z, strict=True):
                textbook_update(kf, row, CONFIG)
        np.testing.assert_allclose(mean, [kf.x[:, 0] for kf in textbook], rtol=1e-9, atol=1e-7)
        # The dense matrices couple cx and cy only by rounding.
        scale = cov[:, [0, 0, 2, 2], :].reshape(5, -1).max()
        np.testing.assert_allclose(kalman.dense(cov), [kf.P for kf in textbook], rtol=1e-8, atol=1e-13 * scale)


def test_zooming_panning_camera_moves_box_corners(rng):
    mean, cov = kalman.initiate(people(rng, 6), CONFIG)
    motion = np.array([[1.1, 0, 30], [0, 1.1, -12]])
    moved, _ = kalman.moved_by_camera(mean, cov, motion)
    for before, now in zip(cxcyah_to_xyxy(mean[:, :4]), cxcyah_to_xyxy(moved[:, :4]), strict=True):
        np.testing.assert_allclose(now, [1.1 * v + d for v, d in zip(before, (30, -12, 30, -12), strict=True)])


def test_camera_moving_back_restores_the_state(rng):
    mean, cov = kalman.predict(*kalman.initiate(people(rng, 6), CONFIG), 0.3, CONFIG)
    mean[:, 4:] = rng.normal(0, 20, (6, 4))
    motion = any_motion(rng)
    inverse = np.linalg.inv(np.vstack([motion, [0, 0, 1]]))[:2]
    again = kalman.moved_by_camera(*kalman.moved_by_camera(mean, cov, motion), inverse)
    np.testing.assert_allclose(again[0], mean, rtol=1e-9)
    np.testing.assert_allclose(again[1], cov, rtol=1e-9)


def test_still_camera_changes_no_bit(rng):
    mean, cov = kalman.predict(*kalman.initiate(people(rng, 20), CONFIG), 0.3, CONFIG)
    mean[:, 4:] = rng.normal(0, 20, (20, 4))
    moved = kalman.moved_by_camera(mean, cov, np.eye(2, 3))
    assert np.array_equal(moved[0], mean)
    assert np.array_equal(moved[1], cov)


def test_innovation_variance_is_the_textbook_diagonal(rng):
    z = people(rng, 5)
    mean, cov = kalman.predict(*kalman.initiate(z, CONFIG), 0.2, CONFIG)
    for row, kf in enumerate([textbook_filter(each, CONFIG) for each in z]):
        textbook_predict(kf, 0.2, CONFIG)
        textbook_update(kf, z[row], CONFIG)
        np.testing.assert_allclose(kalman.innovation_variance(mean, cov, CONFIG)[row], np.diag(kf.S), rtol=1e-12)


def test_covariance_stays_symmetric_and_positive(rng):
    mean, cov = kalman.initiate(people(rng, 20), CONFIG)
    for step in range(400):
        mean, cov = kalman.predict(mean, cov, float(rng.choice([0.0, 1e-4, 0.04, 3.0])), CONFIG)
        if step % 3:
            noise = rng.choice([1.0, 4.0], 20)
            mean, cov = kalman.correct(
                mean, cov, mean[:, :4] + rng.normal(0, 1, (20, 4)) * (5, 5, 0.01, 5), CONFIG, noise
            )
        full = kalman.dense(cov)
        assert np.array_equal(full, full.swapaxes(1, 2))
        # Scaled to a unit diagonal: pixels and aspects lie ten orders of magnitude apart.
        std = np.sqrt(np.diagonal(full, axis1=1, axis2=2))
        assert np.linalg.eigvalsh(full / std[:, :, None] / std[:, None]).min() > -1e-12


def test_coasting_strictly_widens_the_innovation(rng):
    mean, cov = kalman.initiate(people(rng, 10), CONFIG)
    for _ in range(5):
        mean, cov = kalman.correct(*kalman.predict(mean, cov, 0.04, CONFIG), mean[:, :4], CONFIG)
    last = cov[:, 0]
    for _ in range(50):
        mean, cov = kalman.predict(mean, cov, 0.04, CONFIG)
        assert (cov[:, 0] > last).all()
        last = cov[:, 0]


def test_noise_grows_with_time_not_with_the_number_of_frames(rng):
    """One step of 0.2 s widens the position about as much as five of 0.04 s (the frame rate does not matter)."""
    start = kalman.initiate(people(rng, 4), CONFIG)
    one = kalman.predict(*start, 0.2, CONFIG)
    many = start
    for _ in range(5):
        many = kalman.predict(*many, 0.04, CONFIG)
    np.testing.assert_allclose(one[0], many[0])
    np.testing.assert_allclose(one[1][:, 0], many[1][:, 0], rtol=0.1)


def test_noisier_measurement_changes_the_state_less(rng):
    mean, cov = kalman.initiate(people(rng, 6), CONFIG)
    z = mean[:, :4] + (10, 10, 0.05, 10)
    exact, exact_cov = kalman.correct(mean, cov, z, CONFIG)
    same, _ = kalman.correct(mean, cov, z, CONFIG, np.ones(6))
    vague, vague_cov = kalman.correct(mean, cov, z, CONFIG, np.full(6, 4.0))
    assert np.array_equal(exact, same)
    assert (np.abs(vague - mean)[:, :4] < np.abs(exact - mean)[:, :4]).all()
    assert (vague_cov[:, 0] > exact_cov[:, 0]).all()


@pytest.mark.parametrize("seed", range(4))
def test_unseen_tracks_keep_their_size_as_in_filterpy(seed):
    """Others are predicted at the same time, and the noise of both grows."""
    rng = np.random.default_rng(seed)
    z = people(rng, 6)
    mean, cov = kalman.initiate(z, CONFIG)
    mean[:, 4:] = rng.normal(0, 1, (6, 4)) * (50, 50, 0.1, 20)
    textbook = [textbook_filter(row, CONFIG) for row in z]
    for kf, row in zip(textbook, mean, strict=True):
        kf.x[:, 0] = row
    for dt_s in (0.04, 0.2, 0.04, 0.7):
        unseen = rng.random(6) < 0.5
        moved, cov = kalman.predict(mean, cov, dt_s, CONFIG, unseen)
        assert np.array_equal(moved[unseen, 2:4], mean[unseen, 2:4])
        mean = moved
        for kf, hidden in zip(textbook, unseen, strict=True):
            textbook_predict(kf, dt_s, CONFIG, unseen=bool(hidden))
        np.testing.assert_allclose(mean, [kf.x[:, 0] for kf in textbook], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(kalman.dense(cov), [kf.P for kf in textbook], rtol=1e-9, atol=1e-9)


def test_all_tracks_seen_changes_nothing(rng):
    mean, cov = kalman.initiate(people(rng, 5), CONFIG)
    mean[:, 4:] = rng.normal(0, 5, (5, 4))
    known, plain = kalman.predict(mean, cov, 0.1, CONFIG, np.zeros(5, bool)), kalman.predict(mean, cov, 0.1, CONFIG)
    assert np.array_equal(known[0], plain[0])
    assert np.array_equal(known[1], plain[1])


@pytest.mark.parametrize("times", [3.0, 0.0, 1.0, 0.5])
def test_noise_by_score_agrees_with_one_score_at_a_time(rng, times):
    config = MotionConfig(score_noise=times)
    scores = np.concatenate([[0.0, 1.0, 1 - 0.1 / 3], rng.random(50)])
    factor = kalman.score_noise(scores, config)
    np.testing.assert_allclose(factor, [textbook_noise(score, config) for score in scores], rtol=1e-12)
    surest_first = factor[np.argsort(-scores)]
    assert (np.diff(surest_first) >= 0).all()
    assert (factor > 0).all()  # a measurement without noise would end the filter's doubts for ever
    assert kalman.score_noise(np.zeros(0), config).shape == (0,)


def test_higher_score_detection_changes_the_state_more(rng):
    mean, cov = kalman.initiate(people(rng, 2)[[0, 0]], CONFIG)
    factor = kalman.score_noise(np.array([0.5, 0.9]), CONFIG)
    moved, _ = kalman.correct(mean, cov, mean[:, :4] + (10, 10, 0, 10), CONFIG, factor)
    assert (moved[1, [0, 1, 3]] > moved[0, [0, 1, 3]]).all()


def test_shrinking_box_keeps_positive_sides():
    mean, cov = kalman.initiate(np.array([[100.0, 100, 0.4, 20]]), CONFIG)
    mean[:, 6], mean[:, 7] = -0.5, -50.0  # gone in less than a second
    for _ in range(100):
        mean, cov = kalman.predict(mean, cov, 0.1, CONFIG)
        assert mean[0, 3] >= kalman.MIN_HEIGHT_PX
        assert mean[0, 2] >= kalman.MIN_ASPECT
    assert np.isfinite(cov).all()


def test_no_tracks_give_empty_arrays():
    mean, cov = kalman.initiate(np.zeros((0, 4)), CONFIG)
    mean, cov = kalman.predict(mean, cov, 0.1, CONFIG)
    mean, cov = kalman.correct(mean, cov, np.zeros((0, 4)), CONFIG)
    mean, cov = kalman.moved_by_camera(mean, cov, np.eye(2, 3))
    assert mean.shape == (0, 8)
    assert cov.shape == (0, 3, 4)
    assert kalman.dense(cov).shape == (0, 8, 8)


def test_inputs_are_not_modified(rng):
    mean, cov = kalman.initiate(people(rng, 3), CONFIG)
    mean[:, 4:] = rng.normal(0, 5, (3, 4))
    before = mean.copy(), cov.copy()
    kalman.predict(mean, cov, 1.0, CONFIG, np.ones(3, bool))
    kalman.correct(mean, cov, people(rng, 3), CONFIG, np.full(3, 4.0))
    kalman.moved_by_camera(mean, cov, any_motion(rng))
    assert np.array_equal(before[0], mean)
    assert np.array_equal(before[1], cov)
