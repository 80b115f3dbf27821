"""The mixed-integer metric against all assignments one by one: bounds, limiting cases and suggestions."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linprog

from reid_training.errors import ConfigError, DataError, TrackletError
from reid_training.methods import mip_mahalanobis as mip
from reid_training.methods.mip_mahalanobis import (
    FORMS,
    MIPMahalanobis,
    MIPMahalanobisConfig,
    Problem,
    Program,
    Unknowns,
    distortion,
    given_up,
    improve,
    make_problem,
    objective,
    prove,
    questions,
    repaired,
)

pytestmark = pytest.mark.slow

ENOUGH_S = 1e6  # a slow machine must not change the optimum


def blobs(n, p, seed, apart=1.5):
    """Two classes that differ along the first coordinate, which is the smallest; at least three of each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[0, 0, 0, 1, 1, 1, rng.integers(0, 2, n - 6)])
    points = rng.normal(size=(n, p)) * np.r_[0.4, np.full(p - 1, 2.0)]
    points[:, 0] += apart * labels
    return points, labels


def problem_of(points, labels, **settings):
    return make_problem(points, labels, MIPMahalanobisConfig(**settings))[0]


def random_metric(p, rng, full):
    if not full:
        return repaired(np.diag(rng.uniform(0, 1, p) ** 2))
    half = rng.normal(size=(p, p))
    return repaired(half @ half.T)


# ---------------------------------------------------------------- oracles


def given_up_one_by_one(problem, metric):
    """Loops, and nothing but the definition."""
    n, found = len(problem.points), []
    d = [[float((a - b) @ metric @ (a - b)) for b in problem.points] for a in problem.points]
    for i in range(n):
        same = sorted(d[i][j] for j in range(n) if j != i and problem.labels[j] == problem.labels[i])
        other = min(d[i][j] for j in range(n) if problem.labels[j] != problem.labels[i])
        need = min(problem.k, len(same))
        found.append(need > 0 and other - same[need - 1] < problem.delta - mip.TOLERANCE)
    return found


def best_of_all_assignments(problem):
    """Diagonal M, k = 1: a linear program for every choice of points given up and neighbours of the others."""
    n, p = problem.points.shape
    choices = []
    for i in range(n):
        mates = [j for j in range(n) if j != i and problem.labels[j] == problem.labels[i]]
        choices.append([None, *mates])
    best = np.inf
    for chosen in itertools.product(*choices):
        n_given_up = sum(j is None for j in chosen)
        if n_given_up >= best:
            continue
        rows = []
        for i, j in enumerate(chosen):
            if j is not None:
                near = (problem.points[i] - problem.points[j]) ** 2
                others = np.flatnonzero(problem.labels != problem.labels[i])
                rows += [near - (problem.points[i] - problem.points[other]) ** 2 for other in others]
        upper = np.vstack([np.reshape(rows, (-1, p)), np.eye(p), -np.eye(p)])
        upper = np.hstack([upper, np.vstack([np.zeros((len(rows), p)), -np.eye(p), -np.eye(p)])])
        limits = np.r_[np.full(len(rows), -problem.delta), np.ones(p), -np.ones(p)]
        equal = np.r_[np.ones(p), np.zeros(p)][None]
        result = linprog(np.r_[np.zeros(p), np.full(p, problem.mu)], upper, limits, equal, [p], bounds=(0, None))
        if result.status == 0:
            best = min(best, n_given_up + result.fun)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mu", [0.05, 0.6])
