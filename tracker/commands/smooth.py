"""`track-smooth tracks.txt --fps 25 --out smooth.txt`: refine a finished result file of any tracker."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
    status = command("track-smooth", lambda _: _smooth(parse_options(argv)))
    if argv is None:
        leave(status)
    return status


@dataclass(frozen=True)
class SmoothOptions:
    """What the user asked for, checked."""

    results: str
    out: str
    source: str | None  # either this or fps
    fps: float | None
    fill_gaps_s: float | None
    smooth: bool
    overwrite: bool


def parse_options(argv: Sequence[str] | None) -> SmoothOptions:
    """Raises ConfigError; argparse ends the process as it does."""
    args = build_parser().parse_args(argv)
    options = SmoothOptions(
        results=args.results,
        out=args.out,
        source=args.source,
        fps=args.fps,
        fill_gaps_s=args.fill_gaps,
        smooth=not args.no_smooth,
        overwrite=args.overwrite,
    )
    _check(options)
    return options


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
        "--fill-gaps", type=float, metavar="SECONDS", help="fill gaps of at most SECONDS in a track, by interpolation"
    )
    parser.add_argument("--no-smooth", action="store_true", help="fill gaps alone, with straight lines")
    parser.add_argument("--overwrite", action="store_true", help="replace a result file that exists")
    return parser


def _smooth(options: SmoothOptions) -> int:
    from tracker.eval.mot_files import read_tracks
    from tracker.offline.smoothing import refine_tracks
    from tracker.sinks.mot_txt import MotTextSink
    from tracker.types import Frame

    tracks = read_tracks(options.results)
    times = _times(options, tracks)
    refined = refine_tracks(tracks, times, smooth=options.smooth, fill_gaps_s=options.fill_gaps_s or 0.0)
    with MotTextSink(options.out, options.overwrite) as sink:
        for index, (time_s, frame_tracks) in enumerate(zip(times, refined, strict=True)):
            check()
            sink.write(Frame(index, time_s, None, 0, 0), frame_tracks)
    if options.out != "-":
        n_before, n_after = sum(map(len, tracks)), sum(map(len, refined))
        print(f"wrote {options.out}: {n_after} boxes, {n_after - n_before} of them interpolated", file=sys.stderr)
    return 0


def _check(options: SmoothOptions) -> None:
    if options.fps is not None and not (math.isfinite(options.fps) and options.fps > 0):
        raise ConfigError(f"--fps must be a positive number, got {options.fps:g}")
    if options.fill_gaps_s is not None and not (math.isfinite(options.fill_gaps_s) and options.fill_gaps_s > 0):
        raise ConfigError(f"--fill-gaps must be a number of seconds above 0, got {options.fill_gaps_s:g}")
    if not options.smooth and options.fill_gaps_s is None:
        raise ConfigError("nothing to do: --no-smooth without --fill-gaps SECONDS")
    if options.out != "-" and Path(options.out).resolve() == Path(options.results).resolve():
        raise ConfigError(f"--out would replace an input: {options.out}")


def _times(options: SmoothOptions, tracks: Sequence[Tracks]) -> list[float]:
    """Seconds of every frame that has tracks or lies before one that has."""
    from tracker.sources.open import open_source

    if options.fps is not None:
        return [index / options.fps for index in range(len(tracks))]
    assert options.source is not None
    with open_source(options.source) as source:
        if source.live:
            raise ConfigError(f"--source must be the file that was tracked, {options.source} is a live source")
        times = [frame.time_s for _, frame in zip(tracks, source, strict=False)]
    if len(times) < len(tracks):
        raise ConfigError(
            f"{options.results}: has a box in frame {len(tracks)}, but {options.source} ends after frame {len(times)}; "
            "do they belong together?"
        )
    return times


if __name__ == "__main__":
    raise SystemExit(main())
