"""Trains, exports and scores the person detector in the box. Needs the extras `train` and `imagenet`.

    python tools/train_detector.py arrange DATA --penn-fudan REPO ...            # public data sets as folders
    python tools/train_detector.py train --config person --data DATA --out RUN   # --resume goes on where it stopped
    python tools/train_detector.py export RUN --out person.onnx

A config is a TOML file; `person` comes with the tool (tools/person_detector/configs/). Every setting has its meaning
beside its default in tools/person_detector/config.py. Your own pictures are a source in it: COCO, YOLO, VOC, Penn-Fudan
and MOT16 labels are read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from reid_training.errors import ReidError


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        args.run(args)
    except ReidError as error:
        print(f"train_detector: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="train_detector", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--verbose", action="store_true", help="a line every fifty batches")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("train", help="train a detector, or go on with one")
    one.add_argument("--config", default="person", help="a TOML file, or the name of one that comes with the tool")
    one.add_argument("--data", type=Path, required=True, help="folder that the sources of the config lie in")
    one.add_argument("--out", type=Path, required=True, help="folder of the run")
    one.add_argument("--cache", type=Path, help="folder for decoded pictures (default: in the run's)")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own config")
    one.set_defaults(run=run_train)
    return top


def run_train(args: argparse.Namespace) -> None:
    from person_detector.config import read_toml
    from person_detector.train import train
    from reid_training.devices import keep_freed_memory

    keep_freed_memory()
    config = read_toml(str(args.out / "config.toml") if args.resume else args.config)
    train(config, args.data, args.out, cache=args.cache, resume=args.resume)


if __name__ == "__main__":
    sys.exit(main())
