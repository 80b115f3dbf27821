"""The online layers' experiment on UCI sets: splits, scaling, neighbours, files, and its reduced form."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter

import numpy as np
import pytest

from reid_training.errors import DataError, ModelError
from tools.experiments import odml, special
from tools.experiments.odml import DEPTHS, REDUCED, TASKS, Task, halves, knn_accuracy, load, run_one, scaled

QUICK = Task(odml.DRAWN, "unit interval", n_scans=1, gammas=(0.01, 0.05))


def test_halves_split_every_class_evenly():
    labels = np.repeat([3, 5, 9], [7, 20, 2])
    points = np.arange(29.0)[:, None]
    (one, one_labels), (other, other_labels) = halves((points, labels), np.random.default_rng(0))
    assert Counter(one_labels.tolist()) == {3: 4, 5: 10, 9: 1}
    assert Counter(other_labels.tolist()) == {3: 3, 5: 10, 9: 1}
    assert sorted(np.concatenate([one, other])[:, 0].tolist()) == points[:, 0].tolist()
    np.testing.assert_array_equal(labels[one[:, 0].astype(int)], one_labels)
    assert (np.diff(one_labels) != 0).sum() > 2, "a stream sorted by class has one negative for a whole class"
    (again, _), _ = halves((points, labels), np.random.default_rng(0))
    np.testing.assert_array_equal(again, one)


def test_scaling_uses_the_training_half_only():
    rng = np.random.default_rng(0)
    known, unseen = rng.normal(3, 2, (20, 3)), rng.normal(3, 9, (10, 3))
    known[:, 2] = 7.0
    for scaling in odml.SCALINGS[1:]:
        a, b = scaled(known, unseen, scaling)
        np.testing.assert_allclose(scaled(known, unseen[:1], scaling)[1], b[:1])
        assert np.isfinite(b).all()
        assert (a[:, 2] == 0).all()
        if scaling == "unit interval":
            np.testing.assert_allclose((a.min(axis=0)[:2], a.max(axis=0)[:2]), ([0, 0], [1, 1]))
        else:
            np.testing.assert_allclose((a.mean(axis=0)[:2], a.std(axis=0)[:2]), ([0, 0], [1, 1]), atol=1e-12)


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_equal_loop_over_rows(k):
    rng = np.random.default_rng(1)
    known, unseen = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    labels, answers = rng.integers(2, 5, 30), rng.integers(2, 5, 20)
    right = 0
    for row, answer in zip(unseen, answers, strict=True):
        near = sorted(range(30), key=lambda i: math.dist(known[i], row))[:k]
        votes = Counter(labels[near].tolist())
        right += min(votes, key=lambda label: (-votes[label], label)) == answer
    assert knn_accuracy(known, labels, unseen, answers, k) == right / 20


def test_neighbours_equal_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    points, labels = load("iris")
    known, unseen = (points[::2], labels[::2]), (points[1::2], labels[1::2])
    theirs = neighbors.KNeighborsClassifier(odml.N_NEIGHBOURS).fit(*known).score(*unseen)
    assert knn_accuracy(*known, *unseen) == theirs


def test_gamma_zero_is_euclidean_at_every_depth():
    points, labels = load(odml.DRAWN)
    task = dataclasses.replace(QUICK, scaling="as they are", gammas=(0.0,))
    result = run_one((np.abs(points), labels), task, 0)
    assert result.gammas == (0.0,) * len(DEPTHS)
    assert set(result.layers) == {result.euclid}


def test_depth_equals_a_stack_of_that_depth():
    rows = load(odml.DRAWN)
    known, unseen = halves(rows, np.random.default_rng(0))
    learned, asked = scaled(known[0], unseen[0], QUICK.scaling)
    found = odml._accuracies(known, unseen, QUICK, 0.05, 0)
    for depth, score in zip(DEPTHS, found, strict=True):
        model = odml.ODML(n_layers=depth, gamma=0.05, n_scans=QUICK.n_scans, random_state=0).fit(learned, known[1])
        assert knn_accuracy(model.transform(learned), known[1], model.transform(asked), unseen[1]) == score


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    rows = odml.compared(tmp_path / "out", [0, 1], 1, [QUICK])
    assert len(rows) == len(DEPTHS) + 1
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    assert rows[0].baseline == rows[1].baseline != rows[3].baseline
    done = []
    monkeypatch.setattr(odml, "run_one", lambda rows, task, seed: done.append(seed) or run_one(rows, task, seed))
    assert odml.compared(tmp_path / "out", [0, 1], 1, [QUICK]) == rows
    assert done == []
    odml.compared(tmp_path / "out", [0, 1, 2], 1, [QUICK])
    assert done == [2]


def test_other_settings_have_other_files(tmp_path):
    others = [QUICK, dataclasses.replace(QUICK, n_scans=2), dataclasses.replace(QUICK, scaling="standardised")]
    tasks = {*others, *TASKS, *REDUCED}
    assert len({odml._file(tmp_path, task, seed) for task in tasks for seed in (0, 1)}) == 2 * len(tasks) > 16


def test_corrupt_file_is_named(tmp_path):
    odml.compared(tmp_path, [0], 1, [QUICK])
    file = odml._file(tmp_path, QUICK, 0)
    for content in ("", "[]", '{"euclid": 1}'):
        file.write_text(content)
        with pytest.raises(ModelError, match="is damaged; delete it"):
            odml.compared(tmp_path, [0], 1, [QUICK])


def test_tool_knows_the_experiment_and_its_reduced_form(tmp_path):
    assert special.SPECIAL["odml"] == "tools.experiments.odml"
    rows = special.run_reduced("odml", tmp_path, [0, 1], 1)
    assert {row.name for row in rows} == {"odml"}


def test_missing_scikit_learn_gives_one_line_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="scikit-learn; pip install scikit-learn"):
        odml.run(tmp_path, tmp_path, [0], 1)


@pytest.mark.parametrize("name", sorted({task.data for task in TASKS}))
def test_uci_sets_are_complete(name):
    pytest.importorskip("sklearn")
    points, labels = load(name)
    shapes = {"iris": (150, 4), "wine": (178, 13), "breast_cancer": (569, 30), "digits": (1797, 64)}
    assert points.shape == shapes[name]
    assert labels.shape == (len(points),)
