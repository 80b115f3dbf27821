"""`track-eval tune SEQUENCES... --out preset.toml`: search settings on some videos, score them on the others."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, TrackletError
from tracker.eval import report
from tracker.eval.mot_files import MotFileError
from tracker.eval.options import add_jobs, add_tracking, check_jobs, config_of, pairs, reid_of, videos_of
from tracker.eval.preset import preset_text, told
from tracker.eval.report import RATES
from tracker.eval.search import Space, TrialsSpentError
from tracker.eval.sequence_run import SequenceRun, run_trial
from tracker.eval.sequences import TRUTH, find_sequences
from tracker.eval.tuning import EVERYTHING, Scorer, Tuning
from tracker.runtime import signals as interrupt
from tracker.runtime.processes import WorkerPool, share_of_cores

# Values around the defaults, about as far as a tracker still works; a setting that matters is one more line here.
SPACE: dict[str, list[Any]] = {
    "detection.strong_score": [0.3, 0.4, 0.5, 0.6, 0.7],
    "detection.weak_score": [0.05, 0.1, 0.2, 0.3, 0.4],
    "detection.nms_iou": [0.5, 0.6, 0.7, 0.8, 0.9],
    "motion.position_std": [1 / 40, 1 / 30, 1 / 20, 1 / 15, 1 / 10],
    "motion.velocity_std": [1 / 320, 1 / 160, 1 / 80, 1 / 40],
    "association.appearance_weight": [0.0, 0.25, 0.5, 0.75],
    "association.min_iou": [0.1, 0.2, 0.3, 0.4],
    "association.min_iou_weak": [0.3, 0.4, 0.5, 0.6],
    "association.second_best_ratio": [1.0, 1.1, 1.25, 1.5],
    "association.relink_chi2": [5.99, 9.4877, 18.47, 36.0],
    "lifecycle.birth_score": [0.3, 0.5, 0.6, 0.7, 0.8],
    "lifecycle.confirm_hits": [1, 2, 3, 4, 5],
    "lifecycle.coast_s": [0.5, 1.0, 2.0, 3.0],
    "lifecycle.lost_s": [1.0, 3.0, 5.0, 10.0],
    "proposals.max_s": [0.0, 0.25, 0.5, 1.0],
    "proposals.accept_scale": [0.3, 0.5, 0.75, 1.0],
    "proposals.background_margin": [0.1, 0.2, 0.3, 0.45, 0.6],
    "occlusion.max_s": [0.2, 0.4, 0.7],
    "occlusion.complete": [0.0, 0.5, 1.0],
    "appearance.max_cover": [0.1, 0.2, 0.3, 0.5],
}
OBJECTIVE = "HOTA+MOTA+IDF1"
MEMORY_GB = 4.0

EPILOG = """example:
  track-eval tune MOT16/train MOT17/train --det det/DPM.txt --det det/FRCNN.txt --out preset.toml
  track video.mp4 --config preset.toml

