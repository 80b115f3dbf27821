"""`--out FILE`: the ending of the name chooses the format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tracker.errors import OutputError
from tracker.sinks.base import RunFacts, Sink, SinkOption, check_output_path
from tracker.sinks.coco import CocoVideoSink
from tracker.sinks.csv import CsvSink
from tracker.sinks.jsonl import JsonLinesSink
from tracker.sinks.mot_txt import MotTextSink
from tracker.sinks.parquet import ParquetSink, check_pyarrow
from tracker.sinks.sqlite import SqliteSink, check_database
from tracker.types import State

FORMATS = {
    ".txt": "MOT text", ".csv": "a table", ".jsonl": "JSON lines", ".json": "COCO for videos",
    ".db": "SQLite", ".parquet": "Parquet",
}  # fmt: skip


def format_of(path: str | Path) -> str:
    """The ending, a key of FORMATS. Raises OutputError for another one, and where a format lacks its package.

    "-" (standard output) and names without an ending, such as /dev/stdout, are MOT text.
    """
    ending = Path(path).suffix.lower() or ".txt"
    if ending not in FORMATS:
        known = ", ".join(f"{known} ({what})" for known, what in FORMATS.items())
        raise OutputError(f"{path}: no results are written as {ending}; there are {known}")
    if ending == ".parquet":
        check_pyarrow(path)
    return ending


def open_sink(
    path: str | Path,
    overwrite: bool = False,
    *,
    name: str = "video",
    class_names: Mapping[int, str] | None = None,
    resume: State | None = None,
) -> Sink:
    """A sink that writes tracks to a file of the format that its ending names; use it in a `with`.

    name, class_names (by class number): of the video and its classes, for the formats that name them. resume: what
    the sink's `state()` gave in an interrupted run; COCO and Parquet have none. Raises OutputError.

    >>> with open_sink("/dev/null") as out:
    ...     out.write(Frame(0, 0.0, None, 640, 480), Tracks())
    """
    run = RunFacts(name, 0, 0, 0.0, class_names=class_names or {}, overwrite=overwrite, resume=resume)
    return _open(str(path), run)


def _open(path: str | None, run: RunFacts) -> Sink:
    assert path is not None
    ending = format_of(path)
    if ending == ".json":
        return CocoVideoSink(path, run.overwrite, name=run.name, class_names=run.class_names)
    if ending == ".csv":
        return CsvSink(path, run.overwrite, run.resume, class_names=run.class_names, ground=run.ground)
    if ending == ".db":
        return SqliteSink(path, run)
    if ending == ".parquet":
        return ParquetSink(path, run)
    if ending == ".jsonl":
        return JsonLinesSink(path, run.overwrite, run.resume, ground=run.ground)
    return MotTextSink(path, run.overwrite, run.resume)


def _check_free(path: Path, overwrite: bool) -> None:
    """A database takes several runs, so that one that exists is fine."""
    if format_of(path) == ".db":
        check_database(path)
    else:
        check_output_path(path, overwrite)


OUT = SinkOption(
    flags=("-o", "--out", "--output"),
    metavar="FILE",
    help="tracks, by ending: .txt, .csv, .jsonl, .json (COCO), .db, .parquet; '-' is stdout; may be repeated",
    check=format_of,
    check_free=_check_free,
    open=_open,
    repeats=True,
    takes_stdout=True,
)
