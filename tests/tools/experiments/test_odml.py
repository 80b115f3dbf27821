"""The online layers' experiment on small sets: splits, scaling, neighbours, choices, files, and its reduced form."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reid_training.errors import DataError, ModelError
from tools.experiments import odml, special
from tools.experiments.odml import DEPTHS, LAYERS, REDUCED, TASKS, Choice, Task, halves, knn_accuracy, run_one, scaled

QUICK = Task(odml.DRAWN, (odml.UNIT_INTERVAL,), n_scans=1, gammas=(0.01, 0.05))
HERE = Path()


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
    for scaling in (odml.UNIT_INTERVAL, odml.STANDARDISED):
        a, b = scaled(known, unseen, scaling)
        np.testing.assert_allclose(scaled(known, unseen[:1], scaling)[1], b[:1])
        assert np.isfinite(b).all()
        assert (a[:, 2] == 0).all()
        if scaling == odml.UNIT_INTERVAL:
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
    points, labels = odml._drawn()
    known, unseen = (points[::2], labels[::2]), (points[1::2], labels[1::2])
    theirs = neighbors.KNeighborsClassifier(odml.N_NEIGHBOURS).fit(*known).score(*unseen)
    assert knn_accuracy(*known, *unseen) == theirs


@pytest.mark.parametrize("layer", LAYERS)
def test_gamma_zero_is_euclidean_at_every_depth(layer):
    points, labels = odml._drawn()
    task = dataclasses.replace(QUICK, scalings=(odml.AS_THEY_ARE,), gammas=(0.0,))
    found = run_one((np.abs(points), labels), task, 0, ())
    assert {found.scores[f"{LAYERS[layer]} {depth}"] for depth in DEPTHS} == {found.scores[odml.EUCLID]}


@pytest.mark.parametrize("layer", LAYERS)
def test_depth_equals_a_stack_of_that_depth(layer):
    known, unseen = halves(odml._drawn(), np.random.default_rng(0))
    learned, asked = scaled(known[0], unseen[0], odml.UNIT_INTERVAL)
    found = odml.accuracies(known, unseen, QUICK, Choice(layer, odml.UNIT_INTERVAL, 0.05), 0)
    for depth in DEPTHS:
        model = odml.ODML(depth, layer, 0.05, n_scans=QUICK.n_scans, random_state=0).fit(learned, known[1])
        score = knn_accuracy(model.transform(learned), known[1], model.transform(asked), unseen[1])
        assert found[f"{LAYERS[layer]} {depth}"] == score


def test_constants_are_chosen_on_the_training_half(monkeypatch):
    """The final half is asked once, with what was best on the inner split."""
    asked = []

    def recorded(known, unseen, task, choice, seed):
        asked.append((len(unseen[1]), choice))
        good = choice == Choice("moml", odml.STANDARDISED, 0.05)
        return dict.fromkeys(odml._names(choice.learner), 0.9 if good else 0.5)

    monkeypatch.setattr(odml, "accuracies", recorded)
    found = run_one(odml._drawn(), REDUCED[0], 0, ())
    final = [choice for n, choice in asked if n == 45]
    first_of_equals = [Choice(odml.EUCLID, odml.UNIT_INTERVAL), Choice(odml.ANY_LENGTH, odml.UNIT_INTERVAL)]
    assert final == [
        *first_of_equals,
        Choice("moml", odml.STANDARDISED, 0.05),
        Choice("opml", odml.UNIT_INTERVAL, 0.01),
    ]
    assert {n for n, _ in asked} == {45, 21}
    assert found.chosen["MOML 3"] == "standardised, gamma 0.05"


def test_large_sets_are_drawn_by_the_seed(monkeypatch):
    seen = []
    monkeypatch.setattr(
        odml,
        "accuracies",
        lambda known, unseen, task, choice, seed: (
            seen.append(len(known[1]) + len(unseen[1])) or dict.fromkeys(odml._names(choice.learner), 0.5)
        ),
    )
    run_one(odml._drawn(), dataclasses.replace(QUICK, most_rows=50), 0, ())
    assert max(seen) == 50


def test_rows_compare_with_euclid_and_with_the_depth_before(tmp_path):
    rows = odml.compared(HERE, tmp_path, [0, 1], 1, [QUICK], ())
    said = [row.measure.removeprefix("5-NN accuracy, ") for row in rows]
    for title in LAYERS.values():
        assert f"1 layer {title} against Euclid" in said
        assert f"5 layers {title} against Euclid" in said
        assert f"3 layers {title} against 1 layer {title}" in said
        assert f"5 layers {title} against 3 layers {title}" in said
    assert said[-1] == "Euclid, rows of any length against Euclid"
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    assert all(len(row.method_seconds) == 2 for row in rows)


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    rows = odml.compared(HERE, tmp_path / "out", [0, 1], 1, [QUICK], ())
    done = []
    monkeypatch.setattr(
        odml, "run_one", lambda rows, task, seed, beside: done.append(seed) or run_one(rows, task, seed, ())
    )
    assert odml.compared(HERE, tmp_path / "out", [0, 1], 1, [QUICK], ()) == rows
    assert done == []
    odml.compared(HERE, tmp_path / "out", [0, 1, 2], 1, [QUICK], ())
    assert done == [2]


def test_other_settings_have_other_files(tmp_path):
    tasks = {QUICK, dataclasses.replace(QUICK, n_scans=2), *TASKS, *REDUCED}
    files = {odml._file(tmp_path, task, seed, beside) for task in tasks for seed in (0, 1) for beside in ((), ("NCA",))}
    assert len(files) == 4 * len(tasks) > 30


def test_corrupt_file_is_named(tmp_path):
    odml.compared(HERE, tmp_path, [0], 1, [QUICK], ())
    file = odml._file(tmp_path, QUICK, 0, ())
    for content in ("", "[]", '{"scores": {}}'):
        file.write_text(content)
        with pytest.raises(ModelError, match="is damaged; delete it"):
            odml.compared(HERE, tmp_path, [0], 1, [QUICK], ())


def test_tool_knows_the_experiment_and_its_reduced_form(tmp_path):
    assert special.SPECIAL["odml"] == "tools.experiments.odml"
    rows = special.run_reduced("odml", tmp_path, [0, 1], 1)
    assert {row.name for row in rows} == {"odml"}


def test_missing_set_gives_one_line_with_its_origin(tmp_path):
    with pytest.raises(DataError, match=r"no file .*mlbench/.*\.rda; it comes with R's package mlbench"):
        odml.run(tmp_path, tmp_path, [0], 1)
