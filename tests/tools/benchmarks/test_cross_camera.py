"""The counts of tools/benchmarks/cross_camera.py against loops over all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tools.benchmarks.cross_camera import logistic, pair_counts, scores, standard_errors, tracks_of


def test_precision_and_recall_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    pids, camera, person = rng.integers(0, 6, 40), rng.integers(0, 3, 40), rng.integers(0, 8, 40)
    pairs = [(a, b) for a, b in combinations(range(40), 2) if camera[a] != camera[b]]
    linked = [pids[a] == pids[b] for a, b in pairs if person[a] == person[b]]
    same = [person[a] == person[b] for a, b in pairs if pids[a] == pids[b]]
    counts = pair_counts(person, pids, camera)
    assert scores(*counts) == pytest.approx((np.mean(linked), np.mean(same)))
    assert (standard_errors(*counts, draws=200) > 0).all()


def test_tracks_are_runs_of_one_person_in_one_sequence():
    names = ["0002_c1s1_000100_01.jpg", "0002_c1s1_000200_01.jpg", "0002_c1s1_000500_01.jpg", "0002_c1s2_000501_01.jpg"]
    names += ["0003_c1s1_000150_01.jpg", "0002_c2s1_000100_01.jpg"]
    tracks, pids = tracks_of(np.eye(6), names)
    assert len(tracks) == 5  # the first two are 4 s apart, the third follows after 12 s
    assert sorted(zip(pids.tolist(), tracks.camera.tolist(), strict=True)) == [(2, 1), (2, 1), (2, 1), (2, 2), (3, 1)]
    assert {tuple(mean) for mean in tracks.means.tolist()} >= {(0.5, 0.5, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0)}


def test_line_of_logistic_regression_is_that_of_two_normal_distributions():
    """Of one variance s^2 and means a, b the log ratio is ((a - b) x - (a^2 - b^2) / 2) / s^2."""
    rng = np.random.default_rng(1)
    same = np.arange(60_000) < 3_000
    x = np.where(same, rng.normal(1.5, 0.5, 60_000), rng.normal(0.0, 0.5, 60_000))
    slope, offset = logistic(x, same)
    assert slope == pytest.approx(6.0, rel=0.05)
    assert offset == pytest.approx(-4.5, rel=0.08)
