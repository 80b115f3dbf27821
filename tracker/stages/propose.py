"""Use C of the metric: where the detector failed, the tracklet's prior says where to look; a verifier decides."""

from __future__ import annotations

import numpy as np

from tracker import boxes as bx
from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.proposals import prior, verify, window
from tracker.stages.embed import Looks
from tracker.stages.frame_state import Links, Scene, rows_of
from tracker.stages.trace import Notes
from tracker.tracks import lifecycle
from tracker.tracks.bank import TrackBank
from tracker.types import BoolArray, FloatArray, ImageArray, IntArray


class Proposer:
    """Looks again for unmatched confirmed tracks."""

    def __init__(
        self, config: TrackerConfig, looks: Looks, detector: window.WindowDetector | None, notes: Notes
    ) -> None:
        """detector: asked about windows of the frame; None where detections only come in."""
        self._config = config
        self._looks, self._notes = looks, notes
        self.detector = detector

    def propose(self, scene: Scene, links: Links) -> None:
        """Give proposals to unmatched confirmed tracks."""
        by_looks, by_window = self._verifiers(scene)
        if not by_looks:
            return
        age_s = (scene.clock.looked_s or 0.0) - scene.bank.seen_s
        tracks = self._asked(scene, links, age_s)
        if len(tracks) == 0:
            return
        kept = scene.strong.copy()
        kept[links.detection[links.detection >= 0]] = True
        taken, weak = scene.seen.boxes[kept], scene.seen.boxes[~kept]
        if by_window:
            places, belief = self._seen_again(scene, tracks, age_s, taken)
            same = self._recognised(scene, places)
            places, belief = places.take(same), belief[same]
        else:
            places, belief = self._found_by_looks(scene, tracks, age_s, taken, weak)
        best = np.argsort(-belief, kind="stable")  # of two proposals in one place the surer stays
        best = best[self._apart(scene.bank.keep(places.track[best]), places.boxes[best], taken)]
        rows = places.track[best]
        links.proposed[rows] = True
        links.measured[rows] = places.boxes[best]
        links.belief[rows] = np.clip(belief[best], 0.0, 1.0)

    def _verifiers(self, scene: Scene) -> tuple[bool, bool]:
        """Whether appearance and the detector verify in this frame.

        Without a detector, or where it does not look at the frame, "auto" falls back to appearance alone; without
        embeddings nothing is proposed.
        """
        config = self._config.proposals
        by_looks = config.enabled and scene.image is not None
        by_window = by_looks and config.verifier == "auto" and scene.looked and self.detector is not None
        return by_looks, by_window

    def _asked(self, scene: Scene, links: Links, age_s: FloatArray) -> IntArray:
        """(k,) rows of the tracks that are looked for; age_s (T,) since their last detection."""
        recent = age_s <= self._config.proposals.max_s + lifecycle.TIME_SLACK_S
        return rows_of(scene.bank.confirmed & (links.detection < 0) & recent & self._looks.known(scene.bank.slot))

    # -------------------------------------------------------------------------------------------------- by appearance

    def _found_by_looks(
        self, scene: Scene, tracks: IntArray, age_s: FloatArray, taken: FloatArray, weak: FloatArray
    ) -> tuple[prior.Candidates, FloatArray]:
        """For each track the place around its prediction that looks most like it, if it looks enough like it."""
        config, bank, image = self._config.proposals, scene.bank, scene.image
        assert image is not None
        height, width = image.shape[:2]
        variance = kalman.innovation_variance(bank.mean[tracks], bank.cov[tracks], self._config.motion)
        places = prior.candidates(tracks, bank.mean[tracks], variance, weak, config)
        places = places.take(prior.plausible(places, taken, width, height, config))
        tracks, count = np.unique(places.track, return_counts=True)
        within = verify.within_budget(count + prior.N_CONTROLS, age_s[tracks], config.max_crops_per_frame)
        tracks = tracks[within]
        places = places.take(np.isin(places.track, tracks))
        if self._notes.on:
            self._notes.tried = places.boxes
        if len(places) == 0:
            return places, np.zeros(0)

        dist = self._looked_over(bank, places, image)
        best = verify.best_candidates(places.track, places.log_prior, dist, self._looks.thresholds.sigma)  # one a track
        tau = config.accept_scale * self._looks.thresholds.same
        best = best[dist[best] < tau]
        if len(best) == 0:
            return places.take(best), np.zeros(0)
        rows = places.track[best]
        controls, inside = prior.background(bx.cxcyah_to_xyxy(bank.mean[rows, :4]), width, height)
        around = self._looks.embed(image, controls.reshape(-1, 4))
        control_dist = self._looks.gallery.dist_pairs(np.repeat(bank.slot[rows], prior.N_CONTROLS), around)
        control = verify.mean_control(np.where(inside, control_dist.reshape(inside.shape), np.nan))
        best = best[verify.accepted(dist[best], control, tau, config)]
        return places.take(best), 1.0 - dist[best] / self._looks.thresholds.diff

    def _looked_over(self, bank: TrackBank, places: prior.Candidates, image: ImageArray) -> FloatArray:
        """(C,) distance of candidates, C > 0, to their tracks; +inf where the first one of the track was not like it.

        The others of such a track are not embedded.
        """
        tracks, first = np.unique(places.track, return_index=True)
        dist = np.full(len(places), np.inf)
        dist[first] = self._looks.gallery.dist_pairs(bank.slot[tracks], self._looks.embed(image, places.boxes[first]))
        limit = self._config.proposals.first_look * self._looks.thresholds.same
        rest = np.isin(places.track, tracks[dist[first] < limit])
        rest[first] = False
        if rest.any():
            slots = bank.slot[places.track[rest]]
            dist[rest] = self._looks.gallery.dist_pairs(slots, self._looks.embed(image, places.boxes[rest]))
        return dist

    # ---------------------------------------------------------------------------------------------- by the detector

    def _seen_again(
        self, scene: Scene, tracks: IntArray, age_s: FloatArray, taken: FloatArray
    ) -> tuple[prior.Candidates, FloatArray]:
        """For each track what the detector finds best in a window around its prediction, with its score."""
        assert self.detector is not None
        config, bank, frame = self._config.proposals, scene.bank, scene.frame
        predicted = scene.expected.boxes[tracks]
        here = prior.Candidates(tracks, predicted, np.zeros(len(tracks)))
        large = bx.valid(predicted) & (predicted[:, 3] - predicted[:, 1] >= window.MIN_BOX_PX)
        tracks = tracks[large & prior.plausible(here, taken, frame.width, frame.height, config)]
        tracks = tracks[verify.within_budget(np.ones_like(tracks), age_s[tracks], window.MAX_WINDOWS)]
        if len(tracks) == 0:
            return prior.Candidates.none(), np.zeros(0)
        variance = kalman.innovation_variance(bank.mean[tracks], bank.cov[tracks], self._config.motion)
        places, scores = window.look(self.detector, frame, tracks, bank.mean[tracks], variance, config)
        free = prior.plausible(places, taken, frame.width, frame.height, config)
        places, scores = places.take(free), scores[free]
        if self._notes.on:
            self._notes.tried = places.boxes
        best = window.best(places, scores)
        return places.take(best), scores[best]

    def _recognised(self, scene: Scene, places: prior.Candidates) -> BoolArray:
        """(C,) places that look like their tracks. That somebody stands there is known; it remains to tell who."""
        if len(places) == 0:
            return np.zeros(0, bool)
        assert scene.image is not None
        embedded = self._looks.embed(scene.image, places.boxes)
        dist = self._looks.gallery.dist_pairs(scene.bank.slot[places.track], embedded)
        return np.asarray(dist < self._looks.thresholds.same)

    def _apart(self, bank: TrackBank, boxes: FloatArray, taken: FloatArray) -> BoolArray:
        """(n,) proposals whose updated box covers no detection and no surer proposal: a detection always wins."""
        factor = np.full(len(boxes), self._config.motion.proposal_noise)
        mean, _ = kalman.correct(bank.mean, bank.cov, bx.xyxy_to_cxcyah(boxes), self._config.motion, factor)
        shown = bx.cxcyah_to_xyxy(mean[:, :4])
        limit = self._config.proposals.max_overlap
        keep = np.asarray((bx.iou(shown, taken) <= limit).all(axis=1))
        among = bx.iou(shown, shown) > limit
        for row in range(1, len(boxes)):
            keep[row] = keep[row] and not (among[row, :row] & keep[:row]).any()
        return keep
