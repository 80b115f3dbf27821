"""`track --resume`: continue an interrupted run, so that its results are those of an uninterrupted one.

Two files stand beside the first result, here tracks.txt, until the run ends. tracks.txt.resume is the checkpoint:
what was asked for, the state of the pipeline, and how far each result is written. tracks.txt.resume.tracks is the
record of all final tracks. Text files, databases and embeddings are truncated to the checkpoint and continued; every
other result is made again from the record, with the pictures of the source where it needs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracker import __version__
from tracker.commands.outputs import Outputs, open_outputs
from tracker.commands.track_options import TrackOptions
from tracker.errors import ConfigError, ResumeError, TrackletError, WriteError
from tracker.pipeline import Pipeline
from tracker.runtime import checkpoint
from tracker.runtime.signals import check
from tracker.sinks.base import utc_now
from tracker.sinks.track_record import TrackRecord
from tracker.sources.base import FrameSource
from tracker.sources.open import open_source
from tracker.sources.prefetch import Prefetch
from tracker.types import Frame, State, Tracks

SUFFIX = ".resume"
RECORD_SUFFIX = ".tracks"  # behind the other
SHOWN_DIFFERENCES = 3
_PARTS = {
    "asked": dict,
    "pipeline": dict,
    "outputs": dict,
    "record": dict,
    "write_s": float,
    "run_s": float,
    "started": str,
}


def checkpoint_path(options: TrackOptions) -> Path | None:
    """Where the checkpoint of a run stands; None if it writes no file."""
    files = [result.file for result in options.results if result.file is not None]
    return Path(f"{files[0]}{SUFFIX}") if files else None


def saved_run(options: TrackOptions) -> State | None:
    """The checkpoint to resume from; None to begin. Raises ConfigError or ResumeError where neither is possible."""
    path = checkpoint_path(options)
    # Names that the system does not take (too long) exist nowhere for os.path; `check_free` says what is wrong.
    existing = next((each.file for each in options.results if each.file is not None and _exists(each.file)), None)
    saved = path is not None and os.path.isfile(path)
    if not options.resume:
        if saved and existing is not None and not options.overwrite:
            raise ConfigError(
                f"{existing}: exists already, of an interrupted run: --resume continues it, --overwrite starts again"
            )
        return None
    if path is None:
        raise ConfigError("--resume continues result files; give --out FILE")
    if saved:
        return saved_state(path)
    if existing is not None:
        _remove(path)  # a kill at the very end leaves the record
        raise ResumeError(
            f"{existing}: nothing to resume: there is no {path}, so the run that wrote it came to its end, or kept "
            "none; --overwrite starts again"
        )
    return None


def saved_state(path: Path) -> State:
    """What a checkpoint holds. Raises ResumeError, also where parts of it are missing."""
    state = checkpoint.load(path)
    wrong = [
        name for name, kind in _PARTS.items() if not isinstance(state, dict) or not isinstance(state.get(name), kind)
    ]
    if wrong:
        raise ResumeError(f"{path}: is no checkpoint of a run: {wrong[0]} is missing; --overwrite starts again")
    return state


def asked_for(options: TrackOptions, pipeline: Pipeline) -> dict[str, Any]:
    """All that the results of a run depend on, by name; equal for two runs that give the same results."""
    source = pipeline.source
    files = source.files
    stats = [(file.name, file.stat()) for file in files]
    listing = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)
    changed_ns = max((stat.st_mtime_ns for _, stat in stats), default=0)
    results = [(result.option.name, result.file) for result in options.results if result.file is not None]
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
        **options.compared,
        **{f"{option} {number}": str(file.resolve()) for number, (option, file) in enumerate(results, 1)},
        "the version of tracklet": __version__,
    }
    for section, values in dataclasses.asdict(options.config).items():
        inner = values.items() if isinstance(values, dict) else [("", values)]
        asked.update({f"{section}.{name}".rstrip("."): value for name, value in inner})
    normal: dict[str, Any] = json.loads(json.dumps(asked))  # as a checkpoint gives it back
    return normal


def check_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ResumeError that lists what is asked for now and differs from the checkpoint."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        shown = [f"{name} is {_short(now.get(name))} and was {_short(was.get(name))}" for name in names]
        more = f"; and {len(names) - SHOWN_DIFFERENCES} more" if len(names) > SHOWN_DIFFERENCES else ""
        raise ResumeError(
            f"{path}: is of another run: {'; '.join(shown[:SHOWN_DIFFERENCES])}{more}; "
            "ask for the same again, or start again with --overwrite"
        )


class Checkpoints:
    """Saves the checkpoint of a run: at once, then every `every_s` seconds of wall time, and when it is interrupted.

    asked: see `asked_for`. run_s: seconds of wall time in the runs before this one. started: see `RunFacts`.
    """

    def __init__(
        self,
        path: Path,
        every_s: float,
        asked: Mapping[str, Any],
        pipeline: Pipeline,
        outputs: Outputs,
        started: str,
        run_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._every_s = every_s
        self._asked = asked
        self._pipeline = pipeline
        self._outputs = outputs
        self._started = started
        self._clock = clock
        self._start_s = clock() - run_s
        self._saved_s: float | None = None

    def between_frames(self, last: bool) -> None:
        """Save if it is time; for `Pipeline.frames`. Raises WriteError."""
        now_s = self._clock()
        if not last and self._saved_s is not None and now_s - self._saved_s < self._every_s:
            return
        _save(self.path, self._asked, self._pipeline, self._started, self._outputs, now_s - self._start_s)
        self._saved_s = self._clock()

    def finish(self) -> None:
        """The run came to its end: nothing is left to resume."""
        _remove(self.path)


def open_run(
    options: TrackOptions, pipeline: Pipeline, stack: ExitStack, saved: State | None
) -> tuple[Outputs, Checkpoints | None]:
    """The results of a run, opened, and its checkpoints; None where it cannot be resumed.

    saved: the run to resume, see `saved_run`; call `replay` then. Raises ConfigError, ResumeError and OutputError.
    """
    path, obstacle = checkpoint_path(options), _obstacle(options, pipeline.source)
    if options.resume and obstacle:
        raise ConfigError(obstacle)
    if path is None or obstacle:
        if path is not None:
            _remove(path)  # of a run whose results are replaced
        return open_outputs(options, pipeline, stack, options.overwrite), None
    asked = asked_for(options, pipeline)
    if saved is not None:
        check_same(path, saved["asked"], asked)
        with _complete(path):
            pipeline.restore(saved["pipeline"])
            outputs = _open(options, pipeline, stack, path, saved)
        return outputs, Checkpoints(
            path, options.checkpoint_every_s, asked, pipeline, outputs, saved["started"], run_s=saved["run_s"]
        )  # fmt: skip
    started = utc_now()
    with suppress(WriteError):  # opening the results fails, too, or the next checkpoint
        _save(
            path, asked, pipeline, started
        )  # before any result exists: a run killed while it begins can be resumed, too
    try:
        outputs = _open(options, pipeline, stack, path, started=started)
    except TrackletError:
        _remove(path)
        raise
    return outputs, Checkpoints(path, options.checkpoint_every_s, asked, pipeline, outputs, started)


def replay(options: TrackOptions, pipeline: Pipeline, outputs: Outputs, saved: State) -> None:
    """Make those results again that could not be continued, up to where the interrupted run was.

    Raises ResumeError where the source does not give the recorded frames again.
    """
    again = [(result, sink) for result, sink in outputs.sinks if str(result) not in saved["outputs"]]
    assert outputs.record is not None
    source = pipeline.source
    recorded = outputs.record.read(source.width, source.height)
    with ExitStack() as stack:
        if any(result.option.pictures != "none" for result, _ in again):
            recorded = _with_pictures(recorded, stack.enter_context(Prefetch(reopened(options))), source.name)
        for frame, tracks in recorded:
            check()
            for sink in (outputs.tally, *(sink for _, sink in again)):
                sink.write(frame, tracks)


def reopened(options: TrackOptions) -> FrameSource:
    """The source once more, from its first frame."""
    return open_source(
        options.source, fps=options.fps, default_fps=options.config.default_fps, span=options.span
    )  # fmt: skip


def _with_pictures(
    recorded: Iterator[tuple[Frame, Tracks]], frames: Iterable[Frame], name: str
) -> Iterator[tuple[Frame, Tracks]]:
    """The recorded frames as the source gives them again. Raises ResumeError where it does not."""
    shown = iter(frames)
    for frame, tracks in recorded:
        again = next((each for each in shown if each.index == frame.index), None)
        if again is None:
            raise ResumeError(f"{name}: does not give frame {frame.index + 1} again, so the run cannot be resumed")
        yield again, tracks


def _open(
    options: TrackOptions,
    pipeline: Pipeline,
    stack: ExitStack,
    path: Path,
    saved: State | None = None,
    started: str | None = None,
) -> Outputs:
    """The outputs with their record of tracks. saved: the checkpoint of the run to resume; None: begin at `started`."""
    if saved is None:
        record = stack.enter_context(TrackRecord(_record_path(path)))
        return open_outputs(options, pipeline, stack, options.overwrite, record=record, started=started)
    record = stack.enter_context(TrackRecord(_record_path(path), saved["record"] or None))
    return open_outputs(
        options, pipeline, stack, overwrite=True, saved=saved["outputs"], record=record, write_s=saved["write_s"],
        started=saved["started"],
    )  # fmt: skip


def _obstacle(options: TrackOptions, source: FrameSource) -> str | None:
    """Why the run could not be resumed; None if it can be."""
    if source.live:
        return f"--resume needs a checkpoint, but {source.name} is live: what it showed is gone"
    if source.read_once:
        return f"--resume needs a checkpoint, but {source.name} is a pipe: what came out of it is gone"
    if options.checkpoint_every_s == 0:
        return "--resume needs a checkpoint, but --checkpoint-every 0 keeps none"
    if options.two_passes:
        return "--resume cannot continue --smooth and --fill-gaps"
    if options.blur is not None:
        return "--resume cannot continue --blur"
    for result in options.results:
        elsewhere = result.value is not None and result.file is None  # standard output, a server
        if elsewhere or not result.option.resumes or (result.file is not None and _is_device(result.file)):
            return f"--resume cannot continue {result}; leave one of them out"
    return None


def _save(
    path: Path,
    asked: Mapping[str, Any],
    pipeline: Pipeline,
    started: str,
    outputs: Outputs | None = None,
    run_s: float = 0.0,
) -> None:
    """outputs: None before any is open."""
    record = None if outputs is None or outputs.record is None else outputs.record.state()
    state = {
        "asked": asked,
        "pipeline": pipeline.state(),
        "outputs": {} if outputs is None else outputs.states(),
        "record": record or {},
        "write_s": 0.0 if outputs is None else outputs.write_s,
        "run_s": run_s,
        "started": started,
    }
    checkpoint.save(path, state)


def _remove(path: Path) -> None:
    """Remove a checkpoint and what belongs to it."""
    checkpoint.remove(path)
    with suppress(OSError):
        _record_path(path).unlink(missing_ok=True)


def _record_path(path: Path) -> Path:
    return Path(f"{path}{RECORD_SUFFIX}")


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Raise ResumeError where a state lacks parts, or holds others, behind a right checksum: made by hand."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ResumeError(
            f"{path}: is no checkpoint of this run ({type(error).__name__}: {error}); --overwrite starts again"
        ) from error


def _exists(result: Path) -> bool:
    """Whether a run wrote this result, or something else is in its place; an empty folder is not in the way."""
    return os.path.exists(result) and not (result.is_dir() and not any(result.iterdir()))


def _is_device(result: Path) -> bool:
    """A device or a pipe, which cannot be read again or truncated."""
    return os.path.exists(result) and not (os.path.isfile(result) or os.path.isdir(result))


def _identity(path: Path) -> str:
    """Name and content of a file."""
    return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" if path.is_file() else str(path)


def _short(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
