"""Smoothing and gap filling against the same least-squares problem solved as one system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracker import boxes as bx
from tracker.config import MotionConfig
from tracker.errors import ConfigError
from tracker.motion import kalman
from tracker.offline.smoothing import LONGEST_BRIDGE_S, refine_tracks
from tracker.types import Mask, Source, Tracks

MOTION = MotionConfig()


def row(box, identity=1, score=0.8, source=Source.DETECTED) -> Tracks:
    return Tracks(
        np.array([box], float), np.array([identity]), np.array([score]), np.array([2]), np.array([5]),
        np.array([source], np.uint8),
    )  # fmt: skip


def together(*parts: Tracks) -> Tracks:
    names = ("xyxy", "id", "score", "class_id", "det_index", "source")
    return Tracks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def walker(rng, times, noise=2.0):
    """(T, 4) xyxy of a walking person, measured with noise."""
    t = np.asarray(times)[:, None]
    true = np.array([100, 80, 140, 180]) + t * np.array([30, 5, 32, 11])
    return true + rng.normal(0, noise, (len(times), 4))


def least_squares_states(times, measured, factor) -> np.ndarray:
    """(F, 4) most likely states: one linear system over all frames at once.

    measured (F, 4) [cx, cy, a, h] with NaN rows where nothing was; factor (F,) of the variance.
    """
    n = len(times)
    seen = np.isfinite(measured[:, 0])
    height = np.interp(times, np.array(times)[seen], measured[seen, 3])
    rows, right = [], []

    def equation(coefficients, value, sigma):
        line = np.zeros((n, 8))
        for at, what, times_ in coefficients:
            line[at, what] = times_
        rows.append(line.ravel() / sigma)
        right.append(value / sigma)

    for k in range(n):
        spread = np.full(4, MOTION.position_std * height[k])
        spread[2] = MOTION.aspect_measurement_std
        if seen[k]:
            for c in range(4):
                equation([(k, c, 1)], measured[k, c], spread[c] * np.sqrt(factor[k]))
        if k == 0:
            speed = np.full(4, 10 * MOTION.velocity_std * height[0] * MOTION.reference_hz)
            speed[2] = MOTION.aspect_velocity_std * MOTION.reference_hz
            for c in range(4):
                equation([(0, c + 4, 1)], 0.0, speed[c])
            continue
        dt = times[k] - times[k - 1]
        frames = dt * MOTION.reference_hz
        drift = np.array([MOTION.position_std * height[k]] * 4) * np.sqrt(frames)
        drift[2] = MOTION.aspect_std * np.sqrt(frames)
        jerk = np.array([MOTION.velocity_std * height[k] * MOTION.reference_hz] * 4) * np.sqrt(frames)
        jerk[2] = MOTION.aspect_velocity_std * MOTION.reference_hz * np.sqrt(frames)
        for c in range(4):
            equation([(k, c, 1), (k - 1, c, -1), (k - 1, c + 4, -dt)], 0.0, drift[c])
            equation([(k, c + 4, 1), (k - 1, c + 4, -1)], 0.0, jerk[c])
    solved = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    return solved.reshape(n, 8)[:, :4]


@pytest.mark.parametrize("seed", range(4))
def test_smoothing_solves_least_squares_of_whole_track(rng, seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0.02, 0.04, 0.1], 20))
    boxes = walker(rng, times)
    scores = rng.uniform(0.3, 1.0, 20)
    sources = rng.choice([Source.DETECTED, Source.DETECTED, Source.PROPOSED, Source.OCCLUDED], 20)
    sources[[0, -1]] = Source.DETECTED
    absent = set(rng.choice(np.arange(1, 19), 5, replace=False).tolist())
    tracks = [Tracks() if k in absent else row(boxes[k], 7, scores[k], sources[k]) for k in range(20)]

    measured = bx.xyxy_to_cxcyah(boxes)
    measured[[k for k in range(20) if k in absent or sources[k] == Source.OCCLUDED]] = np.nan
    by_score = np.maximum(MOTION.score_noise * (1 - scores), kalman.LEAST_NOISE)
    factor = np.where(sources == Source.PROPOSED, 1.0, by_score)
    expected = bx.cxcyah_to_xyxy(least_squares_states(times, measured, factor))

    smooth = refine_tracks(tracks, times)
    for k, after in enumerate(smooth):
        assert len(after) == (k not in absent)
        if len(after):
            np.testing.assert_allclose(after.xyxy[0], expected[k], rtol=0, atol=1e-4)
            assert (after.id[0], after.score[0], after.source[0]) == (7, scores[k], sources[k])
    filled = refine_tracks(tracks, times, fill_gaps_s=10.0)
    np.testing.assert_allclose(np.concatenate([f.xyxy for f in filled]), expected, rtol=0, atol=1e-4)
    assert [int(f.source[0]) for f in filled] == [
        Source.INTERPOLATED if k in absent else sources[k] for k in range(20)
    ]  # fmt: skip


def test_smoothing_removes_most_jitter(rng):
    times = np.arange(100) / 25
    still = refine_tracks([row(box) for box in walker(rng, times, noise=3.0)], times)
    smooth = np.concatenate([tracks.xyxy for tracks in still])
    rough = walker(np.random.default_rng(0), times, noise=3.0)
    assert np.abs(np.diff(smooth, n=2, axis=0)).mean() < 0.5 * np.abs(np.diff(rough, n=2, axis=0)).mean()


def test_filling_without_smoothing_is_linear():
    times = [0.0, 0.1, 0.15, 0.4, 0.5]  # the real time between frames, not their number
    tracks = [row([0, 0, 10, 20], score=0.9), Tracks(), Tracks(), row([40, 8, 50, 36], score=0.6), row([40, 8, 50, 36])]
    filled = refine_tracks(tracks, times, smooth=False, fill_gaps_s=0.4)
    assert [len(frame) for frame in filled] == [1] * 5
    np.testing.assert_allclose(filled[1].xyxy, [[10, 2, 20, 24]])
    np.testing.assert_allclose(filled[2].xyxy, [[15, 3, 25, 26]])
    new = filled[1]
    assert (new.id[0], new.score[0], new.class_id[0], new.det_index[0]) == (1, 0.6, 2, -1)
    assert new.interpolated.all()
    for before, after in zip(tracks, filled, strict=True):
        if len(before):
            np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
            np.testing.assert_array_equal(before.source, after.source)
    assert [len(f) for f in refine_tracks(tracks, times, smooth=False, fill_gaps_s=0.39)] == [1, 0, 0, 1, 1]


def test_identities_are_refined_separately_and_stay_sorted(rng):
    times = np.arange(12) / 10
    one, two = walker(rng, times), walker(rng, times) + 300
    both = [together(row(one[k], 3), row(two[k], 9)) if k % 3 else row(two[k], 9) for k in range(12)]
    refined = refine_tracks(both, times, fill_gaps_s=1.0)
    alone = refine_tracks([row(one[k], 3) if k % 3 else Tracks() for k in range(12)], times, fill_gaps_s=1.0)
    assert [frame.id.tolist() for frame in refined] == [[9], *[[3, 9]] * 11]
    for frame, single in zip(refined[1:], alone[1:], strict=True):
        np.testing.assert_array_equal(frame.xyxy[0], single.xyxy[0])


def test_long_gap_splits_smoothing(rng):
    """The part of a track after a long gap is what it would be without the part before."""
    times = np.arange(20) / 10 + np.where(np.arange(20) >= 10, LONGEST_BRIDGE_S + 1, 0)
    boxes = walker(rng, np.arange(20) / 10)
    boxes[10:] += 400
    tracks = [row(box) for box in boxes]
    whole = refine_tracks(tracks, times)
    for part in (slice(0, 10), slice(10, 20)):
        for a, b in zip(whole[part], refine_tracks(tracks[part], times[part]), strict=True):
            np.testing.assert_allclose(a.xyxy, b.xyxy, rtol=0, atol=1e-9)


def test_predicted_ends_are_unchanged(rng):
    times = np.arange(8) / 10
    boxes = walker(rng, times)
    sources = [Source.OCCLUDED] + [Source.DETECTED] * 5 + [Source.OCCLUDED] * 2
    refined = refine_tracks([row(b, source=s) for b, s in zip(boxes, sources, strict=True)], times)
    for k in (0, 6, 7):
        np.testing.assert_array_equal(refined[k].xyxy[0], boxes[k])


def test_short_and_empty_tracks():
    assert refine_tracks([], []) == []
    assert [len(f) for f in refine_tracks([Tracks(), Tracks()], [0, 1], fill_gaps_s=1)] == [0, 0]
    once = [Tracks(), row([1, 2, 3, 9]), Tracks()]
    assert [f.xyxy.tolist() for f in refine_tracks(once, [0, 0.1, 0.2])] == [[], [[1, 2, 3, 9]], []]
    before = [row([0, 0, 10, 20]), Tracks(), row([4, 0, 14, 20])]
    refine_tracks(before, [0, 0.1, 0.2], fill_gaps_s=1)
    assert before[0].xyxy.tolist() == [[0, 0, 10, 20]]  # the input is not modified


@pytest.mark.parametrize(
    ("times", "words", "said"),
    [
        ([0.0], {}, "one time is needed for each frame"),
        ([0.0, -1.0], {}, "must not decrease"),
        ([0.0, np.nan], {}, "finite"),
        ([0.0, 1.0], {"fill_gaps_s": -1}, "number of seconds from 0"),
        ([0.0, 1.0], {"fill_gaps_s": np.inf}, "number of seconds from 0"),
    ],
)
def test_invalid_arguments_are_refused(times, words, said):
    with pytest.raises(ConfigError, match=said):
        refine_tracks([Tracks(), Tracks()], times, **words)


def test_noise_equals_tracker_filter():
    """`process_variance` at several heights and times is what one prediction adds, where nothing is known for sure."""
    height, dt = np.array([50.0, 200.0]), np.array([0.04, 0.5])
    drift, jerk = kalman.process_variance(height, dt, MOTION)
    for k in range(2):
        mean = np.array([[0, 0, 0.4, height[k], 0, 0, 0, 0.0]])
        cov = kalman.predict(mean, np.zeros((1, 3, 4)), dt[k], MOTION)[1]
        np.testing.assert_allclose(cov[0, 0], drift[k])
        np.testing.assert_allclose(cov[0, 2], jerk[k])


def test_keypoints_and_masks_stay_in_their_frames_and_added_boxes_have_none():
    mask = np.full(1, None, object)
    mask[0] = Mask(0, 0, np.ones((1, 1), bool))
    ends = [replace(row([x, 0, x + 9, 20]), keypoints=np.full((1, 2, 3), float(x)), masks=mask) for x in (0, 30)]
    refined = refine_tracks([ends[0], Tracks(), Tracks(), ends[1]], [0, 0.1, 0.2, 0.3], fill_gaps_s=1)
    assert [tracks.keypoints[0, 0, 0] for tracks in refined] == pytest.approx([0, np.nan, np.nan, 30], nan_ok=True)
    assert [tracks.masks[0] is None for tracks in refined] == [False, True, True, False]
