"""The loop: one frame's detections in, identities out. Wires the stages and owns the state.

Start reading at `Engine.step`: each line is a stage, and each stage a file in `step/`. The method is that of Thoreau &
Kottege, "Improving Online Multiple Object tracking with Deep Metric Learning", 2018, https://arxiv.org/abs/1806.07592.
Its abstract fixes the three uses of a learned appearance metric: (A) to prevent identity switches, (B) to associate
tracklets through occlusion, (C) to propose detections where the detector failed, with the predicted state of the
tracklet as a prior. How each is done in detail is our reconstruction ("methods 05" in the comments).
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from tracker.config import TrackerConfig
from tracker.motion import kalman
from tracker.motion.camera import still
from tracker.proposals.window import WindowDetector
from tracker.stages.associate import Associator
from tracker.stages.camera_motion import Background
from tracker.stages.embed import Encoder, Looks, Thresholds
from tracker.stages.frame_state import Clock, Expected, Scene
from tracker.stages.identities import Register
from tracker.stages.occlude import Holder
from tracker.stages.propose import Proposer
from tracker.stages.reassociate import Reassociator
from tracker.stages.select import select
from tracker.stages.trace import Notes
from tracker.stages.update import Updater
from tracker.tracks.bank import TrackBank
from tracker.types import Detections, Frame, FrameTracks, State, StepTrace, Tracks


class Engine:
    """Tracks of one stream. Deterministic; the output of a frame never depends on later frames."""

    def __init__(
        self,
        config: TrackerConfig,
        encoder: Encoder | None = None,
        thresholds: Thresholds | None = None,
        detector: WindowDetector | None = None,
        keep_features: bool = False,
    ) -> None:
        """detector: asked again about windows of the frame, for use C; None where detections only come in.

        keep_features: put the embeddings of the people of a frame into its tracks, see `Tracks.features`.
        """
        self.config = config
        self.bank = TrackBank.empty()
        self.clock = Clock()
        self.looks = Looks(config, keep_features)
        self.register = Register()
        self.stage_s: dict[str, float] = {}  # seconds spent in each stage so far
        self.trace: StepTrace | None = None  # of the last step, if it was asked for
        self._notes = Notes()
        self._background = Background()
        self._associator = Associator(config, self.looks, self._notes)
        self._reassociator = Reassociator(config, self.looks)
        self._proposer = Proposer(config, self.looks, detector, self._notes)
        self._holder = Holder(config)
        self._updater = Updater(config, self.looks, self.register)
        self.attach(encoder, thresholds)

    def attach(self, encoder: Encoder | None, thresholds: Thresholds | None = None) -> None:
        """Make embeddings with this encoder from the next step on; settings win over the thresholds it brings."""
        self.looks.attach(encoder, thresholds)

    def step(self, frame: Frame, detections: Detections | None) -> Tracks:
        """Advance to this frame and return the confirmed tracks that were detected or proposed in it.

        detections: None if the detector did not look at this frame, which is another thing than finding nobody. Then
        ages stand still, nobody is born, missed or ends, and nothing is learned; who was put out last stays, where use
        C finds them by their looks or, failing that, where the filter predicts them.

        Times must grow from frame to frame. `detections.features` may hold embeddings made elsewhere; then no network
        runs, and appearance confirms no proposal. Without them the encoder makes them from the image, and without an
        image motion decides alone.
        """
        self.register.open()
        self._notes.clear()
        with self._timed("predict"):
            scene = self._scene(frame, detections)
        with self._timed("camera"):
            self._follow_camera(scene)
        with self._timed("embed"):
            self.looks.join(scene)
        with self._timed("associate"):
            links = self._associator.links(scene)  # use A of the metric lives here
        with self._timed("re-associate"):
            self._reassociator.relink(scene, links)  # use B
        with self._timed("propose"):
            self._proposer.propose(scene, links)  # use C
        with self._timed("hold"):
            self._holder.hold(scene, links)
        self.trace = self._notes.trace(scene, links, self.config) if self._notes.on else None
        with self._timed("update"):
            self.bank, tracks = self._updater.update(scene, links)
        return tracks

    def _scene(self, frame: Frame, detections: Detections | None) -> Scene:
        """The frame with the predicted tracks and the detections that count."""
        looked = detections is not None
        detections = Detections.empty() if detections is None else detections
        bank, motion = self.bank, self.config.motion
        dt_s = self.clock.tick(frame, looked)
        visible = self.clock.visible(bank)
        mean, cov = kalman.predict(bank.mean, bank.cov, dt_s, motion, ~visible)
        bank = bank.with_(mean=mean, cov=cov)
        seen, rows, covered = select(detections, self.config)
        return Scene(
            frame=frame,
            image=frame.image if self.looks.encoder is not None and detections.features is None else None,
            clock=self.clock,
            looked=looked,
            bank=bank,
            seen=seen,
            rows=rows,
            strong=seen.scores >= self.config.detection.strong_score,
            covered=covered,
            copied=np.zeros(len(seen), bool),
            expected=Expected.of(bank, seen, visible, self.config.association),
        )

    def _follow_camera(self, scene: Scene) -> None:
        """The predicted tracks move along with the background if the camera moved since the frame before."""
        if not self.config.motion.camera:
            return
        motion, bank = self._background.motion(scene, self.bank), scene.bank
        if not np.count_nonzero(motion != still()):
            return
        mean, cov = kalman.moved_by_camera(bank.mean, bank.cov, motion)
        scene.bank = bank.with_(mean=mean, cov=cov, seen_xy=bank.seen_xy @ motion[:, :2].T + motion[:, 2])
        scene.expected = Expected.of(scene.bank, scene.seen, scene.expected.visible, self.config.association)

    def _timed(self, stage: str) -> _Timed:
        return _Timed(self.stage_s, stage)

    # ----------------------------------------------------------------------------------------- beside the tracks

    @property
    def backfilled(self) -> list[FrameTracks]:
        """Earlier frames of the tracks confirmed by the last step."""
        return self.register.backfilled

    @property
    def settled_before(self) -> int | None:
        """Index of the first frame that a later confirmation can still add to; None if there is no such frame."""
        return self.register.settled_before(self.bank)

    @property
    def detector(self) -> WindowDetector | None:
        """Asked again about windows of the frame."""
        return self._proposer.detector

    @property
    def tracing(self) -> bool:
        """True: every step leaves what it looked at and decided in `trace`."""
        return self._notes.on

    @tracing.setter
    def tracing(self, on: bool) -> None:
        self._notes.on = on

    def state(self) -> State:
        """All that the tracks of later frames depend on besides settings and networks; valid until the next step."""
        return {
            "bank": self.bank.state(),
            "clock": self.clock.state(),
            "looks": self.looks.state(),
            "register": self.register.state(),
            "background": self._background.state(),
            "stage_s": self.stage_s,
        }

    def restore(self, state: State) -> None:
        """Go on as the engine that gave this state; this one has the same settings and networks, and took no step."""
        self.bank = TrackBank.restored(state["bank"])
        self.clock = Clock.restored(state["clock"])
        self.looks.restore(state["looks"])
        self.register.restore(state["register"])
        self._background.restore(state["background"])
        self.stage_s = state["stage_s"]


class _Timed:
    """`with _Timed(...)`: adds the seconds inside to one stage."""

    __slots__ = ("_stage", "_stage_s", "_start")

    def __init__(self, stage_s: dict[str, float], stage: str) -> None:
        self._stage_s, self._stage = stage_s, stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._stage_s[self._stage] = self._stage_s.get(self._stage, 0.0) + perf_counter() - self._start
