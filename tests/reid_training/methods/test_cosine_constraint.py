"""Softmax with a constraint on cosines, against slow loops, finite differences and plain softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reid_training.errors import ConfigError
from reid_training.methods.cosine_constraint import (
    AdaptiveMargin,
    CosineConstraint,
    CosineConstraintConfig,
    exponential_excess,
    intra_excess,
    selected_hinge,
)
from reid_training.methods.siamese import Siamese, SiameseConfig

N_CLASSES, SIZE = 5, 6


def table(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def case():
    """Cosines (9, 5) of features and weights, and labels (9,)."""
    features, weights = table(9, SIZE), table(N_CLASSES, SIZE, seed=1)
    cosines = nn.functional.normalize(features) @ nn.functional.normalize(weights).T
    return cosines, torch.arange(9) % N_CLASSES


def pictures(n=12):
    """Three images of every label, as flat as a linear network wants them."""
    labels = torch.arange(n) % 4
    torch.manual_seed(3)
    return torch.randn(4, 3, 2, 2)[labels] + 0.5 * torch.randn(n, 3, 2, 2), labels


def linear_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, SIZE))


def ready(seed=0, **options):
    method = CosineConstraint(linear_net(seed), SIZE, CosineConstraintConfig(**options))
    method.prepare(N_CLASSES)
    return method.train()


def gradients(method, loss):
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def test_intra_agrees_with_one_sample_at_a_time(case):
    cosines, labels = case
    expected = [0.3 - float(cosines[i, labels[i]]) for i in range(9)]
    np.testing.assert_allclose(intra_excess(cosines, labels, 0.3), expected)


def test_exponential_agrees_with_one_sample_at_a_time(case):
    cosines, labels = case
    expected = []
    for i, y in enumerate(labels.tolist()):
        others = [math.exp(2.0 * float(cosines[i, j])) for j in range(N_CLASSES) if j != y]
        expected.append(sum(others) / len(others) + 0.7 - math.exp(2.0 * float(cosines[i, y])))
    np.testing.assert_allclose(exponential_excess(cosines, labels, 0.7, 2.0), expected)


def test_exponential_becomes_linear_for_a_small_kappa(case):
    cosines, labels = case
    kappa, margin = 1e-6, 2e-7
    others = [np.mean([float(c) for j, c in enumerate(row) if j != y]) for row, y in zip(cosines, labels, strict=True)]
    linear = np.array(others) - cosines[torch.arange(9), labels].numpy() + margin / kappa
    np.testing.assert_allclose(exponential_excess(cosines, labels, margin, kappa) / kappa, linear, atol=1e-5)


def test_selections_agree_with_sorting_by_hand():
    excess = torch.tensor([0.4, -0.1, 0.2, 0.0, -0.5, 0.3])
    assert float(selected_hinge(excess, "none")) == pytest.approx(0.9 / 6)
    assert float(selected_hinge(excess, "violating")) == pytest.approx(0.9 / 3)
    assert float(selected_hinge(excess, "top_k", 0.25)) == pytest.approx(0.7 / 2)  # 1.5 of 6, rounded up
    assert float(selected_hinge(excess, "top_k", 1.0)) == pytest.approx(0.9 / 6)


@pytest.mark.parametrize("selection", ["none", "violating", "top_k"])
def test_satisfied_constraint_has_no_gradient(selection):
    excess = torch.tensor([-0.4, -0.1], requires_grad=True)
    value = selected_hinge(excess, selection)
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.equal(excess.grad, torch.zeros(2))


@pytest.mark.parametrize("selection", ["none", "violating", "top_k"])
@pytest.mark.parametrize("constraint", ["intra", "exponential"])
def test_gradient_agrees_with_finite_differences(constraint, selection):
    labels = torch.arange(8) % N_CLASSES

    def loss(features, weights):
        cosines = nn.functional.normalize(features) @ nn.functional.normalize(weights).T
        if constraint == "intra":
            excess = intra_excess(cosines, labels, 0.5)
        else:
            excess = exponential_excess(cosines, labels, 0.5, 1.5)
        return selected_hinge(excess, selection, 0.5)

    inputs = (table(8, SIZE).requires_grad_(), table(N_CLASSES, SIZE, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("constraint", ["intra", "exponential"])
def test_gradient_is_orthogonal_to_features_and_weights(constraint):
    method = ready(constraint=constraint, margin=0.9).double()
    features = table(12, SIZE).requires_grad_()
    value = method._constraint(features, pictures()[1], {})
    weight = method.classifier.weight
    for tensor, gradient in zip((features, weight), torch.autograd.grad(value, (features, weight)), strict=True):
        assert float(gradient.abs().max()) > 1e-4
        np.testing.assert_allclose((tensor * gradient).sum(1).detach(), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "baseline"),
    [
        ({"neck": True}, {"pair_weight": 0.0}),
        ({"neck": True, "pair_weight": 0.5, "label_smoothing": 0.1}, {"pair_weight": 0.5, "label_smoothing": 0.1}),
        ({"neck": True, "logit_scale": 16.0}, {"pair_weight": 0.0, "logit_scale": 16.0}),
    ],
    ids=["softmax", "recipe", "NormFace"],
)
def test_zero_weight_equals_the_siamese_softmax_to_the_bit(options, baseline):
    plain = Siamese(linear_net(), SIZE, SiameseConfig(**{"label_smoothing": 0.0, **baseline}))
    plain.prepare(N_CLASSES)
    method = ready(constraint_weight=0.0, **options)
    method.load_state_dict(plain.state_dict())
    _both_are_equal(method, plain.train())


def _both_are_equal(method, plain):
    loss, expected = method.loss(*pictures()), plain.loss(*pictures())
    assert torch.equal(loss.total, expected.total)
    assert torch.equal(loss.embeddings, expected.embeddings)
    got, wanted = gradients(method, loss.total), gradients(plain, expected.total)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("scale", [0.0, 16.0], ids=["softmax", "NormFace"])
@pytest.mark.parametrize("off", [{"constraint_weight": 0.0}, {"margin": -1.0}], ids=["no weight", "margin -1"])
def test_no_constraint_equals_softmax_to_the_bit(scale, off):
    method, (images, labels) = ready(logit_scale=scale, **off), pictures()
    loss = method.loss(images, labels)
    got = gradients(method, loss.total)
    method.zero_grad()
    features, weight = method.net(images), method.classifier.weight
    if scale:
        logits = scale * (nn.functional.normalize(features) @ nn.functional.normalize(weight).T)
    else:
        logits = features @ weight.T + method.classifier.bias
    expected = nn.functional.cross_entropy(logits, labels)
    wanted = gradients(method, expected)
    assert torch.equal(loss.total, expected)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_adaptive_margin_never_decreases():
    margin = AdaptiveMargin(momentum=0.9, lead=0.1, most=0.6)
    mean, expected, seen = 0.0, 0.1, []
    for value in [0.5] * 10 + [-0.5] * 10 + [1.0] * 30:
        margin.follow(torch.tensor([value - 0.1, value + 0.1]))
        mean = 0.9 * mean + 0.1 * value
        expected = max(expected, min(mean + 0.1, 0.6))
        assert float(margin.margin) == pytest.approx(expected, abs=1e-6)
        seen.append(float(margin.margin))
    assert seen == sorted(seen)
    assert seen[0] < seen[9] == seen[19] < seen[-1] == pytest.approx(0.6)


def test_adaptive_margin_of_a_batch_comes_from_earlier_batches():
    method = ready(adaptive=True, adaptive_lead=0.1)
    first, second = (method.loss(*pictures()).parts for _ in range(2))
    assert first["margin"] == pytest.approx(0.1)
    assert second["margin"] == pytest.approx(max(0.1, 0.01 * first["own_cosine"] + 0.1))
    method.eval()
    before = {name: value.clone() for name, value in method.named_buffers()}
    method.loss(*pictures())
    assert all(torch.equal(value, before[name]) for name, value in method.named_buffers())


def test_adaptive_margin_is_in_the_state_but_no_parameter():
    method = ready(adaptive=True)
    method.loss(*pictures())
    other = ready(adaptive=True)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.adaptive.mean, method.adaptive.mean)
    assert list(method.adaptive.parameters()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"constraint": "inter"}, "constraint must be one of intra, exponential, got 'inter'"),
        ({"selection": "all"}, "selection must be one of"),
        ({"constraint_weight": -1.0}, "constraint_weight must be >= 0"),
        ({"kappa": 0.0}, "kappa must be > 0"),
        ({"hard_share": 0.0}, r"hard_share must be in \(0, 1\]"),
        ({"margin": 1.5}, r"margin must be in \[-1, 1\]"),
        ({"adaptive_momentum": 1.0}, r"adaptive_momentum must be in \[0, 1\)"),
        ({"adaptive": True, "constraint": "exponential"}, "method.adaptive has no meaning"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        CosineConstraintConfig(**settings)


def cosines_after(steps=150, **options):
    """Mean cosine of positive and of negative pairs, on classes that were not trained on.

    Classes are points on a curved surface, seen through noise; a small network learns 20 of 40.
    """
    torch.manual_seed(5)
    centres, mix = torch.randn(40, 8), torch.randn(8, 12)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 16))
    method = CosineConstraint(net, 16, CosineConstraintConfig(**options))
    method.prepare(20)

    def draw(classes):
        points = torch.tanh((centres[classes] + 0.7 * torch.randn(len(classes), 8)) @ mix / 3.0)
        return points.view(-1, 3, 2, 2)

    optimiser = torch.optim.AdamW(method.train().parameters(), lr=3e-3)
    for _ in range(steps):
        labels = torch.randint(0, 20, (16,)).repeat(2)
        optimiser.zero_grad()
        method.loss(draw(labels), labels).total.backward()
        optimiser.step()
    labels = torch.arange(20, 40).repeat_interleave(10)
    with torch.no_grad():
        emb = method.eval().embed(draw(labels))
    same = labels[:, None] == labels[None]
    sim = emb @ emb.T
    off = ~torch.eye(len(labels), dtype=torch.bool)
    return float(sim[same & off].mean()), float(sim[~same].mean())


@pytest.mark.slow
def test_hinge_raises_positive_exponential_lowers_negative_cosines():
    positive, negative = cosines_after(constraint_weight=0.0)
    for options in ({}, {"selection": "top_k"}, {"adaptive": True, "adaptive_lead": 0.1}):
        assert cosines_after(**options)[0] > positive
    assert cosines_after(constraint="exponential")[1] < negative
