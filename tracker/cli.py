"""`track SOURCE --out tracks.txt`: arguments -> parts -> loop -> sinks. No maths here."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tracker import __version__
from tracker.config import TrackerConfig
from tracker.errors import TrackletError

if TYPE_CHECKING:
    from tracker.pipeline import Pipeline
    from tracker.sinks.base import Sink
    from tracker.sinks.summary import TallySink
    from tracker.sinks.window import WindowSink

INTERRUPTED = 130  # what shells expect after Ctrl-C

EPILOG = """examples:
  track video.mp4 --out tracks.txt
  track video.mp4 --out tracks.txt --video tracked.mp4
  track MOT16/train/MOT16-09 --detections public --out MOT16-09.txt
  track webcam --show
  track video.mp4 --detector yolox_nano.onnx --classes person --out tracks.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 2 for a mistake of the user, 1 for other failures, 130 after Ctrl-C."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        config = _config(args)
        if args.print_config:
            sys.stdout.write(config.to_toml())
            return 0
        if args.source is None:
            parser.error("a source is missing: a video file, a folder of images, a MOT sequence, a webcam or a URL")
        return _run(args, config)
    except TrackletError as error:
        print(f"track: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("track: interrupted", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """All options; the words follow what users of other trackers know where they mean the same."""
    parser = argparse.ArgumentParser(
        prog="track",
        description="Track people through a video; identities come from a learned appearance metric.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tracklet {__version__}")
    parser.add_argument(
        "source",
        nargs="?",
        help="video file, folder or glob of images, MOT sequence folder, webcam number or 'webcam', rtsp:// or http://",
    )
    parser.add_argument("--source", dest="source_option", metavar="SOURCE", help="the same, by name")
    parser.add_argument("--fps", type=float, help="frame rate to take instead of the source's own")

    out = parser.add_argument_group("results")
    out.add_argument("-o", "--out", "--output", metavar="FILE", help="MOT text file; '-' is standard output")
    out.add_argument("--video", metavar="FILE", help="annotated video (.mp4, .avi)")
    out.add_argument("--show", action="store_true", help="live window: q quits, space pauses")
    out.add_argument("--overwrite", action="store_true", help="replace result files that exist")
    out.add_argument("--quiet", action="store_true", help="no progress and no summary")

    people = parser.add_argument_group("where boxes come from")
    people.add_argument(
        "--detections", metavar="FILE", help="replay a MOT detection file; 'public': the det/det.txt of a MOT sequence"
    )
    people.add_argument(
        "--detector", "--model", metavar="ONNX",
        help="network to run: person, the one in the box (default), or a file, YOLOX- or YOLO-style",
    )  # fmt: skip
    people.add_argument("--classes", default="person", help="classes to keep, names or numbers (default: person)")
    people.add_argument(
        "--detector-size", type=int, metavar="PX",
        help="long side of the detector's input, if its file leaves it open (default: by the size of the frames)",
    )  # fmt: skip
    people.add_argument(
        "--detect-every", type=int, metavar="N",
        help="run the detector at every Nth frame; between them tracks live on proposals and predictions (default: 1)",
    )  # fmt: skip
    people.add_argument("--conf", type=float, metavar="SCORE", help="score from which a detection starts a track")

    who = parser.add_argument_group("appearance, and its three uses")
    who.add_argument(
        "--reid", metavar="ONNX", default="default", help="re-ID network: fast, accurate, a file; none: motion alone"
    )
    who.add_argument("--appearance-weight", type=float, metavar="W", help="share of appearance in the cost, 0 to 1")
    who.add_argument("--no-veto", action="store_true", help="A off: appearance does not cancel identity switches")
    who.add_argument("--no-reassociate", action="store_true", help="B off: no finding again after occlusion")
    who.add_argument("--no-proposals", action="store_true", help="C off: no looking again where detection failed")

    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run")
    parser.add_argument("--config", metavar="TOML", help="settings file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, such as lifecycle.lost_s=5"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as TOML and end")
    return parser


def _config(args: argparse.Namespace) -> TrackerConfig:
    """File, then --set, then the named options."""
    from tracker.errors import ConfigError

    if args.source is None:
        args.source = args.source_option
    elif args.source_option is not None:
        raise ConfigError(f"two sources: {args.source} and {args.source_option}")
    config = TrackerConfig() if args.config is None else TrackerConfig.load(args.config)
    settings: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, got {text!r}")
        settings[name.strip()] = value.strip()
    if args.conf is not None:
        settings["detection.strong_score"] = args.conf
        settings["detection.weak_score"] = min(args.conf, config.detection.weak_score)
    if args.detect_every is not None:
        settings["detection.every"] = args.detect_every
    if args.appearance_weight is not None:
        settings["association.appearance_weight"] = args.appearance_weight
    if args.no_veto:
        settings["association.veto"] = False
    if args.no_reassociate:
        settings["association.reassociate"] = False
    if args.no_proposals:
        settings["proposals.enabled"] = False
    return config.override(settings)


@dataclass
class _Outputs:
    """The sinks of a run, in the order in which they are fed; opened with the first frame, whose size they need."""

    sinks: list[Sink]
    tally: TallySink
    window: WindowSink | None = None


def _run(args: argparse.Namespace, config: TrackerConfig) -> int:
    from tracker.assembly import open_pipeline
    from tracker.errors import ConfigError
    from tracker.sinks.progress import ProgressSink

    if not (args.out or args.video or args.show):
        raise ConfigError("no result was asked for: give --out tracks.txt, --video tracked.mp4 or --show")
    if args.out and args.out != "-" and args.video and Path(args.out).resolve() == Path(args.video).resolve():
        raise ConfigError(f"--out and --video name the same file: {args.out}")
    read = (args.source, args.detections, args.detector, args.reid, args.config)
    inputs = {Path(name).resolve() for name in read if name}
    for option, path in (("--out", args.out), ("--video", args.video)):
        if path and path != "-" and Path(path).resolve() in inputs:
            raise ConfigError(f"{option} would replace an input: {path}")
    start = perf_counter()
    classes = tuple(int(c) if c.strip().isdigit() else c.strip() for c in args.classes.split(","))
    with ExitStack() as stack:
        pipeline = open_pipeline(
            args.source, detections=args.detections, detector=args.detector,
            reid=None if args.reid.lower() == "none" else args.reid,
            config=config, device=args.device, fps=args.fps, classes=classes,
            detector_size=args.detector_size,
        )  # fmt: skip
        stack.callback(pipeline.close)
        outputs = _open_outputs(args, pipeline, stack)
        if not args.quiet:
            # Only now: what cannot begin says one line, why. And before the bar, which keeps to its own line.
            print(f"track: {pipeline.description}", file=sys.stderr)
            outputs.sinks.append(stack.enter_context(ProgressSink(pipeline.source.n_frames)))
        interrupted = _Interrupt(pipeline)
        stack.enter_context(interrupted)
        write_s = 0.0
        try:
            for frame, tracks in pipeline:
                begin = perf_counter()
                for sink in outputs.sinks:
                    sink.write(frame, tracks)
                write_s += perf_counter() - begin
                if outputs.window is not None and outputs.window.quit_asked:
                    pipeline.stop()
        except KeyboardInterrupt:
            interrupted.seen = True
    if not args.quiet:
        stages = {**pipeline.stage_s, "write": write_s}
        print(outputs.tally.text(perf_counter() - start, stages), file=sys.stderr)
        for path in (args.out, args.video):
            if path and path != "-":
                print(f"wrote {path}", file=sys.stderr)
    if pipeline.leftover is not None:
        print(f"track: warning: {pipeline.leftover}", file=sys.stderr)
    if interrupted.seen:
        print(f"track: interrupted after frame {outputs.tally.n_frames}; the results until there are written",
              file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    return 0


def _open_outputs(args: argparse.Namespace, pipeline: Pipeline, stack: ExitStack) -> _Outputs:
    from tracker.sinks.film import FilmSink
    from tracker.sinks.mot_txt import MotTextSink
    from tracker.sinks.summary import TallySink

    source = pipeline.source
    tally = TallySink()
    outputs = _Outputs([tally], tally)
    if args.out:
        outputs.sinks.append(stack.enter_context(MotTextSink(args.out, args.overwrite)))
    if args.video:
        size = (source.width, source.height)
        fps = source.fps or args.fps or TrackerConfig().default_fps
        outputs.sinks.append(stack.enter_context(FilmSink(args.video, fps, size, args.overwrite)))
    if args.show:
        from tracker.sinks.window import WindowSink

        outputs.window = stack.enter_context(WindowSink(f"tracklet: {source.name}"))
        outputs.sinks.append(outputs.window)
    return outputs


class _Interrupt:
    """Ctrl-C (and SIGTERM) ends the run after the frame at hand, so that no line is half written; a second one at once.

    While the tracker waits for a frame that may never come, the first one ends it at once too.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.seen = False
        self._pipeline = pipeline
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                break
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, stack_frame: object) -> None:
        again, self.seen = self.seen, True
        self._pipeline.stop()
        if again or self._pipeline.waiting:
            raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
