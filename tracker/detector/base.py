"""What the engine asks of a detector."""

from __future__ import annotations

from typing import Protocol

from tracker.types import Detections, Frame


class Detector(Protocol):
    """Finds people in one frame. Deterministic: the same frame gives the same detections.

    A detector may have two more attributes. `second_look`: a detector, itself or another one, that takes any picture
    and sees more of a person in an enlarged window than in the whole frame. Use C then asks it about the people missed.
    `n_at_once`: how many frames may be searched at once, in threads of their own, ahead of tracking, and while the
    second look runs in yet another one; without it nothing of this is taken for granted.
    """

    name: str  # for the summary, such as the model's file name

    def detect(self, frame: Frame) -> Detections:
        """Boxes in pixels of the frame, scores in [0, 1]; no detection is an empty `Detections`."""
        ...
