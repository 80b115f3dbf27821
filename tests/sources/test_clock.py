"""Times from stamps: good stamps stay, wrong ones get a time between their neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tracker.sources.clock import HELD, Clock, Decoded

STEP_S = 0.04


def times_of(stamps: list[float], step_s: float = STEP_S) -> tuple[list[float], list[bool]]:
    """Times, and whether the stamp is good, of all frames; the first one is the clock's start."""
    clock = Clock(0.0, stamps[0], step_s)
    frames = [Decoded(stamp_s, 0, lambda: None) for stamp_s in stamps[1:]]
    timed = list(clock.timed(frames))
    assert [frame for frame, _, _ in timed] == frames
    return [0.0] + [time_s for _, time_s, _ in timed], [True] + [good for _, _, good in timed]


def steady(n_frames: int, step_s: float = STEP_S) -> list[float]:
    return [step_s * place for place in range(n_frames)]


NAN = math.nan
# stamps that replace those from frame 20 on
WRONG = {
    "repeated": [19 * STEP_S], "backward": [3 * STEP_S], "missing": [NAN], "before the start": [-1e9], "wild": [1e6],
    "missing, as zero": [0.0] * 3, "many missing": [NAN] * 5, "wild and backward": [500.0, 0.2],
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_stamp_is_repaired_and_later_ones_are_kept(wrong):
    stamps = steady(60)
    stamps[20 : 20 + len(WRONG[wrong])] = WRONG[wrong]
    times, good = times_of(stamps)
    assert times == pytest.approx(steady(60))
    assert [place for place, each in enumerate(good) if not each] == [*range(20, 20 + len(WRONG[wrong]))]


@pytest.mark.parametrize("seed", range(20))
def test_scattered_wrong_stamps_of_a_variable_rate(seed):
    """Good ones stay to the last bit; the others lie between their neighbours."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([[0.0], np.cumsum(rng.uniform(0.02, 0.3, 99))])
    stamps = true.copy()
    wrong = np.arange(3, 99, 6) + rng.integers(0, 3, 16)
    stamps[wrong] = rng.choice([NAN, 0.0, -5.0, 1e5], 16)
    times, _ = times_of(stamps.tolist(), step_s=0.15)
    kept = np.setdiff1d(np.arange(100), wrong)
    assert np.array_equal(np.array(times)[kept], true[kept])
    assert (np.diff(times) > 0).all()


def test_pause_is_kept():
    stamps = [*steady(30), *(600 + each for each in steady(30))]
    assert times_of(stamps)[0] == stamps


def test_one_frame_in_two_seconds_is_a_rate_like_others():
    """Under a header that says 25 a second: once the interval is known, no frame is held."""
    clock, n_decoded = Clock(0.0, 0.0, STEP_S), 0

    def frames():
        nonlocal n_decoded
        for place in range(1, 60):
            n_decoded += 1
            yield Decoded(2.0 * place, 0, lambda: None)

    for given, (_, time_s, good) in enumerate(clock.timed(frames()), start=1):
        assert (time_s, good) == (2.0 * given, True)
        assert given < 20 or n_decoded == given
    assert clock.regular


def test_long_missing_stamps_follow_at_the_usual_interval():
    """Of a header that says 5 frames per second, and 25 in truth."""
    stamps = steady(100)
    stamps[30:60] = [0.0] * 30
    assert times_of(stamps, step_s=0.2)[0] == pytest.approx(steady(100))


def test_no_stamps_at_all():
    assert times_of([0.0] * 50)[0] == pytest.approx(steady(50))
    assert times_of([NAN] * 50)[0] == pytest.approx(steady(50))


def test_stamps_that_begin_anew_go_on():
    """Two recordings put together, and back to the first clock."""
    stamps = [*steady(100), *steady(50), *(each + 150 * STEP_S for each in steady(50))]
    assert times_of(stamps)[0] == pytest.approx(steady(200))


@pytest.mark.parametrize("seed", range(10))
def test_any_stamps_give_increasing_times(seed):
    rng = np.random.default_rng(seed)
    stamps = np.where(rng.random(300) < 0.3, rng.uniform(-10, 10, 300), np.arange(300) * STEP_S)
    stamps[rng.random(300) < 0.1] = rng.choice([NAN, math.inf, -math.inf])
    times, _ = times_of(stamps.tolist())
    assert np.isfinite(times).all()
    assert (np.diff(times) > 0).all()


def test_frames_are_held_only_where_stamps_are_in_disorder():
    """A frame that is given before the next is decoded needs no picture of its own."""
    n_decoded, n_kept = 0, 0

    def keep():
        nonlocal n_kept
        n_kept += 1

    def frames():
        nonlocal n_decoded
        for place in range(1, 100):
            n_decoded += 1
            yield Decoded(0.0 if place == 50 else place * STEP_S, 0, keep)

    for given, _ in enumerate(Clock(0.0, 0.0, STEP_S).timed(frames()), start=1):
        assert n_decoded - given <= (HELD if 50 <= given < 60 else 0)
    assert 0 < n_kept < 3 * HELD
