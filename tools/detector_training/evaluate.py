"""Detectors side by side: average precision on MOT sequences, false alarms on pictures without people, time.

All look at the same frames and are scored by the same code. What is scored here must not have been trained on, and
nothing may be chosen by it.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from reid_training.errors import ConfigError, DataError
from tools.detector_training.ap import Curve, FloatArray, Found, curve, match, score_at_recall
from tools.detector_training.labels import SUFFIXES
from tools.detector_training.predict import NMS_IOU
from tools.detector_training.scenes import read_image
from tracker.detector.onnx import OnnxDetector
from tracker.eval.mot_files import read_ground_truth
from tracker.runtime.onnx_session import open_session
from tracker.sources.open import open_source
from tracker.types import Frame, ImageArray

DETECTOR = re.compile(r"(?P<path>.+?)(?:@(?P<size>\d+))?")
SEQUENCE = re.compile(r"(?P<folder>.+?)(?:=(?P<source>.+?))?(?:@(?P<first>\d+)-(?P<last>\d+))?(?::(?P<every>\d+))?")
DEFAULT_SIZE = 416
SCORE = 1e-5  # for average precision: where people are hard to see, right boxes are found far down the list
TIMED = 40  # frames of each test
RECALLS = (0.5, 0.7, 0.8)  # at which false alarms are compared


class Detector(Protocol):
    name: str

    def __call__(self, image: ImageArray) -> tuple[FloatArray, FloatArray]:
        """Boxes (N, 4) xyxy in pixels of the picture, scores (N,)."""
        ...

    def cpu_s(self, image: ImageArray) -> float:
        """Seconds of one CPU thread from the picture to the boxes that tracking takes."""
        ...


class FileDetector:
    """Our own network or a YOLOX- or YOLO-style one, as `track --detector` runs it, on one CPU thread.

    device: "cpu", "openvino" or "openvino-f32": with one thread each computes in the calling one, whose time is taken.
    """

    def __init__(
        self, path: Path, size: int, device: str = "cpu", *, score: float = SCORE, nms_iou: float = NMS_IOU
    ) -> None:
        (image,) = open_session(path, "cpu", 1).inputs
        asked = None if image.shape[-1] else size  # a fixed input stays as it is
        self.detector = OnnxDetector(path, device=device, size=asked, threads=1, score=score, nms_iou=nms_iou)
        self.tracking = OnnxDetector(path, device=device, size=asked, threads=1)
        self.name = f"{path.stem} {size}" + (f" {device}" if device != "cpu" else "")

    def __call__(self, image: ImageArray) -> tuple[FloatArray, FloatArray]:
        found = self.detector.detect(_as_frame(image))
        return found.boxes, found.scores

    def cpu_s(self, image: ImageArray) -> float:
        frame, started = _as_frame(image), time.thread_time()
        self.tracking.detect(frame)
        return time.thread_time() - started


def _as_frame(image: ImageArray) -> Frame:
    return Frame(0, 0.0, image, image.shape[1], image.shape[0])


def open_detector(text: str, device: str = "cpu") -> Detector:
    """FILE.onnx or FILE.onnx@SIZE: SIZE is the longer side of the input, as far as the file leaves it open."""
    parts = DETECTOR.fullmatch(text)
    assert parts is not None  # any text has a path
    path, size = Path(parts["path"]), int(parts["size"] or DEFAULT_SIZE)
    if size < 32:
        raise ConfigError(f"{text}: the size of a detector's input is at least 32")
    return FileDetector(path, size, device)


@dataclass(frozen=True, slots=True)
class Test:
    """Frames of a MOT sequence."""

    folder: Path  # has gt/gt.txt
    source: Path  # pictures: the folder itself, or a video
    first: int = 1  # frames count from 1
    last: int | None = None
    every: int = 1

    @property
    def name(self) -> str:
        return self.folder.name

    def frames(self) -> Iterator[tuple[ImageArray, FloatArray, FloatArray]]:
        """Picture, people and boxes that neither count nor cost, in pixels from 0.

        Boxes stay as they are where they leave the picture, as in MOTChallenge's own scores.
        """
        truth = read_ground_truth(self.folder / "gt" / "gt.txt")
        table = truth.table
        with open_source(self.source) as source:
            for frame in source:
                number = frame.index + 1
                if self.last is not None and number > self.last:
                    break
                if number < self.first or (number - self.first) % self.every:
                    continue
                if frame.image is None:
                    raise DataError(f"{self.source}: frame {number} has no picture")
                here = table.frame == number
                yield frame.image, table.boxes[here & truth.counts] - 1, table.boxes[here & truth.ignored] - 1


def open_test(text: str) -> Test:
    """SEQUENCE[=VIDEO][@FIRST-LAST][:EVERY], e.g. PETS09-S2L1=vtest.avi@1-300:3."""
    parts = SEQUENCE.fullmatch(text)
    if parts is None:
        raise ConfigError("a test is SEQUENCE[=VIDEO][@FIRST-LAST][:EVERY], got nothing")
    folder = Path(parts["folder"])
    if not (folder / "gt" / "gt.txt").is_file():
        raise DataError(f"{folder}: no gt/gt.txt in it; a test is SEQUENCE[=VIDEO][@FIRST-LAST][:EVERY]")
    return Test(
        folder,
        Path(parts["source"]) if parts["source"] else folder,
        int(parts["first"] or 1),
        int(parts["last"]) if parts["last"] else None,
        max(1, int(parts["every"] or 1)),
    )


@dataclass(slots=True)
class Result:
    """What one detector did."""

    detector: str
    curves: dict[str, Curve] = field(default_factory=dict)  # by test
    false_scores: FloatArray = field(default_factory=lambda: np.zeros(0))  # of all detections where no person is
    n_without: int = 0  # pictures without people
    cpu_ms: float = float("nan")  # median, from picture to boxes

    def false_alarms(self, test: str, recall: float) -> float:
        """Per picture without people, at the score that finds this share of the test's people."""
        score = score_at_recall(self.curves[test], recall)
        if np.isnan(score) or not self.n_without:
            return float("nan")
        return float((self.false_scores >= score).sum() / self.n_without)


