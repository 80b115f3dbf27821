"""k-reciprocal re-ranking against the paper's definitions, written with sets, dense rows and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reid_training.errors import ConfigError, DataError
from reid_training.evaluate import rank, rank_by
from reid_training.rerank import RerankConfig, nearest, reranked_rows


def people(rng, n, d=5, n_people=4, spread=0.6):
    """Unit rows in clusters, so that neighbourhoods have members and borders."""
    emb = rng.normal(size=(n_people, d))[rng.integers(0, n_people, n)] + spread * rng.normal(size=(n, d))
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)


def slow_rerank(query, gallery, k1, k2, lambda_):
    """From the definition: every set is a Python set, every vector has Q + G places, sums go place by place."""
    emb = np.concatenate([query, gallery]).astype(np.float64)
    n = len(emb)
    d = [[1.0 - float(emb[i] @ emb[j]) for j in range(n)] for i in range(n)]
    order = [[i, *sorted((j for j in range(n) if j != i), key=lambda j: d[i][j])] for i in range(n)]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    def encoding(i):
        core = reciprocal(i, k1)
        members = set(core)
        for q in core:
            others = reciprocal(q, math.ceil(k1 / 2))
            if len(core & others) >= 2 / 3 * len(others) - 1e-9:
                members |= others
        return [math.exp(-d[i][j]) if j in members else 0.0 for j in range(n)]

    plain = [encoding(i) for i in range(n)]
    code = []
    for i in range(n):
        group = order[i][:k2]
        code.append([sum(plain[g][j] for g in group) / len(group) for j in range(n)])
    result = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for g in range(len(gallery)):
            a, b = code[i], code[len(query) + g]
            jaccard = 1.0 - sum(map(min, a, b)) / sum(map(max, a, b))
            result[i, g] = (1 - lambda_) * jaccard + lambda_ * d[i][len(query) + g]
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("n_query", "n_gallery", "k1", "k2", "lambda_"),
    [
        (5, 30, 6, 3, 0.3),
        (8, 40, 20, 6, 0.3),  # the paper's numbers
        (3, 25, 7, 1, 0.0),  # an odd k1; no expansion; Jaccard distance only
        (4, 6, 20, 6, 0.3),  # fewer images than neighbours
        (1, 1, 1, 1, 0.5),
        (6, 20, 2, 9, 0.3),  # k2 larger than k1
    ],
)
def test_reranking_agrees_with_the_definition(seed, n_query, n_gallery, k1, k2, lambda_):
    emb = people(np.random.default_rng(seed), n_query + n_gallery)
    query, gallery = emb[:n_query], emb[n_query:]
    rows = reranked_rows(query, gallery, RerankConfig(k1, k2, lambda_), chunk=7)
    expected = slow_rerank(query, gallery, k1, k2, lambda_)
    np.testing.assert_allclose(rows(0, n_query), expected, atol=2e-6)
    np.testing.assert_allclose(rows(n_query - 1, n_query), expected[-1:], atol=2e-6)


def test_lambda_one_gives_the_original_distance():
    emb = people(np.random.default_rng(0), 40)
    rows = reranked_rows(emb[:10], emb[10:], RerankConfig(lambda_=1.0))
    np.testing.assert_allclose(rows(0, 10), 1.0 - emb[:10] @ emb[10:].T, atol=1e-6)


def test_image_is_its_own_first_neighbour_among_copies():
    emb = np.repeat(people(np.random.default_rng(1), 3), 4, axis=0)
    near = nearest(emb, 5, chunk=5)
    assert near[:, 0].tolist() == list(range(12))
    assert all(len(set(row)) == 6 for row in near.tolist())
    rows = reranked_rows(emb[:1], emb[1:], RerankConfig(k1=3, k2=2))
    np.testing.assert_allclose(rows(0, 1)[0, :3], 0.0, atol=1e-6)


def test_reranking_moves_up_images_with_common_neighbours():
    """A chain of views of one person, each like the next, and another person nearer to the first view."""
    angles = np.deg2rad([0, 10, 20, 30, 40, 50, -35, -95, -100, -105, -110, -115])
    pids = np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    emb = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    cameras = np.ones(11, np.int64)
    asked = (pids[:1], np.array([2]), pids[1:], cameras)
    plain = rank(emb[:1], *asked[:2], emb[1:], *asked[2:])
    better = rank_by(reranked_rows(emb[:1], emb[1:], RerankConfig(k1=4, k2=2)), *asked)
    assert plain.mean_ap < better.mean_ap - 0.01


@pytest.mark.parametrize("bad", [{"k1": 0}, {"k2": 0}, {"lambda_": 1.5}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ConfigError, match=f"RerankConfig.{next(iter(bad))} must be"):
        RerankConfig(**bad)


def test_embeddings_that_are_not_finite_are_refused():
    emb = np.full((3, 2), np.nan, np.float32)
    with pytest.raises(DataError, match="not finite"):
        reranked_rows(emb[:1], emb[1:])
