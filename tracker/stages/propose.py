"""Use C: where the detector missed a confirmed track, look again around its prediction; appearance verifies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.config import MotionConfig, ProposalConfig
from tracker.motion import kalman
from tracker.proposals import prior, verify, window
from tracker.stages.associate import Matches
from tracker.stages.embed import Appearance
from tracker.stages.predict import Clock, PredictedTracks
from tracker.stages.select import FrameDetections
from tracker.tracks.bank import TrackBank
from tracker.tracks.lifecycle import TIME_SLACK_S
from tracker.types import BoolArray, FloatArray, Frame, ImageArray, IntArray


@dataclass(frozen=True, slots=True)
class Proposals:
    """P tracks without a detection that were found by a second look, ascending by track."""

    track: IntArray  # (P,) row of the predicted track
    boxes: FloatArray  # (P, 4) xyxy
    scores: FloatArray  # (P,) in [0, 1], belief of the verifier
    tried: FloatArray  # (C, 4) xyxy, all places that were compared, for the debug overlay

    @staticmethod
    def none() -> Proposals:
        return Proposals(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)))


@dataclass(frozen=True, slots=True)
class _Found:
    """At most one place for each track, and all that were tried."""

    places: prior.Candidates  # (F,)
    belief: FloatArray  # (F,)
    tried: FloatArray  # (C, 4)


class Proposer:
    """Proposes boxes for confirmed tracks without a detection."""

    def __init__(
        self, config: ProposalConfig, motion: MotionConfig, detector: window.WindowDetector | None = None
    ) -> None:
        """detector: runs once more on windows of the frame; None where there is none (replayed detections)."""
        self._config, self._motion = config, motion
        self.detector = detector

    def propose(
        self,
        frame: Frame,
        image: ImageArray | None,
        tracks: PredictedTracks,
        dets: FrameDetections,
        matches: Matches,
        clock: Clock,
        appearance: Appearance,
    ) -> Proposals:
        """Look again for the confirmed tracks without a detection that were detected at most `max_s` ago.

        image: the network may embed boxes of it; None: nothing is proposed. Where the detector may run, it finds the
        places and appearance confirms them; else appearance finds them (`proposals.verify`). docs/method.md, 4.
        """
        bank = tracks.bank
        if image is None or self._config.verify == "off":
            return Proposals.none()
        age_s = (clock.detector_s or 0.0) - bank.seen_s
        recent = age_s <= self._config.max_s + TIME_SLACK_S
        rows = (bank.confirmed & ~matches.matched & recent & appearance.known(bank.slot)).nonzero()[0]
        if len(rows) == 0:
            return Proposals.none()
        explained = dets.high.copy()  # by this frame's detections: a proposal must lie elsewhere
        explained[matches.detection[matches.matched]] = True
        taken = dets.boxes[explained]
        if self.detector is not None and self._config.by_detector and clock.detector_ran:
            found = self._by_detector(self.detector, frame, image, tracks, rows, age_s, taken, appearance)
        else:
            found = self._by_appearance(image, tracks, rows, age_s, taken, dets.boxes[~explained], appearance)
        places, belief = found.places, found.belief
        best = np.argsort(-belief, kind="stable")  # of two proposals for one place the better one stays
        best = best[self._disjoint(bank.keep(places.track[best]), places.boxes[best], taken)]
        best = best[places.track[best].argsort()]
        return Proposals(places.track[best], places.boxes[best], np.clip(belief[best], 0.0, 1.0), found.tried)

    # -------------------------------------------------------------------------------------------------- by appearance

    def _by_appearance(
        self,
        image: ImageArray,
        tracks: PredictedTracks,
        rows: IntArray,
        age_s: FloatArray,
        taken: FloatArray,
        low: FloatArray,
        appearance: Appearance,
    ) -> _Found:
        """For each track the candidate of the largest posterior, if its appearance is close enough.

        rows (k,) of the tracks; age_s (T,) time since the last detection; taken (M, 4) boxes of the detections used;
        low (W, 4) unmatched low-score detections, which join the candidates.
        """
        config, bank, thresholds = self._config, tracks.bank, appearance.thresholds
        height, width = image.shape[:2]
        variance = kalman.innovation_variance(bank.mean[rows], bank.cov[rows], self._motion)
        places = prior.candidates(rows, bank.mean[rows], variance, low, config)
        places = places.take(prior.plausible(places, taken, width, height, config))
        rows, count = np.unique(places.track, return_counts=True)
        rows = rows[verify.within_budget(count + prior.N_CONTROLS, age_s[rows], config.max_crops_per_frame)]
        places = places.take(np.isin(places.track, rows))
        if len(places) == 0:
            return _Found(places, np.zeros(0), places.boxes)

        dist = self._distances(image, bank, places, appearance)
        best = verify.best_candidates(places.track, places.log_prior, dist, thresholds.sigma)  # one for each track
        tau = config.accept_scale * thresholds.same
        best = best[dist[best] < tau]
        if len(best) == 0:
            return _Found(places.take(best), np.zeros(0), places.boxes)
        control = self._background_distance(image, bank.keep(places.track[best]), appearance)
        best = best[verify.accepted(dist[best], control, tau, config)]
        return _Found(places.take(best), 1.0 - dist[best] / thresholds.diff, places.boxes)

    def _distances(
        self, image: ImageArray, bank: TrackBank, places: prior.Candidates, appearance: Appearance
    ) -> FloatArray:
        """(C,) distance of the candidates, C > 0, to their tracks.

        The other candidates of a track are embedded only if its first one is within `first_look`; else +inf.
        """
        rows, first = np.unique(places.track, return_index=True)
        dist = np.full(len(places), np.inf)
        dist[first] = appearance.gallery.dist_pairs(bank.slot[rows], appearance.embed(image, places.boxes[first]))
        limit = self._config.first_look * appearance.thresholds.same
        rest = np.isin(places.track, rows[dist[first] < limit])
        rest[first] = False
        if rest.any():
            slots = bank.slot[places.track[rest]]
            dist[rest] = appearance.gallery.dist_pairs(slots, appearance.embed(image, places.boxes[rest]))
        return dist

    def _background_distance(self, image: ImageArray, bank: TrackBank, appearance: Appearance) -> FloatArray:
        """(T,) mean distance of the background beside each predicted box to the track; +inf outside the image."""
        boxes = bx.cxcyah_to_xyxy(bank.mean[:, :4])
        controls, inside = prior.background(boxes, image.shape[1], image.shape[0])
        embedded = appearance.embed(image, controls.reshape(-1, 4))
        dist = appearance.gallery.dist_pairs(np.repeat(bank.slot, prior.N_CONTROLS), embedded)
        return verify.mean_control(np.where(inside, dist.reshape(inside.shape), np.nan))

    # ---------------------------------------------------------------------------------------------- by the detector

    def _by_detector(
        self,
        detector: window.WindowDetector,
        frame: Frame,
        image: ImageArray,
        tracks: PredictedTracks,
        rows: IntArray,
        age_s: FloatArray,
        taken: FloatArray,
        appearance: Appearance,
    ) -> _Found:
        """For each track the best detection in a window around its prediction, if appearance agrees.

        Arguments as in `_by_appearance`. The score of the detection is the belief.
        """
        config, bank, predicted = self._config, tracks.bank, tracks.boxes[rows]
        here = prior.Candidates(rows, predicted, np.zeros(len(rows)))
        large = bx.valid(predicted) & (predicted[:, 3] - predicted[:, 1] >= window.MIN_BOX_PX)
        rows = rows[large & prior.plausible(here, taken, frame.width, frame.height, config)]
        rows = rows[verify.within_budget(np.ones_like(rows), age_s[rows], window.MAX_WINDOWS)]
        if len(rows) == 0:
            return _Found(prior.Candidates.none(), np.zeros(0), np.zeros((0, 4)))
        variance = kalman.innovation_variance(bank.mean[rows], bank.cov[rows], self._motion)
        places, scores = window.detect_in_windows(detector, frame, rows, bank.mean[rows], variance, config)
        free = prior.plausible(places, taken, frame.width, frame.height, config)
        places, scores = places.take(free), scores[free]
        best = window.best(places, scores)
        found, belief = places.take(best), scores[best]
        if len(found):
            slots = bank.slot[found.track]
            same = (
                appearance.gallery.dist_pairs(slots, appearance.embed(image, found.boxes)) < appearance.thresholds.same
            )
            found, belief = found.take(same), belief[same]
        return _Found(found, belief, places.boxes)

    def _disjoint(self, bank: TrackBank, boxes: FloatArray, taken: FloatArray) -> BoolArray:
        """(n,) proposals, best first, whose corrected box overlaps no detection and no better proposal too much."""
        factor = np.full(len(boxes), self._motion.proposal_noise)
        mean, _ = kalman.correct(bank.mean, bank.cov, bx.xyxy_to_cxcyah(boxes), self._motion, factor)
        corrected = bx.cxcyah_to_xyxy(mean[:, :4])
        limit = self._config.max_overlap
        keep = np.asarray((bx.iou(corrected, taken) <= limit).all(axis=1))
        overlap = bx.iou(corrected, corrected) > limit
        for row in range(1, len(boxes)):
            keep[row] = keep[row] and not (overlap[row, :row] & keep[:row]).any()
        return keep
