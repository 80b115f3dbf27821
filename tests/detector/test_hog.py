"""The built-in detector: sane output on any picture, people on the real one, and its box voting."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.boxes import iou
from tracker.detector.hog import HogDetector, vote
from tracker.detector.open import open_detector
from tracker.detector.public import PublicDetections
from tracker.errors import DetectionError
from tracker.types import Frame

DATA = Path(os.environ.get("TRACKLET_DATA", Path(__file__).parents[3] / "shared" / "data"))


def frame(image):
    return Frame(3, 0.1, image, image.shape[1], image.shape[0])


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (240, 320), (300, 20)])
def test_noise_of_any_size_gives_valid_boxes_the_same_twice(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    first, second = HogDetector().detect(frame(image)), HogDetector().detect(frame(image))
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.boxes.shape == (len(first), 4)
    assert ((first.scores >= 0) & (first.scores <= 1)).all()
    assert (first.boxes[:, :2] >= 0).all()
    assert (first.boxes[:, 2:] <= [size[1], size[0]]).all()


def test_a_frame_without_picture_is_named():
    with pytest.raises(DetectionError, match="frame 3 has no picture"):
        HogDetector().detect(Frame(3, 0.1, None, 10, 10))


def test_voting_is_the_weighted_mean_of_agreeing_windows():
    windows = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [50, 50, 60, 70.0]])
    voted = vote(windows[[0, 2]], windows, np.array([2.0, 1.0, -0.1]))
    share = 1.01 / (2.01 + 1.01)
    np.testing.assert_allclose(voted, [[share, 0, 10 + share, 20], [50, 50, 60, 70]])
    assert vote(np.zeros((0, 4)), windows, np.ones(3)).shape == (0, 4)


def test_the_factory_takes_the_file_or_else_the_built_in_detector(tmp_path):
    (tmp_path / "det.txt").write_text("1,-1,1,1,2,3,0.5\n")
    assert isinstance(open_detector(detections=tmp_path / "det.txt"), PublicDetections)
    assert isinstance(open_detector(), HogDetector)


@pytest.mark.data
def test_most_people_of_the_first_frame_of_vtest_are_found():
    video = DATA / "videos/vtest.avi"
    truth = DATA / "mot15/train/PETS09-S2L1/gt/gt.txt"
    if not (video.exists() and truth.exists()):
        pytest.skip(f"no {video} or {truth}")
    ok, image = cv2.VideoCapture(str(video)).read()
    assert ok
    table = np.loadtxt(truth, delimiter=",")
    people = table[table[:, 0] == 1][:, 2:6]
    people[:, :2] -= 1
    people[:, 2:] += people[:, :2]
    found = HogDetector().detect(frame(image))
    sure = found.boxes[found.scores > 0.5]
    overlap = iou(sure, people)
    assert (overlap.max(axis=0) > 0.5).mean() >= 0.7
    assert (overlap.max(axis=1) > 0.5).mean() >= 0.7
