"""One network for several sources: their frames take turns, or are searched in one batch.

Each source detects in threads of its own, see `SharedDetector.part`. It prepares and decodes its frames there; one
worker thread runs the network on what is waiting, and never waits for a source that has no frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Self

import numpy as np

from tracker.detector.base import DetectorBase
from tracker.detector.layouts.base import Blob, Outputs
from tracker.detector.onnx import OnnxDetector
from tracker.errors import DetectionError
from tracker.types import Detections, Frame

MOST_IN_BATCH = 8  # bounds the memory of a run, and how long the source that comes next waits
# On the CPU two cores share a frame well: a batch of theirs is no faster, takes some 20 MB a frame, and all of it waits
# for the last (docs/live.md). Only with more cores there is work for more frames.
_CORES_OF_A_FRAME = 2


@dataclass(eq=False, slots=True)
class _Request:
    """A prepared frame of a source, and the network's answer once it is there."""

    source: object
    pixels: Blob  # (1, 3, H, W)
    answer: Outputs | BaseException | None = field(default=None)


class SharedDetector:
    """Runs one network for all its parts.

    cores: those that a network on the CPU may use. Fair: the longest waiting frame is always in the next batch, with
    those of other sources that have the same size, at most one of each source. A network that takes no batches gets one
    frame after the other, in the same order.
    """

    def __init__(self, network: OnnxDetector, cores: int) -> None:
        self._network = network
        useful = MOST_IN_BATCH if network.provider == "cuda" else min(MOST_IN_BATCH, cores // _CORES_OF_A_FRAME)
        self._most = useful if useful > 1 and network.takes_batches() else 1
        self._changed = Condition()
        self._waiting: deque[_Request] = deque()
        self._closed = False
        Thread(target=self._work, name=f"detect {network.name}", daemon=True).start()

    def part(self) -> DetectorBase:
        """The detector for one more source."""
        return _Part(self, self._network)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; frames that still wait get a DetectionError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def infer(self, source: object, pixels: Blob) -> Outputs:
        """The outputs for a picture (1, 3, H, W) of this source, when its turn has come. Raises ModelError."""
        request = _Request(source, pixels)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
            self._changed.wait_for(lambda: request.answer is not None or self._closed)
        if request.answer is None:
            raise DetectionError(f"{self._network.name}: was closed while a frame waited")
        if isinstance(request.answer, BaseException):
            raise request.answer
        return request.answer

    def _work(self) -> None:
        while batch := self._next():
            try:
                answers: Sequence[Outputs | BaseException] = self._network.infer(
                    np.concatenate([request.pixels for request in batch])
                )
            except BaseException as error:
                answers = [error] * len(batch)
            with self._changed:
                for request, answer in zip(batch, answers, strict=True):
                    request.answer = answer
                self._changed.notify_all()

    def _next(self) -> list[_Request]:
        """The next batch, removed from those that wait; empty once the detector is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            batch = [self._waiting.popleft()]
            for request in list(self._waiting):
                others = {chosen.source for chosen in batch}
                same_size = request.pixels.shape == batch[0].pixels.shape
                if len(batch) < self._most and same_size and request.source not in others:
                    batch.append(request)
                    self._waiting.remove(request)
            return batch


class _Part(DetectorBase):
    """The shared network, for one source."""

    def __init__(self, shared: SharedDetector, network: OnnxDetector) -> None:
        self._shared, self._network = shared, network
        self.name, self.path, self.provider = network.name, network.path, network.provider
        self.class_names = network.class_names
        self.second_look = self
        self.n_at_once = 1

    def detect(self, frame: Frame) -> Detections:
        prepared = self._network.prepare(frame)
        return self._network.decode(frame, prepared, self._shared.infer(self, prepared.pixels))
