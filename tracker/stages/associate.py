"""Association by motion and appearance: ByteTrack's cascade, with appearance in the cost, and use A (veto)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker.association import costs
from tracker.association.assignment import assign_pairs
from tracker.association.pairs import Overlaps, Pairs
from tracker.association.scene import paired_motion
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

    def track_of(self, n_detections: int) -> IntArray:
        """(N,) row of the track that has each detection, -1: none."""
        track = np.full(n_detections, -1, np.int64)
        rows = self.matched.nonzero()[0]
        track[self.detection[rows]] = rows
        return track


def associate(
    tracks: PredictedTracks,
    dets: FrameDetections,
    overlaps: Overlaps,
    appearance: Appearance,
    config: AssociationConfig,
    occlusion_config: OcclusionConfig,
    motion_config: MotionConfig,
    with_costs: bool = False,
) -> Matches:
    """Match tracks and detections in two rounds, as ByteTrack does (Zhang et al. 2022, algorithm 1).

    The first round takes high-score detections, confirmed tracks before tentative ones (a cascade of two levels, Wojke
    et al. 2017); the second gives low-score detections to confirmed tracks that are still unmatched.
    """
    bank = tracks.bank
    detection = np.full(len(bank), -1, np.int64)
    chosen_costs: list[PairCosts] = []

    # First association: high-score detections.
    free = dets.high.copy()
    for group in (tracks.active & bank.confirmed, ~bank.confirmed):
        if not np.count_nonzero(group):
            continue
        pairs = overlaps.detections.among(group, free, config.min_iou)
        if len(pairs) == 0:
            continue
        pairs = _without_stolen(pairs, tracks, dets, overlaps, group, occlusion_config)
        dist = None if dets.features is None else _distances(pairs, tracks, dets, appearance)
        if config.odds > 0 and appearance.scene.places is not None:
            cost = -_odds(pairs, tracks, dets, dist, appearance, config, motion_config)
            allowed = cost < -config.least_odds
            if not allowed.any():
                continue
            pairs, cost = pairs.keep(allowed), cost[allowed]
            dist = None if dist is None else dist[allowed]
        else:
            cost = _fused_cost(pairs, tracks, dets, group, dist, appearance, config)
        chosen = assign_pairs(pairs.track, pairs.detection, cost)
        if dist is not None and config.veto:
            chosen = _veto(pairs, chosen, dist, tracks, dets, appearance, config)  # use A
        if with_costs:
            used = dist if config.appearance_weight > 0 else None
            chosen_costs.append(_pair_costs(pairs, chosen, cost, used, tracks, appearance))
        pairs = pairs.keep(chosen)
        detection[pairs.track] = pairs.detection
        free[pairs.detection] = False

    # Second association: low-score detections, by overlap alone.
    unmatched = tracks.active & bank.confirmed & (detection < 0)
    pairs = overlaps.detections.among(unmatched, ~dets.high, config.min_iou_weak)
    if len(pairs):
        cost = 1.0 - pairs.iou
        chosen = assign_pairs(pairs.track, pairs.detection, cost)
        if with_costs:
            chosen_costs.append(_pair_costs(pairs, chosen, cost, None, tracks, appearance))
        pairs = pairs.keep(chosen)
        detection[pairs.track] = pairs.detection
    return Matches(
        detection=detection,
        reassociated=np.zeros(len(bank), bool),
        handed_over=np.full(len(bank), -1, np.int64),
        costs=_joined(chosen_costs) if with_costs else None,
    )


def _without_stolen(
    pairs: Pairs,
    tracks: PredictedTracks,
    dets: FrameDetections,
    overlaps: Overlaps,
    group: BoolArray,
    config: OcclusionConfig,
) -> Pairs:
    """Pairs without those in which an occluded track would take the detection of its occluder; group (T,)."""
    occluded = group & ~tracks.visible
    if not (config.enabled and np.count_nonzero(occluded)):
        return pairs
    occluder = occlusion.occluder(tracks.boxes, occluded, group & tracks.visible, *overlaps.tracks, config)
    return pairs.keep(~occlusion.stolen(pairs.track, pairs.iou, dets.boxes[pairs.detection], tracks.boxes, occluder))


def _distances(pairs: Pairs, tracks: PredictedTracks, dets: FrameDetections, appearance: Appearance) -> FloatArray:
    """(P,) cosine distance of each detection to the mean embedding of the track."""
    assert dets.features is not None
    return appearance.gallery.dist_pairs(tracks.bank.slot[pairs.track], dets.features[pairs.detection])


def _odds(
    pairs: Pairs,
    tracks: PredictedTracks,
    dets: FrameDetections,
    dist: FloatArray | None,
    appearance: Appearance,
    config: AssociationConfig,
    motion_config: MotionConfig,
) -> FloatArray:
    """(P,) log odds that the detection is the track's person."""
    bank, boxes, scene = tracks.bank, dets.boxes[pairs.detection], appearance.scene
    mean, cov = bank.mean[pairs.track], bank.cov[pairs.track]
    variance = kalman.innovation_variance(mean, cov, motion_config)
    odds = config.odds * (paired_motion(mean, variance * config.inflate, boxes) - scene.newcomers(boxes))
    if dist is not None and config.appearance_weight > 0:
        known = appearance.gallery.counts(bank.slot[pairs.track]) > 0
        odds += np.where(known, scene.appearance_now(dist, tracks.visible[pairs.track]), 0.0)
    return odds


