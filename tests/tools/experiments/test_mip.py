"""The experiment of the mixed-integer metric, reduced: files, rows, plot and comparisons."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from reid_training.data.synthetic import write_market_folder
from reid_training.errors import DataError
from tools.experiments import mip, special
from tools.experiments.mip import FULL, MOONS, REDUCED, Points, accuracy, moons, prepared, split

pytestmark = pytest.mark.slow  # each runs a comparison

HERE = dataclasses.replace(REDUCED, n_labelled=())


def test_reduced_form_gives_rows_and_a_picture(tmp_path):
    rows = mip.run_reduced(tmp_path, [0, 1])
    data = rows[0].data
    assert data.startswith(f"{MOONS}, 16 labels; 2 ")
    assert "gap " in data
    assert [(row.name, row.data, row.measure) for row in rows] == [
        ("mip_mahalanobis", data, "1-NN"),
        ("mip_mahalanobis", data, "3-NN"),
        ("mip_mahalanobis_active", MOONS, "1-NN, mean over the curve"),
    ]
    for row in rows:
        assert len(row.baseline) == len(row.method) == 2
        assert all(0.3 < share <= 1.0 for share in (*row.baseline, *row.method))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_scikit_learn_sets_are_accepted(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is of the extra dev")
    small = dataclasses.replace(FULL, n_labelled=(("iris", 18), ("digits", 40)), time_limit_s=0.0, active=("wine",))
    rows = mip.run(tmp_path, tmp_path / "out", [0], 1, dataclasses.replace(small, n_rounds=1))
    expected = ["iris, 18 labels"] * 2 + ["digits, 40 labels"] * 2 + ["wine"]
    assert [row.data.split(";")[0] for row in rows] == expected


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    rows = mip.run(tmp_path, tmp_path / "out", [0], 1, HERE)
    done = []
    monkeypatch.setattr(mip, "run_one", lambda *task: done.append(task))
    assert mip.run(tmp_path, tmp_path / "out", [0], 1, HERE) == rows
    assert done == []
    with pytest.raises(FileNotFoundError):
        mip.run(tmp_path, tmp_path / "out", [0, 1], 1, HERE)
    assert [task[2] for task in done] == [1]


def test_seed_decides_everything():
    points = moons(120, np.random.default_rng(0))
    first, second, other = (mip.compare_questions(points, seed, HERE) for seed in (0, 0, 1))
    assert (first.baseline, first.method) == (second.baseline, second.method)
    assert first.method != other.method


def test_both_curves_begin_with_the_same_points():
    found = mip.compare_questions(moons(120, np.random.default_rng(0)), 0, HERE)
    assert found.baseline[0] == found.method[0]
    assert found.labels == (4, 8, 12)


def test_fit_status_is_reported():
    ends = [("time limit", 6.0, 5.0), ("optimal", 4.0, 0.0), ("time limit", 8.0, 7.0)]
    found = [mip.Result((0.5,), (0.5,), status=status, value=value, gap=gap) for status, value, gap in ends]
    assert mip.proven(found) == "2 time limit, 1 optimal, gap 4.0 of 6.0"


def test_labels_saved():
    labels = (4, 8, 12)
    assert mip.labels_for(0.5, labels, (0.6, 0.7, 0.8)) == 4
    assert mip.labels_for(0.75, labels, (0.6, 0.7, 0.8)) == pytest.approx(10)
    assert np.isnan(mip.labels_for(0.9, labels, (0.6, 0.7, 0.8)))
    assert mip.saved([mip.Result((0.5, 0.6, 0.7), (0.5, 0.7, 0.8), labels)]) == "8 labels for 12 (-33%)"
    assert mip.saved([mip.Result((0.5, 0.6, 0.9), (0.5, 0.7, 0.8), labels)]) == "more than 12 labels for 12"
    assert mip.saved([mip.Result((0.5, 0.7, 0.7), (0.5, 0.7, 0.8), labels)]) == "8 labels for 8 (+0%)"


def test_rank1_equals_loop_over_images():
    rng = np.random.default_rng(0)
    points = Points(rng.normal(size=(20, 3)), np.r_[rng.integers(0, 5, 19), 9])
    right = []
    for i in range(19):
        if (points.labels == points.labels[i]).sum() > 1:
            others = [j for j in range(20) if j != i]
            nearest = min(others, key=lambda j: np.linalg.norm(points.values[i] - points.values[j]))
            right.append(points.labels[nearest] == points.labels[i])
    assert mip.rank_1(points) == pytest.approx(np.mean(right))


def test_people_are_queries_and_gallery(tmp_path, monkeypatch):
    write_market_folder(tmp_path / "drawn", n_train=0, n_test=8)
    points = mip.embedded_people(tmp_path / "drawn", tmp_path / "out")
    assert points.values.shape == (24, 128)
    monkeypatch.setattr(mip, "embed_samples", None)
    again = mip.embedded_people(tmp_path / "drawn", tmp_path / "out")
    np.testing.assert_array_equal(again.values, points.values)
    rows = mip.people_rows([mip.compare_people(points, seed, HERE) for seed in range(2)])
    assert [row.measure for row in rows] == [
        "rank-1, against the same 32 components",
        "rank-1, against the cosine of all 128",
    ]
    assert rows[0].method == rows[1].method
    assert all(0.0 <= share <= 1.0 for row in rows for share in (*row.baseline, *row.method))


def test_no_people_gives_one_line(tmp_path, capsys):
    rows = mip.run(tmp_path, tmp_path / "out", [0], 1, dataclasses.replace(HERE, people=True))
    assert [row.name for row in rows] == ["mip_mahalanobis_active"]
    said = capsys.readouterr().err
    assert said.startswith(f"experiments: mip_mahalanobis leaves its people out: no folder {tmp_path / 'query'}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("k", [1, 3, 4])
def test_accuracy_equals_loop_over_votes(k):
    rng = np.random.default_rng(k)
    known = Points(rng.normal(size=(20, 3)), rng.integers(0, 3, 20))
    asked = Points(rng.normal(size=(30, 3)), rng.integers(0, 3, 30))
    right = 0
    for value, label in zip(asked.values, asked.labels, strict=True):
        nearest = sorted(range(20), key=lambda j: np.linalg.norm(value - known.values[j]))[:k]
        votes = [int(known.labels[j]) for j in nearest]
        right += max(votes, key=votes.count) == label  # the first of the best, in the order of distance
    assert accuracy(known, asked, k) == right / 30


def test_split_parts_have_every_class_and_share_no_point():
    points = Points(np.arange(100.0)[:, None], np.repeat([0, 1, 2], [10, 30, 60]))
    known, unseen = split(points, 20, np.random.default_rng(0))
    assert np.bincount(known.labels).tolist() == [2, 6, 12]
    assert sorted(np.r_[known.values, unseen.values].ravel()) == list(range(100))


def test_preparation_uses_the_known_points_only():
    rng = np.random.default_rng(0)
    known, unseen = (Points(rng.normal(3.0, 5.0, size=(50, 40)), np.zeros(50, int)) for _ in range(2))
    values = prepared(known, known).values
    assert values.shape == (50, mip.MAX_COMPONENTS)
    np.testing.assert_allclose(values.mean(0), 0.0, atol=1e-9)
    shifted = Points(unseen.values + 100.0, unseen.labels)
    a, b = prepared(unseen, known).values, prepared(shifted, known).values
    assert not np.allclose(a, b), "the shift is still there"
    constant = Points(np.ones((5, 2)), np.zeros(5, int))
    assert np.isfinite(prepared(constant, constant).values).all()


def test_tool_knows_the_experiment():
    assert special.SPECIAL["mip_mahalanobis"] == "tools.experiments.mip"
    assert {name for name, _ in FULL.n_labelled} == {MOONS, "iris", "wine", "breast_cancer", "digits"}


def test_missing_scikit_learn_gives_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="come with scikit-learn; pip install scikit-learn"):
        mip.read("wine", 0)
