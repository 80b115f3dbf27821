"""Options that both commands of the evaluation have, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.runtime.processes import n_cores


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", metavar="N", type=int, default=n_cores(), help=what)


def add_tracking(group: argparse._ArgumentGroup) -> None:
    """Where frames come from and how they are tracked, but for the detections."""
    group.add_argument(
        "--video", action="append", default=[], metavar="SEQUENCE=FILE", help="frames of a sequence without pictures"
    )
    group.add_argument(
        "--reid", metavar="ONNX", default="default", help="re-ID network: fast, accurate, a file; none: motion alone"
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    group.add_argument("--config", metavar="TOML", help="settings file")
    group.add_argument("--detect-every", type=int, metavar="N", help="use detections of every Nth frame alone")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the tracker")


def check_jobs(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")


def config_of(args: argparse.Namespace) -> TrackerConfig:
    """The defaults, changed by --config, then by --set, then by --detect-every."""
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    config = config.override(pairs(args.set, "--set takes NAME=VALUE"))
    return config if args.detect_every is None else config.override({"detection.every": args.detect_every})


def reid_of(args: argparse.Namespace) -> str | None:
    return None if args.reid == "none" else args.reid


def videos_of(args: argparse.Namespace, sequences: Sequence[Path]) -> dict[str, str]:
    """Sequence -> film; only for sequences that are there."""
    videos = pairs(args.video, "--video takes SEQUENCE=FILE")
    unknown = sorted(set(videos) - {sequence.name for sequence in sequences})
    if unknown:
        raise ConfigError(f"--video names {unknown[0]}; the sequences are: {', '.join(s.name for s in sequences)}")
    return videos


def pairs(texts: Sequence[str], rule: str) -> dict[str, str]:
    """`NAME=VALUE` of each text. Raises ConfigError with the rule."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{rule}, got {text!r}")
        found[name.strip()] = value.strip()
    return found
