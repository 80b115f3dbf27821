"""Tracks output with their predicted box: occluded ones, and all at frames that the detector skips."""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.association.pairs import Overlaps
from tracker.config import OcclusionConfig
from tracker.stages.associate import Matches
from tracker.stages.predict import Clock, PredictedTracks
from tracker.stages.propose import Proposals
from tracker.stages.select import FrameDetections
from tracker.tracks import lifecycle, occlusion
from tracker.types import BoolArray, Frame


def find_occluded(
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    proposals: Proposals,
    overlaps: Overlaps,
    config: OcclusionConfig,
) -> BoolArray:
    """(T,) confirmed tracks that are neither matched nor proposed, but occluded by a track that is.

    The occluder covers at least `min_cover` of the predicted box, and the last detection is at most `max_s` old.
    Source: docs/method.md, 6.
    """
    bank, n_tracks = tracks.bank, len(tracks.bank)
    if not config.enabled:
        return np.zeros(n_tracks, bool)
    found = bank.confirmed & matches.matched
    missed = bank.confirmed & ~found
    missed[proposals.track] = False
    in_front = np.zeros(len(dets), bool)
    in_front[matches.detection[found]] = True
    pairs = overlaps.detections.among(missed, in_front, 0.0)
    share = occlusion.covered_share(tracks.boxes[pairs.track], dets.boxes[pairs.detection])
    covered = np.full(n_tracks, config.min_cover == 0)
    covered[pairs.track[share >= config.min_cover]] = True
    if len(proposals.track):
        predicted = tracks.boxes[missed]
        covered[missed] |= occlusion.largest_covered_share(predicted, proposals.boxes) >= config.min_cover
    recent = tracks.time_s - bank.seen_s <= config.max_s + lifecycle.TIME_SLACK_S
    return np.asarray(missed & recent & covered)


def find_continued(tracks: PredictedTracks, clock: Clock, frame: Frame) -> BoolArray:
    """(T,) tracks that are output as predicted at a frame at which the detector did not run.

    These are the tracks output since it last ran, unless they have left the image.
    """
    predicted = tracks.boxes
    if frame.width and frame.height:
        predicted = bx.clip(predicted, frame.width, frame.height)
    return tracks.bank.confirmed & (tracks.bank.shown_index >= clock.detector_index) & bx.valid(predicted)
