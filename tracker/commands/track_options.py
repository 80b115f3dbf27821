"""The options of `track`: parser, checks, and the typed `TrackOptions` that all else gets."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tracker import __version__
from tracker.analytics.ground import Pair, parse_ground
from tracker.analytics.regions import Region, parse_regions
from tracker.classes import PEOPLE
from tracker.commands.each_source import options_of_each
from tracker.config import VERIFY, TrackerConfig
from tracker.errors import ConfigError
from tracker.runtime.onnx_session import DEVICES
from tracker.settings import shown
from tracker.sinks.blur import PARTS
from tracker.sinks.counts import COUNTS
from tracker.sinks.live_page import parse_address
from tracker.sinks.registry import Result, add_sink_options, check_results, results_of
from tracker.sinks.top_view import TOP_VIEW
from tracker.sources.span import Span
from tracker.sources.webcam import is_live_spec

MAX_THREADS = 1024
NOTHING_ASKED = "no result was asked for: give --out tracks.txt, --video tracked.mp4 or --show"
_CLASS_NUMBER = re.compile(r"[0-9]{1,9}")
# Options that change results and are no settings; a run can only be resumed with the same ones.
_COMPARED = (
    "fps", "start", "end", "stride", "line", "zone", "ground", "classes", "detector_size", "layout", "threads",
    "people",
)  # fmt: skip
EPILOG = """examples:
  track video.mp4 --out tracks.txt --video tracked.mp4
  track video.mp4 --out tracks.csv --out tracks.json --crops crops
  track MOT16/train/MOT16-09 --detections public --out MOT16-09.txt
  track webcam
  track rtsp://camera/stream --out tracks.txt --serve 8000
  track rtsp://door/stream rtsp://yard/stream --out results --video results/{source}.mp4
  track video.mp4 --detector yolox_nano.onnx --classes person --out tracks.txt
