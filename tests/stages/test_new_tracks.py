"""Which detections create a track: none on top of the detection of a tracked person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles.banks import bank_of
from tests.oracles.matches import matches_of
from tests.oracles.plain_tracker import iou_of
from tests.oracles.runs import config_of
from tracker import boxes as bx
from tracker.classes import Classes
from tracker.motion import kalman
from tracker.stages.embed import Appearance
from tracker.stages.identities import Identities
from tracker.stages.predict import Clock, PredictedTracks
from tracker.stages.propose import Proposals
from tracker.stages.select import select
from tracker.stages.update import update
from tracker.types import Detections, Frame

PERSON = np.array([300.0, 200, 340, 300])


def moved(x: float) -> np.ndarray:
    return PERSON + np.array([x, 0, x, 0])


def new_boxes(places, detections, matched, *, ids=None, scores=0.9, proposed=()) -> np.ndarray:
    """(n, 4) detections that create a track in a frame with tracks predicted at `places` (T, 4).

    matched (T,): row of the detection of each track, -1: none; ids (T,): 0 while tentative; proposed: rows of tracks.
    """
    config = config_of()
    places, n = np.asarray(places, float).reshape(-1, 4), len(places)
    boxes = np.asarray(detections, float).reshape(-1, 4)
    appearance, identities = Appearance(config, None, None, False), Identities()
    mean, cov = kalman.initiate(bx.xyxy_to_cxcyah(places), config.motion)
    bank = bank_of(n, key=identities.new_keys(n), id=np.arange(1, n + 1) if ids is None else ids, mean=mean, cov=cov,
                   seen_s=np.full(n, 1.96), slot=appearance.gallery.allocate(n))  # fmt: skip
    tracks = PredictedTracks(2.0, bank, places, np.ones(n, bool), np.ones(n, bool))
    score = np.broadcast_to(np.asarray(scores, float), len(boxes))
    given = Detections(boxes, score, np.zeros(len(boxes), np.int64))
    dets, overlaps = select(given, places, replace(config.detection, nms_iou=1.0), Classes())
    of_row = np.append(np.argsort(dets.row), -1)  # given row -> row of `dets`
    matches = matches_of(of_row[np.asarray(matched, np.int64).reshape(n)], len(dets))
    rows = np.array(proposed, np.int64)
    proposals = Proposals(rows, places[rows], np.full(len(rows), 0.9), places[rows])
    clock = Clock(2.0, 0.04, True, 2.0, 50, 0.04)
    after, *_ = update(Frame(50, 2.0, None, 640, 480), None, tracks, dets, matches, proposals, overlaps,
                       np.zeros(n, bool), clock, appearance, identities, config)  # fmt: skip
    created = after.keep(~np.isin(after.key, bank.key))
    assert (created.id == 0).all()
    return bx.cxcyah_to_xyxy(created.mean[:, :4])


# shift of a second detection from that of the tracked person, in pixels of 40; IoU; creates a track?
SHIFTS = [(15, 0.4545, False), (21, 0.3115, False), (22, 0.2903, True), (40, 0.0, True), (200, 0.0, True)]


@pytest.mark.parametrize(("shift", "overlap", "wanted"), SHIFTS)
def test_no_new_track_on_top_of_a_tracked_person_but_beside(shift, overlap, wanted):
    assert iou_of(PERSON, moved(shift)) == pytest.approx(overlap, abs=1e-4)
    created = new_boxes([PERSON], [PERSON, moved(shift)], [0])
    np.testing.assert_allclose(created, [moved(shift)] if wanted else np.zeros((0, 4)))


def test_overlap_with_the_detection_decides_not_with_the_prediction():
    assert len(new_boxes([moved(15)], [PERSON, moved(30)], [0])) == 1
    assert len(new_boxes([moved(-15)], [PERSON, moved(15)], [0])) == 0


def test_detection_on_top_of_a_tentative_track_creates_a_track():
    np.testing.assert_allclose(new_boxes([PERSON], [PERSON, moved(15)], [0], ids=[0]), [moved(15)])


@pytest.mark.parametrize("proposed", [(), (0,)])
def test_detection_on_top_of_an_unmatched_track_creates_a_track(proposed):
    np.testing.assert_allclose(new_boxes([PERSON], [moved(5)], [-1], proposed=proposed), [moved(5)])


def test_low_score_detection_of_a_confirmed_track_stops_a_new_one():
    assert len(new_boxes([PERSON], [moved(10), PERSON], [1], scores=[0.9, 0.2])) == 0


def test_detections_that_overlap_only_each_other_create_a_track_each():
    np.testing.assert_allclose(new_boxes([], [PERSON, moved(15)], []), [PERSON, moved(15)])


def test_new_tracks_against_a_loop(rng):
    n_refused = 0
    for _ in range(30):
        corner = rng.uniform((0, 0), (200, 120), (8, 2))
        boxes = np.concatenate([corner, corner + rng.uniform((30, 70), (50, 110), (8, 2))], axis=1)
        score = rng.uniform(0.3, 1, 8)
        ids, matched = rng.permutation([1, 2, 3, 0, 0]), rng.permutation([0, 1, 2, 3, -1])
        owned = [k for identity, k in zip(ids, matched, strict=True) if identity and k >= 0]
        wanted = []
        for k in np.argsort(-score):
            if k not in matched and score[k] >= 0.6:
                if all(iou_of(boxes[k], boxes[j]) <= 0.3 for j in owned):
                    wanted.append(boxes[k])
                else:
                    n_refused += 1
        created = new_boxes(boxes[np.maximum(matched, 0)], boxes, matched, ids=ids, scores=score)
        np.testing.assert_allclose(created, np.reshape(wanted, (-1, 4)), atol=1e-9)
    assert n_refused > 10
