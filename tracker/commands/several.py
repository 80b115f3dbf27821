"""`track SOURCE SOURCE ... --out FOLDER`: several sources in one process, with one detector and one re-ID network."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, suppress
from threading import Event, Thread
from time import perf_counter

from tracker.build import SharedNetworks, load_encoder
from tracker.commands.each_source import options_of_each
from tracker.commands.outputs import Outputs, open_outputs
from tracker.commands.run import LogLines, final_frames, open_run_pipeline, print_summary
from tracker.commands.track_options import TrackOptions
from tracker.errors import OutputError, TrackletError
from tracker.pipeline import Pipeline
from tracker.runtime.processes import limit_threads, n_cores
from tracker.runtime.signals import INTERRUPTED, SLICE_S, Interruption
from tracker.sinks.progress import ProgressSink
from tracker.sinks.registry import Result, check_free
from tracker.sources.webcam import camera_name

_log = logging.getLogger(__name__)
_LEAVE_S = 1.0  # after a second Ctrl-C: for closing the results


def track_several(options: TrackOptions, interruption: Interruption) -> int:
    """Track all sources, each in a thread of its own; returns the exit status, 1 where a source failed."""
    each = options_of_each(options)
    limit_threads(options.threads)
    results = [result for one in each for result in one.results]
    _make_folders(results)
    check_free(results, options.overwrite)
    with ExitStack() as stack:
        stack.enter_context(LogLines(options.quiet))
        shared = _open_networks(options, stack)
        runs = [_Run(one, shared, interruption) for one in each]
        progress = None if options.quiet else stack.enter_context(ProgressSink(None))
        # From here on the first interrupt ends each run after its current frame, so that all results are complete.
        interruption.gently(lambda: _stop(runs))
        for run in runs:
            run.thread.start()
        with suppress(KeyboardInterrupt):  # a second one
            _wait(runs, progress, interruption)
    for run in runs:
        run.ended.wait(_LEAVE_S if run.pipeline is not None else 0.0)
        if run.fault is not None:
            raise run.fault
    return _report(options, runs, interruption)


class _Run:
    """One source, tracked in a thread of its own."""

    def __init__(self, options: TrackOptions, shared: SharedNetworks, interruption: Interruption) -> None:
        self.options = options
        self.name = camera_name(options.source)
        self.thread = Thread(target=self._run, name=f"track {self.name}", daemon=True)
        self.ended = Event()  # to wait for: `Thread.join` takes a thread for ended when a signal interrupts it
        self.pipeline: Pipeline | None = None  # once the source is open
        self.outputs: Outputs | None = None
        self.n_in_view = 0
        self.wall_s = 0.0
        self.failed = False
        self.fault: Exception | None = None  # an error that is not the user's
        self._shared, self._interruption = shared, interruption

    @property
    def n_frames(self) -> int:
        return 0 if self.outputs is None else self.outputs.tally.n_frames

    def stop(self) -> None:
        """End after the current frame; callable from a signal handler."""
        if self.pipeline is not None:
            self.pipeline.stop()

    def _run(self) -> None:
        start = perf_counter()
        try:
            with suppress(KeyboardInterrupt):
                self._track()
        except TrackletError as error:
            self.failed = True
            said = str(error)
            if not self._interruption.urgent:
                _log.error("%s", said if said.startswith(self.name) else f"{self.name}: {said}")
        except Exception as error:
            self.fault = error
        finally:
            self.wall_s = perf_counter() - start
            self.ended.set()

    def _track(self) -> None:
        with ExitStack() as stack:
            self.pipeline = open_run_pipeline(self.options, self._shared)
            stack.callback(self.pipeline.close)
            if self._interruption.seen:
                return
            self.outputs = open_outputs(self.options, self.pipeline, stack, self.options.overwrite)
            _log.info("%s", self.pipeline.description)
            for frame, tracks in final_frames(self.options, self.pipeline, None, None, self._interruption):
                self.outputs.write(frame, tracks)
                self.n_in_view = len(tracks)


def _make_folders(results: list[Result]) -> None:
    for result in results:
        if result.file is not None:
            try:
                result.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{result.file.parent}: cannot be made: {error.strerror}") from error


def _open_networks(options: TrackOptions, stack: ExitStack) -> SharedNetworks:
    """What the sources share; `stack` ends it. Raises ModelError."""
    from tracker.detector.batched import SharedDetector
    from tracker.detector.onnx import OnnxDetector
    from tracker.detector.open import open_detector

    detector = None
    if options.detections is None or (options.config.proposals.by_detector and options.reid is not None):
        network = open_detector(
            model=options.detector, classes=options.classes, size=options.detector_size, layout=options.layout,
            device=options.device, threads=options.threads,
        )  # fmt: skip
        assert isinstance(network, OnnxDetector)
        detector = stack.enter_context(SharedDetector(network, options.threads or n_cores()))
    return SharedNetworks(detector, load_encoder(options.reid, options.device, options.threads))


def _stop(runs: list[_Run]) -> None:
    for run in runs:
        run.stop()


def _wait(runs: list[_Run], progress: ProgressSink | None, interruption: Interruption) -> None:
    """Until all runs have ended, but after an interrupt not for sources that are still being opened.

    A fault in one, which is not the user's, ends all: it is to be seen soon.
    """

    def going(run: _Run) -> bool:
        return not run.ended.is_set() and not (interruption.seen and run.pipeline is None)

    while waited_for := next((run for run in runs if going(run)), None):
        waited_for.ended.wait(SLICE_S)
        if any(run.fault is not None for run in runs):
            _stop(runs)
        if progress is not None:
            progress.show(sum(run.n_frames for run in runs), sum(run.n_in_view for run in runs))


def _report(options: TrackOptions, runs: list[_Run], interruption: Interruption) -> int:
    """Print a summary for each source; returns the exit status."""
    for run in runs:
        if run.pipeline is None or run.outputs is None:
            continue
        if not options.quiet:
            print(f"\n{run.name}", file=sys.stderr)
            print_summary(run.options, run.pipeline, run.outputs, run.wall_s)
        if run.pipeline.leftover is not None:
            print(f"track: warning: {run.pipeline.leftover}", file=sys.stderr)
    failed = [run.name for run in runs if run.failed]
    if failed:
        print(f"track: {len(failed)} of {len(runs)} sources failed: {', '.join(failed)}", file=sys.stderr)
    if interruption.seen:
        n_frames = sum(run.n_frames for run in runs)
        print(f"track: interrupted after {n_frames} frames; the results until there are written", file=sys.stderr)
        return INTERRUPTED
    return 1 if failed else 0