def _fused_cost(
    pairs: Pairs,
    tracks: PredictedTracks,
    dets: FrameDetections,
    group: BoolArray,
    dist: FloatArray | None,
    appearance: Appearance,
    config: AssociationConfig,
) -> FloatArray:
    """(P,) cost of overlap and appearance; dist (P,) from `_distances`, None: overlap alone.

    A track with an empty gallery gets the distance of the least similar track of the group that has one: tracks that
    appearance knows go first, and an embedding that is the same for all changes nothing (docs/method.md, 2).
    """
    if dist is None:
        return 1.0 - pairs.iou
    weight, gallery, slot = config.appearance_weight, appearance.gallery, tracks.bank.slot
    known = gallery.counts(slot) > 0
    unknown = (~known[pairs.track]).nonzero()[0]
    if weight == 0 or len(unknown) == 0:
        return costs.fuse(pairs.iou, dist, weight)
    known_slots = slot[group & known]
    if len(known_slots) == 0:
        return costs.fuse(pairs.iou, dist, 0.0)
    assert dets.features is not None
    largest = gallery.dist_mean(known_slots, dets.features[pairs.detection[unknown]]).max(axis=0)
    filled = dist.copy()
    filled[unknown] = 0.0
    # Not below the distance of any known track, to the last bit: the order of a long sum changes its rounding.
    farthest = np.zeros(len(dets))
    np.maximum.at(farthest, pairs.detection, filled)
    filled[unknown] = np.maximum(largest, farthest[pairs.detection[unknown]])
    return costs.fuse(pairs.iou, filled, weight)


def _veto(
    pairs: Pairs,
    chosen: IntArray,
    dist: FloatArray,
    tracks: PredictedTracks,
    dets: FrameDetections,
    appearance: Appearance,
    config: AssociationConfig,
) -> IntArray:
    """Use A: cancel chosen pairs that appearance contradicts, or exchange them where two tracks crossed.

    chosen (k,) rows of `pairs`, dist (P,) of all pairs. Returns the rows that remain. Source: docs/method.md, 2.
    """
    assert dets.features is not None
    features, gallery = dets.features, appearance.gallery
    slots, detections = tracks.bank.slot[pairs.track[chosen]], pairs.detection[chosen]
    vetoed = appearance.known(slots)
    known = vetoed.nonzero()[0]
    vetoed[known] = gallery.beyond_quantile(
        slots[known], features[detections[known]], dist[chosen[known]], config.veto_quantile, appearance.thresholds.diff
    )
    if not np.count_nonzero(vetoed):
        return chosen
    near, table = _exchangeable(pairs, chosen, vetoed)
    crossed = gallery.dist_mean(slots[near], features[detections[near]])
    row = np.arange(len(near))
    column, vetoed[near] = costs.swaps(row, row, vetoed[near], crossed, table >= 0, config.swap_gain)
    chosen = chosen.copy()
    chosen[near] = table[row, column]
    return chosen[~vetoed]


def _exchangeable(pairs: Pairs, chosen: IntArray, vetoed: BoolArray) -> tuple[IntArray, IntArray]:
    """The vetoed pairs and those that one of them could be exchanged with: (n,) places in `chosen`.

    chosen (k,) rows of `pairs`, vetoed (k,). Also (n, n) the row of `pairs` with the track of one and the detection of
    another of them, -1 where motion does not permit that pair.
    """
    vetoed_track, reached_track = np.zeros((2, pairs.track.max() + 1), bool)
    vetoed_detection, reached_detection = np.zeros((2, pairs.detection.max() + 1), bool)
    track, detection = pairs.track[chosen], pairs.detection[chosen]
    vetoed_track[track[vetoed]] = True
    vetoed_detection[detection[vetoed]] = True
    reached_detection[pairs.detection[vetoed_track[pairs.track]]] = True
    reached_track[pairs.track[vetoed_detection[pairs.detection]]] = True
    near = (reached_track[track] & reached_detection[detection]).nonzero()[0]

    place_of_track, place_of_detection = np.full(len(reached_track), -1), np.full(len(reached_detection), -1)
    place_of_track[track[near]] = place_of_detection[detection[near]] = np.arange(len(near))
    i, j = place_of_track[pairs.track], place_of_detection[pairs.detection]
    inside = ((i >= 0) & (j >= 0)).nonzero()[0]
    table = np.full((len(near), len(near)), -1, np.int64)
    table[i[inside], j[inside]] = inside
    return near, table


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
        known = appearance.gallery.counts(tracks.bank.slot[track]) > 0
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
