"""The tracker's memory does not grow while people come and go; tools/benchmarks/long.py measures it over hours."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tests.synthetic.street import HEIGHT, WIDTH, Street
from tracker.config import TrackerConfig
from tracker.engine import Engine
from tracker.finalise import FrameBuffer
from tracker.types import Detections, Frame, Tracks

PEOPLE = 8
FRAMES = 600
EVERY = 10
FPS = 30.0


class Leaking(Engine):
    """An engine that keeps all detections, as a leak would."""

    def step(self, frame: Frame, detections: Detections | None) -> Tracks:
        self.__dict__.setdefault("seen", []).append(detections)
        return super().step(frame, detections)


def walk(engine: Engine, street: Street) -> np.ndarray:
    """(FRAMES / EVERY, 3) now and then: bytes of the whole engine, tracks in the bank, frames held for it."""
    settler = FrameBuffer()
    kept = []
    for index in range(FRAMES):
        frame = Frame(index, index / FPS, None, WIDTH, HEIGHT)
        tracks = engine.step(frame, street.frame())
        settler.push(frame, tracks, engine.backfilled, engine.settled_before)
        if index % EVERY == 0:
            kept.append((len(pickle.dumps(engine)), len(engine.bank), len(settler)))
    return np.array(kept)


def grows(values: np.ndarray) -> bool:
    """Whether the last third went beyond the second by more than 2 %; the first fills what is bounded."""
    _, before, after = np.split(values, 3)
    return bool(after.max() > 1.02 * before.max())


def test_engine_memory_is_bounded():
    engine = Engine(TrackerConfig())
    street = Street(PEOPLE, seed=0, stay=(20, 60))
    n_bytes, n_tracks, n_held = walk(engine, street).T
    assert street.n_visits > 60
    assert engine.identities.n_ids > 60
    assert not grows(n_bytes)
    assert n_tracks.max() < 6 * PEOPLE  # people present, and people who left in the last seconds
    assert n_held.max() < FPS


@pytest.mark.slow
def test_engine_memory_check_finds_a_leak():
    assert grows(walk(Leaking(TrackerConfig()), Street(PEOPLE, seed=0, stay=(20, 60)))[:, 0])
