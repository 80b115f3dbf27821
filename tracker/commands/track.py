"""`track SOURCE --out tracks.txt`: arguments -> parts -> loop -> sinks. No maths here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tracker.commands.track_options import build_parser, classes_of, config_of, span_of
from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.runtime.signals import INTERRUPTED, Interruption, command, leave

if TYPE_CHECKING:
    from tracker.commands.outputs import Outputs
    from tracker.pipeline import Pipeline
    from tracker.sinks.progress import ProgressSink
    from tracker.types import Frame, Tracks

MAX_THREADS = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    status = command("track", partial(_main, argv))
    if argv is None:
        leave(status)
    return status


def _main(argv: Sequence[str] | None, interruption: Interruption) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    config = config_of(args)
    if args.print_config:
        sys.stdout.write(config.to_toml())
        return 0
    if args.source is None:
        parser.error("a source is missing: a video file, a folder of images, a MOT sequence, a webcam or a URL")
    return _run(args, config, interruption)


def _run(args: argparse.Namespace, config: TrackerConfig, interruption: Interruption) -> int:
    from tracker.commands.outputs import check_free, check_outputs, in_two_passes
    from tracker.commands.resume import draw_again, open_run, saved_run
    from tracker.runtime.processes import limit_threads
    from tracker.sinks.progress import ProgressSink

    check_outputs(args)
    if args.threads is not None and not 1 <= args.threads <= MAX_THREADS:
        raise ConfigError(f"--threads must be at least 1 and at most {MAX_THREADS}, got {args.threads}")
    limit_threads(args.threads)
    saved = saved_run(args)
    if saved is None:
        check_free(args)
    start = perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_Notes(quiet=args.quiet))
        pipeline = _open(args, config)
        stack.callback(pipeline.close)
        if pipeline.source.live and in_two_passes(args):
            raise ConfigError(f"--smooth and --fill-gaps are for files: {pipeline.source.name} has no end to wait for")
        outputs, keeper = open_run(args, config, pipeline, stack, saved)
        last_frame = pipeline.given_index + 1
        if not args.quiet:
            # Only now: what cannot begin says one line, why. And before the bar, which keeps to its own line.
            print(f"track: {pipeline.description}", file=sys.stderr)
            if saved is not None:
                again = "" if outputs.film is None else f", once {outputs.film.path} is drawn again up to there"
                print(f"track: going on after frame {last_frame}{again}", file=sys.stderr)
        if saved is not None and outputs.film is not None:
            draw_again(args, config, outputs.film, pipeline.given_index)
        progress = None
        if not args.quiet:
            progress = ProgressSink(pipeline.source.n_frames, done=outputs.tally.n_frames)
            stack.enter_context(progress)
        # From here on the first one ends the run after the frame at hand, so that all results are whole.
        interruption.gently(pipeline.stop)
        frames: Iterable[tuple[Frame, Tracks]] = pipeline
        if in_two_passes(args):
            frames = _refined(args, config, pipeline, progress, interruption)
        elif progress is not None:
            outputs.sinks.append(progress)
        with suppress(KeyboardInterrupt):  # a second one
            for frame, tracks in frames:
                outputs.write(frame, tracks, hurried=in_two_passes(args) and interruption.seen)
                last_frame = frame.index + 1
                if outputs.window is not None and outputs.window.quit_asked:
                    pipeline.stop()
    interrupted = interruption.seen
    unfinished = keeper is not None and (interrupted or pipeline.stopped)
    if keeper is not None and not unfinished:
        keeper.finish()
    if not unfinished:
        outputs.forget()
    if not args.quiet:
        wall_s = perf_counter() - start + (saved["run_s"] if saved is not None else 0.0)
        _summarise(args, pipeline, outputs, wall_s)
    if pipeline.leftover is not None:
        print(f"track: warning: {pipeline.leftover}", file=sys.stderr)
    if interrupted:
        hint = "; --resume goes on" if unfinished else ""
        if outputs.n_undrawn:
            hint = f", but for pictures of the last {outputs.n_undrawn} frames"
        print(f"track: interrupted after frame {last_frame}; the results until there are written{hint}",
              file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    return 0


def _open(args: argparse.Namespace, config: TrackerConfig) -> Pipeline:
    from tracker.build import open_pipeline

    return open_pipeline(
        args.source, detections=args.detections, detector=args.detector,
        reid=None if args.reid.lower() == "none" else args.reid,
        config=config, device=args.device, fps=args.fps, classes=classes_of(args),
        detector_size=args.detector_size, threads=args.threads, reconnect_s=args.reconnect, span=span_of(args),
        keep_features=args.save_embeddings is not None,
    )  # fmt: skip


def _summarise(args: argparse.Namespace, pipeline: Pipeline, outputs: Outputs, wall_s: float) -> None:
    from tracker.commands.outputs import files_of

    stages = {**pipeline.stage_s, "write": outputs.write_s}
    print(outputs.tally.text(wall_s, stages, pipeline.beside_s), file=sys.stderr)
    if outputs.counts is not None:
        print(f"\n{outputs.counts.text()}", file=sys.stderr)
    for _, path in files_of(args):
        if Path(path).exists():
            print(f"wrote {path}", file=sys.stderr)


def _refined(
    args: argparse.Namespace,
    config: TrackerConfig,
    pipeline: Pipeline,
    progress: ProgressSink | None,
    interruption: Interruption,
) -> Iterator[tuple[Frame, Tracks]]:
    """The frames of `--smooth` and `--fill-gaps`; progress tells of the tracking, which takes most of the time."""
    from tracker.commands.outputs import needs_pictures
    from tracker.offline.two_pass import refined_frames
    from tracker.sources.open import open_source

    reopen = partial(open_source, args.source, fps=args.fps, default_fps=config.default_fps, span=span_of(args))
    return refined_frames(
        pipeline, smooth=args.smooth, fill_gaps_s=args.fill_gaps or 0.0, motion=config.motion,
        reopen=reopen if needs_pictures(args) else None,
        watch=None if progress is None else progress.write, hurried=lambda: interruption.seen,
    )  # fmt: skip


class _Notes(logging.Handler):
    """While open, what the parts log becomes one line each on stderr, above the progress bar if there is one.

    quiet: warnings alone.
    """

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self._log = logging.getLogger("tracker")

    def __enter__(self) -> _Notes:
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

        # In one piece, for it comes from another thread than the lines of the progress.
        tqdm.write(f"track: {record.getMessage()}\n", file=sys.stderr, end="")


if __name__ == "__main__":
    raise SystemExit(main())
