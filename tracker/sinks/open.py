"""`--out FILE`: the ending of the name chooses the format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tracker.errors import OutputError
from tracker.sinks.base import RunFacts, Sink, SinkOption
from tracker.sinks.coco import CocoVideoSink
from tracker.sinks.csv import CsvSink
from tracker.sinks.frame_file import FrameFileSink
from tracker.sinks.jsonl import JsonLinesSink
from tracker.sinks.mot_txt import MotTextSink
from tracker.types import State

FORMATS = {".txt": "MOT text", ".csv": "a table", ".jsonl": "JSON lines", ".json": "COCO for videos"}
_APPENDED: dict[str, type[FrameFileSink]] = {".txt": MotTextSink, ".jsonl": JsonLinesSink}


def format_of(path: str | Path) -> str:
    """The ending, a key of FORMATS. Raises OutputError for another one.

    "-" (standard output) and names without an ending, such as /dev/stdout, are MOT text.
    """
    ending = Path(path).suffix.lower() or ".txt"
    if ending not in FORMATS:
        known = ", ".join(f"{known} ({what})" for known, what in FORMATS.items())
        raise OutputError(f"{path}: no results are written as {ending}; there are {known}")
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

    name, class_names (by class number): of the video and its classes, for COCO and CSV, which name them. resume: what
    the sink's `state()` gave in an interrupted run; COCO has none. Raises OutputError.

    >>> with open_sink("/dev/null") as out:
    ...     out.write(Frame(0, 0.0, None, 640, 480), Tracks())
    """
    ending = format_of(path)
    if ending == ".json":
        return CocoVideoSink(path, overwrite, name=name, class_names=class_names)
    if ending == ".csv":
        return CsvSink(path, overwrite, resume, class_names=class_names)
    return _APPENDED[ending](path, overwrite, resume)


def _open(path: str | None, run: RunFacts) -> Sink:
    assert path is not None
    return open_sink(path, run.overwrite, name=run.name, class_names=run.class_names, resume=run.resume)


OUT = SinkOption(
    flags=("-o", "--out", "--output"),
    metavar="FILE",
    help="tracks, by ending: .txt MOT, .csv, .jsonl, .json COCO; '-' is standard output; may be repeated",
    check=format_of,
    open=_open,
    repeats=True,
    takes_stdout=True,
)
