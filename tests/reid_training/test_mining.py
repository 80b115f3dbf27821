"""Miners against double and triple loops over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reid_training import mining

SEEDS = range(20)


def random_batch(seed):
    """Up to 13 images of up to 4 people; some draws have one person, or one image of each."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 14))
    labels = [int(x) for x in rng.integers(0, 1 + seed % 5, n)]
    # Coarse values: ties happen.
    return torch.tensor(rng.integers(1, 12, (n, n)) / 8.0), labels


def pairs_of(labels):
    n = len(labels)
    return [(a, p) for a in range(n) for p in range(n) if a != p and labels[a] == labels[p]]


def negatives_of(labels, a):
    return [n for n in range(len(labels)) if labels[n] != labels[a]]


def slow_all(dist, labels):
    return [(a, p, n) for a, p in pairs_of(labels) for n in negatives_of(labels, a)]


def slow_semi_hard(dist, labels, margin=0.3):
    found = []
    for a, p in pairs_of(labels):
        best = None
        for n in negatives_of(labels, a):
            within = dist[a, p] < dist[a, n] < dist[a, p] + margin
            if within and (best is None or dist[a, n] < dist[a, best]):
                best = n
        if best is not None:
            found.append((a, p, best))
    return found


def slow_hard(dist, labels):
    found = []
    for a in range(len(labels)):
        farthest, nearest = None, None
        for p in range(len(labels)):
            if labels[p] == labels[a] and p != a and (farthest is None or dist[a, p] > dist[a, farthest]):
                farthest = p
        for n in negatives_of(labels, a):
            if nearest is None or dist[a, n] < dist[a, nearest]:
                nearest = n
        if farthest is not None and nearest is not None:
            found.append((a, farthest, nearest))
    return found


MINERS = {
    "all": (lambda dist, labels: mining.batch_all(labels), slow_all),
    "semi-hard": (lambda dist, labels: mining.semi_hard(dist, labels, 0.3), slow_semi_hard),
    "hard": (mining.batch_hard, slow_hard),
}


def rows(triplets):
    return [tuple(row) for row in torch.stack(triplets, 1).tolist()]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MINERS)
def test_miner_agrees_with_loops(name, seed):
    dist, labels = random_batch(seed)
    fast, slow = MINERS[name]
    assert rows(fast(dist, torch.tensor(labels))) == slow(dist, labels)


def test_random_batches_hold_triplets_of_every_kind():
    for _, slow in MINERS.values():
        found = [len(slow(*random_batch(seed))) for seed in SEEDS]
        assert min(found) == 0
        assert max(found) > 5


def test_batch_all_count_equals_the_pk_formula():
    labels = torch.arange(5).repeat_interleave(3)
    assert [len(x) for x in mining.batch_all(labels)] == [5 * 3 * 2 * 4 * 3] * 3


def test_semi_hard_negatives_lie_within_the_margin():
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    dist = torch.full((6, 6), 9.0)
    #                 a    p    nearer, equal, within, beyond
    dist[0] = torch.tensor([0.0, 0.5, 0.4, 0.5, 0.6, 0.9])
    assert rows(mining.semi_hard(dist, labels, 0.3)) == [(0, 1, 4)]
    assert rows(mining.semi_hard(dist, labels, 0.1 - 1e-6)) == []


def inverse_density(dist, size):
    """1 / q(d) as the paper has it, d cut off at 0.5; 0 from 1.4 on."""
    if dist >= 1.4:
        return 0.0
    d = max(dist, 0.5)
    return 1.0 / (d ** (size - 2) * (1.0 - d**2 / 4.0) ** ((size - 3) / 2.0))


def slow_probabilities(dist, labels, a, size):
    negatives = negatives_of(labels, a)
    weights = [inverse_density(float(dist[a, n]), size) for n in negatives]
    if sum(weights) == 0.0:
        weights = [1.0] * len(negatives)
    return {n: weight / sum(weights) for n, weight in zip(negatives, weights, strict=True)}


@pytest.mark.parametrize("size", [2, 3, 8, 128])
def test_log_inverse_density_agrees_with_the_formula(size):
    dist = torch.linspace(0.0, 1.39, 30, dtype=torch.float64)
    for value, d in zip(mining.log_inverse_density(dist, size), dist, strict=True):
        assert float(value) == pytest.approx(math.log(inverse_density(float(d), size)), abs=1e-9)


@pytest.mark.parametrize("size", [4, 16, 128])
def test_density_equals_that_of_random_unit_vectors(size):
    """Between the two cuts random pairs, weighted by the inverse density, spread evenly over the distance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 400_000 // size, size))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    dist = np.linalg.norm(x[0] - x[1], axis=1)
    # With many dimensions nothing lies near the lower cut: look where the samples are.
    low, high = np.quantile(dist, [0.05, 0.45])
    low = max(low, mining.NEAREST)
    inside = dist[(dist > low) & (dist < min(high, mining.FARTHEST))]
    weights = mining.log_inverse_density(torch.tensor(inside), size).exp().numpy()
    shares, _ = np.histogram(inside, bins=4, weights=weights / weights.sum())
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


@pytest.mark.slow
def test_distance_weighted_frequencies_follow_the_weights():
    size, n_draws = 6, 4000
    labels = [0, 0, 1, 1, 2, 3]
    # Of anchor 0: below the cut, twice in between, at and beyond the far one.
    far = [0.0, 0.7, 0.3, 0.8, 1.1, 1.5]
    dist = torch.full((6, 6), 1.6, dtype=torch.float64)
    dist[0] = torch.tensor(far)
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, int], dict[int, int]] = {}
    for _ in range(n_draws):
        for a, p, n in rows(mining.distance_weighted(dist, torch.tensor(labels), size, rng)):
            counts.setdefault((a, p), {}).setdefault(n, 0)
            counts[a, p][n] += 1
    assert counts.keys() == set(pairs_of(labels))
    for (a, _), drawn in counts.items():
        for n, share in slow_probabilities(dist, labels, a, size).items():
            spread = math.sqrt(share * (1 - share) / n_draws)
            assert drawn.get(n, 0) / n_draws == pytest.approx(share, abs=4.5 * spread + 1e-12), (a, n)
    assert slow_probabilities(dist, labels, 0, size)[5] == 0.0
    assert set(slow_probabilities(dist, labels, 1, size).values()) == {0.25}  # all too far: all alike


@pytest.mark.parametrize("seed", SEEDS)
def test_distance_weighted_gives_one_negative_per_pair_repeatably(seed):
    dist, labels = random_batch(seed)
    draw = [
        rows(mining.distance_weighted(dist, torch.tensor(labels), 128, np.random.default_rng(seed))) for _ in range(2)
    ]
    assert draw[0] == draw[1]
    assert [(a, p) for a, p, _ in draw[0]] == [(a, p) for a, p in pairs_of(labels) if negatives_of(labels, a)]
    assert all(n in negatives_of(labels, a) for a, _, n in draw[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_n_pairs_have_one_identity_and_use_no_image_twice(seed):
    _, labels = random_batch(seed)
    expected = []
    for label in set(labels):
        images = [i for i, x in enumerate(labels) if x == label]
        expected += [(images[k], images[k + 1]) for k in range(0, len(images) - 1, 2)]
    anchors, positives = mining.n_pairs(torch.tensor(labels))
    assert list(zip(anchors.tolist(), positives.tolist(), strict=True)) == sorted(expected)
