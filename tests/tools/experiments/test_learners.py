"""Rows of an ensemble's learners: what is scored of how many, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reid_training.data.base import Samples
from tools.experiments import catalogue, learners
from tools.experiments.compare import carry_out, comparisons, plan
from tools.experiments.protocols import Drawn

SIZES = (2, 3, 4)


@pytest.fixture
def embeddings(rng):
    rows = rng.normal(size=(24, sum(SIZES))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def samples():
    """Six identities with four images each; no two images of the same camera."""
    return Samples(("image",) * 24, np.repeat(np.arange(1, 7), 4), np.tile(np.arange(4), 6))


def test_few_learners_are_scored_alone_many_in_growing_ensembles():
    assert learners.spans(2) == {"learner 1 of 2": (0, 1), "learner 2 of 2": (1, 2)}
    assert list(learners.spans(24)) == [f"first {k} of 24 learners" for k in (1, 4, 8, 16)]
    assert learners.spans(16)["first 8 of 16 learners"] == (0, 8)


def test_learner_is_ranked_by_the_cosine_of_its_block(embeddings, samples):
    found = learners.of_embeddings(embeddings, SIZES, samples)
    starts = np.cumsum([0, *SIZES])
    for k, (start, end) in enumerate(itertools.pairwise(starts), 1):
        block = embeddings[:, start:end]
        right = 0
        for i, row in enumerate(block):
            cosines = [
                -2.0 if j == i else row @ x / np.linalg.norm(row) / np.linalg.norm(x) for j, x in enumerate(block)
            ]
            # The first image of an identity by a camera is a query; no identity has two by one camera.
            right += samples.pids[int(np.argmax(cosines))] == samples.pids[i]
        assert found[f"R@1, learner {k} of 3"] == pytest.approx(right / len(block))


def test_independence_is_one_minus_the_mean_correlation(embeddings, samples):
    table = np.abs(np.corrcoef(embeddings.T))
    learner = np.repeat(np.arange(3), SIZES)
    between = [table[i, j] for i in range(9) for j in range(9) if learner[i] != learner[j]]
    found = learners.of_embeddings(embeddings, SIZES, samples)
    assert found[learners.INDEPENDENCE] == pytest.approx(1.0 - np.mean(between), abs=1e-5)


@pytest.mark.slow
def test_ensemble_has_rows_for_its_learners_a_single_network_none(tmp_path):
    bier = {"method": {"name": "bier"}}
    roles = {
        "a": {"baseline": {"method": {"name": "siamese"}}, "method": bier},
        "b": {"baseline": {"method": {"name": "bier", "diversity": "none"}}, "method": bier},
        "c": {"baseline": bier, "method": {"method": {"name": "siamese"}}},
    }
    root = Drawn().prepare(tmp_path, tmp_path / "drawn")
    chosen = [catalogue.Experiment(name, name, "a claim", role) for name, role in roles.items()]
    asked = plan(chosen, Drawn(), "test", (0,), root, tmp_path / "out")
    results, failures = carry_out(asked, 1)
    assert not failures
    rows = {(row.name, row.measure): row for row in comparisons(asked, results)}
    alone = [f"R@1, learner {k} of 3" for k in (1, 2, 3)]
    assert [measure for name, measure in rows if name == "a"] == ["R@1", "mAP", *alone]
    assert [measure for name, measure in rows if name == "b"] == ["R@1", "mAP", *alone, learners.INDEPENDENCE]
    assert [measure for name, measure in rows if name == "c"] == ["R@1", "mAP"]
    for measure in alone:
        assert rows["a", measure].baseline == rows["a", "R@1"].baseline  # all of the single network
        assert rows["a", measure].method == rows["b", measure].method
    assert comparisons(asked, results) == list(rows.values())  # from the files
