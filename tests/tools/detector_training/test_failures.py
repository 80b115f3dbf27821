"""Which pictures show a detector's mistakes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from reid_training.errors import ConfigError
from tools.detector_training.config import SourceConfig
from tools.detector_training.failures import KINDS, collect, examine, kinds_of, write_sheet
from tools.detector_training.labels import Picture


class Fixed:
    """Finds the same boxes everywhere."""

    name = "fixed"

    def __init__(self, boxes, scores):
        self.answer = np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)

    def __call__(self, image):
        return self.answer


def grey(value, height=200, width=200):
    return np.full((height, width, 3), value, np.uint8)


# people as (N, 4), grey value, what the picture shows
@pytest.mark.parametrize(
    ("people", "value", "kinds"),
    [
        ([], 20, []),
        ([[10, 10, 30, 100]], 128, []),
        ([[10, 10, 18, 30]], 128, ["small people"]),
        ([[10, 10, 30, 100]] * 8, 128, ["crowds"]),
        ([[10, 10, 18, 30]] * 8, 20, list(KINDS)),
    ],
)
def test_what_a_picture_shows(people, value, kinds):
    assert kinds_of(grey(value), np.array(people, dtype=np.float64).reshape(-1, 4)) == kinds


def test_people_found_missed_and_invented(tmp_path):
    picture = Picture(tmp_path / "a.png", np.array([[10.0, 10, 30, 60], [100, 10, 120, 60]]))
    detector = Fixed([[150, 150, 190, 190], [11, 11, 31, 61], [100, 10, 120, 60]], [0.5, 0.9, 0.2])
    case = examine(detector, grey(128), picture, 0.3)
    assert case.found.tolist() == [[10, 10, 30, 60]]
    assert case.missed.tolist() == [[100, 10, 120, 60]]  # its box scores below 0.3
    assert case.false.tolist() == [[150, 150, 190, 190]]
    assert case.wrong == pytest.approx(2 / 3)


def yolo_source(folder, shades):
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for k, shade in enumerate(shades):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), grey(shade))
        (folder / "labels" / f"{k}.txt").write_text("0 0.5 0.5 0.05 0.1\n")


def source(**changes):
    return SourceConfig(format="yolo", images="s/images", labels="s/labels", held_out=0.5, **changes)


def test_versions_of_one_photograph_show_once(tmp_path):
    yolo_source(tmp_path / "s", [100, 101, 102, 200, 201, 202, 103, 203])
    cases = collect(Fixed([], []), {"s": source()}, tmp_path, 0.3, 3)
    shades = [int(case.image[0, 0, 0]) for case in cases["small people"]]
    assert len(shades) == len({shade // 100 for shade in shades})
    assert cases["crowds"] == cases["dark"] == []


def test_the_sheet_is_a_picture(tmp_path):
    yolo_source(tmp_path / "s", [100, 150, 200, 250])
    shown = write_sheet(Fixed([[0, 0, 50, 50]], [0.9]), {"s": source()}, tmp_path, tmp_path / "f.jpg")
    assert 1 <= len(shown["small people"]) <= 3
    assert cv2.imread(str(tmp_path / "f.jpg")).shape == (240 + 22, 960, 3)


def test_sources_without_every_label_show_nothing(tmp_path):
    yolo_source(tmp_path / "s", [100, 150])
    with pytest.raises(ConfigError, match="no held-out picture"):
        collect(Fixed([], []), {"s": source(complete=False)}, tmp_path, 0.3, 3)
