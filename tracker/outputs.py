"""From what the user asked for to the sinks of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.options import span_of
from tracker.pipeline import Pipeline
from tracker.sinks.base import Resumable, Sink, check_output_path
from tracker.sinks.crops import CropSink, check_crops_folder
from tracker.sinks.embeddings import EmbeddingSink, check_ending
from tracker.sinks.film import FilmSink, codec_of
from tracker.sinks.film_log import FilmLog
from tracker.sinks.open import format_of, open_sink
from tracker.sinks.summary import TallySink
from tracker.sinks.window import WindowSink
from tracker.types import State


@dataclass
class Outputs:
    """The sinks of a run, in the order in which they are fed."""

    sinks: list[Sink]
    tally: TallySink
    window: WindowSink | None = None
    film: FilmSink | None = None
    write_s: float = 0.0  # seconds that writing took so far
    _asked: dict[str, Sink] = field(default_factory=dict)  # sinks by the words that asked for them

    def add(self, words: str, sink: Sink) -> None:
        """Feed this sink after those before it. words: the option and its file, unique; they stand for it in messages
        and checkpoints, see `sinks.base.Resumable`."""
        self.sinks.append(sink)
        self._asked[words] = sink

    def states(self) -> dict[str, State]:
        """What every sink needs to go on with in another process, by its words; a sink that cannot is left out."""
        states = {words: sink.state() for words, sink in self._asked.items() if isinstance(sink, Resumable)}
        return {words: state for words, state in states.items() if state is not None}

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
    if args.video:
        codec_of(args.video)
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
        check(Path(path), args.overwrite or args.resume)


def _inputs(args: argparse.Namespace) -> list[str]:
    return [name for name in (args.source, args.detections, args.detector, args.reid, args.config) if name]


def open_outputs(
    args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack, saved: Mapping[str, State] | None = None
) -> Outputs:
    """Open what was asked for. saved: `Outputs.states` of an interrupted run; None: begin."""
    source = pipeline.source
    tally = TallySink()
    outputs = Outputs([tally], tally)
    states = saved or {}
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
        outputs.add("--crops", stack.enter_context(CropSink(args.crops, args.overwrite, camera=source.name)))
    if args.video:
        outputs.film = _open_film(args, pipeline, stack, states.get(f"--video {args.video}"))
        outputs.add(f"--video {args.video}", outputs.film)
    if args.show:
        outputs.window = stack.enter_context(WindowSink(f"tracklet: {source.name}"))
        outputs.add("--show", outputs.window)
    return outputs


def _open_film(args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack, resume: State | None) -> FilmSink:
    source = pipeline.source
    fps = source.fps or span_of(args).rate(args.fps or TrackerConfig().default_fps)
    path, size = Path(args.video), (source.width, source.height)
    # Where one of the two cannot be, the other stays as it was.
    log = None if resume is None else FilmLog(path, resume)
    film = stack.enter_context(FilmSink(path, fps, size, args.overwrite or resume is not None))
    if keeps_checkpoints(args, source.live):
        film.log = log or FilmLog(path)
    return film


def keeps_checkpoints(args: argparse.Namespace, live: bool) -> bool:
    """Whether the run is to be one that can be resumed, as far as its options and its source say."""
    return bool(not live and args.checkpoint_every > 0 and files_of(args))
