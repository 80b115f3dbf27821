"""`track-many VIDEOS --out FOLDER`: one video is one task; failed ones are retried and named, finished ones skipped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tracker.commands.many.plan import DONE, FAILED, Entry, Record, Video, find_videos, plan
from tracker.commands.many.run import Local, Ray, Workers
from tracker.errors import ConfigError, OutputError
from tracker.runtime.signals import check, command

EPILOG = """examples:
  track-many videos/ --out results
  track-many videos/ more/film.mp4 --out results --jobs 4 -- --reid accurate --set lifecycle.lost_s=5
  track-many /shared/videos --out /shared/results --ray auto

What follows -- goes to `track` for every video; `track --help` lists it.
"""
# Of `track`: what belongs to one video, not to a folder of them.
OURS = ("--out", "-o", "--output", "--video", "--show", "--overwrite", "--source", "--print-config")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 0, 1 where a video failed, 2 for a mistake of the user, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    words = "interrupted; the same command goes on from here"
    return command("track-many", lambda _: _run(build_parser().parse_args(arguments), options), words)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-many",
        description="Track people through many videos, several at a time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", help="video files, MOT sequence folders, or folders that hold some")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="folder of the results")
    parser.add_argument("--format", default="txt", help="ending of the results, which is their format (default: txt)")
    parser.add_argument("--no-recursive", action="store_true", help="leave folders inside of folders out")
    parser.add_argument("--jobs", type=int, metavar="N", help="videos at a time (default: one for two cores)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores for each video (default: its share)")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="new attempts at a failed video (1)")
    parser.add_argument("--redo", action="store_true", help="track finished videos again, too")
    parser.add_argument(
        "--ray", metavar="ADDRESS", nargs="?", const="auto",
        help="run on a Ray cluster: its address, auto for the one around, local to start one here (extra: ray)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list what would be done, and end")
    return parser


def _run(args: argparse.Namespace, options: list[str]) -> int:
    _check(args, options)
    folder = Path(args.out).expanduser()
    videos = plan(find_videos(args.videos, not args.no_recursive), folder, "." + args.format.lstrip("."))
    if args.dry_run:
        for video in videos:
            print(f"{video.source} -> {video.out}")
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    record = Record(folder, options)
    todo = videos if args.redo else [video for video in videos if not record.is_done(video)]
    _refuse_foreign(todo, record, args.redo)
    n_skipped = len(videos) - len(todo)
    if n_skipped:
        print(f"track-many: {n_skipped} of {len(videos)} videos are finished already", file=sys.stderr)
    start = perf_counter()
    failed: list[tuple[Video, str]] = []
    if todo:
        with _workers(args, len(todo)) as workers:
            failed = _track_all(workers, todo, record, _options(args, options, len(todo)), args.retries)
    n_done = len(todo) - len(failed)
    print(
        f"track-many: {n_done} tracked, {n_skipped} finished before, {len(failed)} failed, "
        f"{perf_counter() - start:.1f} s",
        file=sys.stderr,
    )
    for video, why in failed:
        print(f"track-many: failed: {video.source}: {why}", file=sys.stderr)
    return 1 if failed else 0


def _track_all(
    workers: Workers, todo: Sequence[Video], record: Record, options: Sequence[str], retries: int
) -> list[tuple[Video, str]]:
    """Runs everything; returns the videos that failed for good, each with its reason."""
    attempts: dict[Video, int] = dict.fromkeys(todo, 1)
    failed: list[tuple[Video, str]] = []
    for video in todo:
        workers.submit(video, options)
    n_ended = 0
    for video, outcome in workers.finished():
        check()
        if not outcome.good and attempts[video] <= retries:
            print(f"track-many: {video.source}: {outcome.error}; once more", file=sys.stderr)
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


def _check(args: argparse.Namespace, options: Sequence[str]) -> None:
    for name, least in (("jobs", 1), ("threads", 1), ("retries", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be at least {least}, got {value}")
    for option in options:
        if option.split("=")[0] in OURS:
            raise ConfigError(f"{option} cannot be given for every video; track-many names the results itself")


def _refuse_foreign(todo: Sequence[Video], record: Record, redo: bool) -> None:
    """A result that this command did not make is never replaced unasked."""
    known = {(record.path.parent / key) for key in record.entries}
    for video in todo:
        if video.out.exists() and video.out not in known and not redo:
            raise OutputError(f"{video.out}: exists already, and not from here; --redo replaces it")


def _jobs(args: argparse.Namespace, n_videos: int) -> int:
    from tracker.runtime.processes import n_cores

    # Decoding and the tracker itself keep one core busy, the networks another.
    jobs = args.jobs or max(1, n_cores() // (args.threads or 2))
    return int(min(jobs, n_videos))


def _threads(args: argparse.Namespace, n_videos: int) -> int:
    from tracker.runtime.processes import n_cores

    if args.threads is not None:
        return int(args.threads)
    return 2 if args.ray else max(1, n_cores() // _jobs(args, n_videos))


def _workers(args: argparse.Namespace, n_videos: int) -> Workers:
    if args.ray:
        return Ray(args.ray, _threads(args, n_videos))
    return Local(_jobs(args, n_videos))


def _options(args: argparse.Namespace, options: Sequence[str], n_videos: int) -> list[str]:
    """For `track`; its summary goes into the log."""
    return ["--threads", str(_threads(args, n_videos)), *options]


if __name__ == "__main__":
    raise SystemExit(main())
