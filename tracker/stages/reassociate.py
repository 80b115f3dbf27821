"""Use B: re-identification of lost tracks by appearance, where motion and size permit it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tracker.association import costs
from tracker.association.assignment import assign
from tracker.association.scene import motion
from tracker.config import AssociationConfig, MotionConfig, TrackerConfig
from tracker.motion import kalman
from tracker.proposals import prior, verify
from tracker.stages.associate import Matches
from tracker.stages.embed import Appearance
from tracker.stages.predict import PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FeatureArray, FloatArray, ImageArray, IntArray

import os
WB = float(os.environ.get("WB", 1))

def reassociate(
    tracks: PredictedTracks,
    dets: FrameDetections,
    matches: Matches,
    dt_s: float,
    appearance: Appearance,
    config: TrackerConfig,
) -> Matches:
    """Give high-score detections that no confirmed track has to the lost tracks that they resemble.

    A detection of a tentative track may be given away as well; that track is then absorbed by the lost one. image:
    for the background control, None: without. Source: docs/method.md, 3.
    """
    link, bank = config.association, tracks.bank
    if not link.reassociate or dets.features is None:
        return matches
    track_of = matches.track_of(len(dets))
    appearance.scene.observe_boxes(dets.boxes[dets.high], int((dets.high & (track_of < 0)).sum()))
    lost = lifecycle.reassociable(bank, matches.matched, tracks.time_s, config.lifecycle)
    lost_rows = (lost & appearance.known(bank.slot)).nonzero()[0]
    if len(lost_rows) == 0:
        return matches
    found = (dets.high & ((track_of < 0) | ~np.append(bank.confirmed, True)[track_of])).nonzero()[0]
    if len(found) == 0:
        return matches
    dist = appearance.gallery.dist_mean(bank.slot[lost_rows], dets.features[found])  # (lost, found)
    variance = kalman.innovation_variance(bank.mean[lost_rows], bank.cov[lost_rows], config.motion)
    scene = appearance.scene
    boxes = dets.boxes[found]
    odds = (
        scene.appearance(dist)
        + WB * (motion(bank.mean[lost_rows], variance, boxes) - scene.newcomers(boxes)[None])
        + (0 if "NOSC" in os.environ else np.log(dets.scores[found])[None])
        + np.log((float(os.environ['RATE']) if 'RATE' in os.environ else dt_s) / (tracks.time_s - bank.seen_s[lost_rows] + link.return_s))[:, None]
    )
    # Against a newcomer and against every other lost track.
    rest = np.logaddexp.reduce(np.concatenate([odds, np.zeros((1, len(found)))]), axis=0)
    posterior = np.exp(odds - rest)
    i, j = assign(np.where(posterior > link.sure, -odds, np.inf))
    if "DBG" in os.environ:
        for a, b in zip(i, j):
            print(f"DBG t {tracks.time_s:.2f} id {bank.id[lost_rows[a]]} age {tracks.time_s-bank.seen_s[lost_rows[a]]:.2f} dist {dist[a,b]:.2f} llr {scene.appearance(dist)[a,b]:.1f} mot {motion(bank.mean[lost_rows],variance,boxes)[a,b]:.1f} new {scene.newcomers(boxes)[b]:.1f} odds {odds[a,b]:.1f} post {posterior[a,b]:.2f} same {scene.same.mean[0]:.2f} {scene.same.cov[0,0]**.5:.2f} diff {scene.diff.mean[0]:.2f} {scene.diff.cov[0,0]**.5:.2f} arr {scene.arrivals:.2f}")
    return _given(matches, lost_rows[i], found[j], track_of[found[j]])


def _gate(lost: TrackBank, boxes: FloatArray, link: AssociationConfig, motion: MotionConfig) -> BoolArray:
    """(T, N) pairs that motion and size permit; the Mahalanobis gate grows while the track is not detected."""
    ratio = (boxes[:, 3] - boxes[:, 1])[None] / lost.mean[:, 3:4]
    size = (ratio >= link.min_height_ratio) & (ratio <= link.max_height_ratio)
    return size & (kalman.mahalanobis_sq_of_boxes(lost.mean, lost.cov, boxes, motion) <= link.relink_chi2)


def _second_best(
    bank: TrackBank, lost_rows: IntArray, features: FeatureArray, dist: FloatArray, appearance: Appearance
) -> FloatArray:
    """(n, m) distance of each detection to the nearest confirmed track other than that lost one; +inf without one.

    lost_rows (n,), features (m, D) of the detections, dist (n, m) between them. Tentative tracks do not count: one may
    be the lost person.
    """
    of_all = np.full((len(bank), len(features)), np.inf)
    confirmed = bank.confirmed.nonzero()[0]
    of_all[confirmed] = appearance.gallery.dist_min(bank.slot[confirmed], features)
    of_all[lost_rows] = dist
    return costs.least_of_others(of_all)[lost_rows]


def _background_distance(image: ImageArray, slots: IntArray, boxes: FloatArray, appearance: Appearance) -> FloatArray:
    """(n, N) mean distance of the background beside each box (N, 4) to each slot (n,); +inf outside the image."""
    controls, inside = prior.background(boxes, image.shape[1], image.shape[0])
    embedded = appearance.embed(image, controls.reshape(-1, 4))
    dist = appearance.gallery.dist_mean(slots, embedded).reshape(len(slots), *inside.shape)
    return verify.mean_control(np.where(inside, dist, np.nan))


def _given(matches: Matches, lost: IntArray, detections: IntArray, holders: IntArray) -> Matches:
    """The matches after detections (k,) went to lost tracks (k,) from the tentative tracks `holders` (k,), -1: none."""
    detection, reassociated = matches.detection.copy(), matches.reassociated.copy()
    handed_over = matches.handed_over.copy()
    has_holder = holders >= 0
    handed_over[holders[has_holder]] = detections[has_holder]
    detection[holders[has_holder]] = -1
    detection[lost] = detections
    reassociated[lost] = True
    return dataclasses.replace(matches, detection=detection, reassociated=reassociated, handed_over=handed_over)
