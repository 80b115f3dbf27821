"""Coordinate descent against brute force on synthetic objectives."""

from __future__ import annotations

import itertools

import pytest

from tracker.config import TrackerConfig
from tracker.eval.search import changes, descend, flattened, variants

SPACE = {
    "detection.strong_score": [0.3, 0.5, 0.7],
    "detection.weak_score": [0.05, 0.1, 0.4, 0.6],
    "lifecycle.confirm_hits": [1, 2, 3, 4],
    "motion.camera": [True, False],
}
START = TrackerConfig()


def combinations(space):
    """Every combination that the configuration allows: one setting after the other, in every order."""
    for values in itertools.product(*space.values()):
        try:
            yield START.override(dict(zip(space, values, strict=True)))
        except Exception:
            continue


def separable(config):
    """Every setting adds its own part; the best is not the start."""
    flat = flattened(config)
    return (
        -10 * abs(flat["detection.strong_score"] - 0.7) - 5 * abs(flat["detection.weak_score"] - 0.4)
        - abs(flat["lifecycle.confirm_hits"] - 2) - 3 * flat["motion.camera"]
    )  # fmt: skip


def crossed(config):
    """Settings that depend on each other."""
    flat = flattened(config)
    strong, hits = flat["detection.strong_score"], flat["lifecycle.confirm_hits"]
    return -10 * (strong - 0.1 * hits - 0.2) ** 2 - (flat["detection.weak_score"] - 0.2) ** 2 - 0.1 * abs(hits - 4)


def search(objective, min_gain=0.0, seed=0):
    return list(descend(START, SPACE, lambda configs: [objective(c) for c in configs], min_gain, seed))


@pytest.mark.parametrize("seed", range(5))
def test_descend_finds_optimum_of_separable_objective(seed):
    best = max(combinations(SPACE), key=separable)
    points = search(separable, seed=seed)
    assert points[-1].config == best
    assert points[-1].score == separable(best)
    assert points[0].config == START
    assert sorted(p.score for p in points) == [p.score for p in points]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_gain", [0.0, 0.05])
def test_descend_ends_where_no_single_change_gains_enough(seed, min_gain):
    last = search(crossed, min_gain, seed)[-1]
    for name, values in SPACE.items():
        for config in variants(last.config, name, values):
            assert crossed(config) <= last.score + min_gain


def test_descend_keeps_default_if_gain_is_small():
    points = search(separable, min_gain=1.5)
    assert changes(points[-1].config, START) == {
        "detection.strong_score": 0.7,  # gains 2
        "motion.camera": False,  # gains 3; the weak score would gain 1.5, confirm_hits 1
    }
    assert len(search(lambda _: 1.0)) == 1  # nothing gains: only the start


def test_descend_same_seed_same_steps():
    assert search(crossed, seed=3) == search(crossed, seed=3)


def test_variants_skip_forbidden_combinations():
    weak = variants(START, "detection.weak_score", [0.05, 0.9, 0.5])  # above the strong score is impossible
    assert [c.detection.weak_score for c in weak] == [0.05, 0.5]


def test_changes_list_differences_and_override_restores_them():
    config = START.override({"appearance.tau_same": 0.3, "default_fps": 25.0, "motion.camera": False})
    found = changes(config, START)
    assert found == {"appearance.tau_same": 0.3, "default_fps": 25.0, "motion.camera": False}
    assert START.override(found) == config
    assert changes(START, config) == {"appearance.tau_same": None, "default_fps": 30.0, "motion.camera": True}