def evaluate(detectors: Sequence[Detector], tests: Sequence[Test], without_people: Path | None) -> list[Result]:
    results = [Result(detector.name) for detector in detectors]
    times: list[list[float]] = [[] for _ in detectors]
    for test in tests:
        found: list[list[Found]] = [[] for _ in detectors]
        for number, (image, people, ignored) in enumerate(test.frames()):
            for k, detector in enumerate(detectors):  # in turns: other work on the machine disturbs all alike
                if number < TIMED:
                    times[k].append(detector.cpu_s(image))
                boxes, scores = detector(image)
                found[k].append(match(boxes, scores, people, ignored))
        for result, items in zip(results, found, strict=True):
            result.curves[test.name] = curve(items)
    if without_people is not None:
        for image in map(read_image, pictures_in(without_people)):
            for result, detector in zip(results, detectors, strict=True):
                result.false_scores = np.concatenate([result.false_scores, detector(image)[1]])
                result.n_without += 1
    for result, seconds in zip(results, times, strict=True):
        result.cpu_ms = 1000 * float(np.median(seconds)) if seconds else float("nan")
    return results


def pictures_in(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: no pictures")
    return paths


def as_rows(results: Sequence[Result]) -> list[dict[str, str]]:
    """One row per detector; false alarms per picture without people, at equal recall."""
    rows = []
    for result in results:
        row = {"detector": result.detector}
        row |= {f"AP {name}": f"{curve.ap:.3f}" for name, curve in result.curves.items()}
        row["CPU ms"] = f"{result.cpu_ms:.1f}"
        for name in result.curves if result.n_without else ():
            for recall in RECALLS:
                row[f"false at {recall:g} of {name}"] = f"{result.false_alarms(name, recall):.3f}"
        rows.append(row)
    return rows


def to_markdown(rows: Sequence[dict[str, str]]) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([row[key] for key in header] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
