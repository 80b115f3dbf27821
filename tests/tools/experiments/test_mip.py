"""The experiment of the mixed-integer metric, reduced: files, rows, plot and comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reid_training.data.synthetic import write_market_folder
from reid_training.errors import DataError
from reid_training.methods.mip_mahalanobis import MIPMahalanobis
from tools.experiments import mip, special
from tools.experiments.mip import (
    CENTRES,
    FULL,
    LEARNED,
    MARGIN,
    MOONS,
    RANDOM,
    REDUCED,
    RULES,
    Curves,
    Points,
    accuracy,
    ask,
    farthest,
    halves,
    moons,
    prepared,
    split,
)

pytestmark = pytest.mark.slow  # each runs a comparison


def drawn(seed=0):
    return halves(moons(120, np.random.default_rng(0)), MOONS, seed)


def test_reduced_form_gives_rows_and_a_picture(tmp_path):
    rows = mip.run_reduced(tmp_path, [0, 1])
    metric, active = rows[:5], rows[5:]
    assert [row.measure for row in metric] == [
        "1-NN, heuristic alone, diagonal against Euclid",
        "1-NN, program, diagonal against Euclid",
        "1-NN, program, full against Euclid",
        "1-NN, program, diagonal against heuristic alone, diagonal",
        "1-NN, program, full against program, diagonal",
    ]
    assert metric[0].data == f"{MOONS}, 12 labels"
    assert all(row.data.startswith(f"{MOONS}, 12 labels; 2 ") or "1 " in row.data for row in metric[1:])
    assert all("gap " in row.data for row in [*metric[1:], *active])
    assert active[0].data.startswith(f"{MOONS}; ")
    assert len(active) == 4 + 3 + 2
    for row in rows:
        assert len(row.baseline) == len(row.method) == len(row.method_seconds) == 2
        assert all(0.3 < share <= 1.0 for share in (*row.baseline, *row.method))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    rows = mip.run(tmp_path, tmp_path / "out", [0], 1, REDUCED)
    done = []
    monkeypatch.setattr(mip, "run_one", lambda *task: done.append(task))
    assert mip.run(tmp_path, tmp_path / "out", [0], 1, REDUCED) == rows
    assert done == []
    with pytest.raises(FileNotFoundError):
        mip.run(tmp_path, tmp_path / "out", [0, 1], 1, REDUCED)
    assert [task[2] for task in done] == [1, 1]


def test_curves_begin_with_the_same_labels_and_follow_from_the_seed():
    quick = dataclasses.replace(REDUCED, curve_limit_s=0.0)  # a time limit depends on the machine
    first, second, other = (mip.compare_questions(*drawn(), seed, quick) for seed in (0, 0, 1))
    assert (first.learned, first.euclid, first.ends) == (second.learned, second.euclid, second.ends)
    assert first.learned != other.learned
    assert first.labels == (4, 8)
    assert set(first.learned) == set(first.euclid) == set(RULES)
    for shares in (first.learned, first.euclid):
        assert len({found[0] for found in shares.values()}) == 1
        assert all(len(found) == 2 for found in shares.values())
    assert len(first.ends) == 2 * len(RULES)


def test_curves_are_fitted_by_the_program():
    found = mip.compare_questions(*drawn(), 0, REDUCED)
    assert "heuristic" not in {status for status, *_ in found.ends}
    assert all(bound <= value + 1e-9 for _, value, bound in found.ends)


def test_euclid_is_the_metric_where_distortion_has_infinite_cost():
    pool, _ = drawn()
    np.testing.assert_array_equal(MIPMahalanobis(mu=np.inf).fit(pool.values, pool.labels).metric_, np.eye(6))


def test_margin_asks_where_two_classes_are_equally_near():
    known = Points(np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([3, 8]))
    rest = Points(np.array([[0.5, 0.0], [2.1, 0.0], [1.5, 0.0], [2.0, 9.0], [3.9, 0.0]]), np.array([3, 3, 3, 8, 8]))
    model = MIPMahalanobis(mu=np.inf).fit(known.values, known.labels)
    assert ask(MARGIN, model, known, rest, 3, np.random.default_rng(0)).tolist() == [3, 1, 2]


def test_no_rule_asks_twice_or_reads_the_labels():
    pool, _ = drawn()
    known, rest = pool.take(np.arange(6)), pool.take(np.arange(6, 40))
    model = MIPMahalanobis(time_limit_s=0.0).fit(known.values, known.labels)
    hidden = Points(rest.values, np.zeros_like(rest.labels))
    for rule in RULES:
        rows, again = (ask(rule, model, known, part, 5, np.random.default_rng(1)).tolist() for part in (rest, hidden))
        assert rows == again
        assert len(set(rows)) == 5


def test_centres_equal_greedy_search():
    rng = np.random.default_rng(0)
    values, labelled = rng.normal(size=(25, 3)), [rng.normal(size=3)]
    near = np.linalg.norm(values - labelled[0], axis=1)
    expected = []
    for _ in range(6):
        far = [min(np.linalg.norm(value - other) for other in labelled) for value in values]
        expected.append(int(np.argmax(far)))
        labelled.append(values[expected[-1]])
    assert farthest(near, values, 6).tolist() == expected


def test_fit_status_is_reported():
    assert mip.proven([("time limit", 6.0, 1.0), ("optimal", 4.0, 4.0), ("time limit", 8.0, 1.0)]) == (
        "2 time limit, 1 optimal, gap 4.0 of 6.0"
    )


def test_rows_of_questions_are_means_over_the_curve():
    learned = {rule: [0.5, 0.5 + 0.1 * place] for place, rule in enumerate(RULES)}
    euclid = {rule: [0.4, 0.4] for rule in RULES}
    one = Curves((4, 8), learned, euclid, dict.fromkeys(RULES, 1.0), (("optimal", 1.0, 1.0),))
    rows = {row.measure.removeprefix("1-NN, mean over the curve, "): row for row in mip.active_rows("x", [one, one])}
    assert rows[f"{LEARNED} against {RANDOM}"].method == pytest.approx((0.55, 0.55))
    assert rows[f"{CENTRES} against {RANDOM}"].method == pytest.approx((0.7, 0.7))
    both = f"{RANDOM}, classified by the learned metric against {RANDOM}, classified by Euclid"
    assert rows[both].baseline == pytest.approx((0.4, 0.4))
    assert rows[both].method == pytest.approx((0.5, 0.5))


def test_labels_saved():
    labels = (4, 8, 12)
    assert mip.labels_for(0.5, labels, (0.6, 0.7, 0.8)) == 4
    assert mip.labels_for(0.75, labels, (0.6, 0.7, 0.8)) == pytest.approx(10)
    assert np.isnan(mip.labels_for(0.9, labels, (0.6, 0.7, 0.8)))

    def said(random, asked):
        shares = {**dict.fromkeys(RULES, random), LEARNED: asked}
        return mip.saved([Curves(labels, shares, shares, {}, ())])

    assert said([0.5, 0.6, 0.7], [0.5, 0.7, 0.8]) == "8 labels for 12 (-33%)"
    assert said([0.5, 0.6, 0.9], [0.5, 0.7, 0.8]) == "more than 12 labels for 12"
    assert said([0.5, 0.7, 0.7], [0.5, 0.7, 0.8]) == "8 labels for 8 (+0%)"


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
    rows = mip.people_rows([mip.compare_people(points, seed, REDUCED) for seed in range(2)])
    assert [row.measure for row in rows] == [
        "rank-1, against the same 32 components",
        "rank-1, against the cosine of all 128",
    ]
    assert rows[0].method == rows[1].method
    assert all(0.0 <= share <= 1.0 for row in rows for share in (*row.baseline, *row.method))


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
    centred = prepared(known, known, standardise=False).values
    spread = np.linalg.svd(known.values - known.values.mean(0), compute_uv=False)[: mip.MAX_COMPONENTS]
    np.testing.assert_allclose(np.linalg.norm(centred, axis=0), spread / known.values.std(0).max())
    constant = Points(np.ones((5, 2)), np.zeros(5, int))
    assert np.isfinite(prepared(constant, constant).values).all()


def test_digits_are_two_classes_drawn_by_the_seed(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    rng = np.random.default_rng(0)
    parts = {}
    for part in ("train", "test"):
        parts[f"x_{part}"] = rng.integers(0, 256, (90, 28, 28), np.uint8)
        parts[f"y_{part}"] = np.arange(90, dtype=np.uint8) % 10
    np.savez(tmp_path / "mnist" / "mnist.npz", **parts)
    monkeypatch.setattr(mip, "N_DIGITS", 5)
    found = mip.read(mip.DIGITS, tmp_path, 0)
    assert found.values.shape == (10, 784)
    assert found.labels.tolist() == [3] * 5 + [8] * 5
    assert not np.array_equal(found.values, mip.read(mip.DIGITS, tmp_path, 1).values)


def test_no_people_gives_one_line(tmp_path, capsys):
    rows = mip.run(tmp_path, tmp_path / "out", [0], 1, dataclasses.replace(REDUCED, people=True))
    assert {row.name for row in rows} == {"mip_mahalanobis", "mip_mahalanobis_active"}
    said = capsys.readouterr().err
    assert said.startswith(f"experiments: mip_mahalanobis leaves its people out: no folder {tmp_path / 'query'}")
    assert said.count("\n") == 1


def test_tool_knows_the_experiment_and_absent_data_gives_one_line(tmp_path):
    assert special.SPECIAL["mip_mahalanobis"] == "tools.experiments.mip"
    with pytest.raises(DataError, match="it comes with R's package mlbench"):
        mip.run(tmp_path, tmp_path, [0], 1, FULL)
