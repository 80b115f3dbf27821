"""Tracks and detections that belong together: overlap and looks share the cost, and use A of the metric vetoes."""

from __future__ import annotations

import numpy as np

from tracker.association import costs
from tracker.association.assignment import assign_pairs
from tracker.association.pairs import Pairs
from tracker.config import TrackerConfig
from tracker.stages.embed import Looks
from tracker.stages.frame_state import Links, Scene, rows_of
from tracker.stages.trace import Notes
from tracker.tracks import lifecycle, occlusion
from tracker.types import BoolArray, FloatArray, IntArray


class Associator:
    """Known tracks choose first, then tentative ones; the weak detections are for whom is left."""

    def __init__(self, config: TrackerConfig, looks: Looks, notes: Notes) -> None:
        self._config = config
        self._looks, self._notes = looks, notes

    def links(self, scene: Scene) -> Links:
        link, bank, all_pairs = self._config.association, scene.bank, scene.expected.pairs
        links = Links.none(len(bank))
        active = lifecycle.active(bank, scene.now_s, self._config.lifecycle)
        free = scene.strong.copy()
        for group in (active & bank.confirmed, ~bank.confirmed):  # who is known comes first
            if not np.count_nonzero(group):
                continue
            pairs = all_pairs.among(group, free, link.min_iou)
            if len(pairs):
                pairs = self._possible(scene, pairs, group)
                pairs = pairs.keep(self._matched(scene, pairs, group))
                links.detection[pairs.track] = pairs.detection
                free[pairs.detection] = False

        left = active & bank.confirmed & (links.detection < 0)
        pairs = all_pairs.among(left, ~scene.strong, link.min_iou_weak)
        if len(pairs):
            pairs = pairs.keep(assign_pairs(pairs.track, pairs.detection, 1.0 - pairs.iou))
            if self._notes.on:
                self._notes.pairs(pairs, 1.0 - pairs.iou, self._look_cost(bank.slot[pairs.track], None))
            links.detection[pairs.track] = pairs.detection
        return links

    def _possible(self, scene: Scene, pairs: Pairs, group: BoolArray) -> Pairs:
        """Pairs of the group without those that a hidden track would steal."""
        config, expected = self._config.occlusion, scene.expected
        unseen = group & ~expected.visible
        if config.enabled and np.count_nonzero(unseen):
            front = group & expected.visible
            occluder = occlusion.occluder(expected.boxes, unseen, front, *expected.near, config)
            detected = scene.seen.boxes[pairs.detection]
            pairs = pairs.keep(~occlusion.stolen(pairs.track, pairs.iou, detected, expected.boxes, occluder))
        return pairs

    def _matched(self, scene: Scene, pairs: Pairs, group: BoolArray) -> IntArray:
        """Which pairs of the group belong together, by overlap and looks: (k,)."""
        link, slot, features = self._config.association, scene.bank.slot, scene.seen.features
        if features is None:
            cost, look = 1.0 - pairs.iou, None
            chosen = assign_pairs(pairs.track, pairs.detection, cost)
        else:
            look = self._looks.gallery.dist_pairs(slot[pairs.track], features[pairs.detection])
            cost = costs.fuse(pairs.iou, *self._weighed(scene, pairs, group, look))
            chosen = assign_pairs(pairs.track, pairs.detection, cost)
            if link.veto:
                chosen = self._unvetoed(scene, pairs, chosen, look)
        if self._notes.on:
            by_looks = self._look_cost(slot[pairs.track[chosen]], None if look is None else look[chosen])
            self._notes.pairs(pairs.keep(chosen), cost[chosen], by_looks)
        return chosen

    def _weighed(self, scene: Scene, pairs: Pairs, group: BoolArray, look: FloatArray) -> tuple[FloatArray, float]:
        """(P,) distance of looks as it counts for the cost, and its weight; look (P,): to the gallery of the track.

        A track without a gallery is taken to look like the least alike of those of the group that have one: whom
        appearance recognises goes first, and an embedding that calls everybody alike changes nothing.
        """
        weight, gallery = self._config.association.appearance_weight, self._looks.gallery
        slot, seen = scene.bank.slot, scene.seen
        known = gallery.counts(slot) > 0
        unknown = rows_of(~known[pairs.track])
        if weight == 0 or len(unknown) == 0:
            return look, weight
        others = slot[group & known]
        if len(others) == 0:
            return look, 0.0
        assert seen.features is not None
        least_alike = gallery.dist_mean(others, seen.features[pairs.detection[unknown]]).max(axis=0)
        look = look.copy()
        # No nearer than anybody with a gallery, to the last bit: sums of many products differ in it.
        nearest = np.zeros(len(seen))
        look[unknown] = 0.0
        np.maximum.at(nearest, pairs.detection, look)
        look[unknown] = np.maximum(least_alike, nearest[pairs.detection[unknown]])
        return look, weight

    def _unvetoed(self, scene: Scene, pairs: Pairs, chosen: IntArray, look: FloatArray) -> IntArray:
        """Use A: chosen pairs (k,) that appearance contradicts are cancelled, or exchanged where two people crossed.

        look (P,): distance of all pairs to the gallery of the track.
        """
        features, gallery, link = scene.seen.features, self._looks.gallery, self._config.association
        assert features is not None
        slots, detections = scene.bank.slot[pairs.track[chosen]], pairs.detection[chosen]
        vetoed = self._looks.known(slots)
        trusted = rows_of(vetoed)
        vetoed[trusted] = gallery.beyond_quantile(
            slots[trusted], features[detections[trusted]], look[chosen[trusted]],
            link.veto_quantile, self._looks.thresholds.diff,
        )  # fmt: skip
        if not np.count_nonzero(vetoed):
            return chosen
        near, table = _exchangeable(pairs, chosen, vetoed)
        dist = gallery.dist_mean(slots[near], features[detections[near]])
        row = np.arange(len(near))
        column, vetoed[near] = costs.swaps(row, row, vetoed[near], dist, table >= 0, link.swap_gain)
        chosen = chosen.copy()
        chosen[near] = table[row, column]
        return chosen[~vetoed]

    def _look_cost(self, slots: IntArray, dist: FloatArray | None) -> FloatArray:
        """(P,) cost of looks for distances (P,) to `slots`, before weighting; NaN where looks decided nothing."""
        if dist is None or self._config.association.appearance_weight == 0:
            return np.full(len(slots), np.nan)
        return np.where(self._looks.gallery.counts(slots) > 0, dist / 2.0, np.nan)


