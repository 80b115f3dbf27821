"""From a source to final tracks, frame by frame: read, detect, step, finalise. The command and `track_video` share it.

Three threads share the work on a file, each at most some frames ahead of the next: one decodes, one detects, and the
caller's own embeds, tracks and writes. No result of a frame depends on later frames, so the results are those of one
thread, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TypeAlias, TypeVar

import numpy as np

from tracker.appearance.encoder import OnnxEncoder
from tracker.appearance.people import PeopleFile
from tracker.detector.base import Detector, with_defaults
from tracker.detector.verified import VerifiedDetections
from tracker.engine import Engine
from tracker.errors import ResumeError, TrackletError
from tracker.extras import Extras
from tracker.finalise import FrameBuffer
from tracker.runtime.read_ahead import OrderedPrefetch
from tracker.sources.base import FrameSource, Recorded
from tracker.sources.prefetch import Prefetch
from tracker.stages.recognise import renumbered_ids
from tracker.types import Detections, FloatArray, Frame, State, StepTrace, Tracks

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
_Seen: TypeAlias = tuple[Frame, Detections | None]  # None: the detector did not run

# Frames whose detections may wait, besides those in the detector: enough to even out; 1920x1080 pixels take 6 MB.
DETECTED_AHEAD = 2


class Pipeline:
    """Iterate once: yields (frame, tracks), each frame once and in order.

    Files are read ahead in a thread, and detected ahead in another one where the detector allows it (see `Detector`).
    A frame is held until its tentative tracks are decided, so that a track has its first frames. None of this applies
    to live sources. Whatever ends the source early (a broken file, `stop`), the frames tracked until then come first.
    """

    def __init__(
        self, source: FrameSource, detector: Detector, engine: Engine, people: PeopleFile | None = None
    ) -> None:
        """people: the file of the people that the engine's recogniser knows; `close` writes it."""
        self.source = source
        self.people = people
        self._frames_ahead = Prefetch(source)
        self._live = source.live
        self._detector = with_defaults(detector)
        self._detected_ahead: OrderedPrefetch[tuple[Frame, bool], _Seen] | None = None
        n_threads = 0 if source.live else self._detector.n_at_once
        if n_threads:
            depth = n_threads + DETECTED_AHEAD
            self._detected_ahead = OrderedPrefetch(self._due(), self._detect, depth, f"detect {source.name}", n_threads)
        self._engine = engine
        self._buffer = FrameBuffer()
        self._waited_s = self._detect_s = 0.0
        self._stopping = False
        # Of the frames that are held, by their index.
        self._traces: dict[int, StepTrace] = {}
        self._extras: dict[int, Extras] = {}
        self._possible_people: dict[int, FloatArray] = {}
        self.n_frames = 0
        self.possible_people: FloatArray = np.zeros((0, 4))  # `Engine.possible_people` of the frame that came out last
        self.trace: StepTrace | None = None  # of the frame that came out last, if `tracing` was on when it was tracked
        self._last_index = -1  # of the frame read last
        self._given_index = -1  # of the frame that came out last
        self._consistent = True
        self._held: list[tuple[int, Tracks]] = []  # by the run that this one resumes, by index

    def __iter__(self) -> Iterator[tuple[Frame, Tracks]]:
        return self.frames()

    def frames(self, between_frames: Callable[[bool], None] = lambda last: None) -> Iterator[tuple[Frame, Tracks]]:
        """What iterating gives.

        between_frames: called whenever `state()` is consistent, which is between two frames, when all that came out was
        taken; with True if this was the last time: the run was interrupted, and held frames come out undecided.
        """
        for frame, tracks in self._tracked(between_frames):
            self.trace = self._traces.pop(frame.index, None)
            # Of frames that were held by the run that this one resumes, the tracks are known.
            self.possible_people = self._possible_people.pop(frame.index, tracks.xyxy)
            extras = self._extras.pop(frame.index, None)
            yield frame, tracks if extras is None else extras.joined(tracks)

    def _tracked(self, between_frames: Callable[[bool], None]) -> Iterator[tuple[Frame, Tracks]]:
        buffer = self._buffer
        engine = self._engine
        frames = self._detected()
        try:
            self._hold_again(frames)
            for frame, detections in frames:
                self._consistent = False
                tracks = engine.step(frame, detections)
                extras = Extras.of(detections)
                if extras is not None:
                    self._extras[frame.index] = extras
                self.n_frames += 1
                self._possible_people[frame.index] = engine.possible_people(detections)
                if engine.trace is not None:
                    self._traces[frame.index] = engine.trace
                self._last_index = frame.index
                if engine.renumbered:
                    self._tell(engine.renumbered)
                if self._live:
                    final = [(frame, tracks)]
                else:
                    final = buffer.push(frame, tracks, engine.backfilled, engine.settled_before, engine.renumbered)
                yield from final
                self._given_index = final[-1][0].index if final else self._given_index
                self._consistent = True
                between_frames(False)
        except (TrackletError, KeyboardInterrupt):
            self._interrupted(between_frames)
            yield from self._rest()
            raise
        if self._stopping:
            self._interrupted(between_frames)
        yield from self._rest()

    def _rest(self) -> list[tuple[Frame, Tracks]]:
        """The frames that are held when the source has ended."""
        numbers = self._engine.finish()
        self._tell(numbers)
        self._buffer.renumber(numbers)
        return self._buffer.flush()

    def _tell(self, numbers: Mapping[int, int]) -> None:
        """Say of a live source, whose results have the earlier numbers, who is who; of a file, traces are held, too."""
        for number, person in numbers.items() if self._live else ():
            _log.info("%d is %d", number, person)
        self._traces = {
            index: replace(trace, id=renumbered_ids(trace.id, numbers), pair_id=renumbered_ids(trace.pair_id, numbers))
            for index, trace in self._traces.items()
        }

    def stop(self) -> None:
        """End after the current frame, as if the source ended there; does not wait, so a signal handler may call it."""
        self._stopping = True
        self._frames_ahead.stop()
        if self._detected_ahead is not None:
            self._detected_ahead.stop()

    @property
    def tracing(self) -> bool:
        """True while each step leaves a `trace` of its decisions; it costs little, and nothing while off."""
        return self._engine.tracing

    def trace_steps(self, on: bool) -> None:
        """Whether each frame from now on leaves its trace."""
        self._engine.trace_steps(on)

    @property
    def stopped(self) -> bool:
        """True after `stop`."""
        return self._stopping

    def state(self) -> State:
        """All that later frames depend on besides settings, networks and the source; see `frames`."""
        return {
            "n_frames": self.n_frames,
            "last_index": self._last_index,
            "given_index": self._given_index,
            "waited_s": self._waited_s,
            "detect_s": self._all_detect_s,
            "held": self._buffer.state(),
            "extras": [{"index": index, **extras.state()} for index, extras in self._extras.items()],
            "engine": self._engine.state(),
        }

    def restore(self, state: State) -> None:
        """Resume after the last frame of the pipeline that gave this state; call it before iterating.

        The source, which has to be the same, is read from the start, and frames that were tracked already are skipped.
        """
        self.n_frames, self._last_index = state["n_frames"], state["last_index"]
        self._given_index = state["given_index"]
        self._waited_s, self._detect_s = state["waited_s"], state["detect_s"]
        self._held = [(late["index"], Tracks.restored(late["tracks"])) for late in state["held"]]
        self._extras = {late["index"]: Extras.restored(late) for late in state["extras"]}
        self._engine.restore(state["engine"])
        assert isinstance(self.source, Recorded)
        self.source.go_on_after(self._given_index)

    @property
    def given_index(self) -> int:
        """Index of the last frame that came out and was taken, -1 none."""
        return self._given_index

    def close(self) -> None:
        """Write the people of the run, if it had a frame, and release all. Raises WriteError."""
        self._frames_ahead.close()
        if self._detected_ahead is not None:
            self._detected_ahead.close()  # second: it may wait for frames
        if self.people is not None:
            self._engine.finish()  # where the caller left early
            with closing(self.people):
                if self.n_frames:
                    self.people.save()

    @property
    def description(self) -> str:
        """What runs, in one line: source, detector, network and where it runs."""
        size = f"{self.source.width}x{self.source.height}"
        encoder = self._engine.appearance.encoder
        identity = "motion alone" if encoder is None else encoder.name
        where = f" on {encoder.provider}" if isinstance(encoder, OnnxEncoder) else ""
        every = self._engine.config.detection.every
        often = "" if every in (None, 1) else f" of one frame in {every}"
        second_look = self._detector.second_look
        by = f" ({second_look.name})" if self.verify == "detector" and second_look is not None else ""
        note = "" if self._detector.note is None else f", {self._detector.note}"
        people = f"people from {self._detector.name}{often}{note}, verify {self.verify}{by}"
        return f"{self.source.name} ({size}), {people}, identity from {identity}{where}"

    @property
    def verify(self) -> str:
        """What confirms people: the setting `proposals.verify`, as far as there are images and networks for it."""
        config, proposes = self._engine.config.proposals, self._engine.appearance.encoder is not None
        if not proposes or config.verify == "off":
            return "off"
        return "detector" if config.by_detector and self._detector.second_look is not None else "appearance"

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the detector's classes by number, as far as it knows them."""
        return {number: name for number, name in self._detector.class_names.items() if name != str(number)}

    @property
    def files(self) -> dict[str, Path]:
        """Files of the detectors and the network, by part."""
        encoder = self._engine.appearance.encoder
        verifier = self._detector.verifier if isinstance(self._detector, VerifiedDetections) else None
        paths = {
            "the detector": self._detector.path,
            "the verifying detector": verifier.path if verifier is not None else None,
            "the re-ID network": encoder.path if isinstance(encoder, OnnxEncoder) else None,
        }
        return {part: path for part, path in paths.items() if path is not None}

    @property
    def providers(self) -> dict[str, str]:
        """Where each network runs, "cpu" or "cuda", by its part."""
        encoder = self._engine.appearance.encoder
        providers = {
            "the detector": self._detector.provider,
            "the re-ID network": encoder.provider if isinstance(encoder, OnnxEncoder) else None,
        }
        return {part: provider for part, provider in providers.items() if provider is not None}

    @property
    def n_recognised(self) -> int:
        """Visits of known people so far."""
        recogniser = self._engine.recogniser
        return 0 if recogniser is None else recogniser.n_recognised

    @property
    def n_crops(self) -> int:
        """Crops embedded so far."""
        return self._engine.appearance.n_crops

    @property
    def leftover(self) -> str | None:
        """A warning if a replayed detection file goes on after the end of the source: it may belong to another one."""
        last = self._detector.last_frame
        if self._stopping or last is None or last <= self._last_index or not self.source.span.whole:
            return None
        return (
            f"{self._detector.name} has detections up to frame {last + 1}, but {self.source.name} ended after frame "
            f"{self._last_index + 1}; do they belong together?"
        )

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds spent in each stage so far by the thread that tracks; `wait` is for what other threads make."""
        if self._detected_ahead is None:
            return {"read": self._waited_s, "detect": self._detect_s, **self._engine.stage_s}
        return {"wait": self._waited_s, **self._engine.stage_s}

    @property
    def beside_s(self) -> dict[str, float]:
        """Seconds that the stages in threads of their own took so far."""
        beside = {} if self._live else {"decode": self._frames_ahead.busy_s}
        return beside if self._detected_ahead is None else {**beside, "detect": self._all_detect_s}

    @property
    def _all_detect_s(self) -> float:
        return self._detect_s + (0.0 if self._detected_ahead is None else self._detected_ahead.worked_s)

    def _hold_again(self, frames: Iterator[_Seen]) -> None:
        """Read the frames whose tracks were held when the earlier run stopped."""
        for index, tracks in self._held:
            frame, _ = next(frames, (None, None))
            if frame is None and self._stopping:
                return
            if frame is None or frame.index != index:
                raise ResumeError(
                    f"{self.source.name}: does not give frame {index + 1} again, so the run cannot be resumed"
                )
            self._buffer.hold(frame, tracks)
        self._held = []

    def _interrupted(self, between_frames: Callable[[bool], None]) -> None:
        if self._consistent and not self._held:
            between_frames(True)

    def _detected(self) -> Iterator[_Seen]:
        """Frames with their detections, until the source ends or `stop`."""
        ahead = self._detected_ahead
        frames = map(self._timed_detect, self._due()) if ahead is None else self._waited_for(iter(ahead))
        while not self._stopping:
            found = next(frames, None)
            if found is None:
                return
            yield found

    def _due(self) -> Iterator[tuple[Frame, bool]]:
        """Every frame, and whether the detector runs on it; not on late ones, and those that an earlier run held."""
        frames = iter(self._frames_ahead)
        if self._detected_ahead is None:
            frames = self._waited_for(frames)
        n_tracked, every = self.n_frames, self._engine.config.detection.every or 1
        for place, frame in enumerate(frames, n_tracked - len(self._held)):
            yield frame, place >= n_tracked and place % every == 0 and not frame.late

    def _detect(self, frame_due: tuple[Frame, bool]) -> _Seen:
        frame, due = frame_due
        return frame, self._detector.detect(frame) if due else None

    def _timed_detect(self, frame_due: tuple[Frame, bool]) -> _Seen:
        start = perf_counter()
        seen = self._detect(frame_due)
        self._detect_s += perf_counter() - start
        return seen

    def _waited_for(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; the time until they come counts as waiting."""
        while True:
            start = perf_counter()
            item = next(items, None)
            self._waited_s += perf_counter() - start
            if item is None:
                return
            yield item
