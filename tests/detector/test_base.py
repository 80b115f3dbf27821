"""Detectors of users: the required parts are enough, and optional ones are kept."""

from __future__ import annotations

from tracker.detector.base import DetectorBase, with_defaults
from tracker.types import Detections, Frame


class Minimal:
    name = "mine"

    def detect(self, frame):
        return Detections.empty()


def test_with_defaults_completes_a_minimal_detector():
    detector = with_defaults(Minimal())
    assert (detector.name, detector.second_look, detector.n_at_once, detector.class_names) == ("mine", None, 0, {})
    assert (detector.path, detector.provider, detector.last_frame) == (None, None, None)
    assert len(detector.detect(Frame(0, 0.0, None, 4, 4))) == 0


def test_with_defaults_keeps_optional_attributes():
    mine, other = Minimal(), Minimal()
    mine.second_look, mine.n_at_once, mine.class_names = other, 3, {0: "person"}
    detector = with_defaults(mine)
    assert detector.second_look is other
    assert (detector.n_at_once, detector.class_names) == (3, {0: "person"})


def test_with_defaults_returns_a_complete_detector_itself():
    class Complete(Minimal, DetectorBase): ...

    detector = Complete()
    assert with_defaults(detector) is detector
