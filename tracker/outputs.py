"""From what the user asked for to the sinks of a run."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, OutputError
from tracker.pipeline import Pipeline
from tracker.sinks.base import Sink
from tracker.sinks.film import FilmSink
from tracker.sinks.mot_txt import MotTextSink
from tracker.sinks.summary import TallySink
from tracker.sinks.window import WindowSink
from tracker.sources.webcam import LiveSource, is_live_spec

NOTHING_ASKED = "no result was asked for: give --out tracks.txt, --video tracked.mp4 or --show"
MAX_LIVE_FILM_FPS = 60.0  # a camera that announces more says what it could, and repeated pictures cost time


@dataclass
class Outputs:
    """The sinks of a run, in the order in which they are fed."""

    sinks: list[Sink]
    tally: TallySink
    window: WindowSink | None = None


def files_of(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Option and path of every file that the run writes; standard output is none."""
    files = [("--out", args.out), ("--video", args.video)]
    return [(option, path) for option, path in files if path and path != "-"]


def check_outputs(args: argparse.Namespace) -> None:
    """Raise ConfigError for what cannot be meant, before anything is opened."""
    files = files_of(args)
    if args.show and args.headless:
        raise ConfigError("--show asks for a window and --headless for none; give one of them")
    may_open_window = args.show or (is_live_spec(args.source) and not args.headless)
    if not (files or args.out or may_open_window):
        raise ConfigError(NOTHING_ASKED)
    inputs = {Path(name).resolve() for name in _inputs(args)}
    claimed: dict[Path, str] = {}
    for option, path in files:
        place = Path(path).resolve()
        if place in inputs:
            raise ConfigError(f"{option} would replace an input: {path}")
        if place in claimed:
            raise ConfigError(f"{claimed[place]} and {option} name the same file: {path}")
        claimed[place] = option


def _inputs(args: argparse.Namespace) -> list[str]:
    return [name for name in (args.source, args.detections, args.detector, args.reid, args.config) if name]


def open_outputs(args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack) -> Outputs:
    """Everything that was asked for, opened; `stack` closes it. Raises ConfigError or OutputError."""
    source = pipeline.source
    feed = source if isinstance(source, LiveSource) else None
    tally = TallySink(feed)
    outputs = Outputs([tally], tally)
    if args.out:
        outputs.sinks.append(stack.enter_context(MotTextSink(args.out, args.overwrite)))
    if args.video:
        size = (source.width, source.height)
        fps = source.fps or args.fps or TrackerConfig().default_fps
        fps = min(fps, MAX_LIVE_FILM_FPS) if source.live else fps
        outputs.sinks.append(stack.enter_context(FilmSink(args.video, fps, size, args.overwrite, live=source.live)))
    outputs.window = _open_window(args, pipeline, feed, stack)
    if outputs.window is not None:
        outputs.sinks.append(outputs.window)
    if not (files_of(args) or args.out or outputs.window):  # an address that turned out to be a film
        raise ConfigError(NOTHING_ASKED)
    return outputs


def _open_window(
    args: argparse.Namespace, pipeline: Pipeline, feed: LiveSource | None, stack: ExitStack
) -> WindowSink | None:
    """The window, if one was asked for, or if the source is live and there is a display."""
    if args.headless or not (args.show or feed is not None):
        return None
    name = pipeline.source.name
    try:
        window = stack.enter_context(WindowSink(f"tracklet: {name} (h: keys)", source=name, run=pipeline, feed=feed))
    except OutputError as error:
        if args.show:
            raise
        if args.out or args.video:
            return None
        raise OutputError(
            f"{name}: no display for a window, and no other result asked for: give --out tracks.txt or --video live.mp4"
        ) from error
    if feed is not None:
        feed.idle = window.idle
    return window
