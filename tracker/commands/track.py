"""`track SOURCE --out tracks.txt`: parse, open, loop, summary. No maths here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from tracker.errors import ConfigError
from tracker.runtime.signals import INTERRUPTED, Interruption, command, leave

if TYPE_CHECKING:
    from tracker.commands.outputs import Outputs
    from tracker.commands.resume import Checkpoints
    from tracker.commands.track_options import TrackOptions
    from tracker.pipeline import Pipeline
    from tracker.sinks.progress import ProgressSink
    from tracker.types import FloatArray, Frame, Tracks


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    status = command("track", partial(_main, argv))
    if argv is None:
        leave(status)
    return status


def _main(argv: Sequence[str] | None, interruption: Interruption) -> int:
    from tracker.commands.track_options import parse_options  # slow to import: signals are handled by now

    options = parse_options(argv)
    if options.print_config:
        sys.stdout.write(options.config.to_toml())
        return 0
    return _track(options, interruption)


def _track(options: TrackOptions, interruption: Interruption) -> int:
    from tracker.commands.resume import open_run, replay, saved_run
    from tracker.runtime.processes import limit_threads
    from tracker.sinks.registry import check_free

    start = perf_counter()
    limit_threads(options.threads)
    saved = saved_run(options)
    if saved is None:
        check_free(options.results, options.overwrite)
    with ExitStack() as stack:
        stack.enter_context(_LogLines(options.quiet))
        pipeline = _open_pipeline(options)
        stack.callback(pipeline.close)
        if pipeline.source.live and options.two_passes:
            raise ConfigError(f"--smooth and --fill-gaps are for files: {pipeline.source.name} has no end to wait for")
        if pipeline.source.read_once and options.two_passes and options.uses_pictures:
            raise ConfigError(
                f"--smooth and --fill-gaps read a source twice for results with pictures: {pipeline.source.name} is a "
                "pipe; save the video first"
            )
        outputs, checkpoints = open_run(options, pipeline, stack, saved)
        last_frame = pipeline.given_index + 1
        if not options.quiet:  # only now: what cannot begin prints one line, the reason
            print(f"track: {pipeline.description}", file=sys.stderr)
        if saved is not None:
            if not options.quiet:
                _print_resuming(last_frame, outputs)
            replay(options, pipeline, outputs, saved)
        progress = _open_progress(options, pipeline, outputs, stack)
        # From here on the first interrupt ends the run after the current frame, so that all results are complete.
        interruption.gently(pipeline.stop)
        with suppress(KeyboardInterrupt):  # a second one
            for frame, tracks in _frames(options, pipeline, checkpoints, progress, interruption):
                outputs.write(frame, tracks, hurried=options.two_passes and interruption.seen)
                last_frame = frame.index + 1
                if outputs.window is not None and outputs.window.quit_asked:
                    pipeline.stop()
    unfinished = checkpoints is not None and (interruption.seen or pipeline.stopped)
    if checkpoints is not None and not unfinished:
        checkpoints.finish()
    if not options.quiet:
        _print_summary(options, pipeline, outputs, perf_counter() - start + (saved["run_s"] if saved else 0.0))
    if pipeline.leftover is not None:
        print(f"track: warning: {pipeline.leftover}", file=sys.stderr)
    if interruption.seen:
        _print_interrupted(last_frame, outputs, unfinished)
        return INTERRUPTED
    return 0


def _open_pipeline(options: TrackOptions) -> Pipeline:
    from tracker.build import open_pipeline

    return open_pipeline(
        options.source,
        detections=options.detections,
        detector=options.detector,
        reid=options.reid,
        config=options.config,
        device=options.device,
        fps=options.fps,
        classes=options.classes,
        detector_size=options.detector_size,
        layout=options.layout,
        threads=options.threads,
        reconnect_s=options.reconnect_s,
        span=options.span,
        keep_features=any(result.option.embeddings for result in options.results),
        people=options.people,
    )


def _open_progress(
    options: TrackOptions, pipeline: Pipeline, outputs: Outputs, stack: ExitStack
) -> ProgressSink | None:
    from tracker.sinks.progress import ProgressSink

    if options.quiet:
        return None
    return stack.enter_context(ProgressSink(pipeline.source.n_frames, done=outputs.tally.n_frames))


def _frames(
    options: TrackOptions,
    pipeline: Pipeline,
    checkpoints: Checkpoints | None,
    progress: ProgressSink | None,
    interruption: Interruption,
) -> Iterator[tuple[Frame, Tracks]]:
    """Frames with final tracks, and people hidden in their pictures if that was asked for."""
    people: dict[int, FloatArray] = {}  # where they may be, by the index of frames that are not written yet
    frames = _tracked_frames(options, pipeline, checkpoints, progress, interruption, people)
    if options.blur is None:
        return frames
    from tracker.sinks.blur import blurred_frames

    return blurred_frames(frames, lambda frame, _: people.pop(frame.index), options.blur, pipeline.source.live)


def _tracked_frames(
    options: TrackOptions,
    pipeline: Pipeline,
    checkpoints: Checkpoints | None,
    progress: ProgressSink | None,
    interruption: Interruption,
    people: dict[int, FloatArray],
) -> Iterator[tuple[Frame, Tracks]]:
    """Frames with final tracks, refined in a second pass if that was asked for; progress is that of the tracking.

    people: gets `Pipeline.possible_people` of each frame, by its index, if they are to be hidden.
    """
    if not options.two_passes:
        frames = iter(pipeline) if checkpoints is None else pipeline.frames(checkpoints.between_frames)
        for frame, tracks in frames:
            if options.blur is not None:
                people[frame.index] = pipeline.possible_people
            yield frame, tracks
            if progress is not None:
                progress.write(frame, tracks)
        return
    from tracker.commands.resume import reopened
    from tracker.offline.two_pass import refined_frames

    def watch(frame: Frame, tracks: Tracks) -> None:
        if options.blur is not None:
            people[frame.index] = pipeline.possible_people
        if progress is not None:
            progress.write(frame, tracks)

    yield from refined_frames(
        pipeline,
        smooth=options.smooth,
        fill_gaps_s=options.fill_gaps_s or 0.0,
        motion=options.config.motion,
        reopen=partial(reopened, options) if options.uses_pictures else None,
        watch=watch,
        hurried=lambda: interruption.seen,
    )


def _print_resuming(last_frame: int, outputs: Outputs) -> None:
    again = [str(result.value) for result, _ in outputs.sinks if result.option.pictures != "none"]
    first = f" once the results with pictures are made again up to there: {', '.join(again)}" if again else ""
    print(f"track: resuming after frame {last_frame}{first}", file=sys.stderr)


def _print_summary(options: TrackOptions, pipeline: Pipeline, outputs: Outputs, wall_s: float) -> None:
    stages = {**pipeline.stage_s, "write": outputs.write_s} if options.profile else {}
    print(outputs.tally.text(wall_s, stages, pipeline.beside_s, pipeline.verify), file=sys.stderr)
    if outputs.counts is not None:
        print(f"\n{outputs.counts.text()}", file=sys.stderr)
    if pipeline.people is not None:
        n = len(pipeline.people.people)
        print(f"people: {pipeline.n_recognised} recognised; {pipeline.people.path} knows {n}", file=sys.stderr)
    for result in options.results:
        if result.file is not None and result.file.exists():
            print(f"wrote {result.value}", file=sys.stderr)


def _print_interrupted(last_frame: int, outputs: Outputs, resumable: bool) -> None:
    hint = "; --resume continues" if resumable else ""
    if outputs.n_undrawn:
        hint = f", but for pictures of the last {outputs.n_undrawn} frames"
    print(f"track: interrupted after frame {last_frame}; the results until there are written{hint}", file=sys.stderr)


class _LogLines(logging.Handler):
    """While open, log records of the package become lines on stderr, above the progress bar if there is one.

    quiet: warnings alone.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._log = logging.getLogger("tracker")

    def __enter__(self) -> _LogLines:
        self._before = self._log.level, self._log.propagate
        self._log.setLevel(self.level)
        self._log.propagate = False
        self._log.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._log.removeHandler(self)
        level, self._log.propagate = self._before
        self._log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # One write: other threads' lines and the progress bar must not come in between.
        tqdm.write(f"track: {record.getMessage()}\n", file=sys.stderr, end="")


if __name__ == "__main__":
    raise SystemExit(main())
