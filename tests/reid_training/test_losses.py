"""Losses and miners against slow loops that look like the formula, and against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reid_training import distances, mining
from reid_training.methods.siamese import contrastive_loss, triplet_loss

LABELS = {
    "PK batch": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "unbalanced": [0, 1, 1, 2, 2, 2, 2, 3],
    "a pair": [0, 0],
    "two people": [0, 1],
    "one person": [4, 4, 4],
    "all different": [3, 1, 2, 0],
    "one image": [7],
}


def embeddings(labels, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(len(labels), 5)), dtype=torch.float64)


def distance_by_hand(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def slow_triplet(emb, labels, margin):
    terms = []
    for i, anchor in enumerate(labels):
        positives = [distance_by_hand(emb[i], emb[j]) for j, x in enumerate(labels) if x == anchor and j != i]
        negatives = [distance_by_hand(emb[i], emb[j]) for j, x in enumerate(labels) if x != anchor]
        if positives and negatives:
            terms.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(terms) / len(terms) if terms else 0.0


def slow_contrastive(emb, labels, margin):
    positives, negatives = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i == j:
                continue
            dist = distance_by_hand(emb[i], emb[j])
            if labels[i] == labels[j]:
                positives.append(dist**2)
            else:
                negatives.append(max(0.0, margin - dist) ** 2)
    return sum(sum(terms) / len(terms) for terms in (positives, negatives) if terms)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize(("fast", "slow"), [(triplet_loss, slow_triplet), (contrastive_loss, slow_contrastive)])
@pytest.mark.parametrize("margin", [0.3, 3.0])
def test_pair_loss_agrees_with_one_pair_at_a_time(name, fast, slow, margin):
    labels = LABELS[name]
    emb = embeddings(labels)
    value = fast(distances.euclidean(emb, emb), torch.tensor(labels), margin)
    assert float(value) == pytest.approx(slow(emb, labels, margin), abs=1e-9)


@pytest.mark.parametrize("loss", [triplet_loss, contrastive_loss])
def test_pair_loss_gradient_agrees_with_finite_differences(loss):
    labels = LABELS["PK batch"]
    emb = embeddings(labels).requires_grad_()

    def value(x):
        return loss(distances.euclidean(x, x), torch.tensor(labels), 2.0)

    assert torch.autograd.gradcheck(value, (emb,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("loss", [triplet_loss, contrastive_loss])
@pytest.mark.parametrize("name", LABELS)
def test_pair_loss_of_equal_embeddings_has_a_finite_gradient(loss, name):
    emb = torch.ones(len(LABELS[name]), 4, requires_grad=True)
    loss(distances.euclidean(emb, emb), torch.tensor(LABELS[name]), 0.3).backward()
    assert torch.isfinite(emb.grad).all()


def test_losses_are_zero_when_people_are_far_apart_and_images_of_one_coincide():
    emb = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    dist = distances.euclidean(emb, emb)
    assert float(triplet_loss(dist, labels, 0.3)) == 0.0
    assert float(contrastive_loss(dist, labels, 0.3)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_batch_hard_agrees_with_a_double_loop(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 14))
    labels = [int(x) for x in rng.integers(0, 4, n)]
    dist = torch.tensor(rng.random((n, n)))
    expected = []
    for i in range(n):
        farthest, nearest = None, None
        for j in range(n):
            if labels[j] == labels[i] and j != i and (farthest is None or dist[i, j] > dist[i, farthest]):
                farthest = j
            if labels[j] != labels[i] and (nearest is None or dist[i, j] < dist[i, nearest]):
                nearest = j
        if farthest is not None and nearest is not None:
            expected.append((i, farthest, nearest))
    mined = torch.stack(mining.batch_hard(dist, torch.tensor(labels)), 1)
    assert [tuple(row) for row in mined.tolist()] == expected


def test_distances_agree_with_one_pair_at_a_time():
    a, b = embeddings([0] * 4), embeddings([0] * 6, seed=1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    cosine, euclidean = distances.cosine(a, b), distances.euclidean(a, b)
    for i in range(4):
        for j in range(6):
            by_hand = distance_by_hand(a[i], b[j])
            assert float(euclidean[i, j]) == pytest.approx(by_hand, abs=1e-9)
            assert float(cosine[i, j]) == pytest.approx(by_hand**2 / 2, abs=1e-9)  # holds on the unit sphere
