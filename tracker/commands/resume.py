"""`track --resume`: notes where a run is, so that another process can go on as if nothing had happened.

The checkpoint stands beside the first result, `tracks.txt.resume` for `tracks.txt`, and holds what was asked for, the
state of the pipeline, and how far each result is written. It goes away when the run reaches its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracker import __version__
from tracker.commands.outputs import Outputs, counters_of, files_of, keeps_checkpoints, open_outputs
from tracker.commands.track_options import span_of
from tracker.config import TrackerConfig
from tracker.errors import ConfigError, ResumeError, TrackletError, WriteError
from tracker.pipeline import Pipeline
from tracker.runtime import checkpoint
from tracker.runtime.signals import check
from tracker.sinks.annotated_video import AnnotatedVideoSink
from tracker.sinks.counts import CountsSink
from tracker.sinks.crops import remove_crops
from tracker.sinks.summary import SummarySink
from tracker.sources.base import FrameSource
from tracker.sources.open import open_source
from tracker.sources.prefetch import Prefetch
from tracker.types import State

SUFFIX = ".resume"
SHOWN_DIFFERENCES = 3

# Options that change nothing in the results, or whose effect is compared itself: settings, files by what is in them.
_APART = frozenset(
    {
        "source", "source_option", "detections", "detector", "reid", "config", "set", "conf", "detect_every",
        "appearance_weight", "no_veto", "no_reassociate", "no_proposals", "device", "out", "video", "save_embeddings",
        "show", "overwrite", "resume", "checkpoint_every", "quiet", "print_config",
    }
)  # fmt: skip


def checkpoint_path(args: argparse.Namespace) -> Path | None:
    """Where the checkpoint of a run stands; None if it writes no file beside which it could."""
    files = files_of(args)
    return Path(f"{Path(files[0][1])}{SUFFIX}") if files else None


def saved_run(args: argparse.Namespace) -> State | None:
    """The checkpoint with which to go on; None to begin. Raises ConfigError or ResumeError where neither can be."""
    if not args.checkpoint_every >= 0:  # nor is a number that is none
        raise ConfigError(f"--checkpoint-every takes seconds, 0 or more, got {args.checkpoint_every:g}")
    path = checkpoint_path(args)
    # Names that the system does not take (too long) exist nowhere for os.path; `check_free` says what is wrong.
    existing = next((Path(name) for _, name in files_of(args) if _is_there(Path(name))), None)
    noted = path is not None and os.path.isfile(path)
    if not args.resume:
        if noted and existing is not None and not args.overwrite:
            raise ConfigError(
                f"{existing}: exists already, of a run cut short: --resume goes on, --overwrite begins again"
            )
        return None
    if args.overwrite:
        raise ConfigError("--resume goes on with the results that are there, --overwrite replaces them: give one only")
    if path is None:
        raise ConfigError("--resume goes on with result files; give --out FILE")
    if noted:
        return saved_state(path)
    if existing is not None:
        raise ResumeError(
            f"{existing}: nothing to go on with: there is no {path}, so the run that wrote it came to its end, or kept "
            "none; --overwrite begins again"
        )
    return None


def saved_state(path: Path) -> State:
    """What a checkpoint holds. Raises ResumeError, also where parts of it are missing."""
    state = checkpoint.load(path)
    parts = {"asked": dict, "pipeline": dict, "tally": dict, "outputs": dict, "write_s": float, "run_s": float}
    wrong = [
        name for name, kind in parts.items() if not isinstance(state, dict) or not isinstance(state.get(name), kind)
    ]
    if wrong:
        raise ResumeError(f"{path}: is no checkpoint of a run: {wrong[0]} is missing; --overwrite begins again")
    return state


def asked_for(args: argparse.Namespace, config: TrackerConfig, pipeline: Pipeline) -> dict[str, Any]:
    """All that the results of a run depend on, by name; equal for two runs that give the same results."""
    source = pipeline.source
    files = source.files
    stats = [(file.name, file.stat()) for file in files]
    listing = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)
    changed_ns = max((stat.st_mtime_ns for _, stat in stats), default=0)
    asked: dict[str, Any] = {
        "the source": str(files[0].resolve()) if len(files) == 1 else source.name,
        "the size of the source in bytes": sum(stat.st_size for _, stat in stats),
        "the number of its files": len(files),
        "the number of its frames": source.n_frames,
        "the size of its frames": f"{source.width} x {source.height}",
        "the time of its last change": datetime.fromtimestamp(changed_ns / 1e9, UTC).isoformat(" "),
        "the digest of its names, sizes and times": hashlib.sha256(listing.encode()).hexdigest(),
        **{role: _identity(path) for role, path in pipeline.files.items()},
        **{f"where {role} runs": provider for role, provider in pipeline.providers.items()},
        **{f"--{name.replace('_', '-')}": value for name, value in sorted(vars(args).items()) if name not in _APART},
        **{f"{option} {number}": str(Path(name).resolve()) for number, (option, name) in enumerate(files_of(args), 1)},
        "the version of tracklet": __version__,
    }
    for section, values in dataclasses.asdict(config).items():
        inner = values.items() if isinstance(values, dict) else [("", values)]
        asked.update({f"{section}.{name}".rstrip("."): value for name, value in inner})
    normal: dict[str, Any] = json.loads(json.dumps(asked))  # as a checkpoint gives it back
    return normal


def check_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ResumeError that says what is asked for now is not what the checkpoint is of."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        shown = [f"{name} is {_short(now.get(name))} and was {_short(was.get(name))}" for name in names]
        more = f"; and {len(names) - SHOWN_DIFFERENCES} more" if len(names) > SHOWN_DIFFERENCES else ""
        raise ResumeError(
            f"{path}: is of another run: {'; '.join(shown[:SHOWN_DIFFERENCES])}{more}; "
            "ask for the same again, or begin again with --overwrite"
        )


class Keeper:
    """Writes the checkpoint of a run, at once, then every `every_s` seconds of wall time, and when it is cut short.

    asked: see `asked_for`. pipeline: its `at_rest` is taken. run_s: seconds of wall time in the runs before this one.
    Nothing is noted while results lag behind the pipeline (a second pass over the tracks): there is nothing to go on
    with. Raises WriteError where the checkpoint cannot be written.
    """

    def __init__(
        self,
        path: Path,
        every_s: float,
        asked: Mapping[str, Any],
        pipeline: Pipeline,
        outputs: Outputs,
        run_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._every_s = every_s
        self._asked = asked
        self._pipeline = pipeline
        self._outputs = outputs
        self._clock = clock
        self._start_s = clock() - run_s
        self._saved_s: float | None = None
        pipeline.at_rest = self._at_rest

    def finish(self) -> None:
        """The run came to its end: there is nothing to go on with."""
        checkpoint.remove(self.path)

    def _at_rest(self, last: bool) -> None:
        now_s = self._clock()
        if self._outputs.tally.n_frames != self._pipeline.n_given:
            return
        if not last and self._saved_s is not None and now_s - self._saved_s < self._every_s:
            return
        state = {
            "asked": self._asked,
            "pipeline": self._pipeline.state(),
            "tally": self._outputs.tally.state(),
            "outputs": self._outputs.states(),
            "write_s": self._outputs.write_s,
            "run_s": now_s - self._start_s,
        }
        checkpoint.save(self.path, state)
        self._outputs.noted()
        self._saved_s = self._clock()


def open_run(
    args: argparse.Namespace, config: TrackerConfig, pipeline: Pipeline, stack: ExitStack, saved: State | None
) -> tuple[Outputs, Keeper | None]:
    """The results of a run, opened, and what keeps its checkpoint; None where it cannot be resumed.

    saved: the run to go on with, see `saved_run`; pipeline and results are then as they were. None: begin. Raises
    ConfigError, ResumeError and OutputError.
    """
    live, path = pipeline.source.live, checkpoint_path(args)
    keeps = path is not None and keeps_checkpoints(args, live)
    if args.resume and not keeps:
        why = f"{pipeline.source.name} is live: what it showed is gone" if live else "--checkpoint-every 0 keeps none"
        raise ConfigError(f"--resume needs a checkpoint, but {why}")
    asked = asked_for(args, config, pipeline) if keeps else {}
    if saved is not None:
        assert path is not None
        check_same(path, saved["asked"], asked)
        with _whole(path):
            pipeline.restore(saved["pipeline"])
        args.overwrite = not saved["outputs"]  # killed while it began them
    elif path is not None and keeps:
        _note_begin(path, asked, pipeline)
    elif path is not None:
        checkpoint.remove(path)  # of a run whose results are replaced
    try:
        with _whole(path) if path is not None and saved is not None else nullcontext():
            outputs = open_outputs(args, config, pipeline, stack, saved and saved["outputs"])
    except TrackletError:
        if saved is None and path is not None:
            checkpoint.remove(path)
        raise
    if saved is not None:
        assert path is not None
        with _whole(path):
            outputs.tally.restore(saved["tally"])
        outputs.write_s = saved["write_s"]
    unable = outputs.not_resumable
    if unable and path is not None:
        checkpoint.remove(path)
    if args.resume and unable:
        stack.close()
        if saved is None:  # what was begun a moment ago would look like a run that came to its end
            _remove(args, outputs)
        raise ConfigError(f"--resume cannot go on with {unable}; leave one of them out")
    if path is None or not keeps or unable:
        outputs.forget()
        return outputs, None
    return outputs, Keeper(path, args.checkpoint_every, asked, pipeline, outputs, saved["run_s"] if saved else 0.0)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Raise ResumeError where a state lacks parts, or holds others, behind a right checksum: made by hand."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ResumeError(
            f"{path}: is no checkpoint of this run ({type(error).__name__}: {error}); --overwrite begins again"
        ) from error


def _note_begin(path: Path, asked: Mapping[str, Any], pipeline: Pipeline) -> None:
    """The first checkpoint, before any result is there: a run that is killed while it begins can be resumed, too."""
    state = {
        "asked": asked, "pipeline": pipeline.state(), "tally": SummarySink().state(), "outputs": {}, "write_s": 0.0,
        "run_s": 0.0,
    }  # fmt: skip
    with suppress(WriteError):  # the results cannot be begun there either, or the next one says so
        checkpoint.save(path, state)


def _remove(args: argparse.Namespace, outputs: Outputs) -> None:
    """Take away the results of a run that did not even begin."""
    outputs.forget()
    for option, name in files_of(args):
        if option == "--crops":
            remove_crops(Path(name))
        elif Path(name).is_file():
            Path(name).unlink()


def draw_again(args: argparse.Namespace, config: TrackerConfig, film: AnnotatedVideoSink, until: int) -> None:
    """Bring the film of an interrupted run back to where it was, the frame with the index `until` included.

    Counts in the picture come from counters of its own, fed with what the film showed, for it shows all they count.
    """
    source: FrameSource = open_source(args.source, fps=args.fps, default_fps=config.default_fps, span=span_of(args))
    counts = CountsSink(*counters_of(args, config, source))
    overlay = counts.draw if args.line or args.zone else None
    assert film.log is not None
    with Prefetch(source) as frames:
        for frame in frames:
            if frame.index > until:
                return
            check()
            tracks = film.log.tracks_of(frame.index)
            counts.write(frame, tracks)
            film.redraw(frame, tracks, overlay)


def _is_there(result: Path) -> bool:
    """Whether a run wrote this result, or something else is in its place; an empty folder is in nobody's way."""
    return os.path.exists(result) and not (result.is_dir() and not any(result.iterdir()))


def _identity(path: Path) -> str:
    """Name and content of a file."""
    return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else str(path)


def _short(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
