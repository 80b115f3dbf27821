"""`track-report tracks.csv --video video.mp4`: one HTML page about a result; reads the video once."""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tracker import __version__
from tracker.config import TrackerConfig
from tracker.errors import ConfigError, WriteError
from tracker.runtime.signals import command, leave
from tracker.runtime.whole_file import replace_file
from tracker.sinks.blur import PARTS

EPILOG = """examples:
  track video.mp4 --out tracks.csv && track-report tracks.csv --video video.mp4
  track-report tracks.txt --video video.mp4 --counts counts.csv --out page.html
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    status = command("track-report", lambda _: _run(build_parser().parse_args(argv)))
    if argv is None:
        leave(status)
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-report",
        description="One HTML page about a result of track: a timeline and a picture of each person, gaps, proposals.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument(
        "tracks", help="result of track: .csv, .jsonl, .db or .parquet, with the source of each box, or MOT text"
    )
    parser.add_argument("--video", metavar="SOURCE", help="the tracked video; without it the page has no pictures")
    parser.add_argument("-o", "--out", metavar="FILE", help="the page (default: the tracks' name with .html)")
    parser.add_argument("--counts", metavar="CSV", help="events of `track --counts FILE.csv`")
    parser.add_argument("--run", type=int, metavar="N", help="which run of a .db, where it has several")
    parser.add_argument(
        "--blur", choices=PARTS, help="hide people or heads in all pictures, where the tracks have them"
    )
    parser.add_argument("--fps", type=float, help="frame rate, if neither the tracks nor the video have times")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that exists")
    return parser


def _run(args: argparse.Namespace) -> int:
    out = write_report(**vars(args))
    print(f"wrote {out}", file=sys.stderr)
    return 0


def write_report(
    tracks: str | Path,
    *,
    video: str | None = None,
    out: str | Path | None = None,
    counts: str | Path | None = None,
    run: int | None = None,
    blur: str | None = None,
    fps: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page and return its path. The arguments are the options of the command. Raises TrackletError."""
    from tracker.commands.report import facts
    from tracker.commands.report.page import Contents, page
    from tracker.commands.report.pictures import Pictures, take_pictures, trails
    from tracker.commands.report.table import read_table
    from tracker.sinks.base import check_output_path

    if fps is not None and not 0 < fps < float("inf"):
        raise ConfigError(f"--fps must be a positive number, got {fps}")
    if blur is not None and blur not in PARTS:
        raise ConfigError(f"blur must be one of {', '.join(PARTS)}, got {blur!r}")
    tracks = Path(tracks)
    out = tracks.with_suffix(".html") if out is None else Path(out)
    check_output_path(out, overwrite)
    table = read_table(tracks, run)
    events = {} if counts is None else read_counts(counts)
    pictures = Pictures() if video is None else take_pictures(video, table, fps, blur)
    table = table.timed(fps or pictures.fps or TrackerConfig().default_fps)
    edges_s, most = facts.people_over_time(table)
    name = tracks.stem if video is None else Path(video).name or video
    origin = f"{tracks.name}" + ("" if video is None else f", video {video}")
    if pictures.size != (0, 0):
        origin += f", {pictures.size[0]}x{pictures.size[1]}, {pictures.fps:g} frames per second"
    contents = Contents(
        f"Tracks of {name}", origin, facts.people(table), table.has_sources, edges_s, most, pictures,
        {} if pictures.still is None else trails(table, pictures.size[0]), events,
    )  # fmt: skip
    _write(out, page(contents))
    return out


def read_counts(path: str | Path) -> dict[tuple[str, str, str], list[float]]:
    """Times in seconds, sorted, of the events of each (kind, name, direction) in a CSV of `track --counts`.

    Raises ConfigError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(text))  # names may contain characters that str.splitlines splits at
    times: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    try:
        missing = [name for name in ("time_s", "kind", "name", "direction") if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path}: the header lacks {', '.join(missing)}; is it a file of `track --counts`?")
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"{path}: line {reader.line_num} does not have as many fields as the header")
            times[row["kind"], row["name"], row["direction"]].append(_seconds(row["time_s"], path, reader.line_num))
    except csv.Error as error:
        raise ConfigError(f"{path}: line {reader.line_num} is malformed: {error}") from error
    return {key: sorted(times[key]) for key in sorted(times)}


def _seconds(text: str, path: str | Path, line: int) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ConfigError(f"{path}: line {line}: time_s must be a number of seconds, got {text!r}")
    return seconds


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    raise SystemExit(main())
