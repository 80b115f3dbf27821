"""`track-eval MOT_FOLDER_OR_SEQUENCE...`: track every sequence, or take result files, and score. No maths here."""

from __future__ import annotations

import argparse
import configparser
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, OutputError, TrackletError
from tracker.eval import clear_identity, hota, report
from tracker.eval.mot_files import MotFileError, check_frames, read_ground_truth, read_results
from tracker.eval.parallel import Advanced, Done, Failure, run_all
from tracker.eval.preprocess import prepare
from tracker.eval.report import Row
from tracker.eval.submission import write_submission

INTERRUPTED = 130  # what shells expect after Ctrl-C
TRUTH = Path("gt") / "gt.txt"
INFO = "seqinfo.ini"

EPILOG = """examples:
  track-eval MOT16/train                                     track with the public detections, score
  track-eval MOT16/train --detector yolox_nano.onnx --markdown scores.md
  track-eval MOT16/train --results theirs --csv scores.csv   score result files made by anything
  track-eval MOT16/train MOT16/test --submit MOT16.zip       the zip for the MOTChallenge server
"""


@dataclass(frozen=True, slots=True)
class Tracking:
    """How sequences are tracked; the words are those of `track`."""

    config: TrackerConfig
    detections: str  # file inside each sequence folder; not used if there is a detector
    detector: str | None
    reid: str | None
    device: str


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence: tracked first if `tracking` is given, then scored."""

    sequence: Path
    results: Path
    tracking: Tracking | None
    video: str | None  # frames of a sequence without pictures
    needs_truth: bool  # False: without ground truth (MOTChallenge's test sequences) it is not scored


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job brings home."""

    row: Row
    n_frames: int = 0  # tracked
    seconds: float = 0.0  # of tracking


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        return _run(args)
    except TrackletError as error:
        print(f"track-eval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("track-eval: interrupted; the results of the sequences that were finished are written", file=sys.stderr)
        return INTERRUPTED


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
        "--jobs", metavar="N", type=int, default=_n_cores(),
        help="sequences at a time (default: one a core; for fair frames per second: 1)",
    )  # fmt: skip

    run = parser.add_argument_group("tracking")
    run.add_argument(
        "--out", metavar="DIR", type=Path, help="results are written as DIR/<sequence>.txt (default: results)"
    )
    people = run.add_mutually_exclusive_group()
    people.add_argument("--det", metavar="FILE", default="det/det.txt", help="detections, inside each sequence folder")
    people.add_argument("--detector", metavar="ONNX", help="run a YOLOX- or YOLO-style detector instead")
    run.add_argument(
        "--video", action="append", default=[], metavar="SEQUENCE=FILE", help="frames of a sequence without pictures"
    )
    run.add_argument(
        "--reid", metavar="ONNX", default="default", help="re-ID network: fast, accurate, a file; none: motion alone"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    run.add_argument("--config", metavar="TOML", help="settings file")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the tracker")

    files = parser.add_argument_group("files")
    files.add_argument("--csv", metavar="FILE", type=Path, help="the table, nothing rounded")
    files.add_argument("--json", metavar="FILE", type=Path, help="the same as a list of objects")
    files.add_argument("--markdown", metavar="FILE", type=Path, help="the table as it is printed, for a README")
    files.add_argument("--submit", metavar="ZIP", type=Path, help="all results, as the MOTChallenge server takes them")
    files.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def find_sequences(paths: Sequence[str]) -> list[Path]:
    """Sequence folders among and below the paths, by name. Raises MotFileError for a path that holds none."""
    found: dict[str, Path] = {}
    for text in paths:
        path = Path(text).resolve()
        if not path.is_dir():
            raise MotFileError(f"{text}: no such folder")
        if (path / "gt").is_dir() or (path / INFO).is_file():
            inside = [path]
        else:
            inside = sorted(
                {file.parents[1] for depth in ("*", "*/*") for file in path.glob(f"{depth}/{TRUTH}")}
                | {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{INFO}")}
            )
        if not inside:
            raise MotFileError(f"{text}: neither a sequence (with {INFO} or {TRUTH}) nor a folder of sequences")
        for sequence in inside:
            if found.setdefault(sequence.name, sequence) != sequence:
                raise MotFileError(f"two sequences are called {sequence.name}: {found[sequence.name]} and {sequence}")
    return [found[name] for name in sorted(found)]


def _run(args: argparse.Namespace) -> int:
    jobs = _jobs(args)
    _check_outputs(args, jobs)
    outcomes, failures = _run_jobs(jobs, args.jobs)
    for text in _grouped(failures):
        print(f"track-eval: {text}", file=sys.stderr)
    without = [one.row.name for one in outcomes if one.row.clear is None]
    if without:
        print(f"track-eval: no ground truth, so not scored: {', '.join(without)}", file=sys.stderr)
    if outcomes:
        rows = _with_combined(outcomes, len(jobs))
        sys.stdout.write(report.as_text(rows))
        for name, form in report.FORMATS.items():
            _write(getattr(args, name), form(rows))
    if args.submit is not None:
        if failures:
            print(f"track-eval: {args.submit}: not written, because sequences are missing", file=sys.stderr)
        else:
            write_submission(args.submit, [job.results for job in jobs])
    return max((failure.exit_code for _, failure in failures), default=0)


def _jobs(args: argparse.Namespace) -> list[Job]:
    """What there is to do, all of it checked as far as that takes no time: a mistake must not show after an hour."""
    if args.results is not None and args.out is not None:
        raise ConfigError("give --results DIR to score result files, or --out DIR to track and score, not both")
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {args.jobs}")
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    config = config.override(_pairs(args.set, "--set takes NAME=VALUE"))
    videos = _pairs(args.video, "--video takes SEQUENCE=FILE")
    sequences = find_sequences(args.paths)
    unknown = sorted(set(videos) - {sequence.name for sequence in sequences})
    if unknown:
        raise ConfigError(f"--video names {unknown[0]}; the sequences are: {', '.join(s.name for s in sequences)}")
    if args.results is not None and not args.results.is_dir():
        raise MotFileError(f"{args.results}: no such folder")
    tracking = None
    if args.results is None:
        reid = None if args.reid == "none" else args.reid
        tracking = Tracking(config, args.det, args.detector, reid, args.device)
    folder = args.results or args.out or Path("results")
    needs_truth = args.results is not None and args.submit is None
    return [Job(s, folder / f"{s.name}.txt", tracking, videos.get(s.name), needs_truth) for s in sequences]


def _check_outputs(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    from tracker.sinks.base import check_output_path

    outputs = [args.csv, args.json, args.markdown, args.submit]
    if args.results is None:
        folder = jobs[0].results.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
        outputs += [job.results for job in jobs]
    given = [path for path in outputs if path is not None]
    for path in given:
        check_output_path(path, args.overwrite)
    twice = {path for path in given if sum(path.resolve() == other.resolve() for other in given) > 1}
    if twice:
        raise ConfigError(f"two outputs name the same file: {min(twice)}")


def _run_jobs(jobs: Sequence[Job], n_jobs: int) -> tuple[list[Outcome], list[tuple[str, Failure]]]:
    """Outcomes in the order of the jobs, and (sequence, why) of those that failed; progress on a terminal."""
    from tqdm import tqdm

    tracked = [_length(job.sequence) for job in jobs if job.tracking is not None]
    total = sum(filter(None, tracked)) if all(tracked) else None
    outcomes: dict[int, Outcome] = {}
    failures: dict[int, Failure] = {}
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=total, unit=" frames", disable=not (tracked and sys.stderr.isatty()), dynamic_ncols=True)
        )
        for index, outcome in run_all(evaluate_sequence, jobs, min(n_jobs, len(jobs)), bar.update):
            if isinstance(outcome, Done):
                outcomes[index] = outcome.result
            else:
                failures[index] = outcome
            bar.set_postfix_str(f"{len(outcomes) + len(failures)} of {len(jobs)} sequences")
    return [outcomes[i] for i in sorted(outcomes)], [(jobs[i].sequence.name, failures[i]) for i in sorted(failures)]


def evaluate_sequence(job: Job, advanced: Advanced) -> Outcome:
    """Track if asked to, score if there is ground truth. Raises TrackletError, which names the file."""
    name, n_frames, seconds = job.sequence.name, 0, 0.0
    truth_path = job.sequence / TRUTH
    if job.tracking is not None:
        n_frames, seconds = _track(job, job.tracking, advanced)
    fps = n_frames / seconds if n_frames else None
    results = read_results(job.results)
    length = _length(job.sequence)
    check_frames(job.results, results, length)
    if not (job.needs_truth or truth_path.is_file()):
        return Outcome(Row(name, fps=fps), n_frames, seconds)
    truth = read_ground_truth(truth_path)
    check_frames(truth_path, truth.table, length)
    pair = prepare(truth, results)
    return Outcome(Row(name, clear_identity.evaluate(*pair), hota.evaluate(*pair), fps), n_frames, seconds)


def _track(job: Job, tracking: Tracking, advanced: Advanced) -> tuple[int, float]:
    """Run the tracker as a user would; returns frames and seconds, reading of images included.

    The file has its name once it is whole: a sequence that broke off must not be scored as if it were complete.
    """
    from tracker.api import track_video  # here: whoever scores files needs no tracker
    from tracker.sinks.mot_txt import MotTextSink

    if job.video is None and not (job.sequence / INFO).is_file():
        raise MotFileError(f"{job.sequence / INFO}: no such file")
    unfinished = job.results.with_name(job.results.name + ".part")
    count, start = 0, perf_counter()
    try:
        with MotTextSink(unfinished, overwrite=True) as sink:
            for frame, tracks in track_video(
                job.video or job.sequence,
                detections=job.sequence / tracking.detections if tracking.detector is None else None,
                detector=tracking.detector, reid=tracking.reid, config=tracking.config, device=tracking.device,
                fps=_info(job.sequence, "frameRate") if job.video else None,
            ):  # fmt: skip
                sink.write(frame, tracks)
                advanced(1)
                count += 1
        seconds = perf_counter() - start
        os.replace(unfinished, job.results)
    finally:
        unfinished.unlink(missing_ok=True)
    return count, seconds


def _with_combined(outcomes: Sequence[Outcome], n_jobs: int) -> list[Row]:
    """The rows of the table; the last one says so where it does not stand for all sequences."""
    rows = [one.row for one in outcomes]
    if n_jobs == 1:
        return rows
    clear = [row.clear for row in rows if row.clear is not None]
    names = "combined" if len(clear) in (0, n_jobs) else f"combined ({len(clear)} of {n_jobs})"
    seconds = sum(one.seconds for one in outcomes)
    rows.append(
        Row(
            names,
            clear_identity.combine(clear) if clear else None,
            hota.combine(row.hota for row in rows if row.hota is not None) if clear else None,
            sum(one.n_frames for one in outcomes) / seconds if seconds else None,
        )
    )
    return rows


def _grouped(failures: Sequence[tuple[str, Failure]]) -> list[str]:
    """One line per mistake: a network that does not load fails every sequence in the same words."""
    names: dict[str, list[str]] = {}
    for name, failure in failures:
        names.setdefault(failure.text, []).append(name)
    return [f"{', '.join(of)}: {text}" for text, of in names.items()]


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _length(sequence: Path) -> int | None:
    """Frames of the sequence by seqinfo.ini, None if that does not say."""
    length = _info(sequence, "seqLength")
    return None if length is None else int(length)


def _info(sequence: Path, key: str) -> float | None:
    """A number of seqinfo.ini, None if the file or the key is not there."""
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(sequence / INFO, encoding="utf-8-sig")
        return info.getfloat("Sequence", key, fallback=None)
    except (configparser.Error, ValueError, UnicodeDecodeError) as error:
        raise MotFileError(f"{sequence / INFO}: {str(error).splitlines()[0]}") from error


def _pairs(texts: Sequence[str], rule: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{rule}, got {text!r}")
        pairs[name.strip()] = value.strip()
    return pairs


def _n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