def test_exact_part_agrees_with_all_assignments(seed, mu):
    problem = problem_of(*blobs(6, 3, seed), mu=mu)
    found = prove(problem, np.eye(3), ENOUGH_S)
    assert found.status == mip.OPTIMAL
    assert found.gap <= mip.GAP_CLOSED
    assert found.value == pytest.approx(best_of_all_assignments(problem), abs=1e-4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_rejected_points_agree_with_loops(full, k):
    rng = np.random.default_rng(k)
    problem = problem_of(*blobs(14, 3, 0), k=k)
    for _ in range(10):
        metric = random_metric(3, rng, full)
        assert given_up(problem, metric).tolist() == given_up_one_by_one(problem, metric)


@pytest.mark.parametrize("seed", range(3))
def test_no_metric_of_a_grid_is_better(seed):
    problem = problem_of(*blobs(8, 2, seed), mu=0.3)
    found = prove(problem, improve(problem, np.eye(2)), ENOUGH_S)
    assert found.status == mip.OPTIMAL
    grid = [objective(problem, np.diag([a, 2.0 - a])) for a in np.linspace(0, 2, 401)]
    assert found.value <= min(grid) + 1e-9
    assert found.value >= min(grid) - 0.3 * 2 * 0.005 - 1e-9, "between two points of the grid, which is that fine"


def test_no_full_metric_of_a_grid_is_better():
    problem = problem_of(*blobs(8, 2, 1), mu=0.3, form="full")
    found = prove(problem, improve(problem, np.eye(2)), ENOUGH_S)
    assert found.status == mip.OPTIMAL
    assert np.linalg.eigvalsh(found.metric)[0] >= -1e-8
    grid = []
    for a in np.linspace(0, 2, 81):
        for share in np.linspace(-1, 1, 81):
            off = share * np.sqrt(a * (2 - a))
            grid.append(objective(problem, np.array([[a, off], [off, 2 - a]])))
    assert found.value <= min(grid) + 1e-6
    assert found.value >= min(grid) - 0.3 * 0.2


@pytest.mark.parametrize("reach", [0.3, 2.0, np.inf])
@pytest.mark.parametrize("full", [False, True])
def test_big_m_constants_are_large_enough(full, reach):
    rng = np.random.default_rng(0)
    unknowns = Unknowns(4, full)
    for _ in range(300):
        near, far = rng.normal(size=(2, 4))
        metric = random_metric(4, rng, full)
        shrink = min(1.0, reach / distortion(metric))
        metric = np.eye(4) + shrink * (metric - np.eye(4))
        difference = near @ metric @ near - far @ metric @ far
        assert difference <= unknowns.largest(near, far, reach) + 1e-9
        assert unknowns.coefficients(near) @ unknowns.vector(metric) == pytest.approx(near @ metric @ near)


def test_big_m_of_a_diagonal_metric_is_the_smallest():
    """Against a linear program over all metrics that may come up."""
    rng = np.random.default_rng(1)
    for reach in (0.4, 1.7, 3.0, 9.0):
        near, far = rng.normal(size=(2, 4))
        gains = near**2 - far**2
        upper = np.vstack([np.hstack([np.eye(4), -np.eye(4)]), np.hstack([-np.eye(4), -np.eye(4)])])
        upper = np.vstack([upper, np.r_[np.zeros(4), np.ones(4)]])
        limits = np.r_[np.ones(4), -np.ones(4), reach]
        equal = np.r_[np.ones(4), np.zeros(4)][None]
        result = linprog(np.r_[-gains, np.zeros(4)], upper, limits, equal, [4], bounds=(0, None))
        assert Unknowns(4, False).largest(near, far, reach) == pytest.approx(-result.fun)


@pytest.mark.parametrize("form", FORMS)
def test_tenfold_big_m_gives_the_same_optimum(form):
    problem = problem_of(*blobs(7, 2, 2), mu=0.3, form=form)
    tight, loose = (prove(problem, np.eye(2), ENOUGH_S, slack) for slack in (1.0, 10.0))
    assert tight.status == loose.status == mip.OPTIMAL
    assert tight.value == pytest.approx(loose.value, abs=1e-4)


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_objective_exact_not_above_heuristic_not_above_euclidean(form, seed):
    problem = problem_of(*blobs(10, 3, seed), form=form)
    euclid = objective(problem, np.eye(3))
    quick = improve(problem, np.eye(3))
    exact = prove(problem, quick, 1.0)
    assert exact.bound <= exact.value <= objective(problem, quick) <= euclid
    assert exact.value < euclid, "there is something to gain here"
    assert objective(problem, exact.metric) == exact.value
    for metric in (quick, exact.metric):
        assert np.trace(metric) == pytest.approx(3)
        np.testing.assert_array_equal(metric, metric.T)
        assert np.linalg.eigvalsh(metric)[0] >= -1e-8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mu", [np.inf, 1e6])
def test_large_mu_gives_euclidean(form, mu):
    points, labels = blobs(12, 3, 0)
    model = MIPMahalanobis(mu=mu, form=form, time_limit_s=2.0).fit(points, labels)
    np.testing.assert_array_equal(model.metric_, np.eye(3))
    np.testing.assert_array_equal(model.transform(points), points)
    assert model.given_up_.any(), "and not for want of anything to gain"


def test_euclidean_is_optimal_if_no_point_is_rejected():
    points, labels = blobs(12, 3, 0, apart=100.0)
    model = MIPMahalanobis().fit(points, labels)
    np.testing.assert_array_equal(model.metric_, np.eye(3))
    assert (model.value_, model.gap_, model.status_) == (0.0, 0.0, mip.OPTIMAL)


def test_mu_zero_minimises_errors_only():
    problem = problem_of(*blobs(8, 3, 1), mu=0.0)
    found = prove(problem, np.eye(3), ENOUGH_S)
    assert found.status == mip.OPTIMAL
    assert found.value == given_up(problem, found.metric).sum() == round(best_of_all_assignments(problem))


@pytest.mark.parametrize("form", FORMS)
def test_order_and_duplicates_of_points_do_not_matter(form):
    points, labels = blobs(14, 3, 3)
    model = MIPMahalanobis(form=form, time_limit_s=0).fit(points, labels)
    order = np.random.default_rng(0).permutation(np.r_[np.arange(14), 3, 3, 7])
    again = MIPMahalanobis(form=form, time_limit_s=0).fit(points[order], labels[order])
    np.testing.assert_allclose(again.metric_, model.metric_, atol=1e-9)
    np.testing.assert_array_equal(again.given_up_, model.given_up_[order])


def test_unit_of_features_does_not_matter():
    points, labels = blobs(14, 3, 3)
    models = [MIPMahalanobis(time_limit_s=0).fit(scale * points, labels) for scale in (1.0, 1000.0)]
    np.testing.assert_allclose(models[0].metric_, models[1].metric_, atol=1e-9)
    np.testing.assert_allclose(1000.0 * models[0].radii_, models[1].radii_)


@pytest.mark.parametrize("form", FORMS)
def test_transform_then_euclidean_equals_the_metric(form):
    points, labels = blobs(14, 3, 3)
    model = MIPMahalanobis(form=form, time_limit_s=0).fit(points, labels)
    dist = model.distances(points, points)
    slow = [[np.sqrt(max((a - b) @ model.metric_ @ (a - b), 0.0)) for b in points] for a in points]
    np.testing.assert_allclose(dist, slow, atol=1e-6)
    np.testing.assert_array_equal(dist, dist.T)
    assert (np.diag(dist) == 0).all()


def test_radius_reaches_the_nearest_member():
    points, labels = blobs(14, 3, 3)
    model = MIPMahalanobis(time_limit_s=0).fit(points, labels)
    for i in range(14):
        mates = [j for j in range(14) if j != i and labels[j] == labels[i]]
        assert model.radii_[i] == pytest.approx(model.distances(points[[i]], points[mates]).min())


def test_time_limit_is_reported_in_the_status():
    problem = problem_of(*blobs(40, 6, 0, apart=0.8))
    for seconds in (0.0, 0.3):
        found = prove(problem, np.eye(6), seconds)
        assert found.status == mip.TIME_LIMIT
        assert found.gap > 0


def test_heuristic_and_subsamples_report_their_status():
    points, labels = blobs(40, 3, 0)
    assert MIPMahalanobis(time_limit_s=0).fit(points, labels).status_ == mip.HEURISTIC
    model = MIPMahalanobis(time_limit_s=0, max_points=12).fit(points, labels)
    assert model.status_ == mip.SUBSAMPLES
    assert model.gap_ == model.value_ > 0
    problem = problem_of(points, labels)
    assert model.value_ <= objective(problem, np.eye(3))
    again = MIPMahalanobis(time_limit_s=0, max_points=12).fit(points, labels)
    np.testing.assert_array_equal(model.metric_, again.metric_)


def test_subsamples_have_every_class_if_possible():
    labels = np.repeat(np.arange(5), [2, 50, 50, 50, 50])
    rng = np.random.default_rng(0)
    assert np.bincount(labels[mip.balanced_rows(labels, 50, 2, rng)]).tolist() == [2, 10, 10, 10, 10]
    many = np.repeat(np.arange(100), 3)
    rows = mip.balanced_rows(many, 20, 2, rng)
    assert sorted(np.bincount(many[rows])[np.unique(many[rows])]) == [2] * 10


def test_fit_finds_the_informative_coordinate():
    """The toy of the specification: one coordinate separates, four are loud noise."""
    points, labels = blobs(40, 6, 0)
    unseen, truth = blobs(400, 6, 1)
    model = MIPMahalanobis(time_limit_s=0).fit(points, labels)

    def accuracy(known, asked):
        return (labels[((asked[:, None] - known[None]) ** 2).sum(2).argmin(1)] == truth).mean()

    assert accuracy(model.transform(points), model.transform(unseen)) > accuracy(points, unseen) + 0.1
    assert np.diag(model.metric_).argmax() == 0


# ---------------------------------------------------------------- what to label next


def test_suggestions_are_near_the_boundary_or_outliers():
    points = np.array([[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 1.0]])
    model = MIPMahalanobis(mu=np.inf).fit(points, ["a", "a", "b", "b"])
    between = [[5.0, 0.5], [5.1, 0.5], [4.9, 0.5], [5.0, 0.6]]
    pool = np.array([[0.1, 0.5], [9.9, 0.4], *between, [-60.0, 0.5], [-61.0, 0.5], [-62.0, 0.5]])
    assert model.recommend(pool, 1, outliers=0.0).tolist() == [2], "the middle one stands for four"
    assert sorted(model.recommend(pool, 2, outliers=0.0)) == [2, 7], "not one beside it"
    assert model.recommend(pool[[0, 1, 2, 6, 7, 8]], 1, outliers=1.0).tolist() == [4]
    assert sorted(model.recommend(pool, 99).tolist()) == list(range(9)), "each once"


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_suggestions_agree_with_one_row_at_a_time(share):
    points, labels = blobs(20, 3, 0)
    pool = 2.0 * np.random.default_rng(5).normal(size=(30, 3))
    model = MIPMahalanobis(time_limit_s=0).fit(points, labels)

    def d(x, y):
        return float(np.sqrt((x - y) @ model.metric_ @ (x - y)))

    usual = np.quantile([min(d(points[i], points[j]) for j in range(20) if j != i) for i in range(20)], 0.95)
    near, doubt, outlying = [], [], []
    for x in pool:
        dist = [d(x, a) for a in points]
        first = int(np.argmin(dist))
        second = min(dist[j] for j in range(20) if labels[j] != labels[first])
        near.append(dist[first])
        doubt.append((dist[first] / second) ** mip.DOUBT_POWER)
        outlying.append(dist[first] > usual or model.given_up_[first])
    assert any(outlying)
    assert not all(outlying)
    chosen = []
    for _ in range(6):
        rare = sum(outlying[c] for c in chosen) < round(share * (len(chosen) + 1))
        told = {}
        for c in range(30):
            if c in chosen or (rare and not outlying[c]):
                continue
            told[c] = 0.0
            for x in range(30):
                left = min([near[x], *(d(pool[x], pool[old]) for old in chosen)])
                told[c] += max(left - d(pool[x], pool[c]), 0.0) / near[x] * (1.0 if rare else doubt[x])
        chosen.append(max(told, key=told.__getitem__))
    assert model.recommend(pool, 6, outliers=share).tolist() == chosen


def test_copy_of_a_labelled_point_is_not_suggested():
    points, labels = blobs(20, 3, 0)
    model = MIPMahalanobis(time_limit_s=0).fit(points, labels)
    pool = np.concatenate([points, np.random.default_rng(5).normal(size=(5, 3))])
    assert sorted(model.recommend(pool, 5)) == list(range(20, 25))


def test_large_pool_is_subsampled(monkeypatch):
    monkeypatch.setattr(questions, "MOST_COMPARED", 10)
    model = MIPMahalanobis(time_limit_s=0).fit(*blobs(20, 3, 0))
    pool = np.random.default_rng(5).normal(size=(50, 3))
    assert sorted(model.recommend(pool, 10)) == [0, 5, 10, 16, 21, 27, 32, 38, 43, 49], "all that is left, evenly"
    assert len(set(model.recommend(pool, 3).tolist())) == 3
    assert len(set(model.recommend(pool, 40).tolist())) == 40


def test_segments_join_mutual_nearest_points_of_other_classes():
    points, labels = blobs(16, 3, 1)
    model = MIPMahalanobis(time_limit_s=0).fit(points, labels)
    dist = model.distances(points, points)
    nearest = [min((j for j in range(16) if labels[j] != labels[i]), key=lambda j: dist[i, j]) for i in range(16)]
    found = [[i, nearest[i]] for i in range(16) if i < nearest[i] and nearest[nearest[i]] == i]
    assert found
    assert model.segments().tolist() == found


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        (np.ones((4, 2)), [0, 0, 0, 0], "y has 1 class in 4 samples; a metric needs at least 2 classes"),
        (np.ones((1, 2)), [0], "y has 1 class in 1 sample; a metric needs at least 2 classes"),
        (np.empty((0, 2)), [], r"X has 0 sample\(s\)"),
        (np.empty((3, 0)), [0, 1, 1], r"X has 0 feature\(s\)"),
        (np.array([[0.0], [np.nan]]), [0, 1], "X has a value that is not finite .* row 1, column 0"),
        (np.ones(3), [0, 1, 1], r"X must have two axes, samples and features, got shape \(3,\)"),
        (np.ones((3, 1)), [0, 1], r"y must be one class per sample, 3 of them, got shape \(2,\)"),
        ([["a"], ["b"]], [0, 1], "X must be numbers"),
        (np.ones((2, 1)), None, "requires y to be passed"),
        (np.ones((2, 1)), [0, np.nan], "y has a value that is not finite"),
    ],
)
def test_bad_input_gives_one_clear_line(points, labels, said):
    with pytest.raises(DataError, match=said) as error:
        MIPMahalanobis().fit(points, labels)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "round"}, "form must be one of diagonal, full, got 'round'"),
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"mu": -1.0}, "mu must be >= 0, got -1.0"),
        ({"mu": np.nan}, "mu must be >= 0, got nan"),
        ({"margin": 0.0}, "margin must be > 0"),
        ({"max_points": 3}, "max_points must be >= 4"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        MIPMahalanobis(**settings).fit(*blobs(8, 2, 0))


def test_unfitted_model_or_other_features_is_an_error():
    model = MIPMahalanobis(time_limit_s=0)
    with pytest.raises(TrackletError, match="no metric yet; call fit first"):
        model.transform(np.ones((1, 2)))
    model.fit(*blobs(8, 2, 0))
    with pytest.raises(TrackletError, match="X has 3 features, but MIPMahalanobis is expecting 2"):
        model.recommend(np.ones((1, 3)), 1)
    with pytest.raises(TrackletError, match="no metric yet; call fit first"):
        MIPMahalanobis().segments()
    with pytest.raises(ConfigError, match="n must be >= 1"):
        model.recommend(np.ones((1, 2)), 0)
    with pytest.raises(TrackletError, match="no parameter 'depth'"):
        model.set_params(depth=3)


@pytest.mark.parametrize("form", FORMS)
def test_equal_points_of_two_classes_give_a_finite_metric(form):
    """The same place under two names, singletons, and a feature that never changes: no metric helps, none is made."""
    points = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])
    model = MIPMahalanobis(form=form, time_limit_s=1.0).fit(points, ["a", "b", "b", "c"])
    assert np.isfinite(model.transform(points)).all()
    alone = MIPMahalanobis(form=form).fit(points, ["a", "b", "c", "d"])
    assert not alone.given_up_.any()