For each video the settings are searched on all others and scored on it (leave one out): that says what tuning is
worth. The preset holds the settings found on all videos. A folder called `tune` is scored by `track-eval ./tune`.
"""


def main(argv: Sequence[str]) -> int:
    """The subcommand; returns the exit status, as `track-eval` does."""
    words = "interrupted; nothing was found yet"
    line = shlex.join(["track-eval", "tune", *argv])
    return interrupt.command("track-eval tune", lambda _: _run(build_parser().parse_args(argv), line), words)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-eval tune",
        description="Search settings on some videos, score them on the others, write a preset for --config.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a MOT sequence folder, or a folder of them")
    parser.add_argument("--out", metavar="TOML", type=Path, required=True, help="the preset")
    parser.add_argument("--overwrite", action="store_true", help="replace a preset that exists")
    add_jobs(parser, "runs at a time (default: one a core)")

    search = parser.add_argument_group("search")
    search.add_argument(
        "--space",
        metavar="TOML",
        help='what is tried: "section.name" = [values]; default: a list in tracker/eval/tune.py',
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
        "--same-video", action="append", default=[], metavar="A=B",
        help="sequences to hold out together; names that differ in MOT16-, MOT17-, MOT20- alone are",
    )  # fmt: skip
    search.add_argument(
        "--memory", metavar="GB", type=float, default=MEMORY_GB,
        help=f"for decoded images; others are read again in every run (default: {MEMORY_GB:g})",
    )  # fmt: skip

    run = parser.add_argument_group("tracking")
    run.add_argument(
        "--det", action="append", metavar="FILE",
        help="detections inside each sequence folder (default: det/det.txt); given again: each of them where it exists",
    )  # fmt: skip
    add_tracking(run)
    return parser


def group_videos(sequences: Sequence[Path], same: Mapping[str, str]) -> dict[str, list[str]]:
    """Videos to hold out as a whole: name -> names of its sequences.

    MOT16-09 and MOT17-09 are one video; `same` names others. Raises ConfigError for a name that does not exist.
    """
    names = [sequence.name for sequence in sequences]
    for name in (*same, *same.values()):
        if name not in names:
            raise ConfigError(f"--same-video names {name}; the sequences are: {', '.join(names)}")
    group = {name: re.sub(r"^MOT(16|17|20)-", "", name) for name in names}
    for a, b in same.items():
        old, new = group[a], group[b]
        group = {name: new if of == old else of for name, of in group.items()}
    together: dict[str, list[str]] = {}
    for name, of in group.items():
        together.setdefault(of, []).append(name)
    return {"+".join(members): members for members in together.values()}


def load_space(path: str | None, base: TrackerConfig) -> Space:
    """The space of a file, or the one above. Raises ConfigError; every value must be possible beside the others."""
    if path is None:
        return SPACE
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        repr(table)  # a hexadecimal number can be longer than Python writes in a message
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read a search space from {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        raise ConfigError(
            f"cannot read a search space from {path}: {type(error).__name__}, is it a settings file?"
        ) from error
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


def _run(args: argparse.Namespace, command: str) -> int:
    from tqdm import tqdm

    from tracker.sinks.base import check_output_path

    check_jobs(args)
    objective = _objective(args.objective)
    _check_numbers(args)
    base = config_of(args)
    space = load_space(args.space, base)
    sequences = find_sequences(args.paths)
    grouped = group_videos(sequences, pairs(args.same_video, "--same-video takes A=B"))
    units = _units(args, sequences)
    videos = {
        video: [at for at, unit in enumerate(units) if unit.sequence.name in members]
        for video, members in grouped.items()
    }
    if len(videos) < 2:
        raise ConfigError(f"leave one out needs at least two videos, got {', '.join(videos)}")
    check_output_path(args.out, args.overwrite)
    status = 0
    with (
        tqdm(unit=" runs", disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar,
        WorkerPool(run_trial, min(args.jobs, len(units))) as crew,
    ):
        scorer = Scorer(units, crew, args.trials, bar.update)
        tuning = Tuning(videos, scorer, base, objective, lambda text: bar.write(text, file=sys.stderr))
        try:
            tuning.run(space, args.min_gain, args.seed)
        except TrialsSpentError:
            print(f"track-eval tune: {args.trials} trials are spent before the search ended", file=sys.stderr)
        except (TrackletError, KeyboardInterrupt) as error:
            if EVERYTHING not in tuning.found:
                raise
            status = error.exit_code if isinstance(error, TrackletError) else interrupt.INTERRUPTED
            print(f"track-eval tune: {str(error) or 'interrupted'}; {args.out} is partial", file=sys.stderr)
    details = f"seed {args.seed}, objective: mean of {', '.join(objective)} over all runs, min gain {args.min_gain:g}"
    report.write_text(args.out, preset_text(tuning, units, space, command, f"{details}, {scorer.n_trials} trials"))
    if tuning.rows:
        sys.stdout.write(report.as_text(tuning.table))
    for video, point in tuning.found.items():
        print(f"{'found on all' if video == EVERYTHING else f'without {video}'}: {told(point.config)}")
    return status


def _check_numbers(args: argparse.Namespace) -> None:
    for name, value, least in (
        ("--trials", args.trials, 1),
        ("--min-gain", args.min_gain, 0),
        ("--seed", args.seed, 0),
    ):
        if value is not None and not value >= least:
            raise ConfigError(f"{name} must be >= {least}, got {value}")


def _units(args: argparse.Namespace, sequences: Sequence[Path]) -> list[SequenceRun]:
    """Every sequence with every detection file that it has; images are kept in memory while there is room."""
    from tracker.sources.open import open_source

    videos = videos_of(args, sequences)
    files = list(dict.fromkeys(args.det or ["det/det.txt"]))
    room = args.memory * 1e9
    threads = share_of_cores(args.jobs)
    units = []
    for sequence in sequences:
        if not (sequence / TRUTH).is_file():
            raise MotFileError(f"{sequence / TRUTH}: no such file; tuning needs ground truth")
        present = [file for file in files if (sequence / file).is_file()]
        if not present:
            raise MotFileError(f"{sequence}: has none of the detection files {', '.join(files)}")
        video = videos.get(sequence.name)
        with open_source(video or sequence) as source:
            looks = source.has_images
            n_bytes = source.width * source.height * 3 * (source.n_frames or 0) if looks else 0
        for file in present:
            keep = n_bytes <= room
            room -= n_bytes if keep else 0
            used_reid = reid_of(args) if looks else None
            units.append(SequenceRun(sequence, file, video, used_reid, args.device, threads, keep))
    return units


def _objective(text: str) -> list[str]:
    names = [name.strip() for name in text.split("+")]
    wrong = [name for name in names if name not in RATES]
    if wrong:
        raise ConfigError(f"--objective takes {', '.join(RATES)} joined by +, got {wrong[0]!r}")
    return names
