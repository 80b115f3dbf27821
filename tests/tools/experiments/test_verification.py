"""Verification measures against scikit-learn and plain loops."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from reid_training.data.base import Samples
from reid_training.errors import DataError
from tools.experiments import verification
from tools.experiments.verification import area, best_threshold, fold_accuracy, pairs, tpr_at, verify


def unit(rng, n, size=4):
    rows = rng.standard_normal((n, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def samples_of(pids, camids):
    pids, camids = np.asarray(pids, dtype=np.int64), np.asarray(camids, dtype=np.int64)
    return Samples(tuple(Path(str(i)) for i in range(len(pids))), pids, camids)


@pytest.mark.parametrize("digits", [1, 6])  # with many equal similarities, and hardly any
def test_area_equals_scikit_learn(digits):
    rng = np.random.default_rng(0)
    same, different = (np.round(rng.normal(mean, 1.0, n), digits) for mean, n in ((0.7, 300), (0.0, 500)))
    labels = np.repeat([1, 0], [300, 500])
    assert area(same, different) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, np.concatenate([same, different]))
    )


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.5])
def test_tpr_is_the_best_on_scikit_learns_curve(digits, fpr):
    rng = np.random.default_rng(1)
    same, different = (np.round(rng.normal(mean, 1.0, n), digits) for mean, n in ((1.5, 300), (0.0, 500)))
    labels = np.repeat([1, 0], [300, 500])
    rates, shares, _ = sklearn.metrics.roc_curve(labels, np.concatenate([same, different]), drop_intermediate=False)
    assert tpr_at(same, different, fpr) == pytest.approx(shares[rates <= fpr + 1e-12].max())


def test_threshold_is_the_best_of_all():
    rng = np.random.default_rng(2)
    for _ in range(50):
        sims, is_same = np.round(rng.normal(0, 1, 12), 1), rng.random(12) < 0.5
        if len(np.unique(sims)) == 1:
            continue
        inner = np.unique(sims)
        most = max(np.sum((sims > t) == is_same) for t in (inner[:-1] + inner[1:]) / 2)
        assert np.sum((sims > best_threshold(sims, is_same)) == is_same) == most


def test_fold_is_judged_by_the_threshold_of_the_others():
    # The first fold's own best threshold would be 0.35; the others' is 0.75.
    folds = [np.array([0.4, 0.3]), np.array([0.9, 0.6]), np.array([0.8, 0.7])]
    assert fold_accuracy(folds, [np.array([True, False])] * 3) == pytest.approx((0.5 + 1.0 + 1.0) / 3)


def test_pairs_are_all_but_one_person_by_one_camera():
    rng = np.random.default_rng(3)
    emb, pids, camids = unit(rng, 20), rng.integers(1, 5, 20), rng.integers(1, 3, 20)
    sims, is_same, first, second = pairs(emb, pids, camids)
    expected = [(i, j) for i, j in combinations(range(20), 2) if pids[i] != pids[j] or camids[i] != camids[j]]
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert is_same.tolist() == [pids[i] == pids[j] for i, j in expected]
    np.testing.assert_allclose(sims, [emb[i] @ emb[j] for i, j in expected], atol=1e-6)


def test_perfect_and_random_embeddings():
    pids = np.repeat(np.arange(1, 41), 6)
    samples = samples_of(pids, -1 - np.arange(len(pids)))
    rng = np.random.default_rng(4)
    perfect = verify(np.eye(40, dtype=np.float32)[pids - 1], samples)
    assert (perfect.auc, perfect.tpr_1e2, perfect.tpr_1e3, perfect.pair_accuracy) == (1.0, 1.0, 1.0, 1.0)
    chance = verify(unit(rng, len(pids), 16), samples)
    assert chance.auc == pytest.approx(0.5, abs=0.05)
    assert chance.tpr_1e2 < 0.05
    assert chance.pair_accuracy == pytest.approx(0.5, abs=0.1)


def test_large_sets_are_scored_on_whole_identities(monkeypatch):
    monkeypatch.setattr(verification, "MOST_IMAGES", 30)
    pids = np.repeat(np.arange(1, 41), 6)
    seen = []
    monkeypatch.setattr(verification, "pairs", lambda *arrays: seen.append(arrays) or pairs(*arrays))
    verify(unit(np.random.default_rng(5), len(pids)), samples_of(pids, -1 - np.arange(len(pids))))
    _, counts = np.unique(seen[0][1], return_counts=True)
    assert counts.tolist() == [6] * 5


def test_one_identity_is_an_error():
    with pytest.raises(DataError, match="two identities"):
        verify(unit(np.random.default_rng(6), 4), samples_of([1] * 4, [1, 2, 3, 4]))
