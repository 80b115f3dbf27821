"""From what the user asked for to the sinks of a run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.analytics.regions import open_counters, parse_places
from tracker.commands.track_options import span_of
from tracker.config import TrackerConfig
from tracker.errors import ConfigError, OutputError
from tracker.pipeline import Pipeline
from tracker.sinks.annotated_video import AnnotatedVideoSink, codec_of
from tracker.sinks.base import KeepsFiles, Overlay, Resumable, Sink, check_output_path
from tracker.sinks.counts import CountsSink
from tracker.sinks.crops import CropSink, check_crops_folder
from tracker.sinks.embeddings import EmbeddingSink, check_ending
from tracker.sinks.heatmap import HeatmapSink, check_kind
from tracker.sinks.open import format_of, open_sink
from tracker.sinks.redraw_log import RedrawLog
from tracker.sinks.summary import SummarySink
from tracker.sinks.window import WindowSink
from tracker.sources.base import FrameSource
from tracker.sources.webcam import LiveSource, is_live_spec
from tracker.types import Frame, State, Tracks

NOTHING_ASKED = "no result was asked for: give --out tracks.txt, --video tracked.mp4 or --show"
MAX_LIVE_FILM_FPS = 60.0  # a camera that announces more says what it could, and repeated pictures cost time


@dataclass
class Outputs:
    """The sinks of a run, in the order in which they are fed."""

    sinks: list[Sink]
    tally: SummarySink
    window: WindowSink | None = None
    counts: CountsSink | None = None
    film: AnnotatedVideoSink | None = None
    write_s: float = 0.0  # seconds that writing took so far
    n_undrawn: int = 0  # frames that were kept from sinks that draw them
    _asked: dict[str, Sink] = field(default_factory=dict)  # sinks by the words that asked for them

    def add(self, words: str, sink: Sink) -> None:
        """Feed this sink after those before it. words: the option and its file, unique; they stand for it in messages
        and checkpoints, see `sinks.base.Resumable`."""
        self.sinks.append(sink)
        self._asked[words] = sink

    def write(self, frame: Frame, tracks: Tracks, hurried: bool = False) -> None:
        """Feed the sinks. hurried: a frame that comes without its picture is none for those that would draw it."""
        begin = perf_counter()
        given = self.sinks
        if hurried and frame.image is None:
            given = [sink for sink in given if not isinstance(sink, AnnotatedVideoSink | CropSink | WindowSink)]
            self.n_undrawn += len(given) < len(self.sinks)
        for sink in given:
            sink.write(frame, tracks)
        self.write_s += perf_counter() - begin

    def states(self) -> dict[str, State]:
        """What every sink needs to go on with in another process, by its words; a sink that cannot is left out."""
        states = {words: sink.state() for words, sink in self._asked.items() if isinstance(sink, Resumable)}
        return {words: state for words, state in states.items() if state is not None}

    def noted(self) -> None:
        """What `states` gave last is in a checkpoint."""
        for sink in self.sinks:
            if isinstance(sink, KeepsFiles):
                sink.noted()

    def forget(self) -> None:
        """Nobody will go on with the run: take away what lies beside the results for that."""
        for sink in self.sinks:
            if isinstance(sink, KeepsFiles):
                sink.forget()

    @property
    def not_resumable(self) -> str | None:
        """The first sink that could not go on after an interruption, in words; None if all could."""
        able, added = self.states(), [self.tally, *self._asked.values()]
        unable = [words for words in self._asked if words not in able]
        unable += [type(sink).__name__ for sink in self.sinks if sink not in added]
        return unable[0] if unable else None


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
    if args.heatmap:
        check_kind(args.heatmap)
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


def check_free(args: argparse.Namespace) -> None:
    """Raise OutputError for the first result that cannot be begun: it exists, or its folder does not.

    All before any is opened: a file begun beside one that cannot be would be in the way of the next attempt.
    """
    for option, path in files_of(args):
        check = check_crops_folder if option == "--crops" else check_output_path
        check(Path(path), args.overwrite)


def _check_two_passes(args: argparse.Namespace) -> None:
    if args.fill_gaps is not None and not (math.isfinite(args.fill_gaps) and args.fill_gaps > 0):
        raise ConfigError(f"--fill-gaps must be a number of seconds above 0, got {args.fill_gaps:g}")
    if args.show and in_two_passes(args):
        raise ConfigError("--show needs frames as they come, --smooth and --fill-gaps all of them: leave one out")
    if args.resume and in_two_passes(args):
        raise ConfigError(
            "--resume goes on with results, --smooth and --fill-gaps write them after the end: leave one out"
        )


def _inputs(args: argparse.Namespace) -> list[str]:
    return [name for name in (args.source, args.detections, args.detector, args.reid, args.config) if name]


def open_outputs(
    args: argparse.Namespace,
    config: TrackerConfig,
    pipeline: Pipeline,
    stack: ExitStack,
    saved: Mapping[str, State] | None = None,
) -> Outputs:
    """Open what was asked for; `stack` closes it. Raises ConfigError or OutputError.

    saved: `Outputs.states` of an interrupted run; None: begin.
    """
    source = pipeline.source
    feed = source if isinstance(source, LiveSource) else None
    tally = SummarySink(feed)
    if feed is not None:
        feed.idle = lambda: not pipeline.stopped
    outputs = Outputs([tally], tally)
    states = saved or {}
    overlay = None
    if args.line or args.zone:
        words = f"--counts {args.counts}" if args.counts else "--line" if args.line else "--zone"
        counts = CountsSink(*counters_of(args, config, source), args.counts, args.overwrite, states.get(words))
        outputs.counts = stack.enter_context(counts)
        outputs.add(words, counts)
        overlay = counts.draw
    for path in args.out:
        words = f"--out {path}"
        sink = open_sink(
            path, args.overwrite, name=source.name, class_names=pipeline.class_names, resume=states.get(words)
        )
        outputs.add(words, stack.enter_context(sink))
    if args.save_embeddings:
        words = f"--save-embeddings {args.save_embeddings}"
        outputs.add(words, stack.enter_context(EmbeddingSink(args.save_embeddings, args.overwrite, states.get(words))))
    if args.crops:
        words = f"--crops {args.crops}"
        crops = CropSink(args.crops, args.overwrite, camera=source.name, resume=states.get(words))
        outputs.add(words, stack.enter_context(crops))
    if args.video:
        outputs.film = _open_film(args, pipeline, stack, states.get(f"--video {args.video}"), overlay)
        outputs.add(f"--video {args.video}", outputs.film)
    if args.heatmap:
        frame_s = 1 / (source.fps or span_of(args).rate(args.fps or config.default_fps))
        words = f"--heatmap {args.heatmap}"
        heatmap = HeatmapSink(args.heatmap, frame_s, args.overwrite, states.get(words))
        outputs.add(words, stack.enter_context(heatmap))
    outputs.window = _open_window(args, pipeline, feed, overlay, stack)
    if outputs.window is not None:
        outputs.add("--show", outputs.window)
    if not (_results_asked(args) or outputs.window):  # an address that turned out to be a film
        raise ConfigError(NOTHING_ASKED)
    return outputs


def counters_of(
    args: argparse.Namespace, config: TrackerConfig, source: FrameSource
) -> tuple[list[LineCounter], list[ZoneCounter]]:
    """Counters for --line and --zone that have counted nobody yet. Raises ConfigError."""
    places = parse_places(args.line, args.zone)
    return open_counters(*places, source.width, source.height, config.lifecycle.lost_s)


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
        feed.idle = lambda: window.idle() and not pipeline.stopped
    return stack.enter_context(window)


def _open_film(
    args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack, resume: State | None, overlay: Overlay | None
) -> AnnotatedVideoSink:
    source = pipeline.source
    fps = source.fps or span_of(args).rate(args.fps or TrackerConfig().default_fps)
    fps = min(fps, MAX_LIVE_FILM_FPS) if source.live else fps
    path, size = Path(args.video), (source.width, source.height)
    # Where one of the two cannot be, the other stays as it was.
    log = None if resume is None else RedrawLog(path, resume)
    overwrite = args.overwrite or resume is not None
    film = stack.enter_context(AnnotatedVideoSink(path, fps, size, overwrite, overlay=overlay, live=source.live))
    if keeps_checkpoints(args, source.live):
        film.log = log or RedrawLog(path)
    return film


def keeps_checkpoints(args: argparse.Namespace, live: bool) -> bool:
    """Whether the run is to be one that can be resumed, as far as its options and its source say."""
    return bool(not live and args.checkpoint_every > 0 and files_of(args) and not in_two_passes(args))
