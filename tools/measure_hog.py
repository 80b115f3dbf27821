"""How good and how fast the built-in HOG detector is: average precision at IoU 0.5 and milliseconds per frame.

    python tools/measure_hog.py --data ../shared/data [--long-side 1152] [--step 1.1] [--deciles]

Two scenes: vtest.avi (every 3rd of frames 1-300, ground truth of MOT15 PETS09-S2L1) and MOT16-09 (every 7th frame).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tracker.boxes import iou, ltwh_to_xyxy
from tracker.detector.hog import LONG_SIDE_PX, PYRAMID_STEP, HogDetector
from tracker.types import FloatArray, Frame, ImageArray

_IGNORED_CLASSES = (2, 7, 8, 12)  # of MOT16: neither hit nor false alarm
_IOU = 0.5


def vtest_frames(data: Path) -> Iterator[tuple[int, ImageArray]]:
    video = cv2.VideoCapture(str(data / "videos/vtest.avi"))
    for number in range(1, 301):
        ok, image = video.read()
        if not ok:
            raise SystemExit(f"{data / 'videos/vtest.avi'}: no frame {number}")
        if number % 3 == 1:
            yield number, np.asarray(image, dtype=np.uint8)


def mot16_frames(data: Path) -> Iterator[tuple[int, ImageArray]]:
    for number in range(1, 526, 7):
        path = data / f"mot16/train/MOT16-09/img1/{number:06d}.jpg"
        image = cv2.imread(str(path))
        if image is None:
            raise SystemExit(f"{path}: cannot be read")
        yield number, np.asarray(image, dtype=np.uint8)


def read_truth(path: Path, mot16: bool) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Frame number -> boxes that count (G, 4), boxes to ignore (I, 4). MOT15 has no class column."""
    table = np.loadtxt(path, delimiter=",")
    boxes = ltwh_to_xyxy(table[:, 2:6])
    boxes -= 1.0  # pixels count from 1 there
    counts = table[:, 6] != 0
    ignored = np.zeros(len(table), dtype=bool)
    if mot16:
        counts &= table[:, 7] == 1
        ignored = np.isin(table[:, 7], _IGNORED_CLASSES) | ((table[:, 7] == 1) & ~counts)
    frames = np.unique(table[:, 0])
    return {
        int(number): (boxes[(table[:, 0] == number) & counts], boxes[(table[:, 0] == number) & ignored])
        for number in frames
    }


def judge(boxes: FloatArray, scores: FloatArray, truth: FloatArray, ignored: FloatArray) -> list[tuple[float, bool]]:
    """(score, hit) of a frame's detections, best first; a true box is found once, ignored boxes do not count."""
    free = np.ones(len(truth), dtype=bool)
    overlap, overlap_ignored = iou(boxes, truth), iou(boxes, ignored)
    judged = []
    for row in np.argsort(-scores, kind="stable"):
        open_overlap = np.where(free, overlap[row], 0.0)
        if len(truth) and open_overlap.max() >= _IOU:
            free[open_overlap.argmax()] = False
            judged.append((float(scores[row]), True))
        elif not (len(ignored) and overlap_ignored[row].max() >= _IOU):
            judged.append((float(scores[row]), False))
    return judged


def average_precision(judged: list[tuple[float, bool]], n_truth: int) -> float:
    """Area under the precision-recall curve, precision made monotone."""
    hits = np.array([hit for _, hit in sorted(judged, key=lambda item: -item[0])], dtype=np.float64)
    found = np.cumsum(hits)
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], found / n_truth])) * precision))


def print_deciles(judged: list[tuple[float, bool]]) -> None:
    ordered = sorted(judged, key=lambda item: -item[0])
    for part in np.array_split(np.arange(len(ordered)), 10):
        scores = [ordered[row][0] for row in part]
        precision = np.mean([ordered[row][1] for row in part])
        print(f"  score {scores[0]:.3f} .. {scores[-1]:.3f}  precision {precision:.2f}")


def measure(name: str, frames: Iterator[tuple[int, ImageArray]], truth_path: Path, args: argparse.Namespace) -> None:
    truth = read_truth(truth_path, mot16=name == "MOT16-09")
    detector = HogDetector(args.long_side, args.step)
    judged: list[tuple[float, bool]] = []
    n_truth, times = 0, []
    for number, image in frames:
        frame = Frame(number - 1, 0.0, image, image.shape[1], image.shape[0])
        start = time.perf_counter()
        found = detector.detect(frame)
        times.append(1e3 * (time.perf_counter() - start))
        counting, ignored = truth.get(number, (np.zeros((0, 4)), np.zeros((0, 4))))
        judged += judge(found.boxes, found.scores, counting, ignored)
        n_truth += len(counting)
    ap = average_precision(judged, n_truth)
    recall = sum(hit for _, hit in judged) / n_truth
    pace = f"{np.median(times):.0f} ms per frame (median; fastest {min(times):.0f})"
    print(f"{name}: {len(times)} frames, AP {ap:.3f}, recall {recall:.3f}, {pace}", flush=True)
    if args.deciles:
        print_deciles(judged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with videos/, mot15/, mot16/")
    parser.add_argument("--long-side", type=int, default=LONG_SIDE_PX)
    parser.add_argument("--step", type=float, default=PYRAMID_STEP)
    parser.add_argument("--deciles", action="store_true", help="also the precision of each tenth of the scores")
    args = parser.parse_args()
    measure("vtest.avi", vtest_frames(args.data), args.data / "mot15/train/PETS09-S2L1/gt/gt.txt", args)
    measure("MOT16-09", mot16_frames(args.data), args.data / "mot16/train/MOT16-09/gt/gt.txt", args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
