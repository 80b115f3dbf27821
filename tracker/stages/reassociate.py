"""Use B of the metric: who was lost is found again by looks, where motion and size permit it."""

from __future__ import annotations

import numpy as np

from tracker.association import costs
from tracker.association.assignment import assign
from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.proposals import prior, verify
from tracker.stages.embed import Looks
from tracker.stages.frame_state import Links, Scene, rows_of
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FloatArray, ImageArray, IntArray


class Reassociator:
    """Strong detections that no track or only a tentative one claims go to the lost track they look like."""

    def __init__(self, config: TrackerConfig, looks: Looks) -> None:
        self._config = config
        self._looks = looks

    def relink(self, scene: Scene, links: Links) -> None:
        link, bank, features, gallery = self._config.association, scene.bank, scene.seen.features, self._looks.gallery
        if not link.reassociate or features is None:
            return
        lost = lifecycle.lost(bank, links.detection >= 0, scene.now_s, self._config.lifecycle)
        lost_rows = rows_of(lost & self._looks.known(bank.slot))
        if len(lost_rows) == 0:
            return
        owner = links.owners(len(scene.seen))
        found = rows_of(scene.strong & ((owner < 0) | ~np.append(bank.confirmed, True)[owner]))
        if len(found) == 0:
            return
        gated = self._plausible(bank.keep(lost_rows), scene.seen.boxes[found])
        if not np.count_nonzero(gated):
            return
        tau = self._looks.thresholds.same
        dist = gallery.dist_min(bank.slot[lost_rows], features[found])  # (lost, found)
        alike = (gated & (dist < tau)).any(axis=0)
        if not np.count_nonzero(alike):
            return
        found, gated, dist = found[alike], gated[:, alike], dist[:, alike]
        rivals = self._rivals(scene, lost_rows, found, dist)
        alone = (gated & (dist < tau) & np.isinf(rivals)).any(axis=0)
        if scene.image is not None and alone.any():
            surroundings = self._background_dist(scene.image, bank.slot[lost_rows], scene.seen.boxes[found[alone]])
            rivals[:, alone] = np.minimum(rivals[:, alone], surroundings)
        i, j = assign(costs.relink_cost(dist, rivals, gated, tau, link.second_best_ratio))
        links.relink(lost_rows[i], found[j], owner)

    def _plausible(self, lost: TrackBank, boxes: FloatArray) -> BoolArray:
        """(T, N) pairs that motion and size permit: the gate grows while the track coasts."""
        link = self._config.association
        ratio = (boxes[:, 3] - boxes[:, 1])[None] / lost.mean[:, 3:4]
        sized = (ratio >= link.min_height_ratio) & (ratio <= link.max_height_ratio)
        dist_sq = kalman.mahalanobis_sq_of_boxes(lost.mean, lost.cov, boxes, self._config.motion)
        return sized & (dist_sq <= link.relink_chi2)

    def _rivals(self, scene: Scene, lost_rows: IntArray, found: IntArray, dist: FloatArray) -> FloatArray:
        """(n, m) distance of each detection to the most alike of all other known tracks than that lost one.

        lost_rows (n,), found (m,) rows of detections, dist (n, m) between them.
        """
        bank, features = scene.bank, scene.seen.features
        assert features is not None
        everyone = np.full((len(bank), len(found)), np.inf)
        # A tentative track may be the very person: it is nobody's rival.
        known = rows_of(bank.confirmed)
        everyone[known] = self._looks.gallery.dist_min(bank.slot[known], features[found])
        everyone[lost_rows] = dist
        return costs.least_of_others(everyone)[lost_rows]

    def _background_dist(self, image: ImageArray, slots: IntArray, boxes: FloatArray) -> FloatArray:
        """Mean distance of the surroundings of each box to each slot: (n, N); +inf where all lie outside the image."""
        controls, inside = prior.background(boxes, image.shape[1], image.shape[0])
        embedded = self._looks.embed(image, controls.reshape(-1, 4))
        dist = self._looks.gallery.dist_mean(slots, embedded).reshape(len(slots), *inside.shape)
        return verify.mean_control(np.where(inside, dist, np.nan))
