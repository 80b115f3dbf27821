"""What is made once and used many times where a sequence is tracked again with other settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from tracker.detector.base import Detector, DetectorBase
from tracker.sources.base import FrameSource
from tracker.types import Detections, FeatureArray, FloatArray, Frame, ImageArray


class Replay(DetectorBase):
    """Detections of every frame, made once: a detector that costs nothing.

    second_look: whom use C asks about windows of a frame, which nobody can foresee; see `Detector`.
    """

    def __init__(self, name: str, frames: Mapping[int, Detections], second_look: Detector | None = None) -> None:
        self.name = name
        self.second_look = second_look
        self._frames = frames

    def detect(self, frame: Frame) -> Detections:
        return self._frames[frame.index]

    def with_second_look(self, second_look: Detector | None) -> Replay:
        return Replay(self.name, self._frames, second_look)


class KeptFrames(FrameSource):
    """A source whose frames lie in memory."""

    def __init__(self, name: str, fps: float, frames: Sequence[Frame]) -> None:
        self.name, self.fps = name, fps
        self.width, self.height = (frames[0].width, frames[0].height) if frames else (0, 0)
        self.n_frames = len(frames)
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)


class _Encoder(Protocol):
    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray: ...


class RememberedLooks:
    """An encoder that looks at each box of a frame once. `frame_index` must be set before every frame.

    Embeddings are those of the encoder but for the last bits, which depend on what else was in its batch. At most
    `max_rows` are kept, those that came first: detections are the same in every run, proposals are not.
    """

    def __init__(self, encoder: _Encoder, max_rows: int) -> None:
        self.name = getattr(encoder, "name", type(encoder).__name__)
        self.frame_index = -1
        self._encoder = encoder
        self._max_rows = max_rows
        self._rows: dict[tuple[int, bytes], FeatureArray] = {}

    def embed(self, image: ImageArray, boxes: FloatArray) -> FeatureArray:
        keys = [(self.frame_index, box.tobytes()) for box in boxes]
        missing = [row for row, key in enumerate(keys) if key not in self._rows]
        if len(missing) == len(boxes):
            features = self._encoder.embed(image, boxes)
        else:
            new = self._encoder.embed(image, boxes[missing]) if missing else None
            known = next(self._rows[key] for key in keys if key in self._rows)
            features = np.empty((len(boxes), len(known)), np.float32)
            for row, key in enumerate(keys):
                if key in self._rows:
                    features[row] = self._rows[key]
            if new is not None:
                features[missing] = new
        for row in missing[: max(0, self._max_rows - len(self._rows))]:
            self._rows[keys[row]] = features[row].copy()
        return features
