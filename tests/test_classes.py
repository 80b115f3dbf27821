"""Classes: which may be one object, and which are people."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.classes import Classes
from tracker.detector.onnx import COCO_NAMES

COCO = dict(enumerate(COCO_NAMES))
NUMBER = {name: number for number, name in COCO.items()}

SAME = [("car", "truck", True), ("bus", "car", True), ("bicycle", "motorcycle", True), ("cat", "dog", True),
        ("person", "car", False), ("person", "bicycle", False), ("car", "motorcycle", False), ("dog", "cow", False),
        ("chair", "couch", False)]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same"), SAME)
def test_only_related_classes_share_a_group(one, other, same):
    group = Classes(COCO).group(np.array([NUMBER[one], NUMBER[other]]))
    assert (group[0] == group[1]) == same


def test_classes_without_names_are_groups_of_their_own():
    numbers = np.array([0, 1, 2, 7, 79, 80, -3, 10**12])
    assert Classes().group(numbers).tolist() == numbers.tolist()
    named = Classes({2: "car", 7: "truck", -1: "car"})
    assert named.group(numbers).tolist() == [0, 1, 2, 2, 79, 80, -3, 10**12]
    assert named.group(np.zeros(0, np.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("names", "all_embedded", "embedded"),
    [(COCO, False, [True, False, False]), (COCO, True, [True] * 3), ({}, False, [True] * 3),
     ({0: "ball", 2: "player"}, False, [True] * 3), ({0: "helmet", 1: "Pedestrian"}, False, [False, True, False])],
)  # fmt: skip
def test_bundled_network_is_for_people_where_a_name_says_who_they_are(names, all_embedded, embedded):
    classes = Classes(names, all_embedded)
    assert classes.embedded(classes.group(np.array([0, 1, 2]))).tolist() == embedded


def test_person_is_the_class_with_that_name():
    assert (Classes(COCO).person, Classes({3: "pedestrian", 0: "car"}).person, Classes().person) == (0, 3, 0)
