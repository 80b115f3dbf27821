"""One sequence with one detection file, tracked and scored repeatedly with cached frames and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tracker.config import TrackerConfig
from tracker.eval import clear_identity, hota
from tracker.eval.mot_files import as_read, check_frames, read_ground_truth
from tracker.eval.preprocess import prepare
from tracker.eval.report import Row
from tracker.eval.sequences import TRUTH, info_of, length_of
from tracker.runtime.processes import Advanced
from tracker.sources.base import FrameSource
from tracker.types import Detections, FeatureArray, FloatArray, Frame, ImageArray

MAX_EMBEDDINGS = 200_000  # cached for each run: 200 MB of 256 numbers each


@dataclass(frozen=True, slots=True)
class SequenceRun:
    """What is tracked, and with which detections and networks."""

    sequence: Path
    detections: str  # file inside the sequence folder
    video: str | None  # frames of a sequence without images
    reid: str | None  # None: motion only, as for a sequence without images
    device: str
    threads: int | None
    keep_images: bool  # in memory, instead of decoding them in every run

    @property
    def name(self) -> str:
        return f"{self.sequence.name} {Path(self.detections).stem}"


@dataclass(frozen=True, slots=True)
class Trial:
    """A run with one configuration: one item of work for a process."""

    run: SequenceRun
    config: TrackerConfig


def run_trial(trial: Trial, advanced: Advanced) -> Row:
    """Scores of a trial; every process opens a run once and keeps it. Raises TrackletError."""
    opened = _opened.get(trial.run)
    if opened is None:
        opened = _opened[trial.run] = OpenRun(trial.run)
    return opened.evaluate(trial.config)


class OpenRun:
    """Detections, ground truth, frames and embeddings of a run, cached as they are first needed."""

    def __init__(self, run: SequenceRun) -> None:
        from tracker.build import load_encoder
        from tracker.detector.open import open_detector

        self._run = run
        truth_path = run.sequence / TRUTH
        self._truth = read_ground_truth(truth_path)
        check_frames(truth_path, self._truth.table, length_of(run.sequence))
        self.name = run.name  # with `detect`, this object is the detector of its pipeline
        self._detector = open_detector(detections=run.sequence / run.detections)
        self._encoder, self._thresholds = load_encoder(run.reid, run.device, run.threads)
        self._cached_encoder = None if self._encoder is None else CachedEncoder(self._encoder, MAX_EMBEDDINGS)
        self._frames: list[Frame] | None = None

    def evaluate(self, config: TrackerConfig) -> Row:
        """Track with these settings, as `track-eval --verify appearance` does, and score."""
        from tracker.engine import Engine
        from tracker.pipeline import Pipeline

        frames, ids, boxes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, 4))]
        with self._source() as source:
            # The cache learns the frame from `detect`, which is not called for frames without detection.
            encoder = self._cached_encoder if config.detection.every in (None, 1) else self._encoder
            pipeline = Pipeline(source, self, Engine(config, encoder, self._thresholds))
            for frame, tracks in pipeline:
                frames.append(np.full(len(tracks), frame.index))
                ids.append(tracks.id)
                boxes.append(tracks.xyxy)
        pair = prepare(self._truth, as_read(np.concatenate(frames), np.concatenate(ids), np.concatenate(boxes)))
        return Row(self._run.name, clear_identity.evaluate(*pair), hota.evaluate(*pair))

    def detect(self, frame: Frame) -> Detections:
        """Boxes of the detection file; the next embeddings are of this frame."""
        if self._cached_encoder is not None:
            self._cached_encoder.begin_frame(frame.index)
        return self._detector.detect(frame)

    @contextmanager
    def _source(self) -> Iterator[FrameSource]:
        from tracker.sources.open import open_source

        run = self._run
        if self._frames is not None:
            yield CachedFrames(run.name, self._frames)
            return
        fps = info_of(run.sequence, "frameRate") if run.video else None
        with open_source(run.video or run.sequence, fps=fps) as source:
            if not run.keep_images:
                yield source
                return
            self._frames = list(source)
        yield CachedFrames(run.name, self._frames)


_opened: dict[SequenceRun, OpenRun] = {}  # of this process


class CachedFrames(FrameSource):
    """A source of frames in memory."""

    def __init__(self, name: str, frames: Sequence[Frame]) -> None:
        self.name = name
        self.width, self.height = (frames[0].width, frames[0].height) if frames else (0, 0)
        self.n_frames = len(frames)
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)


class _Encoder(Protocol):
    name: str

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray: ...


class CachedEncoder:
    """An encoder that embeds each box of a frame once. Call `begin_frame` before every frame.

    Embeddings equal those of the encoder except for the last bits, which depend on the batch. At most `max_rows` are
    cached, the first ones: detections are the same in every run, proposals are not.
    """

    def __init__(self, encoder: _Encoder, max_rows: int) -> None:
        self.name = encoder.name
        self._frame_index = -1
        self._encoder = encoder
        self._max_rows = max_rows
        self._rows: dict[tuple[int, bytes], FeatureArray] = {}

    def begin_frame(self, index: int) -> None:
        """The next boxes are of this frame."""
        self._frame_index = index

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        """(N, D) features of the boxes (N, 4)."""
        keys = [(self._frame_index, box.tobytes()) for box in boxes]
        missing = [row for row, key in enumerate(keys) if key not in self._rows]
        if len(missing) == len(boxes):
            features = self._encoder.embed(image, boxes)
        else:
            found = [self._rows.get(key) for key in keys]
            if missing:
                for row, feature in zip(missing, self._encoder.embed(image, boxes[missing]), strict=True):
                    found[row] = feature
            features = np.array(found, np.float32)
        for row in missing[: max(0, self._max_rows - len(self._rows))]:
            self._rows[keys[row]] = features[row].copy()
        return features