"""


@dataclass(frozen=True)
class TrackOptions:
    """What the user asked for, checked as far as that needs no file."""

    sources: tuple[str, ...]  # none only with print_config
    span: Span
    config: TrackerConfig
    fps: float | None
    reconnect_s: float | None
    detections: str | None
    detector: str | None
    detector_size: int | None
    layout: str
    classes: tuple[str | int, ...]
    reid: str | None  # None: motion alone
    people: str | None
    device: str
    threads: int | None
    lines: list[Region]
    zones: list[Region]
    ground: tuple[Pair, ...] | None  # see `parse_ground`
    results: tuple[Result, ...]
    blur: str | None  # what is hidden in all pictures, one of PARTS
    show: bool
    headless: bool
    serve: str | None  # where to serve the live page
    overwrite: bool
    resume: bool
    checkpoint_every_s: float  # 0: never
    quiet: bool
    profile: bool
    smooth: bool
    fill_gaps_s: float | None
    print_config: bool
    compared: Mapping[str, Any]  # options as given, by name, that must be the same to resume a run

    @property
    def source(self) -> str:
        """The only source."""
        (source,) = self.sources
        return source

    @property
    def two_passes(self) -> bool:
        """Whether results can only be written when all of the source is tracked."""
        return self.smooth or self.fill_gaps_s is not None

    @property
    def uses_pictures(self) -> bool:
        """Whether any result shows pictures of the source."""
        return any(result.option.pictures != "none" for result in self.results)


def parse_options(argv: Sequence[str] | None = None, parser: argparse.ArgumentParser | None = None) -> TrackOptions:
    """The options of a command line. Raises ConfigError and OutputError; argparse ends the process as it does.

    parser: that of `build_parser`, to use it several times.
    """
    parser = parser or build_parser()
    args, more = parser.parse_known_args(argv)  # more: sources behind options
    if any(word.startswith("-") for word in more):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    sources = (*args.source, *more)
    if args.source_option is not None:
        if sources:
            raise ConfigError(f"two sources: {sources[0]} and {args.source_option}; --source is for a single one")
        sources = (args.source_option,)
    config = _config_of(args)
    if not sources and not args.print_config:
        parser.error("a source is missing: a video file, a folder of images, a MOT sequence, a webcam or a URL")
    lines, zones = parse_regions(args.line, args.zone)
    results = results_of(args)
    if (lines or zones) and args.counts is None:
        results += (Result(COUNTS, None),)
    options = TrackOptions(
        sources=sources,
        span=Span.parse(args.start, args.end, args.stride),
        config=config,
        fps=args.fps,
        reconnect_s=args.reconnect,
        detections=args.detections,
        detector=args.detector,
        detector_size=args.detector_size,
        layout=args.layout,
        classes=_classes_of(args.classes),
        reid=None if args.reid.lower() == "none" else args.reid,
        people=args.people,
        device=args.device,
        threads=args.threads,
        lines=lines,
        zones=zones,
        ground=None if args.ground is None else parse_ground(args.ground),
        results=results,
        blur=args.blur,
        show=args.show,
        headless=args.headless,
        serve=args.serve,
        overwrite=args.overwrite,
        resume=args.resume,
        checkpoint_every_s=args.checkpoint_every,
        quiet=args.quiet,
        profile=args.profile,
        smooth=args.smooth,
        fill_gaps_s=args.fill_gaps,
        print_config=args.print_config,
        compared={f"--{name.replace('_', '-')}": getattr(args, name) for name in _COMPARED},
    )
    if not options.print_config:
        each = [options] if len(sources) == 1 else options_of_each(options)
        for one in each:
            _check(one)
        inputs = (*sources, args.detections, args.detector, args.reid, args.config, args.people)
        check_results([result for one in each for result in one.results], [name for name in inputs if name])
    return options


def _check(options: TrackOptions) -> None:
    """Raise ConfigError for combinations that cannot be meant."""
    if options.people is not None:
        if options.reid is None:
            raise ConfigError("--people knows people by their appearance, and --reid none looks at none: leave one out")
        if Path(options.people).suffix.lower() != ".npz":
            raise ConfigError(f"--people takes a file that ends in .npz, got {options.people}")
    if options.layout != "auto" and options.detector is None:
        raise ConfigError("--layout is of the output of a detector's file: it goes with --detector")
    if options.show and options.headless:
        raise ConfigError("--show asks for a window and --headless for none; give one of them")
    may_open_window = options.show or (is_live_spec(options.source) and not options.headless)
    if options.serve is not None:
        parse_address(options.serve)
    if not (options.results or may_open_window or options.serve):
        raise ConfigError(NOTHING_ASKED)
    if options.blur is not None:
        _check_blur(options, may_open_window)
    if any(result.option is COUNTS for result in options.results) and not (options.lines or options.zones):
        raise ConfigError("--counts needs something to count: give --line x1,y1,x2,y2 or --zone x1,y1,x2,y2,x3,y3")
    if any(result.option is TOP_VIEW for result in options.results) and options.ground is None:
        raise ConfigError("--top-view needs the floor in metres: give --ground X,Y=X_M,Y_M for four points")
    fill_gaps_s = options.fill_gaps_s
    if fill_gaps_s is not None and not (math.isfinite(fill_gaps_s) and fill_gaps_s > 0):
        raise ConfigError(f"--fill-gaps must be a number of seconds above 0, got {fill_gaps_s:g}")
    if (options.show or options.serve) and options.two_passes:
        view = "--show" if options.show else "--serve"
        raise ConfigError(f"{view} needs frames as they come, --smooth and --fill-gaps all of them: leave one out")
    if options.resume and options.two_passes:
        raise ConfigError(
            "--resume continues results, --smooth and --fill-gaps write them after the end: leave one out"
        )
    if options.threads is not None and not 1 <= options.threads <= MAX_THREADS:
        raise ConfigError(f"--threads must be at least 1 and at most {MAX_THREADS}, got {options.threads}")
    if not options.checkpoint_every_s >= 0:  # also rejects NaN
        raise ConfigError(f"--checkpoint-every takes seconds, 0 or more, got {options.checkpoint_every_s:g}")
    if options.resume and options.overwrite:
        raise ConfigError("--resume continues the results that are there, --overwrite replaces them: give one only")


def _check_blur(options: TrackOptions, may_open_window: bool) -> None:
    """Raise ConfigError where nothing would be hidden, although that was asked for."""
    if not (options.uses_pictures or may_open_window or options.serve):
        raise ConfigError("--blur hides people in pictures, and none was asked for: give --video, --crops or --show")
    names = {word.lower() for word in options.classes if isinstance(word, str)}
    if len(names) == len(options.classes) and not names & (PEOPLE | {"all"}):
        raise ConfigError(f"--blur hides people, and --classes {','.join(sorted(names))} finds none; add person")
    if options.resume:
        raise ConfigError("--resume makes pictures again from finished tracks, --blur needs more: leave one out")


# What `--help` shows; `--help-all` shows the rest, too.
COMMON = {
    "source", "help_all", "out", "video", "crops", "blur", "show", "overwrite", "resume", "line", "zone", "counts",
    "detections", "detector", "classes", "reid", "people", "device", "set",
}  # fmt: skip


class _CommonHelp(argparse.Action):
    """Prints the options of COMMON, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        parser.usage = "track SOURCE ... [options]"
        for group in parser._action_groups:
            for action in group._group_actions:
                action.help = action.help if action.dest in COMMON else argparse.SUPPRESS
            if all(action.help == argparse.SUPPRESS for action in group._group_actions):
                group.description = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """All options; the words follow what users of other trackers know where they mean the same."""
    parser = argparse.ArgumentParser(
        prog="track",
        description="Track people through a video; identities come from a learned appearance metric.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", nargs=0, action=_CommonHelp, help="the usual options, and end")
    parser.add_argument("--help-all", action="help", help="all options, and end")
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument(
        "source",
        nargs="*",
        help="video file, folder or glob of images, MOT sequence folder, webcam number or 'webcam', /dev/video0, "
        "/dev/stdin, rtsp:// or http://; or several",
    )
    parser.add_argument("--source", dest="source_option", metavar="SOURCE", help="a single source, by name")
    parser.add_argument("--fps", type=float, help="frame rate to take instead of the source's own")
    parser.add_argument(
        "--reconnect", type=float, metavar="SECONDS",
        help="how long a lost camera or stream is tried again; 0: not at all, inf: for ever (default: 60)",
    )  # fmt: skip
    _add_span(parser)
    _add_results(parser)
    _add_counting(parser)
    _add_afterwards(parser)
    _add_people(parser)
    _add_appearance(parser)
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where networks run; auto: cuda if it loads, else cpu; openvino: the CPU, with that package",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="cores to use at most (default: all)")
    parser.add_argument("--config", metavar="TOML", help="settings file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, such as lifecycle.lost_s=5"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as TOML and end")
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("results")
    add_sink_options(out, "results")
    out.add_argument("--blur", choices=PARTS, metavar="PART", help="hide people or heads in all pictures")
    out.add_argument("--show", action="store_true", help="live window, h: its keys; cameras and streams open it")
    out.add_argument(
        "--serve", metavar="[HOST:]PORT",
        help="live page for a browser, on this machine alone unless a HOST is given, as in 0.0.0.0:8000 (docs/live.md)",
    )  # fmt: skip
    out.add_argument("--headless", action="store_true", help="no window, even where there is a display")
    out.add_argument("--overwrite", action="store_true", help="replace result files that exist")
    out.add_argument("--resume", action="store_true", help="continue an interrupted run, by the same command")
    out.add_argument(
        "--checkpoint-every", type=float, default=10.0, metavar="SECONDS",
        help="how often to save a checkpoint, FILE.resume beside the first result (default: 10; 0: never)",
    )  # fmt: skip
    out.add_argument("--quiet", action="store_true", help="no progress and no summary")
    out.add_argument("--profile", action="store_true", help="the summary says where the time went")


def _add_people(parser: argparse.ArgumentParser) -> None:
    people = parser.add_argument_group("where boxes come from")
    people.add_argument(
        "--detections", metavar="FILE", help="replay a MOT detection file; 'public': the det/det.txt of a MOT sequence"
    )
    people.add_argument(
        "--detector", "--model", metavar="ONNX",
        help="network to run: person, the bundled one (default), or a file: YOLO, RT-DETR, RF-DETR, RTMDet, SSD",
    )  # fmt: skip
    people.add_argument(
        "--classes",
        default="person",
        help="classes to keep, names or numbers, comma-separated, or all (default: person)",
    )
    people.add_argument(
        "--detector-size", type=int, metavar="PX",
        help="long side of the detector's input, if its file leaves it open (default: by the size of the frames)",
    )  # fmt: skip
    people.add_argument(
        "--layout", metavar="NAME", default="auto",
        help="layout of the detector's outputs, where its file does not tell: yolox, yolov5, yolo, end2end, ..., and "
        "behind a colon what picture it expects, as in mmdeploy:bgr,255 (docs/detectors.md)",
    )  # fmt: skip
    people.add_argument(
        "--detect-every", metavar="N",
        help="run the detector at every Nth frame; between them tracks are predicted. auto (default): at every "
        "frame of a file; of a live source as often as keeps pace with it",
    )  # fmt: skip
    people.add_argument(
        "--conf",
        type=float,
        metavar="SCORE",
        help="score from which a detection counts as strong: it is matched first, and may create a track",
    )


def _add_appearance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("appearance, and its three uses")
    group.add_argument(
        "--reid",
        metavar="ONNX",
        default="default",
        help="re-ID network: fast (default), accurate, a file; none: motion alone",
    )
    group.add_argument("--people", metavar="FILE.npz", help="people of earlier runs keep their numbers; updated")
    group.add_argument("--no-veto", action="store_true", help="A off: motion alone associates, as in SORT")
    group.add_argument("--no-reassociate", action="store_true", help="B off: no re-identification after occlusion")
    group.add_argument(
        "--verify",
        choices=VERIFY,
        help="what confirms people: detector (default), which verifies boxes of a file and, with appearance, proposes "
        "people where detection failed (C); appearance alone; off: nothing is verified or proposed",
    )


def _add_counting(parser: argparse.ArgumentParser) -> None:
    count = parser.add_argument_group(
        "counting", "points in pixels of the source, or shares of its width and height if all lie in 0..1"
    )
    count.add_argument(
        "--line", action="append", default=[], metavar="[NAME=]X1,Y1,X2,Y2",
        help="count people who cross this line: in from its left to its right side, seen from X1,Y1; may be repeated",
    )  # fmt: skip
    count.add_argument(
        "--zone", action="append", default=[], metavar="[NAME=]X1,Y1,X2,Y2,X3,Y3,...",
        help="count people who enter and leave this polygon, and how long they stay; may be repeated",
    )  # fmt: skip
    add_sink_options(count, "counting")
    count.add_argument(
        "--ground", nargs="+", metavar="X,Y=X_M,Y_M",
        help="four or more points of the floor in pixels and in metres: tables get gx, gy, where each person stands",
    )  # fmt: skip


def _add_afterwards(parser: argparse.ArgumentParser) -> None:
    after = parser.add_argument_group("after the end of a file", "results are then written when all of it is tracked")
    after.add_argument("--smooth", action="store_true", help="smooth every track, using later frames too")
    after.add_argument(
        "--fill-gaps",
        type=float,
        metavar="SECONDS",
        help="fill gaps of at most SECONDS in a track, by interpolation",
    )


def _add_span(parser: argparse.ArgumentParser) -> None:
    part = parser.add_argument_group("part of a file; the results keep its frame numbers and times")
    part.add_argument("--start", metavar="PLACE", help="first frame, by number from 1 (250) or time (12.5s, 1:30)")
    part.add_argument("--end", metavar="PLACE", help="last frame by number, or the time before which to end")
    part.add_argument(
        "--stride", metavar="STEP", help="process every Nth frame (2) or one frame every T seconds (0.5s)"
    )


def _classes_of(text: str) -> tuple[str | int, ...]:
    """Names and numbers of the classes to keep."""
    words = [word.strip() for word in text.split(",")]
    return tuple(int(word) if _CLASS_NUMBER.fullmatch(word) else word for word in words)


def _every_of(text: str) -> int | None:
    """The setting `detection.every` that --detect-every asks for."""
    if text != "auto" and not re.fullmatch(r"[-+]?[0-9]{1,9}", text):
        raise ConfigError(f"--detect-every must be auto or a number of frames from 1 to 100, got {shown(text)}")
    return None if text == "auto" else int(text)


def _config_of(args: argparse.Namespace) -> TrackerConfig:
    """File, then --set, then the named options. What --conf implies for low scores gives way to --set."""
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    settings: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, got {text!r}")
        settings[name.strip()] = value.strip()
    if args.conf is not None:
        settings["detection.strong_score"] = args.conf
        settings.setdefault("detection.weak_score", min(args.conf, config.detection.weak_score))
    if args.detect_every is not None:
        settings["detection.every"] = _every_of(args.detect_every)
    if args.no_veto:
        settings["association.veto"] = False
    if args.no_reassociate:
        settings["association.reassociate"] = False
    if args.verify is not None:
        settings["proposals.verify"] = args.verify
    return config.override(settings)
