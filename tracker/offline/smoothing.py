"""Refine finished tracks offline: smooth them, and fill short gaps.

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

# A longer gap splits a track for smoothing: the motion in between is unknown.
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
    """Smooth finished tracks and fill their gaps; returns new tracks of every frame, identities unchanged.

    tracks: of every frame of a video, in order. times_s: seconds of these frames, not decreasing. smooth: replace boxes
    by smoothed ones. fill_gaps_s: fill gaps of an identity of at most so many seconds, from its last box before to its
    first box after, with boxes whose source is INTERPOLATED: smoothed, or without `smooth` on straight lines. Their
    score is the smaller one of the two ends, their det_index -1. motion: noise of the model, `TrackerConfig().motion`
    by default. give_up: called before each identity; once True, all tracks are returned unchanged.

    Raises ConfigError for different lengths, times that decrease or a negative or infinite gap.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if times.shape != (len(tracks),):
        raise ConfigError(f"one time is needed for each frame, got {len(tracks)} frames and times {times.shape}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ConfigError("the times of frames must be finite and must not decrease")
    if not (math.isfinite(fill_gaps_s) and fill_gaps_s >= 0):
        raise ConfigError(f"gaps to fill must be a number of seconds from 0, got {fill_gaps_s!r}")
    refined = []
    for path in _paths(tracks):
        check()
        if give_up():
            return list(tracks)
        filled = _filled(path, times, fill_gaps_s)
        if smooth:
            filled = _smoothed(filled, times, max(LONGEST_BRIDGE_S, fill_gaps_s), motion or MotionConfig())
        refined.append(filled)
    return _by_frame(refined, len(tracks))


@dataclass(frozen=True, slots=True)
class _Path:
    """All rows of one identity."""

    at: IntArray  # (n,) place of each of its frames in the list, ascending
    rows: Tracks  # of length n


def _paths(tracks: Sequence[Tracks]) -> Iterator[_Path]:
    """One identity after the other, ids ascending."""
    at = np.repeat(np.arange(len(tracks)), [len(frame) for frame in tracks])
    everything = _stacked(tracks)
    order = np.argsort(everything.id, kind="stable")
    starts = np.flatnonzero(np.diff(everything.id[order])) + 1
    for rows in np.split(order, starts) if len(order) else ():
        yield _Path(at[rows], everything[rows])


def _filled(path: _Path, times: FloatArray, longest_s: float) -> _Path:
    """The path with rows on straight lines through its gaps of up to longest_s seconds."""
    missing = np.diff(path.at) > 1
    short = missing & (np.diff(times[path.at]) <= longest_s + TIME_SLACK_S) & (longest_s > 0)
    new = [np.arange(path.at[i] + 1, path.at[i + 1]) for i in np.flatnonzero(short)]
    at = np.sort(np.concatenate([path.at, *new]))
    before = np.searchsorted(path.at, at, side="right") - 1  # row of the path at or before each
    after = np.searchsorted(path.at, at)
    added = before != after
    span = times[path.at[after]] - times[path.at[before]]
    share = np.divide(times[at] - times[path.at[before]], span, out=np.zeros(len(at)), where=span > 0)[:, None]
    rows = path.rows[before]
    rows.xyxy[added] = ((1 - share) * path.rows.xyxy[before] + share * path.rows.xyxy[after])[added]
    rows.score[:] = np.minimum(rows.score, path.rows.score[after])
    rows.det_index[added] = -1
    rows.source[added] = Source.INTERPOLATED
    for column in (rows.features, rows.keypoints):
        if column is not None:
            column[added] = np.nan
    if rows.masks is not None:
        rows.masks[added] = None
    return _Path(at, rows)


def _smoothed(path: _Path, times: FloatArray, bridge_s: float, motion: MotionConfig) -> _Path:
    """The path smoothed between its first and its last measured row; other rows unchanged."""
    xyxy, source = path.rows.xyxy.copy(), path.rows.source
    measured = np.flatnonzero(np.isin(source, MEASURED))
    apart = np.flatnonzero(np.diff(times[path.at[measured]]) > bridge_s + TIME_SLACK_S) + 1
    for rows in np.split(measured, apart):
        if len(rows) < 2:
            continue
        frames = np.arange(path.at[rows[0]], path.at[rows[-1]] + 1)
        seen = np.isin(frames, path.at[rows])
        factor = np.where(
            source[rows] == Source.PROPOSED,
            1.0,
            kalman.score_noise(np.clip(path.rows.score[rows], 0, 1), motion),
        )
        states = _smoothed_states(times[frames], seen, bx.xyxy_to_cxcyah(path.rows.xyxy[rows]), factor, motion)
        within = slice(rows[0], rows[-1] + 1)
        xyxy[within] = bx.cxcyah_to_xyxy(states[path.at[within] - frames[0]])
    return _Path(path.at, replace(path.rows, xyxy=xyxy))


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


def _by_frame(paths: Sequence[_Path], n_frames: int) -> list[Tracks]:
    """The rows of all paths, frame by frame, ids ascending."""
    at = np.concatenate([np.zeros(0, np.int64), *(path.at for path in paths)])
    order = np.argsort(at, kind="stable")  # the paths come in the order of their ids
    everything = _stacked([path.rows for path in paths])[order]
    frames = [everything[:0]] * n_frames  # one for all empty frames
    starts = np.flatnonzero(np.diff(at[order], prepend=-1))
    for begin, end in pairwise([*starts.tolist(), len(order)]):
        frames[int(at[order[begin]])] = everything[begin:end]
    return frames


def _stacked(parts: Sequence[Tracks]) -> Tracks:
    """The rows of all parts, one after the other. Embeddings are None unless all rows have them; keypoints and masks
    are None unless some rows have them.
    """
    names = ("xyxy", "id", "score", "class_id", "det_index", "source")
    columns = {name: np.concatenate([getattr(part, name) for part in (Tracks(), *parts)]) for name in names}
    features = [part.features for part in parts if len(part)]
    known = [part for part in features if part is not None]
    shape = next((part.keypoints.shape[1:] for part in parts if part.keypoints is not None), None)
    keypoints = masks = None
    if shape is not None:
        none = (np.full((len(part), *shape), np.nan) for part in parts)
        keypoints = np.concatenate(
            [n if p.keypoints is None else p.keypoints for n, p in zip(none, parts, strict=True)]
        )
    if any(part.masks is not None for part in parts):
        masks = np.concatenate([np.full(len(p), None, object) if p.masks is None else p.masks for p in parts])
    everything = Tracks(**columns, features=np.concatenate(known) if known and len(known) == len(features) else None)
    return replace(everything, keypoints=keypoints, masks=masks)
