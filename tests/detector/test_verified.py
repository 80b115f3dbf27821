"""Verified boxes against hand-made cases and a loop that goes through the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tracker import boxes as bx
from tracker.detector.verified import MIN_IOU, MISSED, VerifiedDetections, pool
from tracker.types import Detections, Frame

FRAME = Frame(3, 0.1, np.zeros((200, 300, 3), np.uint8), 300, 200)
HERE, NEAR, THERE = [100.0, 50, 140, 150], [104.0, 54, 144, 154], [200.0, 60, 230, 130]


def dets(*rows):
    """Detections from (box, score)."""
    boxes = np.array([box for box, _ in rows], float).reshape(-1, 4)
    return Detections(boxes, np.array([score for _, score in rows], float), np.arange(len(rows)))


def together(p, q):
    """The probability whose odds are the product of both odds."""
    odds = p / (1 - p) * (q / (1 - q))
    return odds / (1 + odds)


def test_box_that_both_see_has_the_product_of_the_odds_and_the_weighted_mean_place():
    found = pool(dets((HERE, 0.75)), dets((NEAR, 0.25)))
    assert len(found) == 1
    assert found.scores[0] == pytest.approx(0.5)  # odds 3 and 1/3
    np.testing.assert_allclose(found.boxes[0], [101, 51, 141, 151])
    assert pool(dets((HERE, 0.9)), dets((NEAR, 0.9))).scores[0] == pytest.approx(81 / 82)


def test_box_that_only_one_sees_loses_score_and_keeps_its_place():
    found = pool(dets((HERE, 0.9)), dets((THERE, 0.8)))
    np.testing.assert_array_equal(found.boxes, [HERE, THERE])
    np.testing.assert_allclose(found.scores, [together(0.9, MISSED), together(0.8, MISSED)])
    assert (found.scores < [0.9, 0.8]).all()


def test_nothing_given_or_nothing_seen():
    assert len(pool(dets(), dets())) == 0
    assert pool(dets(), dets((HERE, 0.6))).scores == pytest.approx([together(0.6, MISSED)])
    assert pool(dets((HERE, 0.6)), dets()).scores == pytest.approx([together(0.6, MISSED)])


def test_scores_of_zero_and_one_stay_finite_and_ordered():
    found = pool(dets((HERE, 1.0), (THERE, 0.0)), dets((HERE, 0.0), (THERE, 1.0)))
    np.testing.assert_allclose(found.scores, [0.5, 0.5])
    both = pool(dets((HERE, 1.0)), dets((HERE, 1.0))).scores
    assert 0.99 < both < 1.0


def test_impossible_boxes_of_a_users_detector_are_left_out():
    wrong = dets(([np.nan, 0, 10, 20], 0.9), ([50, 50, 50, 80], 0.9), (HERE, np.nan), (THERE, 0.8))
    found = pool(dets((HERE, 0.6)), wrong)
    np.testing.assert_array_equal(found.boxes, [HERE, THERE])
    assert np.isfinite(found.scores).all()


def slow_pool(given, seen):
    """The same by trying all pairings; scores and boxes."""

    def iou(i, j):
        return float(bx.iou(given.boxes[i : i + 1], seen.boxes[j : j + 1])[0, 0])

    n, m = len(given), len(seen)
    pairings = []
    for size in range(min(n, m) + 1):
        for left in itertools.combinations(range(n), size):
            for right in itertools.permutations(range(m), size):
                pairs = list(zip(left, right, strict=True))
                if all(iou(i, j) >= MIN_IOU for i, j in pairs):
                    pairings.append((sum(iou(i, j) for i, j in pairs), pairs))
    best = dict(max(pairings, key=lambda pairing: pairing[0])[1])
    boxes, scores = [], []
    for i in range(n):
        j = best.get(i)
        q = MISSED if j is None else seen.scores[j]
        share = 0.0 if j is None else q / (q + given.scores[i])
        boxes.append([(1 - share) * a + share * b for a, b in zip(given.boxes[i], seen.boxes[j or 0], strict=True)])
        scores.append(together(given.scores[i], q))
    for j in range(m):
        if j not in best.values():
            boxes.append(list(seen.boxes[j]))
            scores.append(together(seen.scores[j], MISSED))
    return np.array(boxes).reshape(-1, 4), np.array(scores)


@pytest.mark.parametrize("seed", range(20))
def test_pool_agrees_with_all_pairings_tried(seed):
    rng = np.random.default_rng(seed)

    def some():
        n = int(rng.integers(1, 4))
        corner = rng.choice([0.0, 8.0, 60.0], (n, 2)) + rng.normal(0, 2, (n, 2))
        return Detections(
            np.hstack([corner, corner + np.array([30, 60])]), rng.uniform(0.05, 0.95, n), np.zeros(n, np.int64)
        )

    given, seen = some(), some()
    found = pool(given, seen)
    boxes, scores = slow_pool(given, seen)
    np.testing.assert_allclose(found.boxes, boxes)
    np.testing.assert_allclose(found.scores, scores)
    assert len(found) == len(found.classes) >= max(len(given), len(seen))


class Fixed:
    """A detector that finds the same people in each frame."""

    name = "fixed"

    def __init__(self, found, **attributes):
        self._found, self.asked = found, []
        for name, value in attributes.items():
            setattr(self, name, value)

    def detect(self, frame):
        self.asked.append(frame)
        return self._found


def test_verified_detections_ask_both_and_are_those_of_the_file():
    file = Fixed(dets((HERE, 0.7)), last_frame=9, class_names={0: "person"})
    network = Fixed(dets((NEAR, 0.8)), n_at_once=3, provider="cpu")
    detector = VerifiedDetections(file, network)
    found = detector.detect(FRAME)
    assert file.asked == network.asked == [FRAME]
    assert math.isclose(found.scores[0], together(0.7, 0.8))
    assert (detector.name, detector.last_frame, detector.class_names) == ("fixed", 9, {0: "person"})
    assert (detector.n_at_once, detector.provider) == (3, "cpu")
    assert detector.second_look is detector.verifier
    np.testing.assert_array_equal(detector.second_look.detect(FRAME).boxes, network.detect(FRAME).boxes)
