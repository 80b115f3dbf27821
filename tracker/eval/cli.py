"""`track-eval MOT_FOLDER_OR_SEQUENCE...`: score result files, or track each sequence first. No maths here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, OutputError, TrackletError
from tracker.eval import report
from tracker.eval.clear_identity import Scores, combine, evaluate
from tracker.eval.mot_files import MotFileError, read_ground_truth, read_results
from tracker.eval.preprocess import prepare

INTERRUPTED = 130  # what shells expect after Ctrl-C
TRUTH = Path("gt") / "gt.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        _run(args)
    except TrackletError as error:
        print(f"track-eval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("track-eval: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="track-eval",
        description="MOTA, IDF1 and the rest for MOT sequences: of result files (--results), or of this tracker, "
        "which then runs on each sequence with its public detections.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a MOT sequence folder, or a folder of them")
    parser.add_argument("--results", metavar="DIR", type=Path, help="score DIR/<sequence>.txt; nothing is tracked")
    run = parser.add_argument_group("tracking")
    run.add_argument("--out", metavar="DIR", type=Path, help="where results are written, as DIR/<sequence>.txt")
    run.add_argument("--overwrite", action="store_true", help="replace result files that exist")
    run.add_argument("--det", metavar="FILE", default="det/det.txt", help="detections, inside each sequence folder")
    run.add_argument(
        "--video", action="append", default=[], metavar="SEQUENCE=FILE", help="frames of a sequence without pictures"
    )
    run.add_argument(
        "--reid", metavar="ONNX", default="default", help="re-ID network: fast, accurate, a file; none: motion alone"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    run.add_argument("--config", metavar="TOML", help="settings file")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the tracker")
    return parser


def find_sequences(paths: Sequence[str]) -> list[Path]:
    """Sequence folders among and below the paths, by name. Raises MotFileError for a path that holds none."""
    found: dict[str, Path] = {}
    for text in paths:
        path = Path(text).resolve()
        if not path.is_dir():
            raise MotFileError(f"{text}: no such folder")
        if (path / "gt").is_dir() or (path / "seqinfo.ini").is_file():
            inside = [path]
        else:
            inside = sorted(truth.parents[1] for depth in ("*", "*/*") for truth in path.glob(f"{depth}/{TRUTH}"))
        if not inside:
            raise MotFileError(f"{text}: neither a sequence (with {TRUTH}) nor a folder of sequences")
        for sequence in inside:
            if found.setdefault(sequence.name, sequence) != sequence:
                raise MotFileError(f"two sequences are called {sequence.name}: {found[sequence.name]} and {sequence}")
    return [found[name] for name in sorted(found)]


def _run(args: argparse.Namespace) -> None:
    if (args.results is None) == (args.out is None):
        raise ConfigError("give --results DIR to score result files, or --out DIR to track and score")
    config = _config(args)
    videos = _pairs(args.video, "--video takes SEQUENCE=FILE")
    sequences = find_sequences(args.paths)
    unknown = sorted(set(videos) - {sequence.name for sequence in sequences})
    if unknown:
        raise ConfigError(f"--video names {unknown[0]}; the sequences are: {', '.join(s.name for s in sequences)}")
    for needed in [s / TRUTH for s in sequences] + [args.results / f"{s.name}.txt" for s in sequences if args.results]:
        if not needed.is_file():  # before any tracking: it may take minutes
            raise MotFileError(f"{needed}: no such file")

    rows: list[tuple[str, Scores, float | None]] = []
    n_frames, spent_s = 0, 0.0
    for sequence in sequences:
        truth = read_ground_truth(sequence / TRUTH)
        fps = None
        if args.results is not None:
            path = args.results / f"{sequence.name}.txt"
        else:
            path = args.out / f"{sequence.name}.txt"
            frames, seconds = track(sequence, path, args, config, videos.get(sequence.name))
            n_frames, spent_s = n_frames + frames, spent_s + seconds
            fps = frames / seconds
        rows.append((sequence.name, evaluate(*prepare(truth, read_results(path))), fps))
    if len(rows) > 1:
        fps = n_frames / spent_s if spent_s else None
        rows.append(("combined", combine(scores for _, scores, _ in rows), fps))
    sys.stdout.write(report.table(rows))


def track(
    sequence: Path, out: Path, args: argparse.Namespace, config: TrackerConfig, video: str | None
) -> tuple[int, float]:
    """Run the tracker on one sequence as a user would; returns frames and seconds, reading of images included."""
    from tracker.api import track_video  # here: whoever scores files needs no tracker
    from tracker.sinks.mot_txt import MotTextSink

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.parent}: cannot be made: {error.strerror}") from error
    reid = None if args.reid == "none" else args.reid
    count, start = 0, perf_counter()
    with MotTextSink(out, overwrite=args.overwrite) as sink:
        for frame, tracks in track_video(
            video or sequence, detections=sequence / args.det, reid=reid, config=config, device=args.device,
            fps=_frame_rate(sequence) if video else None,
        ):  # fmt: skip
            sink.write(frame, tracks)
            count += 1
    return count, perf_counter() - start


def _frame_rate(sequence: Path) -> float | None:
    """That of seqinfo.ini: the file that holds the frames may play them at another one."""
    import configparser

    info = configparser.ConfigParser()
    try:
        info.read(sequence / "seqinfo.ini", encoding="utf-8")
        return info.getfloat("Sequence", "frameRate", fallback=None)
    except (configparser.Error, ValueError, UnicodeDecodeError) as error:
        raise MotFileError(f"{sequence / 'seqinfo.ini'}: {str(error).splitlines()[0]}") from error


def _config(args: argparse.Namespace) -> TrackerConfig:
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    return config.override(_pairs(args.set, "--set takes NAME=VALUE"))


def _pairs(texts: Sequence[str], rule: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"{rule}, got {text!r}")
        pairs[name.strip()] = value.strip()
    return pairs


if __name__ == "__main__":
    sys.exit(main())
