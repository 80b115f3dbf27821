"""What each of the three uses of the metric does, on sequences with ground truth.

    python tools/measure_uses.py --data ../shared/data [--detections public built-in] [--reid fast accurate]
        [--uses A+B+C] [--markdown]

Runs the tracker on PETS09-S2L1 (whose frames are vtest.avi) and MOT16-09, with the public detections and with the
built-in detector, for A (veto), B (re-association) and C (proposals) off, each alone, in pairs, and all on, and as a
plain Kalman + IoU tracker. The detector runs once for all rows; frames per second are without it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tracker.assembly import load_encoder
from tracker.config import TrackerConfig
from tracker.detector.open import open_detector
from tracker.engine import Engine
from tracker.eval.clear_identity import Scores, evaluate
from tracker.eval.mot_files import BoxTable, read_ground_truth
from tracker.eval.preprocess import prepare
from tracker.pipeline import Pipeline
from tracker.sources.open import open_source
from tracker.types import Detections, Frame

NONE = {"association.veto": False, "association.reassociate": False, "proposals.enabled": False}
A, B, C = {"association.veto": True}, {"association.reassociate": True}, {"proposals.enabled": True}
ROWS: dict[str, dict[str, Any]] = {
    "Kalman + IoU": NONE | {"association.appearance_weight": 0.0},
    "off": NONE,
    "A": NONE | A,
    "B": NONE | B,
    "C": NONE | C,
    "A+B": NONE | A | B,
    "A+C": NONE | A | C,
    "B+C": NONE | B | C,
    "A+B+C": NONE | A | B | C,
}


@dataclass(frozen=True)
class Sequence:
    name: str
    frames: Path
    folder: Path  # with gt/gt.txt and det/det.txt


def sequences(data: Path) -> list[Sequence]:
    pets, mot = data / "mot15" / "train" / "PETS09-S2L1", data / "mot16" / "train" / "MOT16-09"
    return [Sequence(pets.name, data / "videos" / "vtest.avi", pets), Sequence(mot.name, mot, mot)]


class Replay:
    """Detections of every frame, made once."""

    def __init__(self, name: str, frames: dict[int, Detections]) -> None:
        self.name = name
        self._frames = frames

    def detect(self, frame: Frame) -> Detections:
        return self._frames[frame.index]


def detect_once(sequence: Sequence, kind: str) -> Replay:
    public = sequence.folder / "det" / "det.txt"
    detector = open_detector(detections=public if kind == "public" else None)
    with open_source(sequence.frames) as source:
        return Replay(detector.name, {frame.index: detector.detect(frame) for frame in source})


def run(sequence: Sequence, detector: Replay, settings: dict[str, Any], reid: str) -> tuple[Scores, dict[str, float]]:
    """Scores, and proposed boxes, crops per frame and frames per second of one run."""
    encoder, thresholds = load_encoder(reid)
    engine = Engine(TrackerConfig().override(settings), encoder, thresholds)
    pipeline = Pipeline(open_source(sequence.frames), detector, engine)
    start = perf_counter()
    frames, ids, boxes, proposed = [], [], [], 0
    for frame, tracks in pipeline:
        frames.append(np.full(len(tracks), frame.index + 1))
        ids.append(tracks.id)
        boxes.append(tracks.xyxy + 1.0)  # MOT files count pixels from 1
        proposed += int(tracks.proposed.sum())
    seconds = perf_counter() - start
    results = BoxTable(np.concatenate(frames), np.concatenate(ids), np.concatenate(boxes))
    scores = evaluate(*prepare(read_ground_truth(sequence.folder / "gt" / "gt.txt"), results))
    n = pipeline.n_frames
    return scores, {"proposed": proposed, "crops": engine.n_crops / n, "fps": n / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--detections", nargs="+", choices=("public", "built-in"), default=["public", "built-in"])
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--uses", nargs="+", choices=tuple(ROWS), default=list(ROWS), metavar="USES")
    parser.add_argument("--reid", nargs="+", default=["default"], metavar="ONNX", help="networks, one after the other")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    head = ["sequence, detections", "uses", "MOTA", "IDF1", "IDs", "FP", "FN", "proposed", "crops/frame", "fps"]
    form = "| " + " | ".join(["{}"] * len(head)) + " |" if args.markdown else (
        "{:<24} {:<13} {:>6} {:>6} {:>5} {:>6} {:>6} {:>9} {:>12} {:>6}"
    )  # fmt: skip
    print(form.format(*head))
    if args.markdown:
        print("|" + "---|" * len(head))
    for sequence in sequences(args.data):
        if args.sequences and sequence.name not in args.sequences:
            continue
        for kind in args.detections:
            detector = detect_once(sequence, kind)
            for reid, name in itertools.product(args.reid, args.uses):
                s, more = run(sequence, detector, ROWS[name], reid)
                counts = [s.switches, s.false_positives, s.misses, int(more["proposed"])]
                rates = [f"{more['crops']:.1f}", f"{more['fps']:.0f}"]
                where = f"{sequence.name}, {kind}" + (f", {Path(reid).stem}" if len(args.reid) > 1 else "")
                scores = [f"{100 * s.mota:.1f}", f"{100 * s.idf1:.1f}"]
                print(form.format(where, name, *scores, *counts, *rates), flush=True)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
