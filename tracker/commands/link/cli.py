"""`track-link A.csv B.csv --out linked`: one identity per person over the results of several videos."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker import __version__
from tracker.errors import ConfigError, OutputError, WriteError
from tracker.runtime.signals import command, leave

if TYPE_CHECKING:
    from tracker.commands.link.inputs import Video
    from tracker.offline.linking import Linked

EPILOG = """examples:
  track door.mp4 --out door.csv --save-embeddings door.npy --crops door_crops
  track hall.mp4 --out hall.csv --save-embeddings hall.npy --crops hall_crops
  track-link door.csv hall.csv --crops door_crops hall_crops --out linked
  track-link door.csv hall.csv --cameras cameras.toml --corrections corrections.json --out linked --overwrite
"""
LINKS, PAGE = "links.csv", "review.html"
COLUMNS = (
    "identity", "table_a", "track_a", "table_b", "track_b", "distance", "log_odds", "margin", "linked", "doubtful",
    "by_hand",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    status = command("track-link", lambda _: _run(build_parser().parse_args(argv)))
    if argv is None:
        leave(status)
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-link",
        description="Give each person one identity over the results of several videos: by appearance, time, and the "
        "ways between cameras. Writes the tables with these identities, a table of the links, and a page to correct "
        "them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument("tables", nargs="+", metavar="TABLE.csv", help="results of `track --out FILE.csv`")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--embeddings", nargs="+", metavar="FILE.npy",
        help="of `track --save-embeddings`, one for each table (default: the tables' names with .npy)",
    )  # fmt: skip
    parser.add_argument("--reid", default="default", metavar="ONNX", help="the network that embedded (default: fast)")
    parser.add_argument("--cameras", metavar="TOML", help="which camera leads to which, and when videos begin")
    parser.add_argument(
        "--crops", nargs="+", metavar="DIR", help="of `track --crops`, one for each table: for the page"
    )
    parser.add_argument("--corrections", metavar="JSON", help="what was decided on the page of an earlier run")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    return parser


def _run(args: argparse.Namespace) -> int:
    from tracker.appearance.encoder import read_card
    from tracker.commands.link.inputs import (
        Corrections,
        read_cameras,
        read_corrections,
        read_crops,
        read_video,
        rows_of,
        tracklets_of,
    )  # fmt: skip
    from tracker.commands.link.review import review_page
    from tracker.offline.linking import link_tracks
    from tracker.runtime.onnx_session import open_session
    from tracker.runtime.weights import reid_file

    tables = [Path(name) for name in args.tables]
    embeddings = [table.with_suffix(".npy") for table in tables]
    if args.embeddings is not None:
        embeddings = [Path(name) for name in args.embeddings]
    for option, values in (("--embeddings", embeddings), ("--crops", args.crops)):
        if values is not None and len(values) != len(tables):
            raise ConfigError(f"{option} needs one for each table, got {len(values)} for {len(tables)} tables")
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two tables are called {twice}; rename one, for results and corrections go by the names")
    out = Path(args.out)
    _check_out(out, tables, args.overwrite)
    network = reid_file(args.reid)
    card = read_card(open_session(network, "cpu", 1).metadata, network)
    cameras = None if args.cameras is None else read_cameras(Path(args.cameras), names)
    videos = [read_video(*pair, card.embedding_size) for pair in zip(tables, embeddings, strict=True)]
    corrections = Corrections() if args.corrections is None else read_corrections(Path(args.corrections))
    tracks, ways = tracklets_of(videos, cameras)
    if len(tracks) == 0:
        raise ConfigError(f"there are no tracks in {', '.join(names)}")
    told = Path(args.corrections or "")
    same, different = (rows_of(each, videos, told) for each in (corrections.same, corrections.different))
    linked = link_tracks(tracks, card.calibration.tau_same, ways, same, different)
    crops = [{} if args.crops is None else read_crops(Path(folder)) for folder in args.crops or tables]
    files = {video.name: _linked_table(video, numbers) for video, numbers in _numbers(videos, linked)}
    files[LINKS] = _links_table(videos, linked)
    files[PAGE] = review_page(videos, tracks, linked, crops, corrections, cameras)
    _write(out, files)
    n_doubtful = sum(link.doubtful for link in linked.links)
    print(
        f"{len(tracks)} tracks of {len(tables)} videos are {int(linked.person.max()) + 1} people; "
        f"{n_doubtful} doubtful links: {out / PAGE}",
        file=sys.stderr,
    )
    return 0


def _check_out(out: Path, tables: Sequence[Path], overwrite: bool) -> None:
    """Raise OutputError where the results cannot be written, before anything is read."""
    if out.is_file():
        raise OutputError(f"{out}: is a file; --out takes a folder")
    for table in tables:
        if table.name in (LINKS, PAGE):
            raise ConfigError(f"{table}: is the name of a result of track-link; rename it")
        if (out / table.name).resolve() == table.resolve():
            raise ConfigError(f"--out {out} would replace an input: {table}")
    for name in [*(table.name for table in tables), LINKS, PAGE]:
        if (out / name).exists() and not overwrite:
            raise OutputError(f"{out / name}: exists already; pass --overwrite to replace it")


def _numbers(videos: Sequence[Video], linked: Linked) -> list[tuple[Video, dict[int, int]]]:
    """For each video, track -> identity, from 1."""
    found, start = [], 0
    for video in videos:
        persons = linked.person[start : start + len(video.id)] + 1
        found.append((video, dict(zip(video.id.tolist(), persons.tolist(), strict=True))))
        start += len(video.id)
    return found


def _linked_table(video: Video, numbers: dict[int, int]) -> str:
    """The table with identities in place of its tracks' numbers, which move to a last column, `track`."""
    with video.path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = [*(reader.fieldnames or ()), "track"]
        rows = [{**row, "id": numbers[int(float(row["id"]))], "track": row["id"]} for row in reader]
    rows.sort(key=lambda row: (int(float(row["frame"])), row["id"]))
    return _csv(columns, [[row[name] for name in columns] for row in rows])


def _links_table(videos: Sequence[Video], linked: Linked) -> str:
    """All links: those that were made, in that order, then possible ones."""
    every = [(video.name, identity) for video in videos for identity in video.id.tolist()]
    rows = []
    for link in linked.links:
        identity = int(linked.person[link.a]) + 1 if link.linked else ""
        numbers = [
            f"{value:.4f}" if abs(value) < float("inf") else "" for value in (link.dist, link.log_odds, link.margin)
        ]
        words = ["yes" if value else "no" for value in (link.linked, link.doubtful, link.by_hand)]
        rows.append([identity, *every[link.a], *every[link.b], *numbers, *words])
    return _csv(COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _write(out: Path, files: dict[str, str]) -> None:
    from tracker.runtime.whole_file import replace_file

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(out / name, text.encode())
            print(f"wrote {out / name}", file=sys.stderr)
    except OSError as error:
        raise WriteError(f"{out}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
