"""What becomes better once all of a video is known: smooth tracks, and boxes where a track is missing for a while.

Smoothing is the Rauch-Tung-Striebel smoother (Rauch, Tung & Striebel, "Maximum likelihood estimates of linear dynamic
systems", 1965) of filterpy over each finished track, with the constant-velocity model and the noise of
`motion/kalman.py` and the real time between frames. In frames without a box of the track, or with one that was only
predicted, it predicts and does not correct. One thing differs from the tracker's filter: noise grows with the height of
the person as it was measured, interpolated in between, not with the height as estimated so far, so that the model is
linear and the smoother exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tracker import boxes as bx
from tracker.config import MotionConfig
from tracker.errors import ConfigError
from tracker.motion import kalman
from tracker.runtime.signals import check
from tracker.types import BoolArray, FloatArray, IntArray, Source, Tracks

# Where somebody was away for longer, what they did meanwhile is unknown: the track before must not bend the one after.
LONGEST_BRIDGE_S = 2.0
TIME_SLACK_S = 1e-6  # time stamps are rounded
MEASURED = (Source.DETECTED, Source.PROPOSED)


def refine_tracks(
    tracks: Sequence[Tracks],
    times_s: Sequence[float] | FloatArray,
    *,
    smooth: bool = True,
    fill_gaps_s: float = 0.0,
    motion: MotionConfig | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> list[Tracks]:
    """Smooth finished tracks and fill their gaps; returns the tracks of every frame anew, identities unchanged.

    tracks: of every frame of a video, in order. times_s: seconds of these frames, not decreasing. smooth: replace boxes
    by smoothed ones. fill_gaps_s: where an identity is missing and comes back after at most so many seconds, counted
    from its last box before to its first box after, add boxes with the source INTERPOLATED: the smoother's, or without
    it on straight lines. Their score is the smaller one of the two ends, their det_index -1. motion: noise of the
    model, `TrackerConfig().motion` by default. give_up: asked before each identity; once True, all tracks come back as
    they were.

    Raises ConfigError for lengths that differ, times that decrease or a gap that is no number of seconds from 0.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if times.shape != (len(tracks),):
        raise ConfigError(f"one time is needed for each frame, got {len(tracks)} frames and times {times.shape}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ConfigError("the times of frames must be finite and must not decrease")
    if not (math.isfinite(fill_gaps_s) and fill_gaps_s >= 0):
        raise ConfigError(f"gaps to fill must be a number of seconds from 0, got {fill_gaps_s!r}")
    refined = []
    for way in _ways_of(tracks):
        check()
        if give_up():
            return list(tracks)
        filled = _filled(way, times, fill_gaps_s)
        if smooth:
            filled = _smoothed(filled, times, max(LONGEST_BRIDGE_S, fill_gaps_s), motion or MotionConfig())
        refined.append(filled)
    return _by_frame(refined, len(tracks))


@dataclass(frozen=True, slots=True)
class _Way:
    """One identity through the video."""

    at: IntArray  # (n,) place of each of its frames in the list, ascending
    rows: Tracks  # of length n


def _ways_of(tracks: Sequence[Tracks]) -> Iterator[_Way]:
    """One identity after the other, by number."""
    at = np.repeat(np.arange(len(tracks)), [len(frame) for frame in tracks])
    everything = _stacked(tracks)
    order = np.argsort(everything.id, kind="stable")
    starts = np.flatnonzero(np.diff(everything.id[order])) + 1
    for rows in np.split(order, starts) if len(order) else ():
        yield _Way(at[rows], everything[rows])


def _filled(way: _Way, times: FloatArray, longest_s: float) -> _Way:
    """The way with rows on straight lines through its gaps of up to longest_s seconds."""
    missing = np.diff(way.at) > 1
    short = missing & (np.diff(times[way.at]) <= longest_s + TIME_SLACK_S) & (longest_s > 0)
    new = [np.arange(way.at[i] + 1, way.at[i + 1]) for i in np.flatnonzero(short)]
    at = np.sort(np.concatenate([way.at, *new]))
    before = np.searchsorted(way.at, at, side="right") - 1  # row of the way at or before each
    after = np.searchsorted(way.at, at)
    added = before != after
    span = times[way.at[after]] - times[way.at[before]]
    share = np.divide(times[at] - times[way.at[before]], span, out=np.zeros(len(at)), where=span > 0)[:, None]
    rows = way.rows[before]
    rows.xyxy[added] = ((1 - share) * way.rows.xyxy[before] + share * way.rows.xyxy[after])[added]
    rows.score[:] = np.minimum(rows.score, way.rows.score[after])
    rows.det_index[added] = -1
    rows.source[added] = Source.INTERPOLATED
    if rows.features is not None:
        rows.features[added] = np.nan
    return _Way(at, rows)


def _smoothed(way: _Way, times: FloatArray, bridge_s: float, motion: MotionConfig) -> _Way:
    """The way smoothed between its first and its last measured row; other rows as they are."""
    xyxy, source = way.rows.xyxy.copy(), way.rows.source
    measured = np.flatnonzero(np.isin(source, MEASURED))
    apart = np.flatnonzero(np.diff(times[way.at[measured]]) > bridge_s + TIME_SLACK_S) + 1
    for rows in np.split(measured, apart):
        if len(rows) < 2:
            continue
        frames = np.arange(way.at[rows[0]], way.at[rows[-1]] + 1)
        seen = np.isin(frames, way.at[rows])
        factor = np.where(
            source[rows] == Source.PROPOSED,
            motion.proposal_noise,
            kalman.score_noise(np.clip(way.rows.score[rows], 0, 1), motion),
        )
        states = _smoothed_states(times[frames], seen, bx.xyxy_to_cxcyah(way.rows.xyxy[rows]), factor, motion)
        within = slice(rows[0], rows[-1] + 1)
        xyxy[within] = bx.cxcyah_to_xyxy(states[way.at[within] - frames[0]])
    return _Way(way.at, replace(way.rows, xyxy=xyxy))


def _smoothed_states(
    times: FloatArray, seen: BoolArray, measured: FloatArray, factor: FloatArray, motion: MotionConfig
) -> FloatArray:
    """(F, 4) [cx, cy, a, h] at every frame, given all measurements.

    times (F,) seconds; seen (F,) whether the frame has a measurement, True at the first; measured (n, 4) [cx, cy, a, h]
    and factor (n,) of its variance, n = number of frames seen. Time before the first frame is unknown: its measurement
    is the prior, with the velocity as uncertain as that of a new track.
    """
    from filterpy.kalman import KalmanFilter

    n = len(times)
    height = np.interp(times, times[seen], measured[:, 3])
    step_s = np.diff(times, prepend=times[0])
    drift, jerk = kalman.process_variance(height, step_s, motion)
    transitions = np.tile(np.eye(8), (n, 1, 1))
    transitions[:, :4, 4:] = step_s[:, None, None] * np.eye(4)
    process = np.concatenate([drift, jerk], axis=1)[:, None] * np.eye(8)
    noise = np.zeros((n, 4))
    noise[seen] = kalman.measurement_variance(measured[:, 3], motion) * factor[:, None]
    values: list[FloatArray | None] = [None] * n
    for k, z in zip(np.flatnonzero(seen), measured, strict=True):
        values[k] = z
    values[0] = None  # it is the prior already

    filter_ = KalmanFilter(dim_x=8, dim_z=4)
    mean, cov = kalman.initiate(measured[:1], motion)
    cov[:, 0] = noise[0]
    filter_.x, filter_.P = mean[0], kalman.dense(cov)[0]
    filter_.H = np.eye(4, 8)
    means, covs, _, _ = filter_.batch_filter(values, Fs=transitions, Qs=process, Rs=noise[:, None] * np.eye(4))
    smooth = filter_.rts_smoother(means, covs, Fs=transitions, Qs=process)[0][:, :4]
    smooth[:, 2] = np.maximum(smooth[:, 2], kalman.MIN_ASPECT)
    smooth[:, 3] = np.maximum(smooth[:, 3], kalman.MIN_HEIGHT_PX)
    states: FloatArray = smooth
    return states


def _by_frame(ways: Sequence[_Way], n_frames: int) -> list[Tracks]:
    """The rows of all ways, frame by frame, ids ascending."""
    at = np.concatenate([np.zeros(0, np.int64), *(way.at for way in ways)])
    order = np.argsort(at, kind="stable")  # the ways come in the order of their ids
    everything = _stacked([way.rows for way in ways])[order]
    frames = [everything[:0]] * n_frames  # one for all empty frames
    starts = np.flatnonzero(np.diff(at[order], prepend=-1))
    for begin, end in pairwise([*starts.tolist(), len(order)]):
        frames[int(at[order[begin]])] = everything[begin:end]
    return frames


def _stacked(parts: Sequence[Tracks]) -> Tracks:
    """The rows of all parts, one after the other. Embeddings are None unless all rows have some."""
    names = ("xyxy", "id", "score", "class_id", "det_index", "source")
    columns = {name: np.concatenate([getattr(part, name) for part in (Tracks(), *parts)]) for name in names}
    features = [part.features for part in parts if len(part)]
    known = [part for part in features if part is not None]
    return Tracks(**columns, features=np.concatenate(known) if known and len(known) == len(features) else None)