# ---------------------------------------------------------------- scikit-learn


@pytest.mark.slow
def test_scikit_learn_is_not_imported():
    code = "import sys, reid_training.methods.mip_mahalanobis as m, numpy as n\n"
    code += "m.MIPMahalanobis(time_limit_s=0).fit(n.eye(4), [0, 0, 1, 1]).recommend(n.eye(4), 2)\n"
    code += "assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_scikit_learn_estimator_checks_pass():
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is of the extra dev")
    differ = {
        "check_estimators_unfitted": "our own NotFittedError: scikit-learn is not imported",
    }
    model = MIPMahalanobis(time_limit_s=0, max_points=12, n_subsamples=1)
    found = checks.check_estimator(model, expected_failed_checks=differ, on_skip=None, on_fail=None)
    failed = [f"{one['check_name']}: {one['exception']}" for one in found if one["status"] == "failed"]
    assert failed == []
    assert sum(one["status"] == "passed" for one in found) > 25


def test_estimator_works_in_a_pipeline():
    pytest.importorskip("sklearn", reason="scikit-learn is of the extra dev")
    from sklearn.base import clone
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    points, labels = blobs(40, 6, 0)
    pipeline = make_pipeline(MIPMahalanobis(time_limit_s=0), KNeighborsClassifier(1)).fit(points, labels)
    unseen, truth = blobs(200, 6, 1)
    assert pipeline.score(unseen, truth) > KNeighborsClassifier(1).fit(points, labels).score(unseen, truth)
    assert clone(pipeline[0]).get_params() == pipeline[0].get_params()


def test_estimator_has_the_settings_of_the_config():
    assert MIPMahalanobisConfig(**MIPMahalanobis().get_params()) == MIPMahalanobisConfig()


def test_constraint_rows_are_added_where_violated():
    """The first program holds a few rows; the optimum is that of all of them."""
    problem = problem_of(*blobs(16, 2, 4), mu=0.3)
    n_all = int(Program(problem).possible.sum()) * 4
    found = prove(problem, improve(problem, np.eye(2)), ENOUGH_S)
    assert found.status == mip.OPTIMAL
    everything = Program(problem)
    everything.add_impostors(np.eye(2), len(problem.points))
    assert len(everything.triples) > n_all
    result = everything.solve(np.inf, ENOUGH_S)
    assert result.status == 0
    assert found.value == pytest.approx(result.fun, abs=1e-4)


def test_objective_equals_the_documented_formula():
    problem = Problem(
        np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 0, 1, 1]), 1, 0.5, 0.1, False
    )
    assert objective(problem, np.eye(2)) == 4.0
    assert objective(problem, np.diag([1.5, 0.5])) == pytest.approx(0.1 * 1.0)
    assert objective(problem, np.diag([0.5, 1.5])) == pytest.approx(4 + 0.1)
