"""`track-smooth tracks.txt --fps 25 --out smooth.txt`: refine a finished result file of any tracker."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker import __version__
from tracker.errors import ConfigError
from tracker.runtime.signals import check, command, leave

if TYPE_CHECKING:
    from tracker.types import Tracks

EPILOG = """examples:
  track-smooth tracks.txt --source video.mp4 --out smooth.txt
  track-smooth tracks.txt --fps 25 --fill-gaps 1 --out smooth.txt
  track-smooth tracks.txt --fps 25 --fill-gaps 1 --no-smooth --out filled.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    status = command("track-smooth", lambda _: _run(build_parser().parse_args(argv)))
    if argv is None:
        leave(status)
    return status


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="track-smooth",
        description="Smooth the tracks of a finished MOT text file, and fill their gaps.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument("results", metavar="TRACKS.txt", help="MOT text file, of `track` or any other tracker")
    parser.add_argument("-o", "--out", "--output", required=True, metavar="FILE", help="MOT text file; '-' is stdout")
    times = parser.add_mutually_exclusive_group(required=True)
    times.add_argument("--source", help="the video, folder of images or MOT sequence: for the times of its frames")
    times.add_argument("--fps", type=float, help="frames per second, where they come evenly")
    parser.add_argument(
        "--fill-gaps", type=float, metavar="SECONDS", help="interpolate where a track is missing for so long at most"
    )
    parser.add_argument("--no-smooth", action="store_true", help="fill gaps alone, with straight lines")
    parser.add_argument("--overwrite", action="store_true", help="replace a result file that exists")
    return parser


def _run(args: argparse.Namespace) -> int:
    from tracker.eval.mot_files import read_tracks
    from tracker.offline.smoothing import refine_tracks
    from tracker.sinks.mot_txt import MotTextSink
    from tracker.types import Frame

    _check(args)
    tracks = read_tracks(args.results)
    times = _times(args, tracks)
    refined = refine_tracks(tracks, times, smooth=not args.no_smooth, fill_gaps_s=args.fill_gaps or 0.0)
    with MotTextSink(args.out, args.overwrite) as sink:
        for index, (time_s, frame_tracks) in enumerate(zip(times, refined, strict=True)):
            check()
            sink.write(Frame(index, time_s, None, 0, 0), frame_tracks)
    if args.out != "-":
        n_before, n_after = sum(map(len, tracks)), sum(map(len, refined))
        print(f"wrote {args.out}: {n_after} boxes, {n_after - n_before} of them interpolated", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.fps is not None and not (math.isfinite(args.fps) and args.fps > 0):
        raise ConfigError(f"--fps must be a positive number, got {args.fps:g}")
    if args.fill_gaps is not None and not (math.isfinite(args.fill_gaps) and args.fill_gaps > 0):
        raise ConfigError(f"--fill-gaps must be a number of seconds above 0, got {args.fill_gaps:g}")
    if args.no_smooth and args.fill_gaps is None:
        raise ConfigError("nothing to do: --no-smooth without --fill-gaps SECONDS")
    if args.out != "-" and Path(args.out).resolve() == Path(args.results).resolve():
        raise ConfigError(f"--out would replace an input: {args.out}")


def _times(args: argparse.Namespace, tracks: Sequence[Tracks]) -> list[float]:
    """Seconds of every frame that has tracks or lies before one that has."""
    from tracker.sources.open import open_source

    if args.source is None:
        return [index / args.fps for index in range(len(tracks))]
    with open_source(args.source) as source:
        if source.live:
            raise ConfigError(f"--source must be the file that was tracked, {args.source} is a live source")
        times = [frame.time_s for _, frame in zip(tracks, source, strict=False)]
    if len(times) < len(tracks):
        raise ConfigError(
            f"{args.results}: has a box in frame {len(tracks)}, but {args.source} ends after frame {len(times)}; "
            "do they belong together?"
        )
    return times


if __name__ == "__main__":
    raise SystemExit(main())
