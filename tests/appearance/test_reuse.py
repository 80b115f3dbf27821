"""Detections that motion alone identifies: against a loop over pairs, and in small cases."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.appearance.reuse import NEAR_IOU, PLAIN_IOU, reusable


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def slow_reusable(predicted, boxes, settled) -> list[int]:
    owners = []
    for box in boxes:
        near = [t for t, place in enumerate(predicted) if overlap(place, box) >= NEAR_IOU]
        owner = near[0] if len(near) == 1 else -1
        if owner >= 0:
            others = sum(overlap(predicted[owner], other) >= NEAR_IOU for other in boxes)
            if others > 1 or not settled[owner] or overlap(predicted[owner], box) < PLAIN_IOU:
                owner = -1
        owners.append(owner)
    return owners


@pytest.mark.parametrize(("n_tracks", "n_boxes"), [(0, 3), (3, 0), (1, 1), (5, 8), (12, 12)])
def test_against_a_loop(rng, n_tracks, n_boxes):
    n_reused = 0
    for _ in range(40):
        corner = rng.uniform(0, 400, (n_tracks, 2))
        predicted = np.concatenate([corner, corner + rng.uniform(30, 90, (n_tracks, 2))], axis=1)
        near = predicted[rng.integers(n_tracks, size=n_boxes)] if n_tracks else np.tile([0.0, 0, 50, 50], (n_boxes, 1))
        boxes = near + rng.normal(0, 4, (n_boxes, 4))
        settled = rng.uniform(size=n_tracks) < 0.8
        found = reusable(predicted, boxes, settled)
        assert found.tolist() == slow_reusable(predicted, boxes, settled)
        n_reused += np.count_nonzero(found >= 0)
    assert n_reused > 0 or min(n_tracks, n_boxes) == 0


HERE, THERE = [100.0, 100, 150, 220], [300.0, 100, 350, 220]
# predictions, detections, settled, owners
CASES = {
    "alone": ([HERE], [HERE], [True], [0]),
    "two apart": ([HERE, THERE], [THERE, HERE], [True, True], [1, 0]),
    "due": ([HERE], [HERE], [False], [-1]),
    "off the prediction": ([HERE], [[120.0, 100, 170, 220]], [True], [-1]),
    "another track": ([HERE, [135.0, 100, 185, 220]], [HERE], [True, True], [-1]),
    "another detection": ([HERE], [HERE, [135.0, 100, 185, 220]], [True], [-1, -1]),
    "a new person": ([HERE], [HERE, THERE], [True], [0, -1]),
}


@pytest.mark.parametrize("case", CASES)
def test_cases(case):
    predicted, boxes, settled, wanted = CASES[case]
    assert reusable(np.array(predicted), np.array(boxes), np.array(settled)).tolist() == wanted
