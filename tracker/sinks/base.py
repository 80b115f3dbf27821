"""What every sink of results offers, and how an output file is claimed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self, TypeAlias, runtime_checkable

from tracker.errors import OutputError
from tracker.types import Frame, ImageArray, State, Tracks

Overlay: TypeAlias = Callable[[ImageArray], None]  # draws on a picture (H, W, 3) uint8 BGR, in place


@runtime_checkable
class Sink(Protocol):
    """Takes the final tracks of every frame once, in order. Raises OutputError; what was written before stays."""

    def write(self, frame: Frame, tracks: Tracks) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class LiveFeed(Protocol):
    """What a live source tells of itself, for the window and the summary."""

    dropped: int  # frames that came and were never given out, for newer ones were there
    losses: int  # how often the connection was lost
    lost: bool  # True while it is

    def age_s(self, time_s: float) -> float:
        """Seconds since the frame with this `Frame.time_s` came."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A sink with which a run can go on after an interruption, even one without warning (SIGKILL, a power cut).

    `state()` is asked for between frames, when all frames given out are written. It returns what a new sink needs so
    that the results end up as if nothing had happened, or None where that cannot be (a pipe). The new sink gets it as
    the argument `resume` of its constructor, or by `restore(state)` if it has no file. What the sink wrote after that
    moment is undone then, for those frames come again. When `state()` returns, what it builds on is on disk; a file
    that is not as it was then is a ResumeError. `frame_file.FrameFile` does all of it for a file that grows.

    A sink takes part by `Outputs.add`; a run with another one keeps no checkpoint, and `--resume` names that sink.
    """

    def state(self) -> State | None: ...


@runtime_checkable
class KeepsFiles(Protocol):
    """A `Resumable` that keeps files, beside its result, only to go on with after an interruption."""

    def noted(self) -> None:
        """What `state()` gave last is in a checkpoint: what only earlier ones need may go."""
        ...

    def forget(self) -> None:
        """Nobody will go on with this run, or need what it keeps: take it away."""
        ...


class ClosedByWith:
    """The context manager that every sink has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.close()
        except OutputError:
            # The first error is the one to show.
            if exc[0] is None:
                raise

    def close(self) -> None:
        """Nothing to release unless a subclass says so."""


def check_output_path(path: Path, overwrite: bool) -> None:
    """Raise OutputError if `path` cannot become an output file; devices and pipes are always fine."""
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give the name of a file in it")
        if path.is_file() and not overwrite:
            raise OutputError(f"{path}: exists already; pass --overwrite to replace it")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
