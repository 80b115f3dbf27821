"""What a detector must offer, and what it may offer besides."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from tracker import boxes as bx
from tracker.detector.inputs import as_detections, parse_detections
from tracker.errors import ConfigError, DetectionError
from tracker.types import Detections, Frame, ImageArray

_log = logging.getLogger(__name__)
# (H, W, 3) uint8 BGR -> boxes of people as an array (N, 4 .. 6), or whatever else `Tracker.update` takes.
DetectFunction: TypeAlias = Callable[[ImageArray], Any]


class Detector(Protocol):
    """Finds people in one frame. Deterministic: the same frame gives the same detections.

    This is all that a detector of your own must have; a function of the image does as well. It may have any of the
    attributes of `DetectorBase` as well, above all `second_look`; subclass it, or just set them.
    """

    name: str  # for the summary, such as the model's file name

    def detect(self, frame: Frame) -> Any:
        """`Detections`, an array (N, 4), (N, 5) or (N, 6), or whatever else `Tracker.update` takes: boxes in pixels of
        the frame, scores in [0, 1]. Boxes without area are dropped.
        """
        ...


class DetectorBase(ABC):
    """A detector with all optional attributes; the values here are those of a detector without them."""

    name: str
    # A detector, itself or another one, that takes a picture of any size and sees more of a person in an enlarged
    # window than in the whole frame. Use C asks it about the people who were missed.
    second_look: Detector | None = None
    # How many frames may be searched at once, each in its own thread, ahead of tracking, and while `second_look` runs
    # in yet another thread. 0: one frame at a time, in the thread that tracks.
    n_at_once: int = 0
    class_names: Mapping[int, str] = {}  # by class number
    path: Path | None = None  # the file that it comes from
    note: str | None = None  # for the line that says what runs, such as what the scores of a file were taken for
    provider: str | None = None  # where its network runs: "cpu", "cuda", "openvino", "openvino-f32"
    last_frame: int | None = None  # of a replay: index of the last frame with a detection

    @abstractmethod
    def detect(self, frame: Frame) -> Detections: ...


def with_defaults(detector: Detector | DetectFunction | DetectorBase) -> DetectorBase:
    """The same detector with all optional attributes: those that it lacks have their default."""
    return detector if isinstance(detector, DetectorBase) else _Completed(detector)


class _Completed(DetectorBase):
    """A user's detector: a function, or an object that may lack any of the optional attributes."""

    def __init__(self, detector: Detector | DetectFunction) -> None:
        self._find: Callable[[Any], Any] | None = getattr(detector, "detect", None)
        self._image_only = self._find is None and callable(detector)
        if self._image_only:
            self._find = detector  # type: ignore[assignment]
        if self._find is None:
            raise ConfigError(
                f"a detector is a file, a function of an image, or an object with detect(frame), got {detector!r}"
            )
        self.name = str(getattr(detector, "name", getattr(detector, "__name__", type(detector).__name__)))
        self._warned = False
        for attribute in ("n_at_once", "class_names", "path", "note", "provider", "last_frame"):
            if hasattr(detector, attribute):
                setattr(self, attribute, getattr(detector, attribute))
        second = getattr(detector, "second_look", None)
        self.second_look = self if second is detector else None if second is None else with_defaults(second)

    def detect(self, frame: Frame) -> Detections:
        assert self._find is not None
        given = self._find(frame.image if self._image_only else frame)
        try:
            found = parse_detections(given)
            good = bx.valid(found.boxes) | ~np.isfinite(found.boxes).all(axis=1)  # as_detections names the others
            if not good.all() and not self._warned:
                self._warned = True
                _log.warning(
                    "%s: dropped %d of %d detections in frame %d: they have no area; later ones are dropped, too",
                    self.name, (~good).sum(), len(found), frame.index + 1,
                )  # fmt: skip
            return as_detections(found.take(good))
        except DetectionError as error:
            raise DetectionError(f"{self.name}, frame {frame.index + 1}: {error}") from error
