"""One sequence with one detection file, tracked and scored again and again with other settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tracker.config import AppearanceConfig, ProposalConfig, TrackerConfig
from tracker.eval import clear_identity, hota
from tracker.eval.cached_inputs import KeptFrames, RememberedLooks
from tracker.eval.mot_files import as_read, check_frames, read_ground_truth
from tracker.eval.preprocess import prepare
from tracker.eval.report import Row
from tracker.eval.sequences import TRUTH, info_of, length_of
from tracker.runtime.processes import Advanced
from tracker.types import Detections, Frame

if TYPE_CHECKING:
    from tracker.sources.base import FrameSource

MAX_LOOKS = 200_000  # embeddings kept for each unit: 200 MB of 256 numbers, or 380 frames' worth of 500 crops


@dataclass(frozen=True, slots=True)
class SequenceRun:
    """What is tracked, and how its parts are opened."""

    sequence: Path
    detections: str  # file inside the sequence folder
    video: str | None  # frames of a sequence without pictures
    reid: str | None  # None: motion alone, as where there are no images
    device: str
    threads: int | None
    keep_images: bool  # in memory, instead of decoding them again every time

    @property
    def name(self) -> str:
        return f"{self.sequence.name} {Path(self.detections).stem}"

    def relevant(self, config: TrackerConfig) -> TrackerConfig:
        """The configuration with what has no effect here at its default: runs that must be equal are one run."""
        if self.reid is not None:
            return config
        plain = replace(config, appearance=AppearanceConfig(), proposals=ProposalConfig())
        return plain.override({"association.appearance_weight": TrackerConfig().association.appearance_weight})


@dataclass(frozen=True, slots=True)
class Trial:
    """A unit under one configuration: the piece of work of a process."""

    unit: SequenceRun
    config: TrackerConfig


def run_trial(trial: Trial, advanced: Advanced) -> Row:
    """Scores of a trial; what the unit needs is opened once in every process. Raises TrackletError."""
    opened = _opened.get(trial.unit)
    if opened is None:
        opened = _opened[trial.unit] = OpenUnit(trial.unit)
    return opened.evaluate(trial.config)


class OpenUnit:
    """Detections, ground truth, frames and embeddings of a unit, made when they are first needed and kept."""

    def __init__(self, unit: SequenceRun) -> None:
        from tracker.build import load_encoder
        from tracker.detector.open import open_detector

        self._unit = unit
        truth_path = unit.sequence / TRUTH
        self._truth = read_ground_truth(truth_path)
        check_frames(truth_path, self._truth.table, length_of(unit.sequence))
        self.name = unit.name  # with `detect`, it is its own pipeline's detector
        self._detector = open_detector(detections=unit.sequence / unit.detections)
        self._encoder, self._thresholds = load_encoder(unit.reid, unit.device, unit.threads)
        self._looks = None if self._encoder is None else RememberedLooks(self._encoder, MAX_LOOKS)
        self._frames: list[Frame] | None = None

    def evaluate(self, config: TrackerConfig) -> Row:
        """Track with these settings, as `track-eval` does, and score."""
        from tracker.engine import Engine
        from tracker.pipeline import Pipeline

        frames, ids, boxes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, 4))]
        with self._source() as source:
            # Where detections of some frames are left out, `detect` cannot say which frame is looked at.
            encoder = self._looks if config.detection.every == 1 else self._encoder
            pipeline = Pipeline(source, self, Engine(config, encoder, self._thresholds))
            for frame, tracks in pipeline:
                frames.append(np.full(len(tracks), frame.index))
                ids.append(tracks.id)
                boxes.append(tracks.xyxy)
        pair = prepare(self._truth, as_read(np.concatenate(frames), np.concatenate(ids), np.concatenate(boxes)))
        return Row(self._unit.name, clear_identity.evaluate(*pair), hota.evaluate(*pair))

    def detect(self, frame: Frame) -> Detections:
        """The file's boxes; this is also the frame that embeddings are asked for next."""
        if self._looks is not None:
            self._looks.frame_index = frame.index
        return self._detector.detect(frame)

    @contextmanager
    def _source(self) -> Iterator[FrameSource]:
        from tracker.sources.open import open_source

        unit = self._unit
        if self._frames is not None:
            yield KeptFrames(unit.name, 0.0, self._frames)
            return
        fps = info_of(unit.sequence, "frameRate") if unit.video else None
        with open_source(unit.video or unit.sequence, fps=fps) as source:
            if not unit.keep_images:
                yield source
                return
            self._frames = list(source)
        yield KeptFrames(unit.name, 0.0, self._frames)


_opened: dict[SequenceRun, OpenUnit] = {}  # of this process
