"""Use C: where the detector missed a confirmed track, look again around its prediction; appearance verifies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker import boxes as bx
from tracker.classes import Classes
from tracker.config import MotionConfig, ProposalConfig
from tracker.motion import kalman
from tracker.proposals import prior, window
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

    places: prior.Candidates  # (F,) by ascending track
    belief: FloatArray  # (F,)
    tried: FloatArray  # (C, 4)


class Proposer:
    """Proposes boxes for confirmed tracks without a detection."""

    def __init__(
        self,
        config: ProposalConfig,
        motion: MotionConfig,
        classes: Classes,
        detector: window.WindowDetector | None = None,
    ) -> None:
        """detector: runs once more on windows of the frame; None where there is none (replayed detections)."""
        self._config, self._motion, self._classes = config, motion, classes
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

        image: the network may embed boxes of it; None: nothing is proposed, nor at a frame that the detector skips.
        Where there is a detector, it finds the places and appearance confirms them; else appearance finds them
        (`proposals.verify`). docs/method.md, 4.
        """
        bank = tracks.bank
        if image is None or self._config.verify == "off" or not clock.detector_ran:
            return Proposals.none()
        age_s = tracks.time_s - bank.seen_s
        recent = age_s <= self._config.max_s + TIME_SLACK_S
        rows = (bank.confirmed & ~matches.matched & recent & appearance.known(bank.slot)).nonzero()[0]
        if len(rows) == 0:
            return Proposals.none()
        if self.detector is None or not self._config.by_detector:
            found = self._by_appearance(image, tracks, rows, appearance)
        else:
            used = dets.high.copy()
            used[matches.detection[matches.matched]] = True
            taken = dets.boxes[used & dets.embeddable]  # a bag or a car in front of a person takes no place
            found = self._by_detector(self.detector, frame, image, tracks, rows, age_s, taken, appearance)
        places = found.places
        return Proposals(places.track, places.boxes, np.clip(found.belief, 0.0, 1.0), found.tried)

    # -------------------------------------------------------------------------------------------------- by appearance

    def _by_appearance(
        self, image: ImageArray, tracks: PredictedTracks, rows: IntArray, appearance: Appearance
    ) -> _Found:
        """The predicted boxes of the tracks `rows` (k,) that look like their track: visible, though not detected."""
        places = prior.Candidates(rows, tracks.boxes[rows], np.zeros(len(rows)))
        places = places.take(prior.inside(places.boxes, image.shape[1], image.shape[0]))
        if len(places) == 0:
            return _Found(places, np.zeros(0), places.boxes)
        odds = _log_ratio(image, tracks.bank, places, appearance) - self._config.least_log_ratio
        likely = odds > 0
        return _Found(places.take(likely), 1.0 / (1.0 + np.exp(-odds[likely])), places.boxes)

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
        """For each track the best detection in a window around its prediction, if it probably is the track's person.

        age_s (T,): time since the last detection; taken (M, 4): boxes of the detections used, which would be found
        again. The log odds of the detector's score and the log likelihood ratio of the appearance add up. The score is
        the belief.
        """
        bank, predicted = tracks.bank, tracks.boxes[rows]
        large = predicted[:, 3] - predicted[:, 1] >= window.MIN_BOX_PX
        rows = rows[large & self._free(predicted, frame, taken)]
        rows = np.sort(rows[np.argsort(age_s[rows], kind="stable")[: window.MAX_WINDOWS]])  # those detected last
        if len(rows) == 0:
            return _Found(prior.Candidates.none(), np.zeros(0), np.zeros((0, 4)))
        variance = kalman.innovation_variance(bank.mean[rows], bank.cov[rows], self._motion)
        places, scores = window.detect_in_windows(
            detector, frame, rows, bank.mean[rows], variance, bank.group[rows], self._classes
        )
        free = self._free(places.boxes, frame, taken)
        places, scores = places.take(free), scores[free]
        best = window.best(places, scores)
        found, belief = places.take(best), scores[best]
        if len(found):
            p = np.clip(belief, 1e-9, 0.999)  # certainty counts as 0.999
            same = _log_ratio(image, bank, found, appearance) + np.log(p) - np.log1p(-p) > 0
            found, belief = found.take(same), belief[same]
        better = np.argsort(-belief, kind="stable")  # of two proposals for one place the better one stays
        i, j, overlap = bx.overlapping_within(found.boxes[better])
        kept = np.sort(better[bx.suppress(len(better), i, j, overlap > self._config.max_overlap)])
        return _Found(found.take(kept), belief[kept], places.boxes)

    def _free(self, boxes: FloatArray, frame: Frame, taken: FloatArray) -> BoolArray:
        """(n,) boxes (n, 4) inside the image and on no box of `taken` (M, 4)."""
        apart = (bx.iou(boxes, taken) <= self._config.max_overlap).all(axis=1)
        return np.asarray(apart & prior.inside(boxes, frame.width, frame.height))


def _log_ratio(image: ImageArray, bank: TrackBank, places: prior.Candidates, appearance: Appearance) -> FloatArray:
    """(C,) log likelihood ratio of the appearance of each place and its track's; -inf where the crop is empty."""
    embedded = appearance.embed(image, places.boxes)
    dist = appearance.gallery.dist_pairs(bank.slot[places.track], embedded)
    return np.where(embedded.any(axis=1), appearance.scene.log_ratio(dist), -np.inf)
