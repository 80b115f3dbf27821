"""Online metric layers: the closed form and its limits, stacks, gradients, and the contract of scikit-learn."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg

from reid_training.data.points import NotFittedError
from reid_training.errors import ConfigError, DataError
from reid_training.methods.odml import (
    ACTIVATIONS,
    ODML,
    STEPS,
    MetricLayer,
    OdmlConfig,
    OpmlLayer,
    hinge,
    step_length,
    triplet_gradients,
)

D = 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def stream_of(rng, n=40, n_classes=4, spread=0.6):
    """Rows (N, D) around the centres of their classes, shuffled."""
    labels = rng.integers(n_classes, size=n)
    return rng.normal(size=(n_classes, D))[labels] + spread * rng.normal(size=(n, D)), labels


def matrix_a(triplet):
    x, p, q = triplet
    return np.outer(x - p, x - p) - np.outer(x - q, x - q)


def objective(metric, before, triplet, gamma):
    """What a metric layer minimises."""
    loss = max(0.0, 1.0 + np.trace(metric @ matrix_a(triplet)))
    return 0.5 * np.linalg.norm(metric - before) ** 2 + gamma * loss


def semi_definite(rng, size=D):
    root = rng.normal(size=(size, size))
    return root @ root.T / size


def slow_stack(rows, labels, n_layers, gamma, step, function):
    """The literal specification: the whole history, every root recomputed, every metric projected at every step."""
    rows = unit(np.asarray(rows, float))
    metrics = [np.eye(rows.shape[1]) for _ in range(n_layers)]
    for t in range(len(rows)):
        same = [s for s in range(t) if labels[s] == labels[t]]
        other = [s for s in range(t) if labels[s] != labels[t]]
        if not same or not other:
            continue
        z = rows[[t, same[-1], other[-1]]]
        for i in range(n_layers):
            loss = 1.0 + np.trace(metrics[i] @ matrix_a(z))
            if loss > 0:
                tau = gamma if step == "paper" else min(gamma, loss / np.sum(matrix_a(z) ** 2))
                values, vectors = np.linalg.eigh(metrics[i] - tau * matrix_a(z))
                metrics[i] = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
            z = function(np.stack([scipy.linalg.sqrtm(metrics[i]).real @ row for row in z]))
    return metrics


# One layer


def test_gamma_zero_is_euclidean_on_unit_rows(rng):
    rows, labels = stream_of(rng)
    model = ODML(gamma=0.0, n_scans=3).fit(rows, labels)
    np.testing.assert_array_equal(model.layers_[0].metric, np.eye(D))
    np.testing.assert_allclose(model.transform(rows), unit(rows), rtol=0, atol=1e-15)
    pairs = rows.reshape(-1, 2, D)
    euclid = np.linalg.norm(unit(pairs[:, 0]) - unit(pairs[:, 1]), axis=1)
    np.testing.assert_allclose(model.score_pairs(pairs), euclid, atol=1e-14)


@pytest.mark.parametrize("strategy", ["forward", "backward", "both"])
def test_zero_steps_on_non_negative_rows_equal_euclidean(rng, strategy):
    rows, labels = stream_of(rng)
    rows = np.abs(rows)
    model = ODML(n_layers=3, gamma=0.0, backward_rate=0.0, strategy=strategy).fit(rows, labels)
    np.testing.assert_array_equal(model.transform(rows), ODML(gamma=0.0).fit(rows, labels).transform(rows))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("n_layers", "gamma"), [(1, 0.01), (1, 0.6), (2, 0.05), (3, 0.05)])
def test_fit_agrees_with_the_literal_specification(rng, n_layers, gamma, step):
    rows, labels = stream_of(rng)
    model = ODML(n_layers=n_layers, gamma=gamma, step=step).fit(rows, labels)
    slow = slow_stack(rows, labels, n_layers, gamma, step, lambda z: np.maximum(z, 0))
    for layer, metric in zip(model.layers_, slow, strict=True):
        np.testing.assert_allclose(layer.metric, metric, atol=1e-7)


def test_exact_step_is_the_minimum_of_the_objective(rng):
    for gamma in (0.01, 0.3):
        for _ in range(10):
            before, triplet = semi_definite(rng) + np.eye(D), unit(rng.normal(size=(3, D)))
            after = before - step_length(before, triplet, gamma, "exact") * matrix_a(triplet)
            least = objective(after, before, triplet, gamma)
            for size in (1e-4, 1e-2, 1.0):  # it is convex: what no neighbour beats is the minimum
                for _ in range(20):
                    nudge = rng.normal(size=(D, D))
                    assert objective(after + size * (nudge + nudge.T), before, triplet, gamma) >= least - 1e-12


def test_paper_and_exact_steps_agree_for_large_violations(rng):
    seen = set()
    for _ in range(200):
        metric, triplet = semi_definite(rng) + np.eye(D), unit(rng.normal(size=(3, D)))
        loss, squared = hinge(metric, triplet), np.sum(matrix_a(triplet) ** 2)
        assert loss == pytest.approx(max(0.0, 1 + np.trace(metric @ matrix_a(triplet))), abs=1e-12)
        for gamma in (0.01, 0.2):
            paper, exact = (step_length(metric, triplet, gamma, step) for step in STEPS)
            assert paper == (gamma if loss > 0 else 0.0)
            enough = loss >= gamma * squared
            seen.add((loss > 0, enough))
            if loss > 0 and enough:
                assert exact == paper
            elif loss > 0:
                assert exact < paper
                assert 1 + np.trace((metric - exact * matrix_a(triplet)) @ matrix_a(triplet)) == pytest.approx(0)
    assert {(True, True), (True, False), (False, False)} <= seen


def test_satisfied_triplet_changes_nothing():
    x = np.eye(D)[0]
    layer = MetricLayer(D)
    layer.update(np.stack([x, x, -x]), 0.5, "paper")  # 1 + 0 - 4
    np.testing.assert_array_equal(layer.metric, np.eye(D))
    np.testing.assert_array_equal(layer.root, np.eye(D))


@pytest.mark.parametrize("step", STEPS)
def test_small_step_does_not_raise_the_loss_of_its_triplet(rng, step):
    for _ in range(50):
        layer, triplet = MetricLayer(D), unit(rng.normal(size=(3, D)))
        before = hinge(layer.metric, triplet)
        layer.update(triplet, 0.01, step)
        assert hinge(layer.metric, triplet) <= before


def test_metric_stays_symmetric_and_measures_no_negative_distance(rng):
    cut = 0
    for gamma in (0.05, 0.7):
        layer = MetricLayer(D)
        for _ in range(300):
            x, q = unit(rng.normal(size=(2, D)))
            triplet = np.stack([x, -x, q])  # the positive on the other side: that takes from M
            wanted = layer.metric - step_length(layer.metric, triplet, gamma, "paper") * matrix_a(triplet)
            cut += np.linalg.eigvalsh(wanted)[0] < -1e-9
            layer.update(triplet, gamma, "paper")
            np.testing.assert_array_equal(layer.metric, layer.metric.T)
            assert np.linalg.eigvalsh(layer.metric)[0] >= -1e-9
            np.testing.assert_allclose(layer.root.T @ layer.root, layer.metric, atol=1e-7)
    assert cut > 100, "nothing was put to the test"


# The other layer, OPML


def test_opml_step_is_the_stationary_point_of_its_objective(rng):
    for gamma in (0.01, 0.1):
        layer, moved = OpmlLayer(D), 0
        layer.set_root(np.eye(D) + 0.2 * rng.normal(size=(D, D)))
        for _ in range(20):
            before, triplet = layer.root, unit(rng.normal(size=(3, D)))
            layer.update(triplet, gamma, "paper")
            if 1.0 + np.trace(before @ matrix_a(triplet) @ before.T) <= 0:
                np.testing.assert_array_equal(layer.root, before)
                continue
            moved += 1
            # d / dL of |L - before|^2 / 2 + gamma / 2 (1 + tr(L A L')) is L - before + gamma L A
            np.testing.assert_allclose(layer.root + gamma * layer.root @ matrix_a(triplet), before, atol=1e-10)
        assert moved > 5
        np.testing.assert_allclose(layer.metric, layer.root.T @ layer.root)


def test_opml_stays_finite_behind_long_rows(rng):
    layer = OpmlLayer(D)
    for _ in range(50):
        x, q = 10.0 * unit(rng.normal(size=(2, D)))
        before = np.linalg.det(layer.root)
        layer.update(np.stack([x, -x, q]), 0.2, "paper")
        assert np.linalg.det(layer.root) * before > 0, "never through a singular transform"
    assert np.isfinite(layer.root).all()


def test_opml_stack_learns_and_gamma_zero_is_euclidean(rng):
    labels = rng.integers(3, size=300)
    rows = np.eye(D)[labels] + 0.35 * rng.normal(size=(300, D))
    rows[:, 3:] *= 4.0
    model = ODML(layer="opml", gamma=0.02).fit(rows, labels)
    scale = np.linalg.norm(model.layers_[0].root, axis=0)
    assert scale[:3].min() > 1.2 * scale[3:].max(), "the two directions of noise count less"
    still = ODML(n_layers=3, layer="opml", gamma=0.0).fit(np.abs(rows), labels)
    np.testing.assert_allclose(still.transform(np.abs(rows)), unit(np.abs(rows)), atol=1e-15)


def test_opml_has_no_exact_step():
    with pytest.raises(ConfigError, match="the exact step is one of the layer moml"):
        OdmlConfig(layer="opml", step="exact")


# Stacks


def test_layer_depends_on_earlier_layers_only(rng):
    rows, labels = stream_of(rng)
    stacks = [ODML(n_layers=n, gamma=0.05).fit(rows, labels) for n in (1, 2, 3)]
    for low, high in itertools.pairwise(stacks):
        for a, b in zip(low.layers_, high.layers_, strict=False):
            np.testing.assert_array_equal(a.metric, b.metric)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_between_layers_not_after_the_last(rng, activation):
    rows, labels = stream_of(rng)
    model = ODML(n_layers=2, gamma=0.1, activation=activation).fit(rows, labels)
    function = {"relu": lambda z: z * (z > 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh}[activation]
    one, two = (scipy.linalg.sqrtm(layer.metric).real for layer in model.layers_)
    slow = np.stack([two @ function(one @ row) for row in unit(rows)])
    np.testing.assert_allclose(model.transform(rows), slow, atol=1e-7)
    assert activation == "sigmoid" or (slow < 0).any()
    pairs = rows.reshape(-1, 2, D)
    np.testing.assert_allclose(model.score_pairs(pairs), np.linalg.norm(slow[0::2] - slow[1::2], axis=1), atol=1e-7)


def test_distances_of_one_layer_are_those_of_its_metric(rng):
    rows, labels = stream_of(rng)
    model = ODML(gamma=0.1).fit(rows, labels)
    pairs = rows.reshape(-1, 2, D)
    for (x, y), found in zip(unit(pairs), model.score_pairs(pairs), strict=True):
        assert found**2 == pytest.approx((x - y) @ model.layers_[0].metric @ (x - y))


# Gradients


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_gradients_agree_with_finite_differences(rng, activation, n_layers):
    roots = [np.eye(D) + 0.3 * rng.normal(size=(D, D)) for _ in range(n_layers)]
    triplet = unit(np.abs(rng.normal(size=(3, D))))
    if triplet_gradients(triplet, roots, activation)[0] < 0.1:
        triplet = triplet[[0, 2, 1]]  # the losses of a triplet and of this one sum up to 2
    loss, gradients = triplet_gradients(triplet, roots, activation)
    assert loss > 0.1, "nothing to differentiate"
    for root, gradient in zip(roots, gradients, strict=True):
        for at in np.ndindex(root.shape):
            values = []
            for nudge in (1e-6, -1e-6):
                root[at] += nudge
                values.append(triplet_gradients(triplet, roots, activation)[0])
                root[at] -= nudge
            assert gradient[at] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def test_one_layer_learned_backward_is_gradient_descent_on_its_root(rng):
    triplet, rate, penalty = unit(rng.normal(size=(3, D))[[0, 2, 1]]), 0.05, 0.2
    assert hinge(np.eye(D), triplet) > 0
    model = ODML(strategy="backward", backward_rate=rate, penalty=penalty).partial_fit_triplets(triplet[None])
    # d tr(L A L') / dL = 2 L A, with L = I
    expected = np.eye(D) - rate * (0.5 * 2 * matrix_a(triplet) + penalty * np.eye(D))
    np.testing.assert_allclose(model.layers_[0].root, expected, atol=1e-12)
    np.testing.assert_allclose(model.layers_[0].metric, expected.T @ expected, atol=1e-12)


def test_satisfied_triplet_has_no_backward_update():
    x = np.eye(D)[0]
    model = ODML(n_layers=1, strategy="backward", backward_rate=0.5).partial_fit_triplets(np.stack([x, x, -x])[None])
    np.testing.assert_array_equal(model.layers_[0].root, np.eye(D))


def test_closed_form_after_gradient_step_keeps_the_root_rotation(rng):
    root = np.linalg.qr(rng.normal(size=(D, D)))[0] @ (np.eye(D) + 0.1 * semi_definite(rng))
    layer = MetricLayer(D)
    layer.set_root(root)
    np.testing.assert_allclose(layer.metric, root.T @ root, atol=1e-12)
    layer.update(unit(rng.normal(size=(3, D))), 1e-9, "paper")
    np.testing.assert_allclose(layer.root, root, atol=1e-6)
    layer.update(unit(rng.normal(size=(3, D))), 0.05, "paper")
    np.testing.assert_allclose(layer.root.T @ layer.root, layer.metric, atol=1e-10)


@pytest.mark.parametrize("strategy", ["backward", "both"])
def test_backward_strategies_lower_the_loss_of_the_stack(rng, strategy):
    rows, labels = stream_of(rng, n=120)
    rows = np.abs(rows)
    model = ODML(n_layers=2, strategy=strategy, gamma=0.01, backward_rate=0.02, n_scans=2).fit(rows, labels)
    plain = ODML(n_layers=2, gamma=0.0).fit(rows, labels)

    def loss(fitted):
        z, found = fitted.transform(rows), []
        for _ in range(500):
            a = int(test.integers(len(rows)))
            p, q = (int(test.choice(np.flatnonzero(mask))) for mask in (labels == labels[a], labels != labels[a]))
            found.append(max(0.0, 1 + ((z[a] - z[p]) ** 2).sum() - ((z[a] - z[q]) ** 2).sum()))
        return np.mean(found)

    losses = []
    for one in (model, plain):
        test = np.random.default_rng(1)
        losses.append(loss(one))
    assert losses[0] < 0.8 * losses[1]


# The stream


def test_stream_in_parts_equals_the_whole_stream(rng):
    rows, labels = stream_of(rng)
    whole = ODML(n_layers=2, gamma=0.05).fit(rows, labels)
    pieces, singly = ODML(n_layers=2, gamma=0.05), ODML(n_layers=2, gamma=0.05)
    for part in np.array_split(np.arange(len(rows)), 7):
        pieces.partial_fit(rows[part], labels[part])
    for row, label in zip(rows, labels, strict=True):
        singly.partial_fit(row[None], [label])
    for other in (pieces, singly):
        np.testing.assert_array_equal(other.transform(rows), whole.transform(rows))
        assert other.n_triplets_ == whole.n_triplets_ > 0


def test_given_triplets_are_learned_like_streamed_ones(rng):
    triplets = rng.normal(size=(1, 3, D))
    by_stream = ODML(gamma=0.1).partial_fit(triplets[0, [2, 1, 0]], ["other", "same", "same"])
    given = ODML(gamma=0.1).partial_fit_triplets(triplets)
    np.testing.assert_array_equal(given.layers_[0].metric, by_stream.layers_[0].metric)
    assert given.n_triplets_ == by_stream.n_triplets_ == 1


def test_fit_restarts_and_seed_decides_later_passes(rng):
    rows, labels = stream_of(rng)
    model = ODML(gamma=0.05, n_scans=3)
    first = model.fit(rows, labels).transform(rows)
    np.testing.assert_array_equal(model.fit(rows, labels).transform(rows), first)
    assert not np.array_equal(ODML(gamma=0.05, n_scans=3, random_state=1).fit(rows, labels).transform(rows), first)
    once = [ODML(gamma=0.05, random_state=seed).fit(rows, labels).transform(rows) for seed in (0, 1)]
    np.testing.assert_array_equal(*once)


def test_labels_of_any_type_give_the_same_result(rng):
    rows, labels = stream_of(rng)
    fitted = [ODML(gamma=0.05).fit(rows, kind).transform(rows) for kind in (labels, labels.astype(str), labels * 0.5)]
    np.testing.assert_array_equal(fitted[0], fitted[1])
    np.testing.assert_array_equal(fitted[0], fitted[2])


@pytest.mark.parametrize("seed", range(3))
def test_fit_helps_if_two_directions_are_noise(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=300)
    rows = np.eye(D)[labels] + 0.35 * rng.normal(size=(300, D))
    rows[:, 3:] *= 4.0

    def out_of_order(z):
        """Share of pairs of other classes that are nearer than a pair of one class."""
        dist = np.linalg.norm(z[:, None] - z[None], axis=2)
        alike = labels[200:, None] == labels[None, 200:]
        same = dist[alike & ~np.eye(100, dtype=bool)]
        return np.searchsorted(np.sort(dist[~alike]), same, side="right").mean() / (~alike).sum()

    model = ODML(gamma=0.02).fit(rows[:200], labels[:200])
    assert out_of_order(model.transform(rows[200:])) < out_of_order(unit(rows[200:])) - 0.02


def test_fitted_model_survives_a_pickle(rng):
    rows, labels = stream_of(rng)
    model = ODML(n_layers=2).fit(rows, labels)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(rows), model.transform(rows))
    for one in (model, again):
        one.partial_fit(rows, labels)
    np.testing.assert_array_equal(again.transform(rows), model.transform(rows))


# Bad input gives one line

ROWS, LABELS = np.arange(12.0).reshape(4, 3), [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (ROWS, [7, 7, 7, 7], "y has 1 class in 4 samples; a metric needs at least 2 classes"),
        (ROWS[:1], [7], "y has 1 class in 1 sample"),
        (ROWS[:0], [], r"0 sample\(s\)"),
        (ROWS[:, :0], LABELS, r"0 feature\(s\)"),
        (ROWS[0], LABELS, r"X must have two axes, samples and features, got shape \(3,\)"),
        (np.where(ROWS == 7, np.nan, ROWS), LABELS, "not finite .* row 2, column 1"),
        (np.where(ROWS == 0, np.inf, ROWS), LABELS, "not finite .* row 0, column 0"),
        (ROWS * 1j, LABELS, "Complex data not supported"),
        ([["a", "b"]] * 4, LABELS, "X must be numbers"),
        (ROWS, None, "y is None"),
        (ROWS, [0, 1], r"y must be one class per sample, 4 of them, got shape \(2,\)"),
        (ROWS, [0, 1, np.nan, 1], "y has a value that is not finite"),
    ],
)
def test_bad_rows_and_labels_give_one_clear_line(rows, labels, said):
    with pytest.raises(DataError, match=said) as told:
        ODML().fit(rows, labels)
    assert isinstance(told.value, ValueError)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_layers": 0}, "n_layers must be >= 1, got 0"),
        ({"n_layers": 1.5}, "n_layers must be a whole number"),
        ({"n_scans": 0}, "n_scans must be"),
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"gamma": float("nan")}, "gamma must be"),
        ({"gamma": "much"}, "gamma must be"),
        ({"backward_rate": 2.0}, "backward_rate must be"),
        ({"penalty": -1.0}, "penalty must be"),
        ({"layer": "lego"}, "layer must be one of moml, opml, got 'lego'"),
        ({"step": "big"}, "step must be one of paper, exact, got 'big'"),
        ({"activation": "elu"}, "activation must be one of relu, sigmoid, tanh"),
        ({"strategy": "up"}, "strategy must be one of forward, backward, both"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_bad_settings_give_one_clear_line(settings, said):
    with pytest.raises(ConfigError, match=said):
        OdmlConfig(**settings)
    for learn in (ODML(**settings).fit, ODML(**settings).partial_fit):
        with pytest.raises(ConfigError, match=said):
            learn(ROWS, LABELS)


def test_other_invalid_calls_are_refused(rng):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ODML().transform(ROWS)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        ODML().score_pairs(np.zeros((2, 2, 3)))
    model = ODML().fit(ROWS, LABELS)
    for ask in (lambda: model.transform(ROWS[:, :2]), lambda: model.partial_fit(ROWS[:, :2], LABELS)):
        with pytest.raises(DataError, match="X has 2 features, but ODML is expecting 3"):
            ask()
    with pytest.raises(DataError, match=r"expected an array \(N, 2, d\), got one of shape \(4, 3\)"):
        model.score_pairs(ROWS)
    with pytest.raises(DataError, match=r"expected an array \(N, 3, d\)"):
        model.partial_fit_triplets(rng.normal(size=(4, 2, 3)))
    with pytest.raises(ConfigError, match="gama is unknown; known: n_layers, layer, gamma"):
        model.set_params(gama=1)


def test_bad_rows_in_the_middle_of_a_stream_change_nothing():
    model = ODML(gamma=0.1).partial_fit(ROWS, LABELS)
    before = model.transform(ROWS)
    with pytest.raises(DataError):
        model.partial_fit(np.full((2, 3), np.nan), [0, 1])
    np.testing.assert_array_equal(model.transform(ROWS), before)


def test_stream_of_one_class_learns_once_another_appears():
    model = ODML(gamma=0.1).partial_fit(ROWS[:2], LABELS[:2])
    assert model.n_triplets_ == 0
    assert model.partial_fit(ROWS[2:], LABELS[2:]).n_triplets_ == 1


@pytest.mark.parametrize("strategy", ["forward", "backward", "both"])
def test_zero_and_equal_rows_stay_finite(strategy):
    rows = np.concatenate([np.zeros((4, 3)), np.ones((4, 3)), np.full((4, 3), 1e-300), np.full((4, 3), 1e300)])
    model = ODML(n_layers=2, gamma=0.5, strategy=strategy).fit(rows, [0, 1] * 8)
    assert np.isfinite(model.transform(rows)).all()


# scikit-learn's contract


def test_get_params_and_set_params_round_trip(rng):
    model = ODML(n_layers=2, gamma=0.3)
    assert model.get_params() == {**ODML().get_params(), "n_layers": 2, "gamma": 0.3}
    assert ODML(**model.get_params()).get_params() == model.get_params()
    assert model.set_params(gamma=0.1, step="exact") is model
    assert (model.gamma, model.step, model.n_layers) == (0.1, "exact", 2)
    assert ODML().get_params() == {name: getattr(OdmlConfig(), name) for name in OdmlConfig.__dataclass_fields__}


@pytest.mark.slow
def test_scikit_learn_is_not_imported():
    lines = [
        "import sys, numpy as np",
        "from reid_training.methods.odml import ODML",
        "ODML().fit_transform(np.eye(3), [0, 0, 1])",
        "assert not [name for name in sys.modules if name.split('.')[0] == 'sklearn']",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


# scikit-learn's own skip, and why.
SKIPPED = {"check_array_api_input": "scikit-learn runs it only with SCIPY_ARRAY_API set; rows are numpy arrays here"}


@pytest.mark.filterwarnings("ignore")  # its checks cause warnings on purpose
@pytest.mark.parametrize("settings", [{}, {"n_layers": 2, "strategy": "both"}], ids=["default", "a stack"])
def test_scikit_learn_estimator_checks_pass(settings):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    results = checks.check_estimator(ODML(**settings), on_fail=None)
    wrong = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert wrong == {}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= SKIPPED.keys()
    assert len(results) > 30


def test_estimator_works_in_a_pipeline_and_a_search(rng):
    pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    rows, labels = stream_of(rng, n=60)
    search = GridSearchCV(make_pipeline(ODML(), KNeighborsClassifier()), {"odml__gamma": [0.0, 0.05]}, cv=3)
    search.fit(rows, labels)
    assert search.best_estimator_[0].layers_[0].metric.shape == (D, D)
    assert search.score(rows, labels) > 0.5
