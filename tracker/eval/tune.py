"""`track-eval tune SEQUENCES... --out preset.toml`: search settings on some videos, score them on the others."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker import __version__
from tracker.config import TrackerConfig
from tracker.errors import ConfigError, TrackletError
from tracker.eval import report
from tracker.eval.mot_files import MotFileError
from tracker.eval.options import RunOptions, add_jobs, add_paths, add_tracking, pairs
from tracker.eval.report import RATES
from tracker.eval.search import ALL_VIDEOS, Scorer, Space, TrialsSpentError, Tuning, changes
from tracker.eval.sequence_run import SequenceRun, run_trial
from tracker.eval.sequences import TRUTH
from tracker.runtime import signals
from tracker.runtime.processes import WorkerPool, share_of_cores

# Values around the defaults, about as far as the tracker still works. One more setting to search is one more line.
SPACE: dict[str, list[Any]] = {
    "detection.strong_score": [0.3, 0.4, 0.5, 0.6, 0.7],
    "detection.weak_score": [0.05, 0.1, 0.2, 0.3, 0.4],
    "detection.nms_iou": [0.5, 0.6, 0.7, 0.8, 0.9],
    "motion.position_std": [1 / 40, 1 / 30, 1 / 20, 1 / 15, 1 / 10],
    "motion.velocity_std": [1 / 320, 1 / 160, 1 / 80, 1 / 40],
    "association.motion_weight": [0.1, 0.2, 0.3, 0.5, 1.0],
    "association.min_iou": [0.1, 0.2, 0.3, 0.4],
    "association.min_iou_weak": [0.3, 0.4, 0.5, 0.6],
    "association.least_posterior": [0.6, 0.7, 0.8, 0.85, 0.9],
    "lifecycle.birth_score": [0.3, 0.5, 0.6, 0.7, 0.8],
    "lifecycle.confirm_hits": [1, 2, 3, 4, 5],
    "lifecycle.coast_s": [0.5, 1.0, 2.0, 3.0],
    "lifecycle.lost_s": [1.0, 3.0, 5.0, 10.0],
    "proposals.max_s": [0.0, 0.25, 0.5, 1.0],
    "proposals.least_log_ratio": [1.0, 2.0, 3.0, 4.0],
    "occlusion.max_s": [0.1, 0.2, 0.3, 0.5],
}
OBJECTIVE = "HOTA+MOTA+IDF1"
MEMORY_GB = 4.0

EPILOG = """example:
  track-eval tune MOT16/train MOT17/train --det det/DPM.txt --det det/FRCNN.txt --out preset.toml
  track video.mp4 --config preset.toml

