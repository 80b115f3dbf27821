"""The tracking loop: detections of one frame in, tracks with identities out. Start reading at `Engine.step`.

Each stage in `stages/` takes what it needs and returns what it found: a frozen record, an array, or both. T tracks, N
detections. The method is that of Thoreau & Kottege, "Improving Online Multiple Object tracking with Deep Metric
Learning", 2018, https://arxiv.org/abs/1806.07592, which names three uses of a learned appearance metric: (A) to prevent
identity switches, (B) to associate tracklets through occlusion, (C) to propose detections where the detector failed.
docs/method.md has our reconstruction of the details.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from time import perf_counter

import numpy as np

from tracker import boxes as bx
from tracker.association.pairs import find_overlaps
from tracker.classes import Classes
from tracker.config import TrackerConfig
from tracker.proposals.window import WindowDetector
from tracker.stages.associate import associate
from tracker.stages.camera_motion import CameraEstimator, compensate
from tracker.stages.embed import Appearance, Encoder, Thresholds
from tracker.stages.identities import Identities
from tracker.stages.occlude import find_continued, find_occluded
from tracker.stages.predict import Clock, predict
from tracker.stages.propose import Proposer
from tracker.stages.reassociate import reassociate
from tracker.stages.recognise import Recogniser, renumbered, renumbered_ids
from tracker.stages.select import select
from tracker.stages.trace import trace_of
from tracker.stages.update import update
from tracker.tracks.bank import TrackBank
from tracker.types import Detections, FloatArray, Frame, FrameTracks, State, StepTrace, Tracks

_log = logging.getLogger(__name__)
N_FAR = 3  # frames that are too far apart before a warning
HIDE_S = 1.0  # how long after its last detection a track may be a person in view; more hid no more people


class Engine:
    """Tracks of one stream. Deterministic; the output of a frame never depends on later frames.

    The state is the bank of tracks, their appearance and their identities; besides, the time of the last frame and the
    memory of the camera motion estimator.
    """

    def __init__(
        self,
        config: TrackerConfig,
        encoder: Encoder | None = None,
        thresholds: Thresholds | None = None,
        detector: WindowDetector | None = None,
        keep_features: bool = False,
        classes: Classes | None = None,
        recogniser: Recogniser | None = None,
    ) -> None:
        """detector: runs again on windows of the frame, for use C; None: detections only come in.

        keep_features: the output has the embeddings of the tracks, see `Tracks.features`. classes: which of the
        detector's classes may be one object, and which are people; None: nothing is known of them. recogniser: knows
        people of earlier runs; None: numbers are those of this stream.
        """
        self.config = config
        self.classes = classes or Classes()
        self.bank = TrackBank.empty()
        self.appearance = Appearance(config, encoder, thresholds, keep_features)
        self.recogniser = recogniser
        self.identities = Identities(1 if recogniser is None else recogniser.people.next_id)
        self.clock = Clock()
        self.camera = CameraEstimator()
        self.proposer = Proposer(config.proposals, config.motion, self.classes, detector)
        self.backfilled: list[FrameTracks] = []  # rows of earlier frames that the last step made known
        self.renumbered: dict[int, int] = {}  # by the last step: numbers of earlier output -> those of known people
        self.trace: StepTrace | None = None  # of the last step, if `trace_steps` asked for it
        self.stage_s: dict[str, float] = {}  # seconds spent in each stage so far
        self._tracing = False
        self._n_far: int | None = 0  # frames in a row, from the first on, that are too far apart; None: they are not

    def step(self, frame: Frame, detections: Detections | None) -> Tracks:
        """Advance to this frame; returns its confirmed tracks that are detected, proposed, occluded or predicted.

        detections: None if the detector did not run on this frame (an empty record means that it found nothing). Then
        no track is created, aged, confirmed or deleted, no gallery changes and nothing is proposed; the tracks output
        last are output as predicted.

        Times must not decrease. `detections.features` may hold embeddings of the caller; then no network runs, and
        nothing is proposed. Without an image or an encoder, motion alone decides.
        """
        config, lap = self.config, _StageTimer(self.stage_s)
        clock = self.clock = self.clock.tick(frame, detections is not None)
        self._check_gap(clock)
        tracks = predict(self.bank, clock, config.motion, config.lifecycle)  # Kalman filter
        lap("predict")
        given = Detections.empty() if detections is None else detections
        all_pairs = min(config.association.min_iou, config.association.min_iou_weak) == 0
        # Score filter, NMS -> N rows; and which boxes share area, for all stages.
        dets, overlaps = select(given, tracks.boxes, config.detection, self.classes, all_pairs)
        lap("select")
        if config.motion.camera:
            motion = self.camera.estimate(frame.image, self.bank, tracks, dets, overlaps)  # (2, 3), None: at rest
            if motion is not None:
                tracks = compensate(tracks, motion)
                overlaps = find_overlaps(tracks.boxes, dets.boxes, all_pairs)
        lap("camera")
        image = self.appearance.image_for(frame, detections)  # None: the re-ID network does not run
        dets = self.appearance.embed_detections(image, dets, tracks)  # dets with features (N, D)
        lap("embed")
        # First and second association: high scores, then low scores (ByteTrack); use A: by the odds of each pair.
        matches = associate(
            tracks, dets, overlaps, self.appearance, config.association, config.occlusion, config.motion, self._tracing
        )
        lap("associate")
        # Use B: lost tracks, by the same odds.
        matches = reassociate(tracks, dets, matches, clock.detector_gap_s, self.appearance, config)
        lap("re-associate")
        # Use C: look again where the detector missed a track.
        proposals = self.proposer.propose(frame, image, tracks, dets, matches, clock, self.appearance)
        lap("propose")
        # (T,) tracks that are neither matched nor proposed, but output with their predicted box.
        if clock.detector_ran:
            shown_as_predicted = find_occluded(tracks, dets, matches, proposals, overlaps, config.occlusion)
        else:
            shown_as_predicted = find_continued(tracks, clock, frame)
        lap("occlude")
        # Kalman correction, deletion, creation, galleries, confirmation.
        self.bank, output, self.backfilled = update(
            frame,
            image,
            tracks,
            dets,
            matches,
            proposals,
            overlaps,
            shown_as_predicted,
            clock,
            self.appearance,
            self.identities,
            config,
        )
        lap("update")
        if self.recogniser is not None:
            # People of earlier visits get their numbers back.
            self.renumbered = self.recogniser.step(
                frame, self.bank, output, self.backfilled, self.appearance, config.association.least_posterior
            )
            if self.renumbered:
                self.bank = self.bank.with_(id=renumbered_ids(self.bank.id, self.renumbered))
                output = renumbered(output, self.renumbered)
                self.backfilled = [
                    replace(late, tracks=renumbered(late.tracks, self.renumbered)) for late in self.backfilled
                ]
            lap("recognise")
        self.trace = trace_of(tracks, dets, matches, proposals, config) if self._tracing else None
        return output

    def _check_gap(self, clock: Clock) -> None:
        """Warn once where the first frames are so far apart that no track can live from one to the next."""
        if self._n_far is None or clock.detector_gap_s == 0:
            return
        life = self.config.lifecycle
        seen_again = self.config.association.reassociate and self.appearance.active
        life_s = max(life.coast_s, life.lost_s if seen_again else 0.0, 1.0)
        self._n_far = self._n_far + 1 if clock.detector_gap_s > life_s else None
        if self._n_far == N_FAR:
            _log.warning(
                "frames are %.4g s apart, longer than a track is kept without a detection (%g s), so that hardly "
                "anybody keeps an identity: raise lifecycle.coast_s and lifecycle.lost_s (or, if time stamps were "
                "meant as milliseconds, give seconds)",
                clock.detector_gap_s, life_s,
            )  # fmt: skip
            self._n_far = None

    # ---------------------------------------------------------------------------------------------- around the loop

    def attach(
        self,
        encoder: Encoder | None,
        thresholds: Thresholds | None = None,
        detector: WindowDetector | None = None,
    ) -> None:
        """Use these networks from the next step on; settings win over the thresholds that the encoder brings."""
        self.appearance.attach(encoder, thresholds)
        self.proposer = Proposer(self.config.proposals, self.config.motion, self.classes, detector)

    def detach(self) -> None:
        """Embed nothing from the next step on: the embeddings come with the detections. Thresholds stay."""
        self.appearance.detach()

    def finish(self) -> dict[int, int]:
        """The stream has ended: `renumbered` once more, of the visits that are undecided."""
        if self.recogniser is None:
            return {}
        return self.recogniser.finish(self.appearance, self.config.association.least_posterior)

    def trace_steps(self, on: bool) -> None:
        """Record what each step compares and decides in `trace`, for the debug overlay."""
        self._tracing = on

    @property
    def tracing(self) -> bool:
        """Whether steps are recorded."""
        return self._tracing

    def possible_people(self, detections: Detections | None) -> FloatArray:
        """(K, 4) boxes where people may be in the frame of the last step, so that they can be hidden.

        They are the detections of that step, however low their score, and all tracks, also tentative ones and those
        not output, until HIDE_S after their last detection.
        """
        bank, classes = self.bank, self.classes
        recent = (self.clock.now_s or 0.0) - bank.seen_s <= HIDE_S
        boxes = bx.cxcyah_to_xyxy(bank.mean[recent & classes.people(bank.class_id), :4])
        if detections is None:
            return boxes
        return np.concatenate([boxes, detections.boxes[classes.people(detections.classes)]])

    @property
    def settled_before(self) -> int | None:
        """Index of the first frame that a later step can still add to, or renumber; None if there is no such frame."""
        firsts = [self.identities.settled_before(self.bank)]
        if self.recogniser is not None:
            firsts.append(self.recogniser.undecided_from)
        return min((first for first in firsts if first is not None), default=None)

    def state(self) -> State:
        """All that later frames depend on, besides settings and networks; valid until the next step."""
        return {
            "bank": self.bank.state(),
            "appearance": self.appearance.state(),
            "identities": self.identities.state(),
            "recogniser": None if self.recogniser is None else self.recogniser.state(),
            "clock": self.clock.state(),
            "camera": self.camera.state(),
            "stage_s": self.stage_s,
        }

    def restore(self, state: State) -> None:
        """Continue as the engine that gave this state. This one has the same settings and networks, and no frames."""
        self.bank = TrackBank.restored(state["bank"])
        self.appearance.restore(state["appearance"])
        self.identities.restore(state["identities"])
        if self.recogniser is not None:
            self.recogniser.restore(state["recogniser"])
        self.clock = Clock(**state["clock"])
        self.camera.restore(state["camera"])
        self.stage_s = state["stage_s"]


class _StageTimer:
    """Adds the seconds since the last call to a stage."""

    __slots__ = ("_stage_s", "_start")

    def __init__(self, stage_s: dict[str, float]) -> None:
        self._stage_s, self._start = stage_s, perf_counter()

    def __call__(self, stage: str) -> None:
        now = perf_counter()
        self._stage_s[stage] = self._stage_s.get(stage, 0.0) + now - self._start
        self._start = now
