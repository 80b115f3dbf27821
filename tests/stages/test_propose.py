"""Use C: which missed tracks are looked for, and which places the evidence accepts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.oracles.banks import bank_of
from tests.oracles.matches import matches_of
from tests.oracles.runs import config_of
from tracker import boxes as bx
from tracker.classes import Classes
from tracker.motion import kalman
from tracker.stages.embed import Appearance
from tracker.stages.predict import Clock, PredictedTracks
from tracker.stages.propose import Proposals, Proposer
from tracker.stages.select import select
from tracker.types import Detections, Frame

IMAGE = np.zeros((480, 640, 3), np.uint8)
NOW_S = 2.0
PERSON = np.array([300.0, 200, 340, 300])
LEFT, RIGHT = np.array([100.0, 100, 140, 200]), np.array([400.0, 100, 440, 200])
SURE = 0.1  # distance of a place that certainly is the track's person: log ratio 8


class Ruler:
    """A scene whose log likelihood ratio is a straight line, 10 - 20 d."""

    def log_ratio(self, dist):
        return 10.0 - 20.0 * dist


def distance(ratio: float) -> float:
    """Cosine distance, in [0, 2], of a log ratio in [-30, 10]."""
    return (10.0 - ratio) / 20.0


class ByDistance:
    """Embeds a box at a cosine distance from (1, 0) that `at` gives for it; None: an empty crop."""

    name = "distance"

    def __init__(self, at):
        self.at, self.boxes = at, []

    def embed(self, image, boxes):
        rows = []
        for box in boxes:
            self.boxes.append(box.tolist())
            d = self.at(box)
            rows.append((0, 0) if d is None else (1 - d, math.sqrt(1 - (1 - d) ** 2)))
        return np.array(rows, np.float32).reshape(-1, 2)


class InWindow:
    """Sees the person of the first window where it is expected, with the given scores.

    The window of a box 100 px high is 160 px high and in a cell of 208 x 416, so the box is 104 x 260 at its centre.
    """

    def __init__(self, *scores):
        self.scores, self.n_runs = np.array(scores, float), 0

    def detect(self, frame):
        self.n_runs += 1
        n = len(self.scores)
        return Detections(np.tile([52.0, 78, 156, 338], (n, 1)), self.scores, np.zeros(n, np.int64))


class InEach(InWindow):
    """Sees the person of each of two windows, side by side, with the given scores."""

    def detect(self, frame):
        self.n_runs += 1
        return Detections(np.array([[52.0, 78, 156, 338], [260, 78, 364, 338]]), self.scores, np.zeros(2, np.int64))


def propose(
    places, at=lambda box: SURE, *, settings=(), dets=(), scores=0.9, matched=None, seen_s=NOW_S, ids=None,
    known=None, detector=None, detector_ran=True, image=IMAGE,
):  # fmt: skip
    """What is proposed for confirmed tracks with a gallery that are predicted at these places, and the encoder.

    dets (M, 4) detections of the frame, their scores, and `matched` (T,) the row of each track's.
    """
    config = config_of(settings)
    encoder = ByDistance(at)
    appearance = Appearance(config, encoder, None, False)
    appearance.scene = Ruler()
    boxes = np.asarray(places, float).reshape(-1, 4)
    n = len(boxes)
    mean, cov = kalman.initiate(bx.xyxy_to_cxcyah(boxes), config.motion)
    slots = appearance.gallery.allocate(n)
    known = np.ones(n, bool) if known is None else np.asarray(known)
    appearance.gallery.write(slots[known], np.tile(np.array([1, 0], np.float32), (int(known.sum()), 1)))
    bank = bank_of(n, id=np.arange(1, n + 1) if ids is None else ids, mean=mean, cov=cov, slot=slots,
                   seen_s=np.broadcast_to(np.asarray(seen_s, float), n))  # fmt: skip
    tracks = PredictedTracks(NOW_S, bank, boxes, np.zeros(n, bool), np.ones(n, bool))
    found = np.asarray(dets, float).reshape(-1, 4)
    given = Detections(found, np.broadcast_to(np.asarray(scores, float), len(found)), np.zeros(len(found), np.int64))
    chosen, _ = select(given, boxes, config.detection, Classes())
    of_row = np.append(np.argsort(chosen.row), -1) if len(found) else np.array([-1])  # given row -> chosen row
    detection = np.full(n, -1) if matched is None else of_row[np.asarray(matched)]
    matches = matches_of(detection, len(chosen))
    clock = Clock(NOW_S, 0.04, detector_ran, NOW_S if detector_ran else NOW_S - 0.04, 49, 0.04)
    frame = Frame(50, NOW_S, image, 640, 480)
    proposer = Proposer(config.proposals, config.motion, Classes(), detector)
    return proposer.propose(frame, image, tracks, chosen, matches, clock, appearance), encoder


def same(a: Proposals, b: Proposals) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("track", "boxes", "scores", "tried"))


# ------------------------------------------------------------------------------------------------- by appearance


@pytest.mark.parametrize("least", [0.0, 3.0, -5.0])
@pytest.mark.parametrize("above", [-20.0, -0.01, 0.01, 4.0])
def test_predicted_box_is_proposed_where_the_log_ratio_exceeds_the_least(least, above):
    settings = {"proposals.least_log_ratio": least}
    found, encoder = propose([PERSON], lambda box: distance(least + above), settings=settings)
    assert found.track.tolist() == ([0] if above > 0 else [])
    assert found.boxes.tolist() == ([PERSON.tolist()] if above > 0 else [])
    assert encoder.boxes == found.tried.tolist() == [PERSON.tolist()]  # one crop for each track


@pytest.mark.parametrize("odds", [0.01, 1.0, 2.0, 6.9])
def test_belief_is_the_probability_of_the_odds(odds):
    found, _ = propose([PERSON], lambda box: distance(3.0 + odds), settings={"proposals.least_log_ratio": 3.0})
    assert found.scores == pytest.approx([math.exp(odds) / (1 + math.exp(odds))], abs=1e-4)


@pytest.mark.parametrize("least", [-100.0, 100.0])
def test_extreme_evidence_gives_a_probability(least):
    found, _ = propose([PERSON], settings={"proposals.least_log_ratio": least})
    assert len(found.track) == (least < 0)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_empty_crop_is_refused():
    found, _ = propose([PERSON, RIGHT], lambda box: None if box[0] == 300 else SURE,
                       settings={"proposals.least_log_ratio": -100.0})  # fmt: skip
    assert found.track.tolist() == [1]


# detection moved sideways from the prediction, its score, whose it is, proposed?  At 20 px of 40 IoU is 1/3.
ON_DETECTION = [
    (20, 0.9, None, False),
    (20, 0.2, None, True),  # a low score that no track took explains nothing
    (20, 0.2, 1, False),  # taken by the other track
    (22, 0.9, None, True),
    (0, 0.9, 1, False),
]


@pytest.mark.parametrize(("shift", "score", "owner", "wanted"), ON_DETECTION)
def test_place_on_a_used_detection_is_refused(shift, score, owner, wanted):
    there = PERSON + np.array([shift, 0, shift, 0])
    matched = [-1, -1 if owner is None else 0]
    found, _ = propose([PERSON, LEFT], lambda box: SURE if abs(box[0] - 300) < 1 else 1.0, dets=[there], scores=score,
                       matched=matched, detector=InWindow(0.9))  # fmt: skip
    assert found.track.tolist() == ([0] if wanted else [])


def test_appearance_finds_a_person_on_a_detection_of_somebody_else():
    """It looks like the track, whatever else stands there; the detector would only find the other person again."""
    assert propose([PERSON, LEFT], dets=[PERSON], matched=[-1, 0])[0].track.tolist() == [0]


@pytest.mark.parametrize(
    ("left", "wanted"), [(-11.9, True), (-12.1, False), (611.9, True), (612.1, False), (-90, False)]
)
def test_place_outside_the_image_is_refused(left, wanted):
    """A box 40 px wide may be outside by 30 %, 12 px."""
    found, _ = propose([[left, 200, left + 40, 300]])
    assert len(found.track) == wanted


@pytest.mark.parametrize("detector", [None, InWindow(0.9)])
@pytest.mark.parametrize("box", [[5, 5, np.nan, 9], [0, 0, np.inf, 80], [50, 50, 50, 90], [60, 90, 50, 10]])
def test_predicted_box_without_an_area_is_refused(box, detector):
    with np.errstate(all="ignore"):  # the test makes its state from the box, too
        found, encoder = propose([box], detector=detector)
    assert len(found.track) == len(encoder.boxes) == 0


@pytest.mark.parametrize("scores", [(0.9, 0.8), (0.8, 0.9), (0.9, 0.9)])
def test_of_two_proposals_for_a_place_the_surer_stays(scores):
    near = PERSON + np.array([10.0, 0, 10, 0])
    found, encoder = propose([PERSON, near], detector=InEach(*scores))
    assert found.track.tolist() == [int(scores[1] > scores[0])]  # of equals the older track
    assert len(encoder.boxes) == 2
    far = PERSON + np.array([100.0, 0, 100, 0])
    assert propose([PERSON, far], detector=InEach(*scores))[0].track.tolist() == [0, 1]


def test_refused_place_does_not_block_another():
    near = PERSON + np.array([10.0, 0, 10, 0])
    found, _ = propose([PERSON, near], lambda box: 1.0 if box[0] == 300 else 0.3)
    assert found.track.tolist() == [1]


def test_proposals_against_a_loop(rng):
    n_refused = np.zeros(2, int)
    for _ in range(40):
        n = 12
        corner = rng.uniform((-20, -20), (240, 120), (n, 2))
        places = np.concatenate([corner, corner + rng.uniform((30, 70), (50, 110), (n, 2))], axis=1)
        dist = dict(zip(map(tuple, places.tolist()), rng.uniform(0.1, 0.6, n), strict=True))
        found, _ = propose(places, lambda box, dist=dist: dist[tuple(box.tolist())])

        kept = []
        for row, (x1, y1, x2, y2) in enumerate(places):
            inside = max(min(x2, 640) - max(x1, 0), 0) * max(min(y2, 480) - max(y1, 0), 0)
            refused = [inside < 0.7 * (x2 - x1) * (y2 - y1), dist[x1, y1, x2, y2] >= 0.4]  # log ratio 2
            n_refused += refused
            if not any(refused):
                kept.append(row)
        assert found.track.tolist() == kept
        np.testing.assert_array_equal(found.boxes, places[kept])
        assert ((found.scores > 0.5) & (found.scores < 1)).all()
    assert (n_refused > 10).all()


# ------------------------------------------------------------------------------------------- which tracks, and when


# what is the case for the track -> whether it is looked for
WHOM = [
    ({}, True),
    ({"ids": [0]}, False),  # tentative
    ({"known": [False]}, False),
    ({"dets": [RIGHT], "matched": [0]}, False),
    ({"seen_s": NOW_S - 0.5}, True),
    ({"seen_s": NOW_S - 0.51}, False),
    ({"settings": {"proposals.verify": "off"}}, False),
    ({"image": None}, False),
]


@pytest.mark.parametrize("detector", [None, InWindow(0.9)])
@pytest.mark.parametrize(("case", "wanted"), WHOM)
def test_only_recent_confirmed_missed_tracks_are_looked_for(case, wanted, detector):
    found, encoder = propose([PERSON], detector=detector, **case)
    assert len(found.track) == len(encoder.boxes) == wanted
    assert len(found.tried) == wanted


@pytest.mark.parametrize("detector", [None, InWindow(0.9)])
def test_same_input_gives_the_same_proposals(rng, detector):
    corner = rng.uniform((0, 0), (300, 200), (10, 2))
    places = np.concatenate([corner, corner + np.array([40, 100])], axis=1)

    def at(box):
        return float(box.sum() % 0.5)

    assert same(propose(places, at, detector=detector)[0], propose(places, at, detector=detector)[0])


# ---------------------------------------------------------------------------------------------------- by the detector


# score, log ratio of the appearance, proposed?  log odds of 0.9: 2.197, of 0.999: 6.907
TOGETHER = [
    (0.5, 0.01, True),
    (0.5, -0.01, False),
    (0.9, -2.19, True),
    (0.9, -2.21, False),
    (0.1, 2.21, True),
    (0.1, 2.19, False),
    (1.0, -6.89, True),  # certainty counts as 0.999
    (1.0, -6.92, False),
    (0.0, 9.9, False),
    (np.nan, 9.9, False),
]


@pytest.mark.parametrize(("score", "ratio", "wanted"), TOGETHER)
def test_score_and_appearance_add_up(score, ratio, wanted):
    found, encoder = propose([PERSON], lambda box: distance(ratio), detector=InWindow(score))
    assert found.track.tolist() == [0] * wanted
    assert found.scores.tolist() == [score] * wanted
    assert len(encoder.boxes) == 1
    np.testing.assert_allclose(encoder.boxes, [PERSON], atol=1e-9)


@pytest.mark.parametrize("scores", [(0.6, 0.8, 0.7), (np.nan, 0.8), (0.0, 0.8, -1.0)])
def test_likeliest_detection_of_a_window_is_proposed(scores):
    found, encoder = propose([PERSON], detector=InWindow(*scores))
    assert found.scores.tolist() == [0.8]
    assert len(encoder.boxes) == 1


@pytest.mark.parametrize("score", [-1.0, 1.5])
def test_belief_in_a_score_that_is_no_probability_is_bounded(score):
    found, _ = propose([PERSON], detector=InWindow(score))
    assert found.scores.tolist() == [1.0] * (score > 0)


def test_empty_crop_is_refused_whatever_the_detector_says():
    assert len(propose([PERSON], lambda box: None, detector=InWindow(1.0))[0].track) == 0


def test_nothing_in_the_window_gives_no_proposal():
    found, encoder = propose([PERSON], detector=InWindow())
    assert len(found.track) == len(found.tried) == len(encoder.boxes) == 0


@pytest.mark.parametrize(
    ("settings", "ran", "n_runs", "n_found"),
    [({}, True, 1, 0), ({"proposals.verify": "detector"}, True, 1, 0), ({"proposals.verify": "appearance"}, True, 0, 1),
     ({}, False, 0, 0), ({"proposals.verify": "appearance"}, False, 0, 0)],
)  # fmt: skip
def test_detector_is_asked_only_where_it_may_and_nothing_at_skipped_frames(settings, ran, n_runs, n_found):
    """Here appearance agrees, and the detector would not."""
    detector = InWindow()
    found, _ = propose([PERSON], settings=settings, detector=detector, detector_ran=ran, seen_s=NOW_S - 0.1)
    assert detector.n_runs == n_runs
    assert len(found.track) == n_found
