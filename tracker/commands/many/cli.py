"""`track-many VIDEOS --out FOLDER`: track many videos; failed ones are retried, finished ones skipped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tracker import __version__
from tracker.commands.many.plan import DONE, FAILED, Entry, Record, Video, find_videos, plan
from tracker.commands.many.run import LocalWorkers, RayWorkers, Workers
from tracker.errors import ConfigError, OutputError
from tracker.runtime.signals import check, command, leave

EPILOG = """examples:
  track-many videos/ --out results
  track-many videos/ more/video.mp4 --out results --jobs 4 -- --reid accurate --set lifecycle.lost_s=5
  track-many /shared/videos --out /shared/results --ray auto

What follows -- goes to `track` for every video; `track --help` lists it.
"""
# Options of `track` that belong to a single video.
RESERVED = ("--out", "-o", "--output", "--video", "--show", "--serve", "--overwrite", "--source", "--print-config")


@dataclass(frozen=True, slots=True)
class ManyOptions:
    """The options of the command; see `build_parser`."""

    videos: Sequence[str]
    out: Path
    ending: str  # of the results, with its dot
    recursive: bool
    jobs: int | None  # None: one for two cores
    threads: int | None  # None: each video's share of the cores
    retries: int
    redo: bool
    ray: str | None  # address of the cluster; None: this machine
    dry_run: bool
    track: Sequence[str]  # options of `track`

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        for name, value, least in (("jobs", self.jobs, 1), ("threads", self.threads, 1), ("retries", self.retries, 0)):
            if value is not None and value < least:
                raise ConfigError(f"--{name} must be at least {least}, got {value}")
        for option in self.track:
            if option.split("=")[0] in RESERVED:
                raise ConfigError(f"{option} cannot be given for every video; track-many names the results itself")
            if option.split("=")[0] == "--people" and (self.jobs != 1 or self.ray is not None):
                raise ConfigError("--people is for one video after the other: add --jobs 1")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 0, 1 where a video failed, 2 for a mistake of the user, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    words = "interrupted; the same command continues from here"
    status = command("track-many", lambda _: _run(_parse(arguments, options)), words)
    if argv is None:
        leave(status)
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-many",
        description="Track people through many videos, several at a time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument("videos", nargs="+", help="video files, MOT sequence folders, or folders that hold some")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="folder of the results")
    parser.add_argument("--format", default="txt", help="ending of the results, which is their format (default: txt)")
    parser.add_argument("--no-recursive", action="store_true", help="leave out folders inside of folders")
    parser.add_argument("--jobs", type=int, metavar="N", help="videos at a time (default: one for two cores)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores for each video (default: its share)")
    parser.add_argument(
        "--retries", type=int, default=1, metavar="N", help="new attempts at a failed video (default: 1)"
    )
    parser.add_argument("--redo", action="store_true", help="track finished videos again, too")
    parser.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="auto",
        help="run on a Ray cluster: its address, auto for the one around, local to start one here (pip install ray)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list what would be done, and end")
    return parser


def _parse(arguments: Sequence[str], track: Sequence[str]) -> ManyOptions:
    args = build_parser().parse_args(arguments)
    return ManyOptions(
        videos=args.videos, out=Path(args.out).expanduser(), ending="." + args.format.lstrip("."),
        recursive=not args.no_recursive, jobs=args.jobs, threads=args.threads, retries=args.retries, redo=args.redo,
        ray=args.ray, dry_run=args.dry_run, track=track,
    )  # fmt: skip


def _run(options: ManyOptions) -> int:
    videos = plan(find_videos(options.videos, options.recursive), options.out, options.ending)
    if options.dry_run:
        for video in videos:
            print(f"{video.source} -> {video.out}")
        return 0
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{options.out}: cannot be made: {error.strerror}") from error
    record = Record(options.out, options.track)
    todo = videos if options.redo else [video for video in videos if not record.is_done(video)]
    _check_not_foreign(todo, record, options.redo)
    n_skipped = len(videos) - len(todo)
    if n_skipped:
        print(f"track-many: {n_skipped} of {len(videos)} videos are finished already", file=sys.stderr)
    start = perf_counter()
    failed: list[tuple[Video, str]] = []
    if todo:
        jobs, threads = _shares(options, len(todo))
        with RayWorkers(options.ray, threads) if options.ray else LocalWorkers(jobs) as workers:
            failed = _track_all(workers, todo, record, ["--threads", str(threads), *options.track], options.retries)
    n_done = len(todo) - len(failed)
    print(
        f"track-many: {n_done} tracked, {n_skipped} finished before, {len(failed)} failed, "
        f"{perf_counter() - start:.1f} s",
        file=sys.stderr,
    )
    for video, why in failed:
        print(f"track-many: failed: {_named(video, why)}", file=sys.stderr)
    return 1 if failed else 0


def _track_all(
    workers: Workers, todo: Sequence[Video], record: Record, options: Sequence[str], retries: int
) -> list[tuple[Video, str]]:
    """Track all videos; returns those that failed in every attempt, each with its reason."""
    attempts: dict[Video, int] = dict.fromkeys(todo, 1)
    failed: list[tuple[Video, str]] = []
    for video in todo:
        workers.submit(video, options)
    n_ended = 0
    for video, outcome in workers.finished():
        check()
        if not outcome.good and attempts[video] <= retries:
            print(f"track-many: {_named(video, outcome.error)}; trying again", file=sys.stderr)
            attempts[video] += 1
            workers.submit(video, options)
            continue
        n_ended += 1
        status = DONE if outcome.good else FAILED
        record.put(video, Entry(status, record.asked(video), outcome.seconds, attempts[video], outcome.error))
        if outcome.good:
            video.log.unlink(missing_ok=True)
            print(f"track-many: {n_ended} of {len(todo)}: {video.out} ({outcome.seconds:.1f} s)", file=sys.stderr)
        else:
            failed.append((video, outcome.error))
    return failed


def _named(video: Video, why: str) -> str:
    """The reason behind the video's path, which most messages of `track` begin with already."""
    path = str(video.source)
    return why if why.startswith((f"{path}:", f"{path}{os.sep}")) else f"{path}: {why}"


def _check_not_foreign(todo: Sequence[Video], record: Record, redo: bool) -> None:
    """Raise OutputError for a result that this command did not make: it is never replaced unasked."""
    known = {(record.path.parent / key) for key in record.entries}
    for video in todo:
        if video.out.exists() and video.out not in known and not redo:
            raise OutputError(f"{video.out}: exists already, and not from here; --redo replaces it")


def _shares(options: ManyOptions, n_videos: int) -> tuple[int, int]:
    """(videos at a time, cores for each). Decoding and the tracker keep one core busy, the networks another."""
    from tracker.runtime.processes import n_cores

    jobs = min(options.jobs or max(1, n_cores() // (options.threads or 2)), n_videos)
    return jobs, options.threads or (2 if options.ray else max(1, n_cores() // jobs))


if __name__ == "__main__":
    raise SystemExit(main())
