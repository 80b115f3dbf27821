"""Detectors of users: the required parts are enough, and optional ones are kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tracker.detector.base import DetectorBase, with_defaults
from tracker.errors import ConfigError, DetectionError
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
    other.name = "other"
    assert with_defaults(mine).second_look.name == "other"
    mine.second_look = mine  # as a network that sees more in an enlarged window
    itself = with_defaults(mine)
    assert itself.second_look is itself
    assert (detector.n_at_once, detector.class_names) == (3, {0: "person"})


def test_with_defaults_returns_a_complete_detector_itself():
    class Complete(Minimal, DetectorBase): ...

    detector = Complete()
    assert with_defaults(detector) is detector


IMAGE = np.zeros((40, 60, 3), np.uint8)
FRAME = Frame(6, 0.25, IMAGE, 60, 40)
ROWS = [[1.0, 2, 11, 32, 0.5, 3], [20, 2, 31, 32, 0.75, 0]]


def found_by_function(image):
    assert image is IMAGE
    return np.array(ROWS)


@pytest.mark.parametrize(
    "answer",
    [
        ROWS,
        np.array(ROWS, np.float32),
        SimpleNamespace(xyxy=np.array(ROWS)[:, :4], confidence=[0.5, 0.75], class_id=[3, 0]),
    ],
)
def test_detect_may_give_arrays_and_objects(answer):
    for detector in (found_by_function, SimpleNamespace(name="mine", detect=lambda frame: answer)):
        found = with_defaults(detector).detect(FRAME)
        np.testing.assert_array_equal(found.boxes, np.array(ROWS)[:, :4])
        np.testing.assert_array_equal(found.scores, [0.5, 0.75])
        np.testing.assert_array_equal(found.classes, [3, 0])
    assert with_defaults(found_by_function).name == "found_by_function"
    assert len(with_defaults(lambda image: None).detect(FRAME)) == 0


def test_second_look_of_a_user_may_give_arrays():
    mine = Minimal()
    mine.second_look = SimpleNamespace(name="close", detect=lambda frame: ROWS)
    np.testing.assert_array_equal(with_defaults(mine).second_look.detect(FRAME).scores, [0.5, 0.75])


def test_boxes_without_area_are_dropped_and_said_once(caplog):
    detector = with_defaults(lambda image: [*ROWS, [5, 5, 5, 9, 0.9, 0], [5, 9, 8, 5, 0.9, 0]])
    for _ in range(2):
        np.testing.assert_array_equal(detector.detect(FRAME).scores, [0.5, 0.75])
    said = "<lambda>: dropped 2 of 4 detections in frame 7: they have no area; later ones are dropped, too"
    assert caplog.messages == [said]


def test_wrong_answers_and_wrong_detectors_are_named():
    with pytest.raises(DetectionError, match=r"^found, frame 7: detections have shape \(1, 3\); expected \(N, 4\)"):
        with_defaults(SimpleNamespace(name="found", detect=lambda frame: [[1, 2, 3]])).detect(FRAME)
    with pytest.raises(DetectionError, match=r"frame 7: detection 1 has the box \(5, 5, nan, 9\); expected finite"):
        with_defaults(lambda image: [[5, 5, 8, 9], [5, 5, np.nan, 9]]).detect(FRAME)
    with pytest.raises(DetectionError, match="frame 7: detection 0 has the score 50; expected 0 to 1"):
        with_defaults(lambda image: [[1, 2, 3, 4, 50]]).detect(FRAME)
    with pytest.raises(ConfigError, match=r"a detector is a file, a function of an image, or an object .*, got 3"):
        with_defaults(3)
