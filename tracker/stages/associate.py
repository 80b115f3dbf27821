"""Association by motion and appearance: ByteTrack's cascade, and use A in the first round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker.association import evidence
from tracker.association.assignment import assign_pairs
from tracker.association.pairs import Overlaps, Pairs
from tracker.config import AssociationConfig, MotionConfig, OcclusionConfig
from tracker.motion import kalman
from tracker.stages.embed import Appearance
from tracker.stages.predict import PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks import occlusion
from tracker.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PairCosts:
    """Costs of the P pairs that the two associations chose, for the debug overlay."""

    track: IntArray  # (P,) row of the track
    detection: IntArray  # (P,) row of the detection
    cost: FloatArray  # (P, 3) total, appearance d / 2 (NaN where it was not used), 1 - IoU


@dataclass(frozen=True, slots=True)
class Matches:
    """Which detection belongs to which of the T predicted tracks."""

    detection: IntArray  # (T,) row of the detection, -1: none
    track: IntArray  # (N,) row of the track, -1: none
    reassociated: BoolArray  # (T,) matched by appearance alone after a gap (use B)
    handed_over: IntArray  # (T,) detection that a tentative track gave to a re-associated one, which absorbs it; -1
    costs: PairCosts | None = None  # only where they were asked for

    @property
    def matched(self) -> BoolArray:
        """(T,) tracks with a detection."""
        return self.detection >= 0

    @property
    def absorbed(self) -> BoolArray:
        """(T,) tentative tracks that turned out to be a lost track."""
        return self.handed_over >= 0


def associate(
    tracks: PredictedTracks,
    dets: FrameDetections,
    overlaps: Overlaps,
    appearance: Appearance,
    config: AssociationConfig,
    occlusion_config: OcclusionConfig,
    motion: MotionConfig,
    with_costs: bool = False,
) -> Matches:
    """Match tracks and detections in two rounds, as ByteTrack does (Zhang et al. 2022, algorithm 1).

    The first round takes high-score detections, confirmed tracks before tentative ones (a cascade of two levels, Wojke
    et al. 2017); the second gives low-score detections to confirmed tracks that are still unmatched.
    """
    bank, confirmed = tracks.bank, tracks.bank.confirmed
    detection, track = np.full(len(bank), -1), np.full(len(dets), -1)
    chosen_costs: list[PairCosts] = []

    # Tracks take detections of their own group of classes.
    candidates = overlaps.detections
    candidates = candidates.keep(bank.group[candidates.track] == dets.group[candidates.detection])

    # First association: high-score detections.
    pairs = candidates.among(tracks.active, dets.high, config.min_iou)
    pairs = _without_stolen(pairs, tracks, dets, overlaps, occlusion_config)
    cost, dist = 1.0 - pairs.iou, None
    if config.veto and dets.features is not None:  # use A: pairs against the odds are vetoed
        dist = appearance.gallery.dist_pairs(bank.slot[pairs.track], dets.features.take(pairs.detection, axis=0))
        odds = _log_odds(pairs, dist, tracks, dets, appearance, config, motion)
        likely = (odds > 0).nonzero()[0]
        pairs, dist, cost = pairs.keep(likely), dist[likely], -odds[likely]
    of_confirmed = confirmed[pairs.track]
    for group in (of_confirmed, ~of_confirmed):
        rows = (group & (track[pairs.detection] < 0)).nonzero()[0]
        if len(rows) == 0:
            continue
        chosen = rows[assign_pairs(pairs.track[rows], pairs.detection[rows], cost[rows])]
        if with_costs:
            chosen_costs.append(_pair_costs(pairs, chosen, cost, dist, tracks, appearance))
        detection[pairs.track[chosen]], track[pairs.detection[chosen]] = pairs.detection[chosen], pairs.track[chosen]

    # Second association: low-score detections, by overlap alone.
    unmatched = tracks.active & confirmed & (detection < 0)
    pairs = candidates.among(unmatched, ~dets.high, config.min_iou_weak)
    if len(pairs):
        cost = 1.0 - pairs.iou
        chosen = assign_pairs(pairs.track, pairs.detection, cost)
        if with_costs:
            chosen_costs.append(_pair_costs(pairs, chosen, cost, None, tracks, appearance))
        pairs = pairs.keep(chosen)
        detection[pairs.track], track[pairs.detection] = pairs.detection, pairs.track
    return Matches(
        detection=detection,
        track=track,
        reassociated=np.zeros(len(bank), bool),
        handed_over=np.full(len(bank), -1),
        costs=_joined(chosen_costs) if with_costs else None,
    )


def _without_stolen(
    pairs: Pairs,
    tracks: PredictedTracks,
    dets: FrameDetections,
    overlaps: Overlaps,
    config: OcclusionConfig,
) -> Pairs:
    """Pairs without those in which an occluded track would take the detection of its occluder."""
    occluded = tracks.active & ~tracks.visible
    if not (config.enabled and np.count_nonzero(occluded)):
        return pairs
    bank, (i, j) = tracks.bank, overlaps.tracks
    confirmed = bank.confirmed  # a tentative track occludes no confirmed one
    rivals = ((bank.group[i] == bank.group[j]) & (confirmed[i] == confirmed[j])).nonzero()[0]
    in_front = tracks.active & tracks.visible
    occluder = occlusion.occluder(tracks.boxes, occluded, in_front, i[rivals], j[rivals], config)
    detected = dets.boxes.take(pairs.detection, axis=0)
    return pairs.keep(~occlusion.stolen(pairs.track, pairs.iou, detected, tracks.boxes, occluder))


def _log_odds(
    pairs: Pairs,
    dist: FloatArray,
    tracks: PredictedTracks,
    dets: FrameDetections,
    appearance: Appearance,
    config: AssociationConfig,
    motion: MotionConfig,
) -> FloatArray:
    """(P,) log odds that the detection is the person of the track; dist (P,) to its mean embedding.

    Where appearance tells nothing apart, the IoU: such pairs compete with no others.
    """
    bank, track, detection = tracks.bank, pairs.track, pairs.detection
    variance = kalman.innovation_variance(bank.mean, bank.cov, motion)
    odds = evidence.log_odds(
        appearance.scene,
        dist,
        appearance.known(bank.slot)[track] & dets.embedded[detection],
        evidence.log_motion(
            bank.mean.take(track, axis=0), variance.take(track, axis=0), dets.places.take(detection, axis=0)
        ),
        appearance.scene.log_newcomers(dets.places)[detection],
        config.motion_weight,
    )
    return np.where(dets.embeddable[pairs.detection], odds, pairs.iou)


def _pair_costs(
    pairs: Pairs,
    chosen: IntArray,
    cost: FloatArray,
    dist: FloatArray | None,
    tracks: PredictedTracks,
    appearance: Appearance,
) -> PairCosts:
    """Costs of the chosen rows (k,) of `pairs`; cost (P,), dist (P,) or None where appearance was not used."""
    track = pairs.track[chosen]
    by_appearance = np.full(len(chosen), np.nan)
    if dist is not None:
        known = appearance.known(tracks.bank.slot[track])
        by_appearance = np.where(known, dist[chosen] / 2.0, np.nan)
    parts = np.stack([cost[chosen], by_appearance, 1.0 - pairs.iou[chosen]], axis=1)
    return PairCosts(track, pairs.detection[chosen], parts)


def _joined(parts: list[PairCosts]) -> PairCosts:
    none = PairCosts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)))
    parts = [none, *parts]
    return PairCosts(
        np.concatenate([part.track for part in parts]),
        np.concatenate([part.detection for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )
