"""`track-eval MOT_FOLDER_OR_SEQUENCE...`: track every sequence, or take result files, and score. No maths here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tracker.errors import ConfigError, OutputError
from tracker.eval import ablation, report, tune
from tracker.eval.mot_files import MotFileError
from tracker.eval.options import add_jobs, add_tracking, check_jobs, config_of, reid_of, videos_of
from tracker.eval.report import Row
from tracker.eval.sequences import TRUTH, find_sequences
from tracker.eval.submission import write_submission
from tracker.eval.track_and_score import Job, Outcome, Tracking, combined, grouped, run_jobs, threads_of
from tracker.runtime.processes import Failure
from tracker.runtime.signals import command, leave

EPILOG = """examples:
  track-eval MOT16/train                                     track with the public detections, score
  track-eval MOT16/train --detector yolox_nano.onnx --markdown scores.md
  track-eval MOT16/train --results theirs --csv scores.csv   score result files made by anything
  track-eval MOT16/train MOT16/test --submit MOT16.zip       the zip for the MOTChallenge server
  track-eval MOT16/train --ablation study                    what each part is worth: a table and a picture
  track-eval tune MOT16/train --out preset.toml              search settings; `track-eval tune --help` says how
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["tune"]:
        status = tune.main(arguments[1:])
    else:
        words = "interrupted; the results of what was finished are written"
        status = command("track-eval", lambda _: _run(build_parser().parse_args(arguments)), words)
    if argv is None:
        leave(status)
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-eval",
        description="HOTA, MOTA, IDF1 and the rest for MOT sequences, as MOTChallenge computes them: of this tracker, "
        "which then runs on each sequence with its public detections, or of result files (--results).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a MOT sequence folder, or a folder of them")
    parser.add_argument("--results", metavar="DIR", type=Path, help="score DIR/<sequence>.txt; nothing is tracked")
    parser.add_argument(
        "--ablation", metavar="DIR", type=Path,
        help="track every sequence with parts of the tracker off, one row each; the table goes to DIR as "
        "ablation.csv and ablation.md, a picture as ablation.png",
    )  # fmt: skip
    add_jobs(parser, "sequences at a time (default: one a core; for fair frames per second: 1)")

    run = parser.add_argument_group("tracking")
    run.add_argument(
        "--out", metavar="DIR", type=Path, help="results are written as DIR/<sequence>.txt (default: results)"
    )
    people = run.add_mutually_exclusive_group()
    people.add_argument("--det", metavar="FILE", default="det/det.txt", help="detections, inside each sequence folder")
    people.add_argument(
        "--detector",
        metavar="ONNX",
        help="run a network instead: person, the one in the box, or a file, YOLOX- or YOLO-style",
    )
    run.add_argument(
        "--detector-size", type=int, metavar="PX",
        help="long side of the detector's input, if its file leaves it open (default: by the size of the frames)",
    )  # fmt: skip
    run.add_argument(
        "--classes",
        default="person",
        help="of the detector's classes those to keep, names or numbers (default: person)",
    )
    add_tracking(run)

    files = parser.add_argument_group("files")
    files.add_argument("--csv", metavar="FILE", type=Path, help="the table, nothing rounded")
    files.add_argument("--json", metavar="FILE", type=Path, help="the same as a list of objects")
    files.add_argument("--markdown", metavar="FILE", type=Path, help="the table as it is printed, for a README")
    files.add_argument("--submit", metavar="ZIP", type=Path, help="all results, as the MOTChallenge server takes them")
    files.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _run(args: argparse.Namespace) -> int:
    jobs = _jobs(args)
    if args.ablation is not None:
        return _ablate(args, jobs)
    _check_outputs(args, jobs)
    found, failed = run_jobs(jobs, args.jobs)
    outcomes, failures = list(found.values()), _named(jobs, failed)
    _report_failures(failures)
    without = [one.row.name for one in outcomes if one.row.clear is None]
    if without:
        print(f"track-eval: no ground truth, so not scored: {', '.join(without)}", file=sys.stderr)
    if outcomes:
        rows = _with_combined(outcomes, len(jobs))
        sys.stdout.write(report.as_text(rows))
        for name, form in report.FORMATS.items():
            path = getattr(args, name)
            if path is not None:
                report.write_text(path, form(rows))
    if args.submit is not None:
        if failures:
            print(f"track-eval: {args.submit}: not written, because sequences are missing", file=sys.stderr)
        else:
            write_submission(args.submit, [job.results for job in jobs])
    return max((failure.exit_code for _, failure in failures), default=0)


def _ablate(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    from tracker.sinks.base import check_output_path

    for option in ("results", "out", "csv", "json", "markdown", "submit"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--ablation DIR writes all its files to DIR; it does not go with --{option}")
    for job in jobs:
        if not (job.sequence / TRUTH).is_file():
            raise MotFileError(f"{job.sequence / TRUTH}: no such file; a study needs ground truth")
    study = ablation.Study(args.ablation, jobs)
    for path in study.outputs:
        _make_folder(path.parent)
        check_output_path(path, args.overwrite)
    failures = study.run(args.jobs)
    _report_failures(failures)
    if study.rows:
        sys.stdout.write(f"{study.note}\n{report.as_text(study.rows)}")
    return max((failure.exit_code for _, failure in failures), default=0)


def _jobs(args: argparse.Namespace) -> list[Job]:
    """What there is to do, all of it checked as far as that takes no time: a mistake must not show after an hour."""
    if args.results is not None and args.out is not None:
        raise ConfigError("give --results DIR to score result files, or --out DIR to track and score, not both")
    check_jobs(args)
    config = config_of(args)
    sequences = find_sequences(args.paths)
    videos = videos_of(args, sequences)
    if args.results is not None and not args.results.is_dir():
        raise MotFileError(f"{args.results}: no such folder")
    tracking = None
    if args.results is None:
        threads = threads_of(args.jobs, len(sequences))
        if args.detector_size is not None and args.detector is None:
            raise ConfigError("--detector-size goes with --detector")
        tracking = Tracking(
            config,
            args.det,
            args.detector,
            reid_of(args),
            args.device,
            threads,
            detector_size=args.detector_size,
            classes=tuple(name.strip() for name in args.classes.split(",")),
        )
    folder = args.results or args.out or Path("results")
    needs_truth = args.results is not None and args.submit is None
    return [Job(s, folder / f"{s.name}.txt", tracking, videos.get(s.name), needs_truth) for s in sequences]


def _check_outputs(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    from tracker.sinks.base import check_output_path

    outputs = [args.csv, args.json, args.markdown, args.submit]
    if args.results is None:
        _make_folder(jobs[0].results.parent)
        outputs += [job.results for job in jobs]
    given = [path for path in outputs if path is not None]
    for path in given:
        check_output_path(path, args.overwrite)
    twice = {path for path in given if sum(path.resolve() == other.resolve() for other in given) > 1}
    if twice:
        raise ConfigError(f"two outputs name the same file: {min(twice)}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _with_combined(outcomes: Sequence[Outcome], n_jobs: int) -> list[Row]:
    rows = [one.row for one in outcomes]
    return rows if n_jobs == 1 else [*rows, combined(outcomes, n_jobs)]


def _named(jobs: Sequence[Job], failures: Mapping[int, Failure]) -> list[tuple[str, Failure]]:
    return [(jobs[index].sequence.name, failure) for index, failure in failures.items()]


def _report_failures(failures: Sequence[tuple[str, Failure]]) -> None:
    for text in grouped(failures):
        print(f"track-eval: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
