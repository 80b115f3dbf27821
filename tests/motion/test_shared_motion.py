"""Camera motion from the common shift of people, without images, against known still, shaking and panning cameras."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.motion.camera import MIN_PEOPLE, SharedMotion

NO_PEOPLE = np.zeros((0, 4))
STILL = np.eye(2, 3)


def walk(rng, n_frames: int, n_people: int = 12, *, shifts=None, noise: float = 0.015):
    """Predictions (T, 4) and detections (N, 4), shuffled, of people who turn and change their pace, frame by frame.

    Predictions know the pace of the frame before, and not the shift (2,) of the camera. noise is the standard
    deviation of the edges of predicted and of detected boxes, as a share of the height.
    """
    tall = rng.uniform(80, 200, (n_people, 1))
    half = np.concatenate([0.2 * tall, 0.5 * tall], axis=1)
    centre = rng.uniform((0, 200), (1920, 900), (n_people, 2))
    pace = rng.normal(0, 0.02, (n_people, 2)) * tall
    for t in range(n_frames):
        expected = centre + pace
        turns = rng.random(n_people) < 0.03
        pace[turns] = rng.normal(0, 0.02, (turns.sum(), 2)) * tall[turns]
        shift = np.zeros(2) if shifts is None else shifts[t]
        moved = centre + pace + shift
        predicted, detected = (
            np.concatenate([c - half, c + half], axis=1) + rng.normal(0, noise, (n_people, 4)) * tall
            for c in (expected, moved)
        )
        yield predicted, detected[rng.permutation(n_people)]
        # Next time the filter starts from where they are.
        centre = moved


@pytest.mark.parametrize("n_people", [MIN_PEOPLE, 7, 30])
@pytest.mark.parametrize("seed", range(5))
def test_fixed_camera_never_moves(seed, n_people):
    rng = np.random.default_rng(seed)
    shared = SharedMotion()
    for predicted, detected in walk(rng, 400, n_people):
        assert np.array_equal(shared.step(predicted, detected), STILL)
        assert not shared.moves


@pytest.mark.parametrize("seed", range(3))
def test_fixed_camera_with_detector_faults_never_moves(seed):
    rng = np.random.default_rng(seed)
    shared = SharedMotion()
    for predicted, detected in walk(rng, 400, 15):
        corner = rng.uniform(0, 800, (5, 2))
        strangers = np.concatenate([corner, corner + np.array([50, 120])], axis=1)
        seen = np.concatenate([detected[rng.random(15) < 0.7], strangers])
        assert np.array_equal(shared.step(predicted, seen), STILL)


def shakes(rng, n: int) -> np.ndarray:
    """(n, 2) of a camera that is held badly."""
    return rng.normal(0, 10, (n, 2))


def pans(rng, n: int) -> np.ndarray:
    """(n, 2) of one that turns to the left, a little unevenly."""
    return np.array([6.0, 0.0]) + rng.normal(0, 1, (n, 2))


@pytest.mark.parametrize("make", [shakes, pans])
@pytest.mark.parametrize("seed", range(4))
def test_moving_camera_is_detected_and_followed(seed, make):
    rng = np.random.default_rng(seed)
    shifts = make(rng, 250)
    shared = SharedMotion()
    off_by = []
    for t, (predicted, detected) in enumerate(walk(rng, 250, 14, shifts=shifts)):
        found = shared.step(predicted, detected)
        assert np.array_equal(found[:, :2], np.eye(2))
        if t >= 100:
            assert shared.moves
            off_by.append(np.abs(found[:, 2] - shifts[t]).max())
    assert np.median(off_by) < 1.5
    assert np.quantile(off_by, 0.95) < 3.0


def test_camera_that_stops_is_still_after_some_seconds(rng):
    shifts = np.concatenate([shakes(rng, 150), np.zeros((700, 2))])
    shared = SharedMotion()
    moves = []
    for predicted, detected in walk(rng, 850, 14, shifts=shifts):
        shared.step(predicted, detected)
        moves.append(shared.moves)
    assert moves[140]
    assert not any(moves[-100:])


def shaking(rng) -> SharedMotion:
    """One that has seen its camera shake."""
    shared = SharedMotion()
    for predicted, detected in walk(rng, 120, 14, shifts=shakes(rng, 120)):
        shared.step(predicted, detected)
    assert shared.moves
    return shared


def test_shift_of_known_boxes_is_found_exactly(rng):
    predicted = np.array([[x, 100.0, x + 40, 200] for x in range(0, 800, 100)])
    found = shaking(rng).step(predicted, predicted[::-1] + np.array([7, -3, 7, -3]))
    np.testing.assert_allclose(found, [[1, 0, 7], [0, 1, -3]], atol=1e-9)


def test_independent_walkers_do_not_shift_other_tracks(rng):
    predicted = np.array([[x, 100.0, x + 40, 200] for x in range(0, 900, 100)])
    detected = predicted + np.array([7, -3, 7, -3])
    detected[:3] += (9, 8, 9, 8)
    found = shaking(rng).step(predicted, detected)
    np.testing.assert_allclose(found, [[1, 0, 7], [0, 1, -3]], atol=1e-9)


@pytest.mark.parametrize("n", range(MIN_PEOPLE + 2))
def test_few_people_give_no_motion(rng, n):
    predicted = np.array([[100.0 * k, 100, 100 * k + 40, 200] for k in range(n)]).reshape(n, 4)
    found = shaking(rng).step(predicted, predicted + 5)
    assert np.array_equal(found, STILL) == (n < MIN_PEOPLE)


def test_unmatched_people_do_not_count(rng):
    """Many predictions and many detections, but three pairs."""
    predicted = np.array([[100.0 * k, 100, 100 * k + 40, 200] for k in range(10)])
    detected = np.concatenate([predicted[:3] + 5, predicted[3:] + 1000])
    assert np.array_equal(shaking(rng).step(predicted, detected), STILL)


def test_no_people_give_the_identity(rng):
    some = next(walk(rng, 1))[0]
    for shared in (SharedMotion(), shaking(rng)):
        for predicted, detected in ((NO_PEOPLE, NO_PEOPLE), (NO_PEOPLE, some), (some, NO_PEOPLE)):
            before = shared.moves
            assert np.array_equal(shared.step(predicted, detected), STILL)
            assert shared.moves == before


def test_motion_does_not_depend_on_order_to_the_bit():
    def steps(order_seed: int) -> np.ndarray:
        rng, order = np.random.default_rng(5), np.random.default_rng(order_seed)
        shared, found = SharedMotion(), []
        for predicted, detected in walk(rng, 150, 14, shifts=shakes(np.random.default_rng(6), 150)):
            found.append(shared.step(predicted, detected[order.permutation(14)]))
        return np.array(found)

    assert np.array_equal(steps(1), steps(2))
    assert not np.array_equal(steps(1)[-1], STILL)


def test_boxes_are_not_modified(rng):
    shared = shaking(rng)
    for predicted, detected in walk(rng, 3, shifts=shakes(rng, 3)):
        before = predicted.copy(), detected.copy()
        shared.step(predicted, detected)
        assert np.array_equal(before[0], predicted)
        assert np.array_equal(before[1], detected)
