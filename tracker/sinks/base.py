"""What a sink of results offers, how it declares its option of `track`, and how an output file is claimed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np

from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.analytics.ground import GroundPlane
from tracker.errors import OutputError
from tracker.types import Frame, ImageArray, Source, State, Tracks

if TYPE_CHECKING:
    from tracker.sinks.counts import CountsSink

Overlay: TypeAlias = Callable[[ImageArray], None]  # draws on a picture (H, W, 3) uint8 BGR, in place
SOURCE_WORDS = {int(source): source.name.lower() for source in Source}  # 0: "detected", 1: "proposed", ...
STDOUT = "-"
COLUMNS: Mapping[str, type] = {
    "frame": int, "time_s": float, "id": int, "x1": float, "y1": float, "x2": float, "y2": float,
    "score": float, "class": int, "source": str, "class_name": str,
}  # of every table of boxes: CSV, SQLite, Parquet  # fmt: skip


GROUND_COLUMNS = ("gx", "gy")  # metres on the floor, with --ground


@runtime_checkable
class Sink(Protocol):
    """Takes the final tracks of every frame once, in order. Raises OutputError; what was written before stays."""

    def write(self, frame: Frame, tracks: Tracks) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class LiveFeed(Protocol):
    """Live-source statistics, for the window and the summary."""

    dropped: int  # frames that were never given out because newer ones had come
    losses: int  # how often the connection was lost
    lost: bool  # True while it is

    def age_s(self, time_s: float) -> float:
        """Seconds since the frame with this `Frame.time_s` came."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A sink whose file can be truncated to an earlier frame and continued after an interruption, even SIGKILL.

    `state()` is asked for between frames. A new sink gets it as the argument `resume` of its constructor and continues
    after that frame. All that it counts on is on disk when `state()` returns; if the file has changed since, opening
    it raises ResumeError. None: the file cannot be continued (a pipe). Sinks that are not resumable are made again,
    from the record of all tracks.
    """

    def state(self) -> State | None: ...


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


@dataclass(frozen=True)
class RunFacts:
    """What a sink may need to know of the run before its first frame."""

    name: str  # of the source
    width: int  # pixels
    height: int
    fps: float  # frames per second that come, as best known
    live: bool = False
    feed: LiveFeed | None = None  # of a live source
    class_names: Mapping[int, str] = field(default_factory=dict)
    lines: Sequence[LineCounter] = ()
    zones: Sequence[ZoneCounter] = ()
    counts: CountsSink | None = None  # what feeds them, fed before the sink that gets this
    ground: GroundPlane | None = None
    gone_s: float = 3.0  # a track without a row for longer does not come back
    overlay: Overlay | None = None  # drawn on pictures after the tracks
    overwrite: bool = False
    resume: State | None = None  # what the sink's `state()` gave in an interrupted run; None: begin
    resumed: bool = False  # the run was interrupted and goes on; a sink without `resume` is made again
    place: str = ""  # the file or folder of the source, in full; its name where it has none, as a camera
    started: str = field(default_factory=lambda: utc_now())  # when the run began; a resumed one keeps it
    settings: str = "{}"  # JSON: what the run was asked for


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


@dataclass(frozen=True)
class SinkOption:
    """The option of `track` that asks for a sink. It stands in the sink's file and is listed in `registry.SINKS`."""

    flags: tuple[str, ...]
    metavar: str
    help: str
    open: Callable[[str | None, RunFacts], Sink]  # gets the option's value; raises ConfigError, OutputError
    check: Callable[[str], object] = str  # of the value, before anything is opened; raises OutputError
    check_free: Callable[[Path, bool], None] = check_output_path  # (file, overwrite): raises OutputError
    group: Literal["results", "counting"] = "results"  # of the options in --help
    repeats: bool = False  # may be given several times
    takes_stdout: bool = False  # "-" is standard output
    names_file: Callable[[str], bool] = lambda value: True  # whether this value names a file or folder to write
    pictures: Literal["none", "used", "required"] = "none"  # of the source
    embeddings: bool = False  # tracks must carry them
    resumes: bool = True  # False: a run with it keeps no checkpoint
    first: bool = False  # fed before the sinks that draw what it counts

    @property
    def name(self) -> str:
        """As messages call it: the first long one of the flags."""
        return next(flag for flag in self.flags if flag.startswith("--"))


def class_name(class_id: int, names: Mapping[int, str]) -> str:
    """What results call a class. names: of the detector's classes, as far as it knows them."""
    return names.get(class_id, "person" if class_id == 0 else f"class {class_id}")


def utc_now() -> str:
    """2026-11-30 21:15:02.123456, which SQL compares and converts as a time."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


class PlainRow(NamedTuple):
    """One box, rounded as the text formats write it. Pixels count from 0 at the left and top edge of the picture."""

    id: int
    xyxy: list[float]  # hundredths of a pixel
    score: float  # four digits
    class_id: int
    source: str  # a word of SOURCE_WORDS
    ground: list[float] | list[None]  # x, y in metres, three digits; None where the floor is not known


def plain_rows(tracks: Tracks, ground: GroundPlane | None = None) -> Iterator[PlainRow]:
    """The rows of one frame, ids ascending. ground: the floor on which people stand, if it is known."""
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    boxes = (np.round(tracks.xyxy, 2) + 0.0).tolist()
    scores = (np.round(tracks.score, 4) + 0.0).tolist()
    metres = None if ground is None else (np.round(ground.of_feet(tracks.xyxy), 3) + 0.0).tolist()
    for row in np.argsort(tracks.id, kind="stable").tolist():
        word = SOURCE_WORDS[int(tracks.source[row])]
        place = [None, None] if metres is None or math.isnan(metres[row][0]) else metres[row]
        yield PlainRow(int(tracks.id[row]), boxes[row], scores[row], int(tracks.class_id[row]), word, place)


def table_rows(
    frame: Frame, tracks: Tracks, class_names: Mapping[int, str], ground: GroundPlane | None
) -> list[tuple[int | float | str | None, ...]]:
    """The rows of one frame with the values of COLUMNS and GROUND_COLUMNS."""
    number, time_s = frame.index + 1, round(frame.time_s, 6)
    return [
        (
            number,
            time_s,
            row.id,
            *row.xyxy,
            row.score,
            row.class_id,
            row.source,
            class_name(row.class_id, class_names),
            *row.ground,
        )
        for row in plain_rows(tracks, ground)
    ]
