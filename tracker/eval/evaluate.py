"""What `track-eval` does once its options are read: track, score, print and write tables.

Apart from the options, so that `track-eval --help` does not wait for OpenCV and SciPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracker.errors import ConfigError, OutputError
from tracker.eval import ablation, report
from tracker.eval.mot_files import MotFileError
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
from tracker.sinks.base import check_output_path

if TYPE_CHECKING:
    from tracker.eval.cli import EvalOptions

FORMATS: dict[str, Callable[[Sequence[TableRow]], str]] = {
    "csv": report.as_csv, "json": report.as_json, "markdown": report.as_markdown,
}  # fmt: skip


def evaluate(options: EvalOptions) -> int:
    """Track and score as the options say, print and write the tables; returns the exit status."""
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
