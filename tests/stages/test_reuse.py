"""Embeddings are reused where motion is unambiguous, and the tracks stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.runs import config_of, same
from tests.oracles.streams import one
from tracker.appearance.gallery import Gallery
from tracker.engine import Engine
from tracker.types import Detections, Frame

FPS = 20
IMAGE = np.zeros((480, 640, 3), np.uint8)
ALICE, BOB = np.array([1.0, 0, 0], np.float32), np.array([0, 1.0, 0], np.float32)
BACKGROUND = np.array([0, 0, 1.0], np.float32)


class PlaceEncoder:
    """Embeds people by their place in the frame, everything else as background; counts crops."""

    name = "place"

    def __init__(self):
        self.people: list[tuple[np.ndarray, np.ndarray]] = []  # box, emb
        self.n_crops: list[int] = []  # frame by frame

    def embed(self, image, boxes):
        self.n_crops[-1] += len(boxes)
        rows = [np.zeros((0, 3), np.float32)]
        for box in boxes:
            there = [emb for place, emb in self.people if np.abs(place - box).max() < 15]
            rows.append(np.array([there[0] if there else BACKGROUND]))
        return np.concatenate(rows)


def walk(t: float, start: float, speed: float) -> np.ndarray:
    left = start + speed * t
    return np.array([left, 100.0, left + 50, 220.0])


def tracked(n_frames: int, people, settings=(), detected=lambda t, person: True, **more):
    """Tracks of each frame, crops of each frame, and the engine; people: (start, speed, emb)."""
    encoder = PlaceEncoder()
    engine = Engine(config_of(settings), encoder, **more)
    tracks = []
    for t in range(n_frames):
        encoder.people = [(walk(t, start, speed), emb) for start, speed, emb in people]
        encoder.n_crops.append(0)
        seen = [box for person, (box, _) in enumerate(encoder.people) if detected(t, person)]
        found = one(np.array(seen)) if seen else Detections.empty()
        tracks.append(engine.step(Frame(t, t / FPS, IMAGE, 640, 480), found))
    return tracks, np.array(encoder.n_crops), engine


def gallery_of(engine: Engine) -> tuple[Gallery, np.ndarray]:
    return engine.appearance.gallery, engine.bank.slot


@pytest.mark.parametrize(("refresh_s", "step"), [(0.0, 1), (0.05, 1), (0.2, 4), (1.0, 20)])
def test_lone_track_is_embedded_every_refresh_s(refresh_s, step):
    tracks, n_crops, engine = tracked(80, [(50, 3, ALICE)], {"appearance.refresh_s": refresh_s})
    embedded = np.flatnonzero(n_crops)
    assert embedded[:3].tolist() == [0, 1, 2]  # until it is known
    assert set(np.diff(embedded[2:]).tolist()) == {step}
    assert [tracks[t].id.tolist() for t in (5, 40, 79)] == [[1]] * 3
    plain_tracks, _, plain_engine = tracked(80, [(50, 3, ALICE)], {"appearance.refresh_s": 0})
    assert same(tracks, plain_tracks)
    (gallery, slot), (wanted, its_slot) = gallery_of(engine), gallery_of(plain_engine)
    assert gallery.counts(slot).tolist() == wanted.counts(its_slot).tolist()
    np.testing.assert_array_equal(gallery.means(slot), wanted.means(its_slot))


def test_people_near_each_other_are_embedded():
    people = [(50, 4, ALICE), (350, -4, BOB)]  # they meet in frame 37
    tracks, n_crops, _ = tracked(80, people, {"appearance.refresh_s": 10})
    apart = np.array([walk(t, 50, 4)[2] < walk(t, 350, -4)[0] or walk(t, 350, -4)[2] < walk(t, 50, 4)[0]
                      for t in range(80)])  # fmt: skip
    assert (n_crops[3:][apart[3:]] == 0).all()
    close = np.abs(np.arange(80) - 37.5) < 5
    assert (n_crops[close] > 0).all()
    assert tracks[79].id.tolist() == [1, 2]
    first, last = tracks[10].xyxy[:, 0], tracks[79].xyxy[:, 0]
    assert (first[0] < first[1]) == (last[0] > last[1])  # they passed each other, each with their own identity


def test_kept_features_are_never_reused():
    settings = {"appearance.refresh_s": 10}
    plain, few, _ = tracked(30, [(50, 3, ALICE), (400, -3, BOB)], settings)
    kept, many, _ = tracked(30, [(50, 3, ALICE), (400, -3, BOB)], settings, keep_features=True)
    assert same(plain, kept)
    assert few[5:].sum() == 0
    assert (many == 2).all()
    for tracks in kept[5:]:
        np.testing.assert_array_equal(tracks.features, np.stack([ALICE, BOB]))
