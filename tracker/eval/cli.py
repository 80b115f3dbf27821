"""`track-eval MOT_FOLDER_OR_SEQUENCE...`: track every sequence, or read result files, and score them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker import __version__
from tracker.errors import ConfigError
from tracker.eval.mot_files import MotFileError
from tracker.eval.options import RunOptions, add_jobs, add_paths, add_tracking
from tracker.runtime.signals import command, leave

EPILOG = """examples:
  track-eval MOT16/train                                     track with the public detections, score
  track-eval MOT16/train --detector yolox_nano.onnx --markdown scores.md
  track-eval MOT16/train --results theirs --csv scores.csv   score result files made by anything
  track-eval MOT16/train MOT16/test --submit MOT16.zip       the zip for the MOTChallenge server
  track-eval MOT16/train --ablation study                    what each part is worth: a table and a picture
  track-eval MOT16/train --ablation study --rules            the same for every single rule
  track-eval MOT16/train --replicas 6                        how far the scores scatter: mean and standard error
  track-eval tune MOT16/train --out preset.toml              search settings; `track-eval tune --help` says how
"""
TABLES = ("csv", "json", "markdown")  # options of these names take a file


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """A parsed command line."""

    run: RunOptions
    results: Path | None  # folder of result files to score; None: track
    ablation: Path | None  # folder of an ablation study
    rules: bool
    seeds: range | None  # of the replicas of each sequence; None: the sequences themselves
    out: Path | None  # folder that results are written to
    det: str  # detections inside each sequence folder
    detector: str | None
    detector_size: int | None
    layout: str
    classes: tuple[str, ...]
    tables: dict[str, Path]  # format -> file
    submit: Path | None
    overwrite: bool

    @property
    def folder(self) -> Path:
        """Of the result files, read or written."""
        return self.results or self.out or Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["tune"]:
        from tracker.eval import tune

        status = tune.main(arguments[1:])
    else:
        message = "interrupted; the results of what was finished are written"
        status = command("track-eval", lambda _: _run(parse(arguments)), message)
    if argv is None:
        leave(status)
    return status


def parse(argv: Sequence[str]) -> EvalOptions:
    """Raises ConfigError and MotFileError: a mistake must not show after an hour."""
    args = build_parser().parse_args(argv)
    tables = {name: getattr(args, name) for name in TABLES if getattr(args, name) is not None}
    if args.ablation is not None:
        for option in ("results", "out", "csv", "json", "markdown", "submit"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--ablation DIR writes all its files to DIR; it does not go with --{option}")
    elif args.rules:
        raise ConfigError("--rules goes with --ablation DIR")
    if args.replicas is not None:
        if args.replicas < 2:
            raise ConfigError(f"--replicas must be >= 2, which a standard error needs, got {args.replicas}")
        for option in ("results", "submit"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--replicas N tracks changed sequences; it does not go with --{option}")
        if (args.seed or 0) < 0:
            raise ConfigError(f"--seed must be >= 0, got {args.seed}")
    elif args.seed is not None:
        raise ConfigError("--seed goes with --replicas N")
    if args.results is not None and args.out is not None:
        raise ConfigError("give --results DIR to score result files, or --out DIR to track and score, not both")
    if args.results is None and args.detector_size is not None and args.detector is None:
        raise ConfigError("--detector-size goes with --detector")
    if args.layout != "auto" and args.detector is None:
        raise ConfigError("--layout goes with --detector")
    run = RunOptions.of(args)
    if args.results is not None and not args.results.is_dir():
        raise MotFileError(f"{args.results}: no such folder")
    return EvalOptions(
        run=run,
        results=args.results,
        ablation=args.ablation,
        rules=args.rules,
        seeds=None if args.replicas is None else range(args.seed or 0, (args.seed or 0) + args.replicas),
        out=args.out,
        det=args.det,
        detector=args.detector,
        detector_size=args.detector_size,
        layout=args.layout,
        classes=tuple(name.strip() for name in args.classes.split(",")),
        tables=tables,
        submit=args.submit,
        overwrite=args.overwrite,
    )


def _run(options: EvalOptions) -> int:
    from tracker.eval.evaluate import evaluate  # late: OpenCV and SciPy, for which --help need not wait

    return evaluate(options)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-eval",
        description="HOTA, MOTA, IDF1 and the rest for MOT sequences, as MOTChallenge computes them: of this tracker, "
        "which then runs on each sequence with its public detections, or of result files (--results).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    add_paths(parser)
    parser.add_argument("--results", metavar="DIR", type=Path, help="score DIR/<sequence>.txt; nothing is tracked")
    parser.add_argument(
        "--ablation",
        metavar="DIR",
        type=Path,
        help="track every sequence with parts of the tracker off, one row each; the table goes to DIR as "
        "ablation.csv and ablation.md, a picture as ablation.png",
    )
    parser.add_argument("--rules", action="store_true", help="with --ablation: switch off single rules, one row each")
    parser.add_argument(
        "--replicas",
        metavar="N",
        type=int,
        help="track each sequence N times with small random changes (boxes, start, mirror image, compression); the "
        "table has means and standard errors, with --ablation paired differences to the baseline",
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, help="of the first replica; the others have the numbers after it (default: 0)"
    )
    add_jobs(parser, "sequences at a time (default: one per core; for fair frames per second: 1)")

    run = parser.add_argument_group("tracking")
    run.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write results as DIR/<sequence>.txt, or DIR/<replica>/<sequence>.txt (default: results)",
    )
    people = run.add_mutually_exclusive_group()
    people.add_argument(
        "--det",
        metavar="FILE",
        default="det/det.txt",
        help="detections, inside each sequence folder (default: det/det.txt)",
    )
    people.add_argument(
        "--detector",
        metavar="ONNX",
        help="run a network instead: person, the built-in one, or a file, as `track --detector`",
    )
    run.add_argument(
        "--detector-size",
        type=int,
        metavar="PX",
        help="long side of the detector's input, if its file leaves it open (default: by the size of the frames)",
    )
    run.add_argument("--layout", metavar="NAME", default="auto", help="of the detector's output, as `track --layout`")
    run.add_argument(
        "--classes", default="person", help="classes to keep, names or numbers, comma-separated (default: person)"
    )
    add_tracking(run)

    files = parser.add_argument_group("files")
    files.add_argument("--csv", metavar="FILE", type=Path, help="the table, nothing rounded")
    files.add_argument("--json", metavar="FILE", type=Path, help="the same as a list of objects")
    files.add_argument("--markdown", metavar="FILE", type=Path, help="the table as it is printed, for a README")
    files.add_argument("--submit", metavar="ZIP", type=Path, help="all results as a zip for the MOTChallenge server")
    files.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


if __name__ == "__main__":
    sys.exit(main())
