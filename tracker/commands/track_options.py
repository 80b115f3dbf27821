"""The options of `track`, and the settings that they change."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tracker import __version__
from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.sources.span import Span

_CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
EPILOG = """examples:
  track video.mp4 --out tracks.txt
  track video.mp4 --out tracks.txt --video tracked.mp4
  track video.mp4 --out tracks.csv --out tracks.json --crops crops
  track MOT16/train/MOT16-09 --detections public --out MOT16-09.txt
  track webcam
  track rtsp://camera/stream --out tracks.txt --video tracked.mp4
  track video.mp4 --detector yolox_nano.onnx --classes person --out tracks.txt
"""


def build_parser() -> argparse.ArgumentParser:
    """All options; the words follow what users of other trackers know where they mean the same."""
    parser = argparse.ArgumentParser(
        prog="track",
        description="Track people through a video; identities come from a learned appearance metric.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument(
        "source",
        nargs="?",
        help="video file, folder or glob of images, MOT sequence folder, webcam number or 'webcam', rtsp:// or http://",
    )
    parser.add_argument("--source", dest="source_option", metavar="SOURCE", help="the same, by name")
    parser.add_argument("--fps", type=float, help="frame rate to take instead of the source's own")
    parser.add_argument(
        "--reconnect", type=float, metavar="SECONDS",
        help="how long a lost camera or stream is tried again; 0: not at all, inf: for ever (default: 60)",
    )  # fmt: skip
    add_span(parser)
    _add_results(parser)
    _add_counting(parser)
    _add_afterwards(parser)
    _add_people(parser)
    _add_appearance(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    parser.add_argument("--threads", type=int, metavar="N", help="cores to use at most (default: all)")
    parser.add_argument("--config", metavar="TOML", help="settings file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, such as lifecycle.lost_s=5"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as TOML and end")
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("results")
    out.add_argument(
        "-o", "--out", "--output", metavar="FILE", action="append", default=[],
        help="tracks, by ending: .txt MOT, .csv, .jsonl, .json COCO; '-' is standard output; may be repeated",
    )  # fmt: skip
    out.add_argument("--video", metavar="FILE", help="annotated video (.mp4, .avi)")
    out.add_argument("--crops", metavar="DIR", help="the best few crops of every identity, with a table")
    out.add_argument(
        "--save-embeddings", metavar="FILE", help="the embedding of every output row, as a NumPy array (.npy)"
    )
    out.add_argument(
        "--show", action="store_true", help="live window, h for its keys; cameras and streams open it anyway"
    )
    out.add_argument("--headless", action="store_true", help="no window, even where there is a display")
    out.add_argument("--overwrite", action="store_true", help="replace result files that exist")
    out.add_argument("--resume", action="store_true", help="go on where an interrupted run with these results stopped")
    out.add_argument(
        "--checkpoint-every", type=float, default=10.0, metavar="SECONDS",
        help="how often to note where the run is, in FILE.resume beside the first result (default: 10; 0: never)",
    )  # fmt: skip
    out.add_argument("--quiet", action="store_true", help="no progress and no summary")


def _add_people(parser: argparse.ArgumentParser) -> None:
    people = parser.add_argument_group("where boxes come from")
    people.add_argument(
        "--detections", metavar="FILE", help="replay a MOT detection file; 'public': the det/det.txt of a MOT sequence"
    )
    people.add_argument(
        "--detector", "--model", metavar="ONNX",
        help="network to run: person, the one in the box (default), or a file, YOLOX- or YOLO-style",
    )  # fmt: skip
    people.add_argument("--classes", default="person", help="classes to keep, names or numbers (default: person)")
    people.add_argument(
        "--detector-size", type=int, metavar="PX",
        help="long side of the detector's input, if its file leaves it open (default: by the size of the frames)",
    )  # fmt: skip
    people.add_argument(
        "--detect-every", type=int, metavar="N",
        help="run the detector at every Nth frame; between them tracks live on proposals and predictions (default: 1)",
    )  # fmt: skip
    people.add_argument("--conf", type=float, metavar="SCORE", help="score from which a detection starts a track")


def _add_appearance(parser: argparse.ArgumentParser) -> None:
    who = parser.add_argument_group("appearance, and its three uses")
    who.add_argument(
        "--reid", metavar="ONNX", default="default", help="re-ID network: fast, accurate, a file; none: motion alone"
    )
    who.add_argument("--appearance-weight", type=float, metavar="W", help="share of appearance in the cost, 0 to 1")
    who.add_argument("--no-veto", action="store_true", help="A off: appearance does not cancel identity switches")
    who.add_argument("--no-reassociate", action="store_true", help="B off: no finding again after occlusion")
    who.add_argument("--no-proposals", action="store_true", help="C off: no looking again where detection failed")


def _add_counting(parser: argparse.ArgumentParser) -> None:
    count = parser.add_argument_group(
        "counting", "points in pixels of the source, or shares of its width and height if all lie in 0..1"
    )
    count.add_argument(
        "--line", action="append", default=[], metavar="[NAME=]X1,Y1,X2,Y2",
        help="count who crosses this line: in from its left hand to its right hand, seen from X1,Y1; may be repeated",
    )  # fmt: skip
    count.add_argument(
        "--zone", action="append", default=[], metavar="[NAME=]X1,Y1,X2,Y2,X3,Y3,...",
        help="count who enters and leaves this polygon, and how long they stay; may be repeated",
    )  # fmt: skip
    count.add_argument("--counts", metavar="FILE.csv", help="table of the events of lines and zones; '-': stdout")
    count.add_argument("--heatmap", metavar="FILE.png", help="picture of where people stood, and for how long")


def _add_afterwards(parser: argparse.ArgumentParser) -> None:
    after = parser.add_argument_group("after the end of a file", "results are then written when all of it is tracked")
    after.add_argument("--smooth", action="store_true", help="smooth every track, knowing what came later")
    after.add_argument(
        "--fill-gaps",
        type=float,
        metavar="SECONDS",
        help="interpolate where a track is missing for so long at most",
    )


def add_span(parser: argparse.ArgumentParser) -> None:
    """The options that choose a part of a file; `span_of` reads them."""
    part = parser.add_argument_group("part of a file; the results keep its frame numbers and times")
    part.add_argument("--start", metavar="PLACE", help="first frame, by number from 1 (250) or time (12.5s, 1:30)")
    part.add_argument("--end", metavar="PLACE", help="last frame by number, or the time before which to end")
    part.add_argument("--stride", metavar="STEP", help="every how many frames (2), or how often (0.5s)")


def span_of(args: argparse.Namespace) -> Span:
    return Span.parse(args.start, args.end, args.stride)


def classes_of(args: argparse.Namespace) -> tuple[str | int, ...]:
    """Names and numbers of the classes to keep."""
    words = [word.strip() for word in args.classes.split(",")]
    return tuple(int(word) if _CLASS_NUMBER.fullmatch(word) else word for word in words)


def config_of(args: argparse.Namespace) -> TrackerConfig:
    """File, then --set, then the named options."""
    if args.source is None:
        args.source = args.source_option
    elif args.source_option is not None:
        raise ConfigError(f"two sources: {args.source} and {args.source_option}")
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    settings: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, got {text!r}")
        settings[name.strip()] = value.strip()
    if args.conf is not None:
        settings["detection.strong_score"] = args.conf
        settings["detection.weak_score"] = min(args.conf, config.detection.weak_score)
    if args.detect_every is not None:
        settings["detection.every"] = args.detect_every
    if args.appearance_weight is not None:
        settings["association.appearance_weight"] = args.appearance_weight
    if args.no_veto:
        settings["association.veto"] = False
    if args.no_reassociate:
        settings["association.reassociate"] = False
    if args.no_proposals:
        settings["proposals.enabled"] = False
    return config.override(settings)