For each video the settings are searched on all others and scored on it (leave one out): that says what tuning is
worth. The preset holds the settings found on all videos. A folder called `tune` is scored by `track-eval ./tune`.
"""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """A parsed command line."""

    run: RunOptions
    out: Path
    overwrite: bool
    space: Space
    max_trials: int | None
    seed: int
    min_gain: float
    objective: list[str]
    groups: dict[str, list[str]]  # video -> names of its sequences
    memory_gb: float
    detections: list[str]  # files inside the sequence folders
    command: str  # for the preset's first line


def main(argv: Sequence[str]) -> int:
    """The subcommand; returns the exit status, as `track-eval` does."""
    return signals.command("track-eval tune", lambda _: _run(parse(argv)), "interrupted; nothing was found yet")


def parse(argv: Sequence[str]) -> TuneOptions:
    """Raises ConfigError and MotFileError."""
    args = build_parser().parse_args(argv)
    objective = [name.strip() for name in args.objective.split("+")]
    wrong = [name for name in objective if name not in RATES]
    if wrong:
        raise ConfigError(f"--objective takes {', '.join(RATES)} joined by +, got {wrong[0]!r}")
    for name, value, least in (("trials", args.trials, 1), ("min-gain", args.min_gain, 0), ("seed", args.seed, 0)):
        if value is not None and not value >= least:
            raise ConfigError(f"--{name} must be >= {least}, got {value}")
    run = RunOptions.of(args)
    groups = group_videos(run.sequences, pairs(args.same_video, "--same-video takes A=B"))
    if len(groups) < 2:
        raise ConfigError(f"leave one out needs at least two videos, got {', '.join(groups)}")
    return TuneOptions(
        run=run,
        out=args.out,
        overwrite=args.overwrite,
        space=SPACE if args.space is None else load_space(args.space, run.config),
        max_trials=args.trials,
        seed=args.seed,
        min_gain=args.min_gain,
        objective=objective,
        groups=groups,
        memory_gb=args.memory,
        detections=list(dict.fromkeys(args.det or ["det/det.txt"])),
        command=shlex.join(["track-eval", "tune", *argv]),
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-eval tune",
        description="Search settings on some videos, score them on the others, write a preset for --config.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    add_paths(parser)
    parser.add_argument("--out", metavar="TOML", type=Path, required=True, help="the preset")
    parser.add_argument("--overwrite", action="store_true", help="replace a preset that exists")
    add_jobs(parser, "runs at a time (default: one per core)")

    search = parser.add_argument_group("search")
    search.add_argument(
        "--space", metavar="TOML", help='"section.name" = [values] to try; default: a list in tracker/eval/tune.py'
    )
    search.add_argument(
        "--trials", metavar="N", type=int, help="configurations to try at most (default: until no gain)"
    )
    search.add_argument("--seed", metavar="S", type=int, default=0, help="of the order of settings (default: 0)")
    search.add_argument(
        "--min-gain", metavar="POINTS", type=float, default=0.1, help="a change must gain more (default: 0.1)"
    )
    search.add_argument(
        "--objective", metavar="A+B", default=OBJECTIVE, help=f"mean of {', '.join(RATES)} (default: {OBJECTIVE})"
    )
    search.add_argument(
        "--same-video",
        action="append",
        default=[],
        metavar="A=B",
        help="sequences to hold out together; automatic if names differ only in MOT16-, MOT17-, MOT20-",
    )
    search.add_argument(
        "--memory",
        metavar="GB",
        type=float,
        default=MEMORY_GB,
        help=f"for decoded images; the rest is decoded again in every run (default: {MEMORY_GB:g})",
    )

    run = parser.add_argument_group("tracking")
    run.add_argument(
        "--det",
        action="append",
        metavar="FILE",
        help="detections inside each sequence folder (default: det/det.txt); may be repeated, each is a run",
    )
    add_tracking(run)
    return parser


def group_videos(sequences: Sequence[Path], same: Mapping[str, str]) -> dict[str, list[str]]:
    """Videos to hold out as a whole: name -> names of its sequences.

    MOT16-09 and MOT17-09 are one video; `same` names others. Raises ConfigError for an unknown name.
    """
    names = [sequence.name for sequence in sequences]
    for name in (*same, *same.values()):
        if name not in names:
            raise ConfigError(f"--same-video names {name}; the sequences are: {', '.join(names)}")
    video_of = {name: re.sub(r"^MOT(16|17|20)-", "", name) for name in names}
    for a, b in same.items():
        old, new = video_of[a], video_of[b]
        video_of = {name: new if video == old else video for name, video in video_of.items()}
    together: dict[str, list[str]] = {}
    for name, video in video_of.items():
        together.setdefault(video, []).append(name)
    return {"+".join(members): members for members in together.values()}


def load_space(path: str, base: TrackerConfig) -> Space:
    """The search space of a file. Raises ConfigError, also for a value that is not possible with `base`."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        repr(table)  # fails for an integer of more than 4300 digits, which a message could not show
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read a search space from {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, 1000 brackets
        why = f"{type(error).__name__}, is it a settings file?"
        raise ConfigError(f"cannot read a search space from {path}: {why}") from error
    space: dict[str, Any] = {}
    for key, value in table.items():  # "section.name" = [...], or name = [...] in a table [section]
        space |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    for name, values in space.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: {name} must be a list of values, got {values!r}")
        for value in values:
            try:
                base.override({name: value})
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
    if not space:
        raise ConfigError(f'{path}: no setting to search; expected lines such as "lifecycle.lost_s" = [1.0, 3.0]')
    return space


def _run(options: TuneOptions) -> int:
    from tqdm import tqdm

    from tracker.sinks.base import check_output_path

    runs = _sequence_runs(options)
    videos = {
        video: [at for at, run in enumerate(runs) if run.sequence.name in members]
        for video, members in options.groups.items()
    }
    check_output_path(options.out, options.overwrite)
    status = 0
    with (
        tqdm(unit=" runs", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar,
        WorkerPool(run_trial, min(options.run.n_jobs, len(runs))) as pool,
    ):
        scorer = Scorer(runs, pool, options.max_trials, bar.update)
        log = lambda text: bar.write(text, file=sys.stderr)  # noqa: E731
        tuning = Tuning(videos, scorer, options.run.config, options.objective, log)
        try:
            tuning.run(options.space, options.min_gain, options.seed)
        except TrialsSpentError:
            print(f"track-eval tune: {options.max_trials} trials are spent before the search ended", file=sys.stderr)
        except (TrackletError, KeyboardInterrupt) as error:
            if ALL_VIDEOS not in tuning.found:
                raise
            status = error.exit_code if isinstance(error, TrackletError) else signals.INTERRUPTED
            print(f"track-eval tune: {str(error) or 'interrupted'}; {options.out} is partial", file=sys.stderr)
    report.write_text(options.out, preset_text(options, tuning, runs, scorer.n_trials))
    if tuning.rows:
        sys.stdout.write(report.as_text(tuning.table))
    for video, point in tuning.found.items():
        print(f"{'found on all' if video == ALL_VIDEOS else f'without {video}'}: {changed_settings(point.config)}")
    return status


def _sequence_runs(options: TuneOptions) -> list[SequenceRun]:
    """Every sequence with every detection file that it has; images stay in memory as long as there is room."""
    from tracker.sources.open import open_source

    room = options.memory_gb * 1e9
    threads = share_of_cores(options.run.n_jobs)
    runs = []
    for sequence in options.run.sequences:
        if not (sequence / TRUTH).is_file():
            raise MotFileError(f"{sequence / TRUTH}: no such file; tuning needs ground truth")
        present = [file for file in options.detections if (sequence / file).is_file()]
        if not present:
            raise MotFileError(f"{sequence}: has none of the detection files {', '.join(options.detections)}")
        video = options.run.videos.get(sequence.name)
        with open_source(video or sequence) as source:
            has_images = source.has_images
            n_bytes = source.width * source.height * 3 * (source.n_frames or 0) if has_images else 0
        reid = options.run.reid if has_images else None
        for file in present:
            keep = n_bytes <= room
            room -= n_bytes if keep else 0
            runs.append(SequenceRun(sequence, file, video, reid, options.run.device, threads, keep))
    return runs


def preset_text(options: TuneOptions, tuning: Tuning, runs: Sequence[SequenceRun], n_trials: int) -> str:
    """A settings file for --config: what differs from the defaults; comments say how it was found."""
    best = tuning.found[ALL_VIDEOS]
    folds = {video: point for video, point in tuning.found.items() if video != ALL_VIDEOS}
    comments = [
        " ".join(options.command.splitlines()),
        f"seed {options.seed}, objective: mean of {', '.join(options.objective)} over all runs, "
        f"min gain {options.min_gain:g}, {n_trials} trials",
    ]
    if not tuning.finished:
        comments.append("PARTIAL: the search was stopped before its end.")
    comments += ["", "Runs (a sequence with its detections), by video:"]
    for video, members in tuning.videos.items():
        of_video = (runs[at].name + ("" if runs[at].reid else " (motion only)") for at in members)
        comments.append(f"  {video}: {', '.join(of_video)}")
    comments += ["", "Values tried beside those at the start:"]
    comments += [f"  {name}: {', '.join(_toml(value) for value in values)}" for name, values in options.space.items()]
    comments += ["", "Leave one out: scores of each video before, and with settings found on all others:"]
    comments += [f"  {line}" for line in (report.as_text(tuning.table) if tuning.rows else "none yet").splitlines()]
    comments += ["", f"Settings found without each video:{'' if folds else ' none yet'}"]
    comments += [f"  {video}: {changed_settings(point.config)}" for video, point in folds.items()]
    comments += [
        "",
        f"Below: settings found on all videos; the objective rose from {tuning.start:.2f} to {best.score:.2f} there.",
    ]
    lines = [f"# {comment}".rstrip() for comment in comments] + [""]
    lines += [f"{name} = {_toml(value)}" for name, value in changes(best.config, TrackerConfig()).items()]
    return "\n".join(lines) + "\n"


def changed_settings(config: TrackerConfig) -> str:
    """The settings that differ from the defaults, in one line."""
    found = changes(config, TrackerConfig())
    return ", ".join(f"{name} = {_toml(value)}" for name, value in found.items()) or "the defaults"


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    return str(value).lower() if isinstance(value, bool) else repr(value)
