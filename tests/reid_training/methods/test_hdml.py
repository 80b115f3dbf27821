"""HDML: the geometry of its negatives, its objectives, and its base loss without synthetic tuples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reid_training import distances, losses
from reid_training.config import NetConfig
from reid_training.errors import ConfigError
from reid_training.methods import hdml
from reid_training.methods.hdml import HDML, START, HardnessAware, HDMLConfig, harder_negatives
from reid_training.methods.siamese import Siamese, SiameseConfig
from reid_training.nets import build
from reid_training.nets.heads import unit_rows

BASES = {
    "n_pair": {"base": "n_pair"},
    "batch hard": {"base": "triplet"},
    "batch all": {"base": "triplet", "miner": "all"},
}
N_CLASSES, N_FEATURES, SIZE = 4, 7, 5
LABELS = torch.arange(N_CLASSES).repeat_interleave(2)


@pytest.fixture(params=BASES.values(), ids=BASES)
def base(request):
    return request.param


def points(n, size=SIZE, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, size)))


def ready(alpha=1.0, beta=0.4, j_avg=1.0, j_gen=1.0, **options):
    """The losses alone, float64, with running means as if they had been measured."""
    torch.manual_seed(0)
    module = HardnessAware(N_FEATURES, SIZE, N_CLASSES, HDMLConfig(alpha=alpha, beta=beta, hidden=9, **options))
    module.means.copy_(torch.tensor([j_avg, j_gen]))
    return module.double().train()


def head(size=SIZE):
    torch.manual_seed(1)
    return nn.Linear(N_FEATURES, size, bias=False).double()


def terms_of(module, project, features):
    return module(features, unit_rows(project(features)), project, LABELS)


# --- the negatives


@pytest.mark.parametrize("slack", [0.0, 0.3, 1.0])
def test_synthetic_distance_lies_between_positive_and_negative(slack):
    anchors, positives, negatives = points(50), points(50, seed=1), points(50, seed=2)
    harder = harder_negatives(anchors, positives, negatives, slack)
    for a, p, n, h in zip(anchors, positives, negatives, harder, strict=True):
        near, far = math.dist(a, p), math.dist(a, n)
        if far <= near:
            assert torch.equal(h, n)
            continue
        assert math.dist(a, h) == pytest.approx(slack * far + (1.0 - slack) * near)
        np.testing.assert_allclose((h - a) / math.dist(a, h), (n - a) / far)  # on the same ray


def test_slack_one_leaves_negatives_unchanged_to_the_bit():
    assert torch.equal(harder_negatives(points(9), points(9, seed=1), points(9, seed=2), 1.0), points(9, seed=2))


def test_equal_points_give_no_nan():
    a, far = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3)
    for positive, negative in ((a, a), (a, far), (far, a)):
        harder = harder_negatives(a, positive, negative, 0.0)
        harder.sum().backward()
        assert torch.isfinite(harder).all()
    assert torch.isfinite(a.grad).all()


def test_gradient_reaches_anchor_and_negative_but_not_the_positive():
    a, p, n = (points(6, seed=seed).requires_grad_() for seed in range(3))
    pull = hdml.pulls(a, p, n, 0.2)
    ga, gp, gn = torch.autograd.grad(harder_negatives(a, p, n, 0.2).sum(), (a, p, n), allow_unused=True)
    np.testing.assert_allclose(ga, pull.expand(6, SIZE))
    np.testing.assert_allclose(gn, 1.0 - pull.expand(6, SIZE))
    assert gp is None


# --- the weights


def test_running_means_are_of_the_last_full_window(base):
    module, project = ready(j_avg=START, j_gen=START, window=3, **base), head()
    seen = []
    for step in range(7):
        features = points(8, N_FEATURES, seed=step)
        terms = terms_of(module, project, features)
        batch = hdml.tuples(unit_rows(project(features)), LABELS, module.config, None)
        share = module.config.soft_share
        labels_kept = (terms.parts["soft_anchors"] + terms.parts["soft"]) / 2
        made = (1.0 - share) * terms.parts["reconstruction"] + share * labels_kept
        seen.append((terms.parts[module.config.base] / batch.chance(), made))
        expected = np.mean(seen[:3] if step < 5 else seen[3:6], axis=0) if step >= 2 else [START, START]
        np.testing.assert_allclose(module.means, expected, rtol=1e-6)
    module.eval()
    terms_of(module, project, points(8, N_FEATURES))
    assert int(module.steps) == 1  # evaluation is not remembered


def test_weights_are_shares_that_follow_the_means():
    slack, real, synthetic = ready(alpha=2.0, beta=3.0, j_avg=0.5, j_gen=6.0).weights()
    assert float(slack) == pytest.approx(math.exp(-4.0))
    assert float(real) == pytest.approx(math.exp(-0.5))
    assert float(real + synthetic) == pytest.approx(1.0)
    slack, real, synthetic = ready(j_avg=START, j_gen=START).weights()
    assert min(float(slack), float(real)) > 0.99999
    slack, real, synthetic = ready(j_avg=0.0, j_gen=0.0).weights()
    assert (float(slack), float(real), float(synthetic)) == (0.0, 0.0, 1.0)
    slack, real, synthetic = ready(alpha=0.0, beta=0.0, j_avg=0.0, j_gen=0.0).weights()
    assert (float(slack), float(real), float(synthetic)) == (1.0, 1.0, 0.0)


def test_chance_loss_is_that_of_equal_points(base):
    same = unit_rows(torch.ones(8, SIZE))
    batch = hdml.tuples(same, LABELS, HDMLConfig(**base), None)
    assert float(batch.real(same)) == pytest.approx(batch.chance(), rel=1e-5)


# --- the objectives


def slow_synthetic(module, project, features):
    """The loss of the synthetic tuples, one tuple at a time."""
    unit = unit_rows(project(features))
    config = module.config
    batch = hdml.tuples(unit, LABELS, config, None)
    slack = math.exp(-config.alpha / float(module.means[0]))
    triplets = list(zip(*(t.tolist() for t in batch.triplets()), strict=True))
    harder = []
    for a, p, n in triplets:
        near, far = math.dist(unit[a], unit[p]), math.dist(unit[a], unit[n])
        wanted = slack * far + (1.0 - slack) * near if far > near else far
        harder.append(unit[a] + (unit[n] - unit[a]) * (wanted / far if far > 0 else 1.0))
    made = unit_rows(project(module.generator(torch.stack([*unit, *harder]))))
    rows, negatives = made[: len(unit)], made[len(unit) :]
    if config.base == "n_pair":
        terms = {}
        for (a, p, n), other in zip(triplets, negatives, strict=True):
            terms.setdefault((a, p), {})[n] = config.n_pair_scale * float(rows[a] @ other)
        per_anchor = [
            math.log(1.0 + sum(math.exp(s - sims[p]) for n, s in sims.items() if n != p))
            for (a, p), sims in terms.items()
        ]
        return sum(per_anchor) / len(per_anchor)
    terms = [
        max(0.0, config.margin + math.dist(rows[a], rows[p]) - math.dist(rows[a], other))
        for (a, p, _), other in zip(triplets, negatives, strict=True)
    ]
    return sum(terms) / (sum(term > 0 for term in terms) if config.miner == "all" else len(terms))


def test_synthetic_loss_agrees_with_one_tuple_at_a_time(base):
    module, project, features = ready(j_avg=0.7, **base), head(), points(8, N_FEATURES)
    with torch.no_grad():
        got = terms_of(module, project, features)
        assert got.parts["synthetic"] == pytest.approx(slow_synthetic(module, project, features), rel=1e-6)
        mixed = (1.0 - math.exp(-0.4)) * got.parts["synthetic"] + math.exp(-0.4) * got.parts[module.config.base]
        assert float(got.metric) == pytest.approx(mixed, rel=1e-6)


def test_generators_terms_agree_with_the_formulas():
    module, project, features = ready(), head(), points(8, N_FEATURES)
    with torch.no_grad():
        got = terms_of(module, project, features)
        unit = unit_rows(project(features))
        a, p, n = hdml.tuples(unit, LABELS, module.config, None).triplets()
        slack = torch.tensor(math.exp(-1.0))
        made = module.generator(torch.cat([unit, harder_negatives(unit[a], unit[p], unit[n], slack)]))
        error = sum(math.dist(x, y) ** 2 for x, y in zip(made[:8], features, strict=True))
        spread = sum(math.dist(x, features.mean(0)) ** 2 for x in features)
        assert got.parts["reconstruction"] == pytest.approx(error / spread, rel=1e-6)
        scaled = (torch.cat([made[a], made[8:]]) - features.mean(0)) / math.sqrt(spread / features.numel())
        logs = torch.log_softmax(module.classifier(scaled), 1)
        anchors, negatives = logs[: len(a)], logs[len(a) :]
        of_anchors, of_negatives = (
            -sum(float(row[label]) for row, label in zip(rows, LABELS[which], strict=True)) / len(n)
            for rows, which in ((anchors, a), (negatives, n))
        )
        assert got.parts["soft_anchors"] == pytest.approx(of_anchors / math.log(N_CLASSES), rel=1e-6)
        assert got.parts["soft"] == pytest.approx(of_negatives / math.log(N_CLASSES), rel=1e-6)
        right = [int(row.argmax()) == int(label) for row, label in zip(negatives, LABELS[n], strict=True)]
        assert got.parts["soft_accuracy"] == pytest.approx(sum(right) / len(n))
        soft = (of_anchors + of_negatives) / (2 * math.log(N_CLASSES))
        assert float(got.generator) == pytest.approx(0.5 * error / spread + 0.5 * soft, rel=1e-6)


def test_perfect_generator_and_free_negatives_synthetic_equals_real(base):
    module, project = ready(alpha=0.0, **base), head()
    module.generator = nn.Linear(SIZE, N_FEATURES, bias=False).double()
    with torch.no_grad():
        module.generator.weight.copy_(torch.linalg.pinv(project.weight))  # g(i(z)) = z
        terms = terms_of(module, project, points(8, N_FEATURES))
    assert terms.parts["synthetic"] == pytest.approx(terms.parts[module.config.base], rel=1e-6)
    assert float(terms.metric) == pytest.approx(terms.parts[module.config.base], rel=1e-6)


def test_metric_gradient_agrees_with_finite_differences(base, monkeypatch):
    module, project, features = ready(j_avg=0.7, **base).eval(), head(), points(8, N_FEATURES)
    unit = unit_rows(project(features)).detach()
    a, p, n = hdml.tuples(unit, LABELS, module.config, None).triplets()
    pull = hdml.pulls(unit[a], unit[p], unit[n], float(module.weights()[0]))
    monkeypatch.setattr(hdml, "pulls", lambda *_: pull)  # a constant for the gradient
    assert torch.autograd.gradcheck(
        lambda unit, weight: module(features, unit, lambda y: y @ weight.T, LABELS).metric,
        (unit.requires_grad_(), project.weight.detach().requires_grad_()),
    )


def test_each_objective_trains_its_own_parameters(base):
    module, project = ready(**base), head()
    features = points(8, N_FEATURES).requires_grad_()
    terms = terms_of(module, project, features)
    owners = {
        "metric": [features, project.weight],
        "generator": list(module.generator.parameters()),
        "classifier": list(module.classifier.parameters()),
    }
    for name in owners:
        for owner, tensors in owners.items():
            reached = torch.autograd.grad(getattr(terms, name), tensors, retain_graph=True, allow_unused=True)
            if owner == name:
                assert all(g is not None and float(g.abs().sum()) > 0 for g in reached)
            else:
                assert reached == (None,) * len(tensors)


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 2], [0, 0, 0, 0]], ids=["one pair", "no pair", "one identity"])
def test_small_batches_give_finite_terms(base, labels):
    module, project, features = ready(**base), head(), points(len(labels), N_FEATURES).requires_grad_()
    terms = module(features, unit_rows(project(features)), project, torch.tensor(labels))
    total = terms.metric + terms.generator + terms.classifier
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(module.sums).all()


# --- the method


def method_of(cls, config):
    torch.manual_seed(2)
    method = cls(build(NetConfig(name="conv4", width=0.125, embedding_size=SIZE)), SIZE, config)
    method.prepare(N_CLASSES)
    return method.train()


def images(seed=0):
    torch.manual_seed(seed)
    return torch.randn(len(LABELS), 3, 16, 16) + torch.randn(N_CLASSES, 3, 1, 1)[LABELS]


@pytest.mark.parametrize("id_weight", [0.0, 0.5], ids=["pure", "recipe"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_beta_training_equals_the_base_loss_to_the_bit(base, id_weight, precision):
    same = {"id_weight": id_weight, "miner": base.get("miner", "hard")}
    plain = method_of(Siamese, SiameseConfig(pair_loss=base["base"], **same))
    method = method_of(HDML, HDMLConfig(beta=0.0, base=base["base"], window=2, hidden=8, **same))
    optimisers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (plain, method)]
    for step in range(5):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            expected, got = plain.loss(images(step), LABELS), method.loss(images(step), LABELS)
        assert torch.equal(got.objectives["metric"], expected.total)
        assert torch.equal(got.embeddings, expected.embeddings)
        for optimiser, loss in zip(optimisers, (expected, got), strict=True):
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
    trained = method.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in plain.state_dict().items())


def test_generator_learns_to_reconstruct_then_synthetic_loss_counts():
    method = method_of(HDML, HDMLConfig(alpha=0.2, window=10, hidden=32))
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.003)
    history = []
    for step in range(40):
        loss = method.loss(images(step % 4), LABELS)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        history.append(loss.parts)
    assert history[-1]["reconstruction"] < 0.5 * history[0]["reconstruction"]
    assert history[0]["synthetic_weight"] < 1e-5
    assert 0.1 < history[-1]["synthetic_weight"] < 1.0
    assert history[-1]["slack"] < 0.9


def test_n_pair_of_logits_is_the_n_pair_loss():
    anchors, positives, labels = points(4), points(4, seed=1), torch.tensor([0, 1, 1, 2])
    expected = losses.n_pair_loss(anchors, positives, labels, 3.0)
    torch.testing.assert_close(losses.n_pair_of_logits(3.0 * anchors @ positives.T, labels), expected)


def test_base_triplets_are_mined_among_real_embeddings():
    unit = unit_rows(points(8))
    batch = hdml.tuples(unit, LABELS, HDMLConfig(base="triplet"), None)
    anchors, positives, negatives = batch.triplets()
    dist = distances.euclidean(unit, unit)
    assert torch.equal(LABELS[anchors], LABELS[positives])
    for a, n in zip(anchors.tolist(), negatives.tolist(), strict=True):
        assert float(dist[a, n]) == min(float(dist[a, j]) for j in range(8) if LABELS[j] != LABELS[a])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "contrastive"}, "base must be one of n_pair, triplet, got 'contrastive'"),
        ({"miner": "some"}, "miner must be one of"),
        ({"alpha": -1.0}, "alpha must be >= 0"),
        ({"beta": -1.0}, "beta must be >= 0"),
        ({"pair_weight": 0.0}, "pair_weight must be > 0"),
        ({"soft_share": 1.5}, r"soft_share must be in \[0, 1\]"),
        ({"window": 0}, "window must be >= 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        HDMLConfig(**settings)
