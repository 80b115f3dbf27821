"""CMC, mAP and calibration against oracles that go through the definitions one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest

from reid_training.errors import DataError
from reid_training.evaluate import calibrate, rank


def unit(rng, n, d=6):
    emb = rng.normal(size=(n, d)).astype(np.float32)
    return emb / np.linalg.norm(emb, axis=1, keepdims=True)


def slow_rank(query, query_pids, query_camids, gallery, gallery_pids, gallery_camids):
    """For each query: a list of candidates, sorted, read from the top."""
    firsts, precisions = [], []
    for q, pid, camid in zip(query, query_pids, query_camids, strict=True):
        candidates = []
        for index, (g, other, camera) in enumerate(zip(gallery, gallery_pids, gallery_camids, strict=True)):
            if other == -1 or (other == pid and camera == camid):
                continue
            candidates.append((float(np.float32(1.0) - q @ g), index, other == pid))
        right_so_far, found = 0, []
        for place, (_, _, is_right) in enumerate(sorted(candidates), start=1):
            if is_right:
                right_so_far += 1
                found.append((place, right_so_far / place))
        if found:
            firsts.append(found[0][0])
            precisions.append(sum(precision for _, precision in found) / len(found))
    n = len(firsts)
    return [sum(first <= k for first in firsts) / n for k in (1, 5, 10)] + [sum(precisions) / n, n]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_rank_agrees_with_one_query_at_a_time(seed, chunk):
    rng = np.random.default_rng(seed)
    n_query, n_gallery = int(rng.integers(1, 12)), int(rng.integers(20, 60))
    arrays = (
        unit(rng, n_query),
        rng.integers(1, 6, n_query),
        rng.integers(1, 4, n_query),
        unit(rng, n_gallery),
        rng.integers(-1, 6, n_gallery),  # -1 is junk, 0 a distractor
        rng.integers(1, 4, n_gallery),
    )
    found = rank(*arrays, chunk=chunk)
    expected = slow_rank(*arrays)
    assert [found.rank1, found.rank5, found.rank10, found.mean_ap, found.n_queries] == pytest.approx(expected, abs=1e-9)


# One query: person 1, camera 1, at angle 0. Gallery rows are (angle, pid, camid), nearest first.
CASES = {
    "right answer first": ([(1, 1, 2), (5, 2, 2)], 1.0, 1.0),
    "wrong one first": ([(1, 2, 2), (5, 1, 2)], 0.0, 0.5),
    "same person, same camera does not count": ([(1, 1, 1), (2, 2, 2), (5, 1, 2)], 0.0, 0.5),
    "another person, same camera does count": ([(1, 2, 1), (5, 1, 2)], 0.0, 0.5),
    "junk does not count": ([(1, -1, 2), (2, -1, 1), (5, 1, 2)], 1.0, 1.0),
    "a distractor counts as wrong": ([(1, 0, 2), (5, 1, 2)], 0.0, 0.5),
    "two right answers, places 1 and 3": ([(1, 1, 2), (2, 2, 2), (5, 1, 3)], 1.0, (1 + 2 / 3) / 2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_protocol_by_hand(name):
    rows, rank1, mean_ap = CASES[name]
    angles = np.deg2rad([row[0] for row in rows])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pids, camids = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    found = rank(np.array([[1.0, 0.0]], np.float32), np.array([1]), np.array([1]), gallery, pids, camids)
    assert found.rank1 == rank1
    assert found.mean_ap == pytest.approx(mean_ap)


def test_a_query_without_a_right_answer_is_left_out():
    emb = np.eye(3, dtype=np.float32)
    found = rank(emb[:2], np.array([1, 9]), np.array([1, 1]), emb, np.array([1, 2, 3]), np.array([2, 2, 2]))
    assert found.n_queries == 1


def test_no_query_with_a_right_answer_is_an_error():
    emb = np.eye(2, dtype=np.float32)
    with pytest.raises(DataError, match="no query"):
        rank(emb[:1], np.array([1]), np.array([1]), emb, np.array([1, 2]), np.array([1, 1]))


def test_calibration_agrees_with_one_pair_at_a_time():
    rng = np.random.default_rng(3)
    emb, pids, camids = unit(rng, 60), rng.integers(0, 10, 60), rng.integers(0, 3, 60)
    found = calibrate(emb, pids, camids)
    for name, wanted in (("pooled", (True, False)), ("same_camera", (True,)), ("cross_camera", (False,))):
        same, diff = [], []
        for i in range(60):
            for j in range(i):
                if bool(camids[i] == camids[j]) in wanted:
                    (same if pids[i] == pids[j] else diff).append(1.0 - float(emb[i] @ emb[j]))
        group = found[name]
        assert (group.n_same, group.n_diff) == (len(same), len(diff))
        # An interpolated quantile lies between two pairs: one pair more or less may pass.
        assert abs(sum(d <= group.tau_same for d in diff) - 0.01 * len(diff)) <= 1
        assert abs(sum(d <= group.tau_diff + 1e-6 for d in same) - 0.99 * len(same)) <= 1
        assert group.sigma_same == pytest.approx(np.sqrt(sum(d * d for d in same) / len(same)), rel=1e-5)
        assert group.tpr_at_tau_same == pytest.approx(sum(d <= group.tau_same for d in same) / len(same))


def test_calibration_of_a_perfect_metric_separates_everyone():
    emb = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    found = calibrate(emb, np.repeat(np.arange(4), 3), np.tile([1, 2, 2], 4))["pooled"]
    assert (found.tau_diff, found.sigma_same, found.tau_same, found.tpr_at_tau_same) == (0.0, 0.0, 1.0, 1.0)
