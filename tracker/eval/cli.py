"""`track-eval MOT_FOLDER_OR_SEQUENCE...`: track every sequence, or read result files, and score them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker import __version__
from tracker.errors import ConfigError, OutputError
from tracker.eval import ablation, report, tune
from tracker.eval.mot_files import MotFileError
from tracker.eval.options import RunOptions, add_jobs, add_paths, add_tracking
from tracker.eval.replica_table import mean_rows
from tracker.eval.replicas import Replica
from tracker.eval.report import Row, TableRow
from tracker.eval.sequences import TRUTH
from tracker.eval.submission import write_submission
from tracker.eval.track_and_score import (
    Job,
    Outcome,
    Tracking,
    by_replica,
    combined,
    grouped,
    run_jobs,
    threads_of,
)
from tracker.runtime.processes import Failure
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
FORMATS: dict[str, Callable[[Sequence[TableRow]], str]] = {
    "csv": report.as_csv, "json": report.as_json, "markdown": report.as_markdown,
}  # fmt: skip


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
    tables = {name: getattr(args, name) for name in FORMATS if getattr(args, name) is not None}
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


def _run(options: EvalOptions) -> int:
    jobs = _jobs(options)
    if options.ablation is not None:
        return _ablate(options, options.ablation, jobs)
    _check_outputs(options, jobs)
    outcomes, failed = run_jobs(jobs, options.run.n_jobs)
    failures = [(jobs[index].name, failure) for index, failure in failed.items()]
    _print_failures(failures)
    without_truth = dict.fromkeys(one.row.name for one in outcomes.values() if one.row.clear is None)
    if without_truth:
        print(f"track-eval: no ground truth, so not scored: {', '.join(without_truth)}", file=sys.stderr)
    if outcomes:
        tables = [_table(outcomes, indices) for indices in by_replica(jobs)]
        rows: Sequence[TableRow] = tables[0] if options.seeds is None else mean_rows(tables)
        sys.stdout.write(report.as_text(rows))
        for name, path in options.tables.items():
            report.write_text(path, FORMATS[name](rows))
    if options.submit is not None:
        if failures:
            print(f"track-eval: {options.submit}: not written, because sequences are missing", file=sys.stderr)
        else:
            write_submission(options.submit, [job.results for job in jobs])
    return max((failure.exit_code for _, failure in failures), default=0)


def _table(outcomes: Mapping[int, Outcome], indices: Sequence[int]) -> list[Row]:
    """Rows of the jobs with these indices, as far as they have an outcome, and of all of them combined."""
    found = [outcomes[index] for index in indices if index in outcomes]
    rows = [one.row for one in found]
    return [*rows, combined(found, len(indices))] if found and len(indices) > 1 else rows


def _ablate(options: EvalOptions, folder: Path, jobs: Sequence[Job]) -> int:
    from tracker.sinks.base import check_output_path

    for job in jobs:
        if not (job.sequence / TRUTH).is_file():
            raise MotFileError(f"{job.sequence / TRUTH}: no such file; a study needs ground truth")
    study = ablation.Study(folder, jobs, ablation.RULES if options.rules else ablation.USES)
    for path in study.outputs:
        _make_folder(path.parent)
        check_output_path(path, options.overwrite)
    failures = study.run(options.run.n_jobs)
    _print_failures(failures)
    if study.rows:
        sys.stdout.write(f"{study.note}\n{report.as_text(study.rows)}")
    return max((failure.exit_code for _, failure in failures), default=0)


def _jobs(options: EvalOptions) -> list[Job]:
    """One for each sequence, or for each of its replicas."""
    run = options.run
    tracking = None
    if options.results is None:
        tracking = Tracking(
            run.config,
            options.det,
            options.detector,
            run.reid,
            run.device,
            threads_of(run.n_jobs, len(run.sequences) * len(options.seeds or [0])),
            detector_size=options.detector_size,
            layout=options.layout,
            classes=options.classes,
        )
    needs_truth = options.results is not None and options.submit is None
    replicas = [None] if options.seeds is None else [Replica.of(seed) for seed in options.seeds]
    folders = {one: options.folder if one is None else options.folder / str(one.seed) for one in replicas}
    return [
        Job(s, folder / f"{s.name}.txt", tracking, run.videos.get(s.name), needs_truth, replica)
        for replica, folder in folders.items()
        for s in run.sequences
    ]


def _check_outputs(options: EvalOptions, jobs: Sequence[Job]) -> None:
    from tracker.sinks.base import check_output_path

    outputs = [*options.tables.values(), *filter(None, [options.submit])]
    if options.results is None:
        for folder in {job.results.parent for job in jobs}:
            _make_folder(folder)
        outputs += [job.results for job in jobs]
    for path in outputs:
        check_output_path(path, options.overwrite)
    twice = {path for path in outputs if sum(path.resolve() == other.resolve() for other in outputs) > 1}
    if twice:
        raise ConfigError(f"two outputs name the same file: {min(twice)}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _print_failures(failures: Sequence[tuple[str, Failure]]) -> None:
    for text in grouped(failures):
        print(f"track-eval: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
