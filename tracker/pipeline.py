"""From a source to final tracks, frame by frame: read, detect, step, settle. The command and `track_video` share it."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from tracker.appearance.encoder import OnnxEncoder
from tracker.backfill import Settler
from tracker.detector.base import Detector
from tracker.engine import Engine
from tracker.errors import TrackletError
from tracker.sources.base import FrameSource
from tracker.sources.prefetch import Prefetch
from tracker.types import Frame, StepTrace, Tracks


class Pipeline:
    """Iterate once: yields (frame, tracks), each frame once and in order.

    Files are read ahead in a thread, and a frame is held until its tentative tracks are decided, so that a track has
    its first frames; live sources are neither. Whatever ends the source early (a broken file, `stop`), the frames
    tracked until then come out first.
    """

    def __init__(self, source: FrameSource, detector: Detector, engine: Engine) -> None:
        self.source = source
        self._frames_ahead = Prefetch(source)
        self._live = source.live
        self._detector = detector
        self._engine = engine
        self._read_s = self._detect_s = 0.0
        self._stopping = False
        self._traces: dict[int, StepTrace] = {}  # of the frames that are held, by their index
        self.waiting = False  # True while blocked on the source
        self.n_frames = 0
        self.trace: StepTrace | None = None  # of the frame given out last, if `tracing` was on when it was tracked

    def __iter__(self) -> Iterator[tuple[Frame, Tracks]]:
        for frame, tracks in self._tracked():
            self.trace = self._traces.pop(frame.index, None)
            yield frame, tracks

    def _tracked(self) -> Iterator[tuple[Frame, Tracks]]:
        settler = Settler()
        engine = self._engine
        every = engine.config.detection.every
        try:
            for frame in self._frames():
                start = perf_counter()
                detections = self._detector.detect(frame) if self.n_frames % every == 0 else None
                self._detect_s += perf_counter() - start
                tracks = engine.step(frame, detections)
                self.n_frames += 1
                if engine.trace is not None:
                    self._traces[frame.index] = engine.trace
                if self._live:
                    yield frame, tracks
                else:
                    yield from settler.push(frame, tracks, engine.backfilled, engine.settled_before)
        except (TrackletError, KeyboardInterrupt):
            yield from settler.flush()
            raise
        yield from settler.flush()

    def stop(self) -> None:
        """End after the current frame, as if the source ended there."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping

    @property
    def tracing(self) -> bool:
        """True while each step leaves a `trace` of what it looked at; it costs little, and nothing while off."""
        return self._engine.tracing

    @tracing.setter
    def tracing(self, on: bool) -> None:
        self._engine.tracing = on

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
    def n_crops(self) -> int:
        """Crops embedded so far."""
        return self._engine.n_crops

    @property
    def leftover(self) -> str | None:
        """A replayed detection file that goes on after the source has ended may belong to another one: says so."""
        last = getattr(self._detector, "last_frame", None)
        if self._stopping or last is None or last < self.n_frames:
            return None
        return (
            f"{self._detector.name} has detections up to frame {last + 1}, but {self.source.name} ended after frame "
            f"{self.n_frames}; do they belong together?"
        )

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds spent in each stage so far; `read` is the time the tracker waited for frames."""
        return {"read": self._read_s, "detect": self._detect_s, **self._engine.stage_s}

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