def _exchangeable(pairs: Pairs, chosen: IntArray, vetoed: BoolArray) -> tuple[IntArray, IntArray]:
    """Chosen pairs that a vetoed one could be exchanged with, and the vetoed ones: (n,) places in `chosen`.

    chosen (k,) rows of `pairs`, vetoed (k,). Also (n, n) the row of `pairs` that has the track of one of them and the
    detection of another, -1 where motion permits no such pair.
    """
    vetoed_track, reached_track = np.zeros((2, pairs.track.max() + 1), bool)
    vetoed_detection, reached_detection = np.zeros((2, pairs.detection.max() + 1), bool)
    track, detection = pairs.track[chosen], pairs.detection[chosen]
    vetoed_track[track[vetoed]] = True
    vetoed_detection[detection[vetoed]] = True
    reached_detection[pairs.detection[vetoed_track[pairs.track]]] = True
    reached_track[pairs.track[vetoed_detection[pairs.detection]]] = True
    near = rows_of(reached_track[track] & reached_detection[detection])

    place_of_track, place_of_detection = np.full(len(reached_track), -1), np.full(len(reached_detection), -1)
    place_of_track[track[near]] = place_of_detection[detection[near]] = np.arange(len(near))
    i, j = place_of_track[pairs.track], place_of_detection[pairs.detection]
    inside = rows_of((i >= 0) & (j >= 0))
    table = np.full((len(near), len(near)), -1, np.int64)
    table[i[inside], j[inside]] = inside
    return near, table
