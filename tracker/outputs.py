"""From what the user asked for to the sinks of a run."""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, OutputError
from tracker.pipeline import Pipeline
from tracker.places import open_counters, parse_places
from tracker.sinks.base import Overlay, Sink, check_output_path
from tracker.sinks.counts import CountsSink
from tracker.sinks.crops import CropSink, check_crops_folder
from tracker.sinks.embeddings import EmbeddingSink, check_ending
from tracker.sinks.film import FilmSink, codec_of
from tracker.sinks.heatmap import HeatmapSink
from tracker.sinks.open import format_of, open_sink
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
    counts: CountsSink | None = None


def files_of(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Option and path of every file that the run writes; standard output is none."""
    files = [*(("--out", path) for path in args.out if path != "-"), ("--video", args.video)]
    files += [("--crops", args.crops), ("--save-embeddings", args.save_embeddings)]
    files += [("--counts", None if args.counts == "-" else args.counts), ("--heatmap", args.heatmap)]
    return [(option, path) for option, path in files if path]


def in_two_passes(args: argparse.Namespace) -> bool:
    """Whether results can only be written when all of the source is tracked."""
    return args.smooth or args.fill_gaps is not None


def needs_pictures(args: argparse.Namespace) -> bool:
    """Whether any result shows pictures of the source."""
    return any(option not in ("--out", "--save-embeddings", "--counts") for option, _ in files_of(args))


def _results_asked(args: argparse.Namespace) -> bool:
    """Whether anything but a window was asked for."""
    return bool(files_of(args) or args.out or args.line or args.zone)


def check_outputs(args: argparse.Namespace) -> None:
    """Raise ConfigError for what cannot be meant, before anything is opened."""
    files = files_of(args)
    if args.show and args.headless:
        raise ConfigError("--show asks for a window and --headless for none; give one of them")
    lines, zones = parse_places(args.line, args.zone)
    may_open_window = args.show or (is_live_spec(args.source) and not args.headless)
    if not (_results_asked(args) or may_open_window):
        raise ConfigError(NOTHING_ASKED)
    for path in args.out:
        format_of(path)
    if args.out.count("-") > 1:
        raise ConfigError("--out - is there twice; standard output takes the tracks once")
    if "-" in args.out and args.counts == "-":
        raise ConfigError("standard output takes one result: only one of --out and --counts can be -")
    if args.save_embeddings:
        check_ending(args.save_embeddings)
    if args.video:
        codec_of(args.video)
    if args.counts and not (lines or zones):
        raise ConfigError("--counts needs something to count: give --line x1,y1,x2,y2 or --zone x1,y1,x2,y2,x3,y3")
    _check_two_passes(args)
    inputs = {Path(name).resolve() for name in _inputs(args)}
    claimed: dict[Path, str] = {}
    for option, path in files:
        place = Path(path).resolve()
        if place in inputs:
            raise ConfigError(f"{option} would replace an input: {path}")
        if place in claimed:
            raise ConfigError(f"{claimed[place]} and {option} name the same file: {path}")
        claimed[place] = option
    # All before any is opened: a file begun beside one that cannot be would be in the way of the next attempt.
    for option, path in files:
        check = check_crops_folder if option == "--crops" else check_output_path
        check(Path(path), args.overwrite)


def _check_two_passes(args: argparse.Namespace) -> None:
    if args.fill_gaps is not None and not (math.isfinite(args.fill_gaps) and args.fill_gaps > 0):
        raise ConfigError(f"--fill-gaps must be a number of seconds above 0, got {args.fill_gaps:g}")
    if args.show and in_two_passes(args):
        raise ConfigError("--show needs frames as they come, --smooth and --fill-gaps all of them: leave one out")


def _inputs(args: argparse.Namespace) -> list[str]:
    return [name for name in (args.source, args.detections, args.detector, args.reid, args.config) if name]


def open_outputs(args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack, config: TrackerConfig) -> Outputs:
    """Everything that was asked for, opened; `stack` closes it. Raises ConfigError or OutputError."""
    source = pipeline.source
    feed = source if isinstance(source, LiveSource) else None
    tally = TallySink(feed)
    outputs = Outputs([tally], tally)
    lines, zones = open_counters(
        *parse_places(args.line, args.zone), source.width, source.height, config.lifecycle.lost_s
    )
    overlay = None
    if lines or zones:
        outputs.counts = stack.enter_context(CountsSink(lines, zones, args.counts, args.overwrite))
        outputs.sinks.append(outputs.counts)
        overlay = outputs.counts.draw
    for path in args.out:
        sink = open_sink(path, args.overwrite, name=source.name, class_names=pipeline.class_names)
        outputs.sinks.append(stack.enter_context(sink))
    if args.save_embeddings:
        outputs.sinks.append(stack.enter_context(EmbeddingSink(args.save_embeddings, args.overwrite)))
    if args.crops:
        outputs.sinks.append(stack.enter_context(CropSink(args.crops, args.overwrite, camera=source.name)))
    if args.video:
        size = (source.width, source.height)
        fps = source.fps or args.fps or TrackerConfig().default_fps
        fps = min(fps, MAX_LIVE_FILM_FPS) if source.live else fps
        film = FilmSink(args.video, fps, size, args.overwrite, overlay=overlay, live=source.live)
        outputs.sinks.append(stack.enter_context(film))
    if args.heatmap:
        frame_s = 1 / (source.fps or args.fps or config.default_fps)
        outputs.sinks.append(stack.enter_context(HeatmapSink(args.heatmap, frame_s, args.overwrite)))
    outputs.window = _open_window(args, pipeline, feed, overlay, stack)
    if outputs.window is not None:
        outputs.sinks.append(outputs.window)
    if not (_results_asked(args) or outputs.window):  # an address that turned out to be a film
        raise ConfigError(NOTHING_ASKED)
    return outputs


def _open_window(
    args: argparse.Namespace, pipeline: Pipeline, feed: LiveSource | None, overlay: Overlay | None, stack: ExitStack
) -> WindowSink | None:
    """The window, if one was asked for, or if the source is live and there is a display."""
    if args.headless or not (args.show or feed is not None):
        return None
    name = pipeline.source.name
    try:
        window = WindowSink(f"tracklet: {name} (h: keys)", source=name, run=pipeline, feed=feed, overlay=overlay)
    except OutputError:
        if args.show or not _results_asked(args):
            raise
        return None
    if feed is not None:
        feed.idle = window.idle
    return stack.enter_context(window)
