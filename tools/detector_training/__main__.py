"""Trains, exports and scores the bundled person detector. Needs the extra `train`.

    python -m tools.detector_training arrange DATA --penn-fudan REPO ...           # public data sets as folders
    python -m tools.detector_training label rtmdet_nano.onnx --data DATA --out DATA/teacher.csv    # optional
    python -m tools.detector_training train --data DATA --out RUN                  # --resume goes on where it stopped
    python -m tools.detector_training export RUN --data DATA --out person.onnx
    python -m tools.detector_training quantise person.onnx --pictures DATA/capston/images --out person_int8.onnx
    python -m tools.detector_training evaluate person.onnx@416 yolox_nano.onnx --test PETS09-S2L1=vtest.avi@1-300:3
        --test MOT16-09:7 --without-people DATA/without_people/test
    python -m tools.detector_training failures person.onnx --data DATA --out failures.jpg

A config is a TOML file; `person` comes with the tool (tools/detector_training/configs/) and is the default. Every
setting has its meaning beside its default in tools/detector_training/config.py. Your own pictures are a source in it:
COCO, YOLO, VOC, Penn-Fudan and MOT16 labels are read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.detector_training.config import SIZE_PX
from tracker.errors import TrackletError

REPOSITORIES = (
    "capston",
    "siwr_frames",
    "siwr_boxes",
    "penn_fudan",
    "coco128",
    "human_v2",
    "coco",
    "without_people",
    "clutter",
    "sample_videos",
)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.verbose:
        logging.getLogger("tools.detector_training").setLevel(logging.DEBUG)
    try:
        args.run(args)
    except TrackletError as error:
        print(f"detector_training: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tools.detector_training", description=(__doc__ or "").splitlines()[0])
    top.add_argument("--verbose", action="store_true", help="a line every fifty batches")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("arrange", help="lay out public data sets as folders")
    one.add_argument("out", type=Path, metavar="DATA")
    for name in REPOSITORIES:
        one.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="REPO", help="git directory")
    one.set_defaults(run=run_arrange)

    one = commands.add_parser("label", help="write down what another detector sees in the training pictures")
    one.add_argument("teacher", type=Path, metavar="FILE.onnx", help="RTMDet's layout: outputs dets and labels")
    one.add_argument("--config", default="person", help="as for train: names the sources")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument(
        "--sizes", type=int, nargs="+", default=[640, 320], metavar="PX", help="longer sides of its inputs"
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="teacher.file of the config names it")
    one.set_defaults(run=run_label)

    one = commands.add_parser("train", help="train a detector, or go on with one")
    one.add_argument("--config", default="person", help="a TOML file, or the name of one that comes with the tool")
    one.add_argument("--data", type=Path, required=True, help="folder that the sources of the config lie in")
    one.add_argument("--out", type=Path, required=True, help="folder of the run")
    one.add_argument("--cache", type=Path, help="folder for decoded pictures (default: in the run's)")
    one.add_argument("--start", type=Path, metavar="RUN", help="start from the averaged weights of another run")
    one.add_argument(
        "--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", dest="settings",
        help="change the config, e.g. schedule.epochs=900: a resumed run can be made longer, or end soon",
    )  # fmt: skip
    one.add_argument("--until", type=int, metavar="N", help="stop after N epochs of the schedule")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own config")
    one.set_defaults(run=run_train)

    one = commands.add_parser("pack", help="write a run's averaged weights as a small checkpoint to start from")
    one.add_argument("checkpoint", type=Path, metavar="RUN", help="run folder or checkpoint")
    one.add_argument("--out", type=Path, required=True, metavar="FILE.pt")
    one.set_defaults(run=run_pack)

    one = commands.add_parser("export", help="write a run's network as ONNX")
    one.add_argument("checkpoint", type=Path, metavar="RUN", help="run folder or checkpoint")
    one.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    one.add_argument("--data", type=Path, help="as for train: scores become probabilities, on pictures held out")
    one.add_argument(
        "--size", type=int, default=SIZE_PX, metavar="PX",
        help="longer side of the input, unless another is asked for (default: %(default)s)",
    )  # fmt: skip
    one.set_defaults(run=run_export)

    one = commands.add_parser("quantise", help="write the int8 variant of an exported file")
    one.add_argument("detector", type=Path, metavar="FILE.onnx")
    one.add_argument(
        "--pictures", type=Path, required=True, metavar="FOLDER", help="any street pictures set the scales"
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    one.set_defaults(run=run_quantise)

    one = commands.add_parser("evaluate", help="score detectors side by side")
    one.add_argument("detectors", nargs="+", metavar="FILE.onnx[@SIZE]", help="ours, or YOLOX- and YOLO-style ones")
    one.add_argument("--test", action="append", default=[], metavar="SEQUENCE[=VIDEO][@FIRST-LAST][:EVERY]")
    one.add_argument("--without-people", type=Path, metavar="FOLDER", help="pictures without people")
    one.add_argument(
        "--device", nargs="+", choices=("cpu", "openvino", "openvino-f32"), default=["cpu"],
        help="what runs each of them (default: cpu)",
    )  # fmt: skip
    one.add_argument("--csv", type=Path, metavar="FILE")
    one.set_defaults(run=run_evaluate)

    one = commands.add_parser("failures", help="draw the held-out pictures with the most mistakes")
    one.add_argument("detector", metavar="FILE.onnx[@SIZE]")
    one.add_argument("--config", default="person", help="the one trained with: says what was held out")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True, metavar="FILE.jpg")
    one.add_argument("--sources", nargs="+", metavar="NAME", help="of the config, whose pictures may be shown")
    one.add_argument("--score", type=float, default=0.3, help="boxes below it are not drawn (default %(default)s)")
    one.set_defaults(run=run_failures)
    return top


def run_arrange(args: argparse.Namespace) -> None:
    from tools.detector_training.arrange import arrange

    given = {name: getattr(args, name) for name in REPOSITORIES if getattr(args, name) is not None}
    for name, n in arrange(args.out, given).items():
        print(f"{name}: {n} pictures")


def run_label(args: argparse.Namespace) -> None:
    from tools.detector_training.config import read_toml
    from tools.detector_training.teacher import Teacher, label

    n_pictures = label(Teacher(args.teacher, args.sizes), read_toml(args.config).sources, args.data, args.out)
    print(f"{args.out}: {n_pictures} pictures")


def run_train(args: argparse.Namespace) -> None:
    from reid_training.devices import keep_freed_memory
    from tools.detector_training.config import override, read_toml
    from tools.detector_training.train import train

    keep_freed_memory()
    config = override(read_toml(str(args.out / "config.toml") if args.resume else args.config), args.settings)
    train(config, args.data, args.out, cache=args.cache, start=args.start, until=args.until, resume=args.resume)


def run_pack(args: argparse.Namespace) -> None:
    from tools.detector_training.runs import pack

    pack(args.checkpoint, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


def run_export(args: argparse.Namespace) -> None:
    from tools.detector_training.export import export

    properties = export(args.checkpoint, args.out, args.size, data=args.data)
    print(f"{args.out}: {properties['parameters']} parameters, {properties['trained_on']}")


def run_quantise(args: argparse.Namespace) -> None:
    from tools.detector_training.quantise import quantise

    n_pictures = quantise(args.detector, args.pictures, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes, scales from {n_pictures} pictures")


def run_evaluate(args: argparse.Namespace) -> None:
    from reid_training.errors import ConfigError
    from reid_training.runs import replace_file
    from tools.detector_training import evaluate

    if not args.test:
        raise ConfigError("evaluate needs at least one --test SEQUENCE")
    tests = [evaluate.open_test(text) for text in args.test]
    detectors = [evaluate.open_detector(text, device) for text in args.detectors for device in args.device]
    rows = evaluate.as_rows(evaluate.evaluate(detectors, tests, args.without_people))
    print(evaluate.to_markdown(rows), end="")
    if args.csv is not None:
        replace_file(args.csv, lambda stream: stream.write(evaluate.to_csv(rows).encode()))


def run_failures(args: argparse.Namespace) -> None:
    from reid_training.errors import ConfigError
    from tools.detector_training import evaluate, failures
    from tools.detector_training.config import read_toml

    sources, detector = read_toml(args.config).sources, evaluate.open_detector(args.detector)
    unknown = [name for name in args.sources or () if name not in sources]
    if unknown:
        raise ConfigError(f"no source {unknown[0]}; there are {', '.join(sources)}")
    chosen = {name: source for name, source in sources.items() if not args.sources or name in args.sources}
    shown = failures.write_sheet(detector, chosen, args.data, args.out, score=args.score)
    for kind, names in shown.items():
        print(f"{kind}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
