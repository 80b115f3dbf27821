"""What a detector must offer, and what it may offer besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tracker.types import Detections, Frame


class Detector(Protocol):
    """Finds people in one frame. Deterministic: the same frame gives the same detections.

    This is all that a detector of your own must have. It may have any of the attributes of `DetectorBase` as well,
    above all `second_look`; subclass it, or just set them.
    """

    name: str  # for the summary, such as the model's file name

    def detect(self, frame: Frame) -> Detections:
        """Boxes in pixels of the frame, scores in [0, 1]; no detection is an empty `Detections`."""
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
    provider: str | None = None  # where its network runs, "cpu" or "cuda"
    last_frame: int | None = None  # of a replay: index of the last frame with a detection

    @abstractmethod
    def detect(self, frame: Frame) -> Detections: ...


def with_defaults(detector: Detector | DetectorBase) -> DetectorBase:
    """The same detector with all optional attributes: those that it lacks have their default."""
    return detector if isinstance(detector, DetectorBase) else _Completed(detector)


class _Completed(DetectorBase):
    """A user's detector, which may lack any of the optional attributes."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.name = detector.name
        for attribute in ("second_look", "n_at_once", "class_names", "path", "provider", "last_frame"):
            if hasattr(detector, attribute):
                setattr(self, attribute, getattr(detector, attribute))

    def detect(self, frame: Frame) -> Detections:
        return self._detector.detect(frame)
