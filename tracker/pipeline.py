"""From a source to final tracks, frame by frame: read, detect, step, settle. The command and `track_video` share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from tracker.appearance.encoder import OnnxEncoder
from tracker.backfill import Settler
from tracker.detector.base import Detector
from tracker.engine import Engine
from tracker.errors import ResumeError, TrackletError
from tracker.sources.base import FrameSource, Recorded
from tracker.sources.prefetch import Prefetch
from tracker.sources.span import WHOLE
from tracker.types import Frame, State, StepTrace, Tracks


class Pipeline:
    """Iterate once: yields (frame, tracks), each frame once and in order.

    Files are read ahead in a thread, and a frame is held until its tentative tracks are decided, so that a track has
    its first frames; live sources are neither. Whatever ends the source early (a broken file, `stop`), the frames
    tracked until then come out first.

    at_rest: called whenever `state()` is whole, which is between two frames, when all that came out was taken; with
    True if this was the last time: the run was cut short, and what is held comes out undecided.
    """

    def __init__(self, source: FrameSource, detector: Detector, engine: Engine) -> None:
        self.source = source
        self._frames_ahead = Prefetch(source)
        self._live = source.live
        self._detector = detector
        self._engine = engine
        self._settler = Settler()
        self._read_s = self._detect_s = 0.0
        self._stopping = False
        self._traces: dict[int, StepTrace] = {}  # of the frames that are held, by their index
        self.waiting = False  # True while blocked on the source
        self.n_frames = 0
        self.trace: StepTrace | None = None  # of the frame given out last, if `tracing` was on when it was tracked
        self.at_rest: Callable[[bool], None] = lambda last: None
        self._last_index = -1  # of the frame read last
        self._given_index = -1  # of the frame given out last
        self._whole = True
        self._held: list[tuple[int, Tracks]] = []  # of the run that this one goes on with, by index

    def __iter__(self) -> Iterator[tuple[Frame, Tracks]]:
        for frame, tracks in self._tracked():
            self.trace = self._traces.pop(frame.index, None)
            yield frame, tracks

    def _tracked(self) -> Iterator[tuple[Frame, Tracks]]:
        settler = self._settler
        engine = self._engine
        every = engine.config.detection.every
        frames = self._frames()
        try:
            self._hold_again(frames)
            for frame in frames:
                start = perf_counter()
                detections = self._detector.detect(frame) if self.n_frames % every == 0 else None
                self._detect_s += perf_counter() - start
                self._whole = False
                tracks = engine.step(frame, detections)
                self.n_frames += 1
                if engine.trace is not None:
                    self._traces[frame.index] = engine.trace
                self._last_index = frame.index
                if self._live:
                    final = [(frame, tracks)]
                else:
                    final = settler.push(frame, tracks, engine.backfilled, engine.settled_before)
                yield from final
                self._given_index = final[-1][0].index if final else self._given_index
                self._whole = True
                self.at_rest(False)
        except (TrackletError, KeyboardInterrupt):
            self._cut_short()
            yield from settler.flush()
            raise
        if self._stopping:
            self._cut_short()
        yield from settler.flush()

    def stop(self) -> None:
        """End after the current frame, as if the source ended there."""
        self._stopping = True

    @property
    def tracing(self) -> bool:
        """True while each step leaves a `trace` of what it looked at; it costs little, and nothing while off."""
        return self._engine.tracing

    @tracing.setter
    def tracing(self, on: bool) -> None:
        self._engine.tracing = on

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopping

    def state(self) -> State:
        """All that later frames depend on besides settings, networks and the source; see `at_rest`."""
        return {
            "n_frames": self.n_frames,
            "last_index": self._last_index,
            "given_index": self._given_index,
            "read_s": self._read_s,
            "detect_s": self._detect_s,
            "held": self._settler.state(),
            "engine": self._engine.state(),
        }

    def restore(self, state: State) -> None:
        """Go on after the frame given out last by the pipeline that gave this state; call it before iterating.

        The source, which has to be the same, is read from the start, and what was tracked already is passed over.
        """
        self.n_frames, self._last_index = state["n_frames"], state["last_index"]
        self._given_index = state["given_index"]
        self._read_s, self._detect_s = state["read_s"], state["detect_s"]
        self._held = [(late["index"], Tracks.restored(late["tracks"])) for late in state["held"]]
        self._engine.restore(state["engine"])
        assert isinstance(self.source, Recorded)
        self.source.go_on_after(self._given_index)

    @property
    def n_given(self) -> int:
        """Frames given out so far, while at rest."""
        return self.n_frames - len(self._settler)

    @property
    def given_index(self) -> int:
        """Index of the last frame that was given out and taken, -1 none."""
        return self._given_index

    def close(self) -> None:
        self._frames_ahead.close()

    @property
    def description(self) -> str:
        """What runs, in one line: source, detector, network and where it runs."""
        size = f"{self.source.width}x{self.source.height}"
        encoder = self._engine.encoder
        looks = "motion alone" if encoder is None else encoder.name
        where = f" on {encoder.provider}" if isinstance(encoder, OnnxEncoder) else ""
        every = self._engine.config.detection.every
        often = "" if every == 1 else f" of one frame in {every}"
        return f"{self.source.name} ({size}), people from {self._detector.name}{often}, identity from {looks}{where}"

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the detector's classes by number, as far as it knows them."""
        names: dict[int, str] = getattr(self._detector, "class_names", {})
        return {number: name for number, name in names.items() if name != str(number)}

    @property
    def files(self) -> dict[str, Path]:
        """What runs that came from a file, by its part."""
        parts = {"the detector": self._detector, "the re-ID network": self._engine.encoder}
        paths = {part: getattr(what, "path", None) for part, what in parts.items()}
        return {part: path for part, path in paths.items() if path is not None}

    @property
    def providers(self) -> dict[str, str]:
        """Where each network runs, "cpu" or "cuda", by its part."""
        parts = {"the detector": self._detector, "the re-ID network": self._engine.encoder}
        where = {part: getattr(what, "provider", None) for part, what in parts.items()}
        return {part: provider for part, provider in where.items() if provider is not None}

    @property
    def n_crops(self) -> int:
        """Crops embedded so far."""
        return self._engine.n_crops

    @property
    def leftover(self) -> str | None:
        """A replayed detection file that goes on after the source has ended may belong to another one: says so."""
        last = getattr(self._detector, "last_frame", None)
        part = getattr(self.source, "span", WHOLE)
        if self._stopping or last is None or last <= self._last_index or part != WHOLE:
            return None
        return (
            f"{self._detector.name} has detections up to frame {last + 1}, but {self.source.name} ended after frame "
            f"{self._last_index + 1}; do they belong together?"
        )

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds spent in each stage so far; `read` is the time the tracker waited for frames."""
        return {"read": self._read_s, "detect": self._detect_s, **self._engine.stage_s}

    def _hold_again(self, frames: Iterator[Frame]) -> None:
        """Read the frames whose tracks were held when the earlier run stopped."""
        for index, tracks in self._held:
            frame = next(frames, None)
            if frame is None and self._stopping:
                return
            if frame is None or frame.index != index:
                raise ResumeError(f"{self.source.name}: does not give frame {index + 1} again, so the run cannot go on")
            self._settler.hold(frame, tracks)
        self._held = []

    def _cut_short(self) -> None:
        if self._whole and not self._held:
            self.at_rest(True)

    def _frames(self) -> Iterator[Frame]:
        frames = iter(self._frames_ahead)
        while not self._stopping:
            start = perf_counter()
            self.waiting = True
            try:
                frame = next(frames, None)
            finally:
                self.waiting = False
                self._read_s += perf_counter() - start
            if frame is None:
                return
            yield frame
