"""Average precision against a loop over thresholds, and small cases by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tools.detector_training.ap import curve, match, overlaps, score_at_recall

NOBODY = np.zeros((0, 4))


def boxes(rng, n):
    low = rng.uniform(0, 60, (n, 2))
    return np.concatenate([low, low + rng.uniform(5, 40, (n, 2))], axis=1)


def slow_ap(frames, iou):
    """At each score as threshold: match from scratch, count; the area of the best precision at least so far right."""
    thresholds = sorted({float(s) for _, scores, _, _ in frames for s in scores}, reverse=True)
    n_people = sum(len(people) for _, _, people, _ in frames)
    points = []
    for threshold in thresholds:
        right = wrong = 0
        for found, scores, people, ignored in frames:
            free = list(range(len(people)))
            for k in sorted(range(len(found)), key=lambda k: -scores[k]):
                if scores[k] < threshold:
                    continue
                shares = [(overlaps(found[k : k + 1], people[g : g + 1])[0][0, 0], g) for g in free]
                best, who = max(shares, key=lambda pair: pair[0], default=(0.0, -1))
                if best >= iou:
                    free.remove(who)
                    right += 1
                elif not any(overlaps(found[k : k + 1], box[None])[1][0, 0] >= 0.5 for box in ignored):
                    wrong += 1
        if right + wrong:
            points.append((right / n_people, right / (right + wrong)))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("seed", range(5))
def test_ap_agrees_with_a_loop_over_thresholds(seed):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(4):
        people = boxes(rng, int(rng.integers(0, 6)))
        near = people + rng.normal(0, 3, people.shape)
        found = np.concatenate([near, boxes(rng, int(rng.integers(0, 5)))])
        found = np.concatenate([np.minimum(found[:, :2], found[:, 2:] - 1), found[:, 2:]], axis=1)
        scores = rng.permutation(len(found)) / 10 + rng.uniform(0, 0.01)
        frames.append((found, scores, people, boxes(rng, int(rng.integers(0, 2)))))
    frames.append((boxes(rng, 1), np.array([0.5]), boxes(rng, 2), NOBODY))
    got = curve([match(*frame) for frame in frames])
    assert got.ap == pytest.approx(slow_ap(frames, 0.5))


def test_by_hand():
    people = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [50, 50, 60, 60]], float)
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    result = curve([match(found, scores, people, NOBODY)])
    # Right, wrong (the person is taken), right, wrong: precision 1 for the first half, 2/3 for the second.
    assert result.ap == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert score_at_recall(result, 0.5) == 0.9
    assert score_at_recall(result, 0.6) == 0.7
    # On an ignored region the last one costs nothing; the first does not go away, since it is right.
    ignored = np.array([[45, 45, 65, 65], [0, 0, 10, 10]], float)
    assert curve([match(found, scores, people, ignored)]).precision.tolist() == [1.0, 1.0]


def test_degenerate_inputs():
    someone = np.array([[0, 0, 10, 10]], float)
    assert curve([match(NOBODY, np.zeros(0), someone, NOBODY)]).ap == 0.0
    assert math.isnan(curve([match(someone, np.ones(1), NOBODY, NOBODY)]).ap)
    assert math.isnan(curve([]).ap)
    assert math.isnan(score_at_recall(curve([match(NOBODY, np.zeros(0), someone, NOBODY)]), 0.5))
