"""From what the user asked for to the sinks of a run."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.options import span_of
from tracker.pipeline import Pipeline
from tracker.sinks.base import Sink
from tracker.sinks.crops import CropSink
from tracker.sinks.embeddings import EmbeddingSink, check_ending
from tracker.sinks.film import FilmSink
from tracker.sinks.open import format_of, open_sink
from tracker.sinks.summary import TallySink
from tracker.sinks.window import WindowSink


@dataclass
class Outputs:
    """The sinks of a run, in the order in which they are fed."""

    sinks: list[Sink]
    tally: TallySink
    window: WindowSink | None = None


def files_of(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Option and path of every file that the run writes; standard output is none."""
    files = [*(("--out", path) for path in args.out if path != "-"), ("--video", args.video)]
    files += [("--crops", args.crops), ("--save-embeddings", args.save_embeddings)]
    return [(option, path) for option, path in files if path]


def check_outputs(args: argparse.Namespace) -> None:
    """Raise ConfigError for what cannot be meant, before anything is opened."""
    files = files_of(args)
    if not (files or args.out or args.show):
        raise ConfigError("no result was asked for: give --out tracks.txt, --video tracked.mp4 or --show")
    for path in args.out:
        format_of(path)
    if args.out.count("-") > 1:
        raise ConfigError("--out - is there twice; standard output takes the tracks once")
    if args.save_embeddings:
        check_ending(args.save_embeddings)
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
    source = pipeline.source
    tally = TallySink()
    outputs = Outputs([tally], tally)
    for path in args.out:
        sink = open_sink(path, args.overwrite, name=source.name, class_names=pipeline.class_names)
        outputs.sinks.append(stack.enter_context(sink))
    if args.save_embeddings:
        outputs.sinks.append(stack.enter_context(EmbeddingSink(args.save_embeddings, args.overwrite)))
    if args.crops:
        outputs.sinks.append(stack.enter_context(CropSink(args.crops, args.overwrite, camera=source.name)))
    if args.video:
        size = (source.width, source.height)
        fps = source.fps or span_of(args).rate(args.fps or TrackerConfig().default_fps)
        outputs.sinks.append(stack.enter_context(FilmSink(args.video, fps, size, args.overwrite)))
    if args.show:
        outputs.window = stack.enter_context(WindowSink(f"tracklet: {source.name}"))
        outputs.sinks.append(outputs.window)
    return outputs
