"""Use C, the prior: candidate boxes around the prediction of a missed track, and how likely each is.

The steps of the grid are standard deviations of the Kalman filter (docs/method.md, 4). Flat arrays: one row for each
candidate, with the row of its track beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.config import ProposalConfig
from tracker.types import BoolArray, FloatArray, IntArray

_SCALES = (0.95, 1.05)  # factors of the predicted height that are tried too
N_CONTROLS = 4  # crops of the background control for each box
MAX_LOW_PER_TRACK = 2  # low-score detections near the prediction that join the candidates
MIN_LOW_IOU = 0.3  # of such a detection with the predicted box


@dataclass(frozen=True, slots=True)
class Candidates:
    """C places to compare; `candidates` puts the predicted box of each track first."""

    track: IntArray  # (C,) row of the track
    boxes: FloatArray  # (C, 4) xyxy
    log_prior: FloatArray  # (C,) -1/2 (b - y)' S^-1 (b - y), 0 at the predicted box

    def __len__(self) -> int:
        return len(self.track)

    def take(self, rows: IntArray | BoolArray) -> Candidates:
        return Candidates(self.track[rows], self.boxes[rows], self.log_prior[rows])

    @staticmethod
    def none() -> Candidates:
        return Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


def candidates(
    tracks: IntArray, mean: FloatArray, variance: FloatArray, low: FloatArray, config: ProposalConfig
) -> Candidates:
    """All candidates of the given tracks.

    tracks (T,) rows; mean (T, >= 4) predicted [cx, cy, a, h] and variance (T, 4), the diagonal of S, of these tracks;
    low (W, 4) boxes of unmatched low-score detections. The grid is {-1, 0, 1} x {-1, 0, 1} standard deviations
    of the centre times `grid_sigma`, at the predicted size, and two more sizes at the predicted place.
    """
    step = np.array([(x, y) for y in (0, -1, 1) for x in (0, -1, 1)], np.float64) * config.grid_sigma  # (9, 2)
    n_sizes = len(_SCALES)
    state = np.repeat(mean[:, None, :4], len(step) + n_sizes, axis=1)  # (T, 11, 4)
    state[:, : len(step), :2] += step[None] * np.sqrt(variance[:, None, :2])
    state[:, len(step) :, 3] *= np.array(_SCALES)
    log_prior = -0.5 * ((state - mean[:, None, :4]) ** 2 / variance[:, None]).sum(axis=2)

    overlap = bx.iou(bx.cxcyah_to_xyxy(mean[:, :4]), low)  # (T, W)
    near_track, near_low = _best_overlaps(overlap)
    near_state = bx.xyxy_to_cxcyah(low[near_low])
    near_prior = -0.5 * ((near_state - mean[near_track, :4]) ** 2 / variance[near_track]).sum(axis=1)
    return Candidates(
        np.concatenate([np.repeat(tracks, state.shape[1]), tracks[near_track]]),
        np.concatenate([bx.cxcyah_to_xyxy(state.reshape(-1, 4)), low[near_low]]),
        np.concatenate([log_prior.ravel(), near_prior]),
    )


def plausible(places: Candidates, taken: FloatArray, width: int, height: int, config: ProposalConfig) -> BoolArray:
    """(C,) candidates worth comparing: not too far outside the image, and not on a detection.

    taken (M, 4): boxes of the detections used in this frame; a person at such a place is probably occluded.
    """
    inside = bx.area(bx.clip(places.boxes, width, height)) >= (1 - config.max_outside) * bx.area(places.boxes)
    free = (bx.iou(places.boxes, taken) <= config.max_overlap).all(axis=1)
    return bx.valid(places.boxes) & inside & free


def background(boxes: FloatArray, width: int, height: int) -> tuple[FloatArray, BoolArray]:
    """Control boxes of the same size beside each box: (n, 4, 4), and which of them lie inside the image: (n, 4).

    One box width to the left and right, once level, once shifted by half a height: straight above and below, a box
    moved by its width would still show the person.
    """
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sideways = np.array([-1.0, 1.0, -1.0, 1.0])
    upward = np.array([0.0, 0.0, -0.5, 0.5])
    shift = np.stack([w[:, None] * sideways, h[:, None] * upward], axis=2)  # (n, 4, 2)
    controls = boxes[:, None] + np.concatenate([shift, shift], axis=2)
    flat = controls.reshape(-1, 4)
    inside = bx.area(bx.clip(flat, width, height)) >= 0.7 * bx.area(flat)
    return controls, inside.reshape(-1, N_CONTROLS)


def _best_overlaps(overlap: FloatArray) -> tuple[IntArray, IntArray]:
    """(track, low) indices of the low-score detections that overlap each prediction most, with IoU > MIN_LOW_IOU."""
    rank = np.argsort(np.argsort(-overlap, axis=1, kind="stable"), axis=1)
    track, low = np.nonzero((overlap > MIN_LOW_IOU) & (rank < MAX_LOW_PER_TRACK))
    return track.astype(np.int64), low.astype(np.int64)
