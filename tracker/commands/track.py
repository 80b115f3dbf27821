"""`track SOURCE --out tracks.txt`: parse, open, loop, summary. No maths here. Several sources: `several.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from tracker.errors import ConfigError
from tracker.runtime.signals import INTERRUPTED, Interruption, command, leave

if TYPE_CHECKING:
    from tracker.commands.outputs import Outputs
    from tracker.commands.track_options import TrackOptions
    from tracker.pipeline import Pipeline
    from tracker.sinks.progress import ProgressSink


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
    if len(options.sources) > 1:
        from tracker.commands.several import track_several

        return track_several(options, interruption)
    return _track(options, interruption)


def _track(options: TrackOptions, interruption: Interruption) -> int:
    from tracker.commands.resume import open_run, replay, saved_run
    from tracker.commands.run import LogLines, final_frames, open_run_pipeline, print_summary
    from tracker.runtime.processes import limit_threads
    from tracker.sinks.registry import check_free

    start = perf_counter()
    limit_threads(options.threads)
    saved = saved_run(options)
    if saved is None:
        check_free(options.results, options.overwrite)
    with ExitStack() as stack:
        stack.enter_context(LogLines(options.quiet))
        pipeline = open_run_pipeline(options)
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
            for frame, tracks in final_frames(options, pipeline, checkpoints, progress, interruption):
                outputs.write(frame, tracks, hurried=options.two_passes and interruption.seen)
                last_frame = frame.index + 1
                if outputs.window is not None and outputs.window.quit_asked:
                    pipeline.stop()
    unfinished = checkpoints is not None and (interruption.seen or pipeline.stopped)
    if checkpoints is not None and not unfinished:
        checkpoints.finish()
    if not options.quiet:
        print_summary(options, pipeline, outputs, perf_counter() - start + (saved["run_s"] if saved else 0.0))
    if pipeline.leftover is not None:
        print(f"track: warning: {pipeline.leftover}", file=sys.stderr)
    if interruption.seen:
        _print_interrupted(last_frame, outputs, unfinished)
        return INTERRUPTED
    return 0


def _open_progress(
    options: TrackOptions, pipeline: Pipeline, outputs: Outputs, stack: ExitStack
) -> ProgressSink | None:
    from tracker.sinks.progress import ProgressSink

    if options.quiet:
        return None
    return stack.enter_context(ProgressSink(pipeline.source.n_frames, done=outputs.tally.n_frames))


def _print_resuming(last_frame: int, outputs: Outputs) -> None:
    again = [str(result.value) for result, _ in outputs.sinks if result.option.pictures != "none"]
    first = f" once the results with pictures are made again up to there: {', '.join(again)}" if again else ""
    print(f"track: resuming after frame {last_frame}{first}", file=sys.stderr)


def _print_interrupted(last_frame: int, outputs: Outputs, resumable: bool) -> None:
    hint = "; --resume continues" if resumable else ""
    if outputs.n_undrawn:
        hint = f", but for pictures of the last {outputs.n_undrawn} frames"
    print(f"track: interrupted after frame {last_frame}; the results until there are written{hint}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
