"""Tracks of several classes through the public API."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import iou_of
from tracker import Tracker
from tracker.errors import ConfigError

NAMES = {0: "person", 1: "bicycle", 2: "car", 7: "truck"}
PERSON, CAR, TRUCK = 0, 2, 7
IMAGE = np.zeros((480, 640, 3), np.uint8)


class Looked:
    """A re-ID network that says the same of everything, and remembers what it was shown."""

    def __init__(self):
        self.boxes = []

    def __call__(self, image, boxes):
        self.boxes += boxes.tolist()
        return np.ones((len(boxes), 4))


def tracked(frames, images=False, **options):
    """The tracks of the last frame after all frames: id -> (class, box)."""
    tracker = Tracker(**{"reid": None, "class_names": NAMES, **options})
    for rows in frames:
        tracks = tracker.update(np.array(rows, float), IMAGE if images else None)
    return {int(i): (int(c), box) for i, c, box in zip(tracks.id, tracks.class_id, tracks.xyxy, strict=True)}


def car(t, number=CAR):
    return [100 + 2 * t, 100, 300 + 2 * t, 300, 0.9, number]


def passenger(t, number=PERSON):
    """Covers three quarters of the car."""
    return [115 + 2 * t, 100, 290 + 2 * t, 290, 0.8, number]


def test_person_over_a_car_is_a_track_of_its_own():
    assert iou_of(car(0), passenger(0)) > 0.6
    tracks = tracked([[car(t), passenger(t)] for t in range(10)])
    assert {number for number, _ in tracks.values()} == {CAR, PERSON}
    both_cars = tracked([[car(t), passenger(t, TRUCK)] for t in range(10)])
    assert len(both_cars) == 1  # related classes suppress one another


def test_number_of_a_car_never_becomes_a_persons():
    """The car vanishes where a person appears."""
    tracks = tracked([[car(0)]] * 10 + [[car(0, PERSON)]] * 10)
    assert {i: number for i, (number, _) in tracks.items()} == {2: PERSON}


@pytest.mark.parametrize(("classes", "voted"), [([CAR, CAR, TRUCK], CAR), ([TRUCK, TRUCK, CAR, TRUCK], TRUCK),
                                                ([TRUCK] * 3 + [CAR] * 40, CAR)])  # fmt: skip
def test_related_classes_are_one_track_and_vote(classes, voted):
    frames = [[car(t, classes[t % len(classes)])] for t in range(43)]
    assert {i: number for i, (number, _) in tracked(frames).items()} == {1: voted}


def test_votes_weigh_by_score():
    sure, unsure = [*car(0, CAR)[:4], 0.95, CAR], [*car(0, TRUCK)[:4], 0.6, TRUCK]
    assert tracked([[sure], [unsure]] * 10)[1][0] == CAR


def test_missing_names_make_every_number_a_class():
    tracks = tracked([[car(t, 5), passenger(t, 6)] for t in range(10)], class_names=None)
    assert {number for number, _ in tracks.values()} == {5, 6}


def test_person_behind_a_car_may_come_back_nearer_to_the_car():
    """Of two people, the box would be that of the one in front; but a car's box is of a car."""
    back = np.array(passenger(0)) - [40, 0, 40, 0, 0, 0]
    assert iou_of(back, car(0)) > iou_of(back, passenger(0)) > 0.6
    frames = [[car(0), passenger(0)]] * 10 + [[car(0)]] * 2 + [[car(0), back]] * 2
    assert {i: number for i, (number, _) in tracked(frames).items()} == {1: CAR, 2: PERSON}


def test_other_classes_go_by_motion_and_named_network_sees_all(monkeypatch):
    """The bundled network is asked about people alone; a network of the user about everything."""
    frames = [[car(t), passenger(t)] for t in range(6)]
    mine = Looked()
    tracked(frames, images=True, reid=mine, appearance__refresh_s=0.0)
    assert len(mine.boxes) == 12
    bundled = Looked()
    monkeypatch.setattr("tracker.api.load_encoder", lambda *_: (_Bundled(bundled), None))
    tracks = tracked(frames, images=True, reid="default", appearance__refresh_s=0.0)
    assert len(tracks) == 2
    assert bundled.boxes == [passenger(t)[:4] for t in range(6)]


class _Bundled:
    name = "bundled"

    def __init__(self, looked):
        self._looked = looked

    def embed(self, image, boxes):
        return self._looked(image, boxes).astype(np.float32) / 2


def test_lost_car_is_not_found_again_by_a_persons_look():
    """All look alike to this network; a person at the place of a lost car is a new track."""
    frames = [[car(0)]] * 10 + [[]] * 30 + [[car(0, PERSON)]] * 5
    tracker = Tracker(reid=Looked(), class_names=NAMES, lifecycle__coast_s=0.5)
    for rows in frames:
        tracks = tracker.update(np.array(rows, float).reshape(-1, 6), IMAGE)
    assert tracks.id.tolist() == [2]


def test_verifying_detector_needs_people_as_class_0():
    with pytest.raises(ConfigError, match=r'"detector" needs people as class 0.*here they are 3'):
        Tracker(verify="detector", class_names={3: "person", 0: "car"})
