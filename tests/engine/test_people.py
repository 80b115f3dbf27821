"""Boxes where people may be: all detections, and tracks that are tentative or were lost a moment ago."""

from __future__ import annotations

import numpy as np

from tests.oracles.runs import config_of
from tracker.classes import Classes
from tracker.engine import HIDE_S, Engine
from tracker.types import Detections, Frame

WALKER, FAINT = [50.0, 50, 90, 150], [300.0, 60, 340, 160]


def detections(*rows):
    """Rows of box, score, class."""
    table = np.array([[*box, score, number] for box, score, number in rows], float).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def has(boxes, box):
    return bool((np.abs(boxes - box) < 2).all(axis=1).any())


def test_people_are_detections_of_any_score_and_recent_tracks():
    engine = Engine(config_of({"motion.camera": False}))
    given = detections((WALKER, 0.9, 0), (FAINT, 0.02, 0))
    assert len(engine.step(Frame(0, 0.0, None, 640, 480), given)) == 0  # tentative
    assert has(engine.possible_people(given), WALKER)
    assert has(engine.possible_people(given), FAINT)
    for k in range(1, 10):
        engine.step(Frame(k, k / 10, None, 640, 480), given)
    nothing, shown = detections(), {}
    for k in range(10, 40):
        output = engine.step(Frame(k, k / 10, None, 640, 480), nothing)
        shown[k] = has(engine.possible_people(nothing), WALKER), len(output)
    assert shown[12] == (True, 0)  # not output any more, but still hidden
    assert {k for k, (hidden, _) in shown.items() if hidden} == set(range(10, 10 + round(HIDE_S * 10)))
    assert not has(engine.possible_people(nothing), FAINT)
    engine.step(Frame(40, 4.0, None, 640, 480), None)
    assert len(engine.possible_people(None)) == 0


def test_other_classes_are_not_people():
    engine = Engine(config_of(), classes=Classes({0: "person", 2: "car"}))
    given = detections((WALKER, 0.9, 0), (FAINT, 0.9, 2))
    engine.step(Frame(0, 0.0, None, 640, 480), given)
    assert has(engine.possible_people(given), WALKER)
    assert not has(engine.possible_people(given), FAINT)
