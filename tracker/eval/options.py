"""Options that `track-eval` and `track-eval tune` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker.config import VERIFY, TrackerConfig
from tracker.errors import ConfigError
from tracker.eval.sequences import find_sequences
from tracker.runtime.onnx_session import DEVICES
from tracker.runtime.processes import n_cores


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which sequences are tracked, and how, except for their detections."""

    sequences: list[Path]
    videos: dict[str, str]  # sequence -> video file, for sequences without images
    config: TrackerConfig
    reid: str | None  # None: motion only
    device: str
    n_jobs: int

    @staticmethod
    def of(args: argparse.Namespace) -> RunOptions:
        """Raises ConfigError and MotFileError."""
        if args.jobs < 1:
            raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
        config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
        config = config.override(dict(pairs(args.set, "--set takes NAME=VALUE")))
        if args.detect_every is not None:
            config = config.override({"detection.every": args.detect_every})
        if args.verify is not None:
            config = config.override({"proposals.verify": args.verify})
        sequences = find_sequences(args.paths)
        videos = pairs(args.video, "--video takes SEQUENCE=FILE")
        unknown = sorted(set(videos) - {sequence.name for sequence in sequences})
        if unknown:
            raise ConfigError(f"--video names {unknown[0]}; the sequences are: {', '.join(s.name for s in sequences)}")
        reid = None if args.reid == "none" else args.reid
        return RunOptions(sequences, videos, config, reid, args.device, args.jobs)


def add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a MOT sequence folder, or a folder of them")


def add_jobs(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--jobs", metavar="N", type=int, default=n_cores(), help=text)


def add_tracking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--video", action="append", default=[], metavar="SEQUENCE=FILE", help="video of a sequence without images"
    )
    group.add_argument(
        "--reid",
        metavar="ONNX",
        default="default",
        help="re-ID network: fast (default), accurate, a file; none: motion only",
    )
    group.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where networks run; auto: cuda if it loads, else cpu; openvino: the CPU, with that package",
    )
    group.add_argument("--config", metavar="TOML", help="settings file")
    group.add_argument("--detect-every", type=int, metavar="N", help="use only the detections of every Nth frame")
    group.add_argument("--verify", choices=VERIFY, help="what confirms people, as `track --verify`")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the tracker")


def pairs(texts: Sequence[str], rule: str) -> dict[str, str]:
    """`NAME=VALUE` of each text. Raises ConfigError with the rule."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{rule}, got {text!r}")
        found[name.strip()] = value.strip()
    return found
