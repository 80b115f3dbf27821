"""Use B: lost tracks found again, by the same log odds as in the association."""

from __future__ import annotations

import dataclasses

import numpy as np

from tracker.association import evidence
from tracker.association.assignment import assign
from tracker.config import AssociationConfig, MotionConfig, TrackerConfig
from tracker.motion import kalman
from tracker.stages.associate import Matches
from tracker.stages.embed import Appearance
from tracker.stages.predict import PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import FloatArray, IntArray

_LEAST = 1e-9  # probability, so that the logarithm is finite
# A track lost for t seconds returns within a frame of dt seconds with probability dt / (t + _RETURN_S): many return
# soon, some late.
_RETURN_S = 0.5


def reassociate(
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    dt_s: float,
    appearance: Appearance,
    config: TrackerConfig,
) -> Matches:
    """Give high-score detections that no confirmed track has to the lost tracks that they probably are.

    A detection of a tentative track may be given away as well; that track is then absorbed by the lost one. dt_s:
    seconds since the detector ran before. Source: docs/method.md, 3.
    """
    link, bank = config.association, tracks.bank
    if not link.reassociate or dets.features is None:
        return matches
    lost = lifecycle.reassociable(bank, matches.matched, tracks.time_s, config.lifecycle)
    lost_rows = (lost & appearance.known(bank.slot)).nonzero()[0]
    available = dets.high & dets.embeddable
    available[matches.detection[bank.confirmed & matches.matched]] = False
    found = available.nonzero()[0]
    if len(lost_rows) == 0 or len(found) == 0:
        return matches
    odds = _log_odds(bank.keep(lost_rows), dets, found, appearance, link, config.motion)
    odds[bank.group[lost_rows, None] != dets.group[found]] = -np.inf
    returns = dt_s / (tracks.time_s - bank.seen_s[lost_rows] + _RETURN_S)
    # How many newcomers come is no error of the detector: the rate counts in full.
    odds -= (1.0 - link.motion_weight) * appearance.scene.log_rate
    odds += np.log(np.maximum(returns, _LEAST))[:, None] + np.log(np.maximum(dets.scores[found], _LEAST))
    likely = evidence.posterior(odds) >= link.least_posterior
    i, j = assign(np.where(likely, -odds, np.inf))
    return _given(matches, lost_rows[i], found[j])


def _log_odds(
    lost: TrackBank,
    dets: FrameDetections,
    found: IntArray,
    appearance: Appearance,
    link: AssociationConfig,
    motion: MotionConfig,
) -> FloatArray:
    """(L, F) log odds that detection `found` (F,) is the person of each lost track, all with a gallery."""
    assert dets.features is not None
    places = dets.places[found]
    variance = kalman.innovation_variance(lost.mean, lost.cov, motion)
    return evidence.log_odds(
        appearance.scene,
        appearance.gallery.dist_mean(lost.slot, dets.features[found]),
        np.ones((len(lost), 1), bool),
        evidence.log_motion(lost.mean[:, None], variance[:, None], places[None]),
        appearance.scene.log_newcomers(places),
        link.motion_weight,
    )


def _given(matches: Matches, lost: IntArray, detections: IntArray) -> Matches:
    """The matches after detections (k,) went to lost tracks (k,), some of them from tentative tracks."""
    detection, track, reassociated = matches.detection.copy(), matches.track.copy(), matches.reassociated.copy()
    handed_over = matches.handed_over.copy()
    holders = track[detections]
    has_holder = holders >= 0
    handed_over[holders[has_holder]] = detections[has_holder]
    detection[holders[has_holder]] = -1
    detection[lost], track[detections] = detections, lost
    reassociated[lost] = True
    return dataclasses.replace(
        matches, detection=detection, track=track, reassociated=reassociated, handed_over=handed_over
    )
