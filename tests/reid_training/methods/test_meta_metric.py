"""The meta metric learner against slow loops, torch's own SGD, finite differences, and its limiting cases."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from reid_training.config import NetConfig
from reid_training.errors import ConfigError, DataError
from reid_training.methods.meta_metric import (
    FixedRule,
    LearnedRule,
    MetaMetric,
    MetaMetricConfig,
    class_probabilities,
    fitted,
    halves,
    left_out_accuracy,
    left_out_loss,
    matching_loss,
    preprocessed,
    similarities,
)
from reid_training.nets import build


def method_of(seed=0, **settings):
    torch.manual_seed(seed)
    return MetaMetric(build(NetConfig(name="conv4", width=0.25, embedding_size=8)), 8, MetaMetricConfig(**settings))


@pytest.fixture
def task():
    """Features (9, 5) in float64 of three classes with 4, 3 and 2 items, in no order."""
    torch.manual_seed(3)
    labels = torch.tensor([7, 2, 7, 5, 2, 7, 5, 7, 2])
    return torch.randn(9, 5, dtype=torch.float64) + labels[:, None], labels


def batch_of(labels):
    torch.manual_seed(1)
    return torch.randn(len(labels), 3, 16, 16) + labels[:, None, None, None].float() / 4, labels


# The matching network


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_matching_loss_agrees_with_one_query_at_a_time(task, kind):
    features, labels = task
    support, queries = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 6])
    sim = similarities(features[queries], features[support], kind, 0.7)
    total = 0.0
    for q in queries:
        weights = []
        for s in support:
            value = float(features[q] @ features[s])
            if kind == "cosine":
                value /= float(features[q].norm() * features[s].norm())
            weights.append(math.exp(0.7 * value))
        own = sum(w for w, s in zip(weights, support, strict=True) if labels[s] == labels[q])
        total -= math.log(own / sum(weights))
    assert float(matching_loss(sim, labels[queries], labels[support])) == pytest.approx(total / 3, rel=1e-9)


def test_probabilities_are_a_softmax_over_items_summed_per_class():
    sim = torch.randn(6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 2, 2, 0, 2])  # unbalanced, and none of class 1
    found = class_probabilities(sim, labels, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))
    assert (found[:, 1] == 0).all()
    for row in range(6):
        weights = [math.exp(float(value)) for value in sim[row]]
        for label in (0, 2):
            own = sum(w for w, other in zip(weights, labels, strict=True) if other == label)
            assert float(found[row, label]) == pytest.approx(own / sum(weights), rel=1e-12)


def test_order_of_the_support_changes_nothing(task):
    features, labels = task
    order = torch.tensor([4, 2, 0, 1, 3])
    sim = similarities(features[5:], features[:5])
    torch.testing.assert_close(
        matching_loss(sim, labels[5:], labels[:5]), matching_loss(sim[:, order], labels[5:], labels[order])
    )
    torch.testing.assert_close(left_out_loss(features, labels), left_out_loss(features.flip(0), labels.flip(0)))


def test_leave_one_out_agrees_with_one_item_at_a_time(task):
    features, labels = task
    features, labels = torch.cat([features, features[:1] + 1]), torch.cat([labels, torch.tensor([99])])
    losses = []
    for i in range(9):  # the tenth is alone in its class: in the support, never asked
        others = torch.tensor([j for j in range(10) if j != i])
        losses.append(
            matching_loss(similarities(features[i : i + 1], features[others]), labels[i : i + 1], labels[others])
        )
    torch.testing.assert_close(left_out_loss(features, labels), torch.stack(losses).mean())


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_leave_one_out_accuracy_agrees_with_one_item_at_a_time(kind):
    torch.manual_seed(1)
    labels = torch.tensor([7, 2, 7, 5, 2, 7, 5, 7, 2, 99])
    features = torch.randn(10, 5, dtype=torch.float64) + 0.8 * torch.randn(100, 5, dtype=torch.float64)[labels]
    right = 0
    for i in range(9):
        others = [j for j in range(10) if j != i]
        weights = similarities(features[i : i + 1], features[others], kind, 0.7).softmax(1)[0]
        sums = {int(label): float(weights[labels[others] == label].sum()) for label in labels.unique()}
        right += max(sums, key=sums.get) == int(labels[i])
    assert 0 < right < 9
    assert left_out_accuracy(features, labels, kind, 0.7) == pytest.approx(right / 9)


def test_its_gradient_agrees_with_finite_differences(task):
    features, labels = task
    theta = (torch.randn(3, 5, dtype=torch.float64) / 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: left_out_loss(F.linear(features, t), labels), (theta,))
    assert torch.autograd.gradcheck(lambda t: left_out_loss(F.linear(features, t), labels, "cosine", 4.0), (theta,))


def test_probabilities_that_round_to_zero_keep_their_gradient():
    emb = torch.tensor([[30.0], [-30.0], [30.0], [-29.0]], requires_grad=True)
    loss = left_out_loss(emb, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(emb.grad).all()
    assert emb.grad.abs().sum() > 0


# Updates


@pytest.mark.parametrize("steps", [1, 5])
def test_forget_gate_one_equals_sgd_to_the_bit(steps):
    torch.manual_seed(0)
    features, labels = torch.randn(24, 67), torch.arange(6).repeat_interleave(4)
    theta = torch.randn(61, 67) / 8

    def inner(weight):
        return left_out_loss(F.linear(features, weight), labels)

    rule = LearnedRule(20)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.zero_()
        rule.forget.bias.fill_(30.0)  # sigmoid: 1 in float32
        rule.learn.bias.fill_(-4.5)
    eta = float(torch.sigmoid(torch.tensor(-4.5)))
    expected = torch.nn.Parameter(theta.clone())
    optimiser = torch.optim.SGD([expected], lr=eta)
    for _ in range(steps):
        optimiser.zero_grad()
        inner(expected).backward()
        optimiser.step()
    assert not torch.equal(expected, theta)
    assert torch.equal(fitted(theta, inner, rule, steps), expected)
    assert torch.equal(fitted(theta, inner, FixedRule(eta), steps), expected)


def test_zero_steps_give_theta_0(task):
    theta = torch.randn(3, 5)
    assert torch.equal(fitted(theta, lambda _: pytest.fail("asked for a gradient"), LearnedRule(4), 0), theta)


def test_learned_step_agrees_with_one_coordinate_at_a_time():
    torch.manual_seed(0)
    rule = LearnedRule(7).double()
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.normal_()
    theta, gradient = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64) / 50
    loss = torch.tensor(1.3, dtype=torch.float64)
    after, memory = rule(theta, gradient, loss, rule.start(theta))
    twice, _ = rule(after, 2 * gradient, loss, memory)
    for k in range(5):
        h = c = torch.zeros(1, 7, dtype=torch.float64)
        f = i = torch.zeros((), dtype=torch.float64)
        value = theta[k]
        for g in (gradient[k], 2 * gradient[k]):
            seen = torch.cat([preprocessed(loss.reshape(1))[0], preprocessed(g.reshape(1))[0]])
            h, c = rule.cell(seen[None], (h, c))
            f = torch.sigmoid(rule.forget(torch.cat([h[0], torch.stack([value, f])])))[0]
            i = torch.sigmoid(rule.learn(torch.cat([h[0], torch.stack([value, i])])))[0]
            value = f * value - i * g
        torch.testing.assert_close(twice[k], value)


@pytest.mark.parametrize("value", [0.0, 1e-9, -1e-9, 3e-5, -4e-5, 4.6e-5, 0.3, -0.3, 1.0, -7000.0])
def test_gradient_preprocessing_accepts_any_magnitude(value):
    if abs(value) >= math.exp(-10):
        expected = [math.log(abs(value)) / 10, math.copysign(1.0, value)]
    else:
        expected = [-1.0, math.exp(10) * value]
    torch.testing.assert_close(preprocessed(torch.tensor([value])), torch.tensor([expected]))


def test_initial_rule_is_gradient_descent_with_small_steps():
    torch.manual_seed(0)
    theta, gradient = torch.randn(50), torch.randn(50)
    rule = LearnedRule(20)
    after, memory = rule(theta, gradient, torch.tensor(2.0), rule.start(theta))
    assert ((memory.forget > 0.97) & (memory.forget < 1)).all()
    assert ((memory.learn > 0.006) & (memory.learn < 0.019)).all()
    torch.testing.assert_close(after, memory.forget * theta - memory.learn * gradient)


def test_outer_gradient_is_first_order(task):
    """Finite differences of the whole, with the learner's gradients and losses held as they were."""
    features, labels = task
    torch.manual_seed(0)
    rule = LearnedRule(3).double()
    theta = (torch.randn(4, 5, dtype=torch.float64) / 5).requires_grad_()
    seen = []

    def inner(weight):
        value = left_out_loss(F.linear(features, weight), labels)
        seen.append((value.detach(), torch.autograd.grad(value, weight, retain_graph=True)[0]))
        return value

    def outer(weight):
        return left_out_loss(F.linear(features.flip(1), weight), labels)

    trained = [theta, *rule.parameters()]
    gradients = torch.autograd.grad(outer(fitted(theta, inner, rule, 3)), trained)
    assert len(seen) == 3

    def replayed():
        flat = theta.reshape(-1)
        memory = rule.start(flat)
        for value, gradient in seen:
            flat, memory = rule(flat, gradient.reshape(-1), value, memory)
        return float(outer(flat.reshape(theta.shape)).detach())

    for parameter, gradient in zip(trained, gradients, strict=True):
        flat = parameter.detach().reshape(-1)
        for k in range(0, len(flat), max(1, len(flat) // 5)):
            kept, ends = float(flat[k]), []
            for step in (1e-6, -1e-6):
                flat[k] = kept + step
                ends.append(replayed())
            flat[k] = kept
            slope = (ends[0] - ends[1]) / 2e-6
            assert float(gradient.reshape(-1)[k]) == pytest.approx(slope, rel=1e-4, abs=1e-8)
        assert gradient.abs().sum() > 0


def test_learned_rule_improves_on_its_tasks():
    """Two features of eight separate the classes: the rule can learn a fast direction."""
    torch.manual_seed(0)
    rule, theta = LearnedRule(8), torch.nn.Parameter(0.5 * torch.eye(8))
    optimiser = torch.optim.Adam([*rule.parameters(), theta], lr=0.02)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(60):
        ways = int(torch.randint(2, 6, (), generator=generator))  # the number of classes differs
        labels = torch.arange(ways).repeat_interleave(6)
        centres = torch.zeros(ways, 8)
        centres[:, :2] = 2 * torch.randn(ways, 2, generator=generator)
        features = centres[labels] + torch.randn(len(labels), 8, generator=generator)
        support, queries = torch.arange(0, len(labels), 2), torch.arange(1, len(labels), 2)

        def inner(weight, features=features[support], labels=labels[support]):
            return left_out_loss(F.linear(features, weight), labels)

        weight = fitted(theta, inner, rule, 3)
        emb = F.linear(features, weight)
        value = matching_loss(similarities(emb[queries], emb[support]), labels[queries], labels[support])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert np.mean(values[-20:]) < 0.8 * np.mean(values[:20])


# The method


def test_zero_steps_equal_the_matching_network_with_theta_0():
    images, labels = batch_of(torch.arange(3).repeat_interleave(4))
    dot = {"similarity": "dot", "scale": 1.0}
    meta, plain = method_of(steps=5, **dot), method_of(steps=0, **dot)
    plain.net.load_state_dict(meta.net.state_dict())
    assert not [name for name, _ in plain.named_parameters() if name.startswith("rule")]
    loss = plain.loss(images, labels, np.random.default_rng(0))
    updates, judges = halves(labels, np.random.default_rng(0))
    with torch.no_grad():
        features = copy.deepcopy(meta.net)(images)  # theta_0 @ pooled
    expected = matching_loss(similarities(features[judges], features[updates]), labels[judges], labels[updates])
    assert torch.equal(loss.total, expected)
    meta.config = plain.config  # T = 0 with a learned rule that is there
    assert torch.equal(meta.loss(images, labels, np.random.default_rng(0)).total, expected)


def test_one_network_takes_any_number_of_classes_and_shots():
    method = method_of()
    names = {name: value.shape for name, value in method.state_dict().items()}
    for counts in ([4, 4], [3, 5, 2, 9], [2] * 7, [1, 1, 3]):
        images, labels = batch_of(torch.repeat_interleave(torch.arange(len(counts)) + 10, torch.tensor(counts)))
        loss = method.loss(images, labels, np.random.default_rng(0))
        assert torch.isfinite(loss.total)
    assert names == {name: value.shape for name, value in method.state_dict().items()}


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_halves(rng):
    labels = torch.tensor([3, 3, 3, 1, 1, 8, 3, 3])
    updates, judges = halves(labels, rng)
    assert sorted([*updates.tolist(), *judges.tolist()]) == list(range(8))
    assert sorted(labels[judges].tolist()) == [1, 3, 3]
    assert sorted(labels[updates].tolist()) == [1, 3, 3, 3, 8]


@pytest.mark.parametrize("training", [False, True])
def test_adapt_returns_a_new_network_that_is_better(training):
    images, labels = batch_of(torch.arange(4).repeat_interleave(4))
    method = method_of(rule="sgd", rate=0.05, similarity="dot", scale=1.0).eval()
    with torch.no_grad():
        pooled = method.net.pooled(images)
    method.train(training)  # no step moves the statistics of a norm
    before = copy.deepcopy(method.state_dict())
    other = method.adapted(pooled, labels)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items()), "never in place"
    changed = [name for name, value in other.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["net.project.weight"]
    assert left_out_loss(other.net.project(pooled), labels) < left_out_loss(method.net.project(pooled), labels)
    assert torch.equal(other.net.project.weight, method.adapted(pooled, labels).net.project.weight)


def test_one_shot_task_may_use_an_auxiliary_set_of_other_classes():
    method = method_of(rule="sgd", rate=0.05).eval()
    images, labels = batch_of(torch.arange(4).repeat_interleave(4))
    with torch.no_grad():
        auxiliary, task = method.net.pooled(images), method.net.pooled(images.flip(3) + 0.1)
    theta = method.fit(auxiliary, labels)
    assert not torch.equal(theta, method.net.project.weight)
    one_each, others = task[::4], torch.cat([task[1::4], task[2::4]])
    value, accuracy = method.judge(theta, one_each, 10 + labels[::4], others, 10 + labels[::4].repeat(2))
    assert torch.isfinite(value)
    assert 0.0 <= accuracy <= 1.0


def test_metrics_of_similar_tasks_are_selected():
    """In a task of a kind two coordinates tell the classes apart, which the metrics of that kind look at."""
    generator = torch.Generator().manual_seed(0)
    method = method_of().eval()
    size = method.net.project.in_features

    def task(kind, n_each):
        labels = torch.arange(5).repeat_interleave(n_each)
        features = torch.randn(len(labels), size, generator=generator)
        angles = labels * 2 * math.pi / 5
        features[:, 2 * kind : 2 * kind + 2] += 6 * torch.stack([angles.cos(), angles.sin()], dim=1)
        return features, labels

    kinds = [0, 1, 2, 1, 0, 2]
    metrics = [torch.eye(size)[2 * kind : 2 * kind + 2] for kind in kinds]
    for kind in range(3):
        assert [kinds[place] for place in method.suited(metrics, *task(kind, 2), 2)] == [kind, kind]
    assert method.suited([metrics[0]] * 3, *task(0, 2), 2) == [0, 1], "the first of equals"
    with pytest.raises(DataError, match="every class has one image"):
        method.suited(metrics, *task(0, 1), 2)


def test_equal_accuracy_metrics_are_ranked_by_loss():
    method = method_of(similarity="dot", scale=1.0).eval()  # a cosine does not change with the scale of a metric
    rows = torch.eye(method.net.project.in_features)[:4].repeat_interleave(2, dim=0)
    labels = torch.arange(4).repeat_interleave(2)
    weak, strong = (scale * torch.eye(rows.shape[1]) for scale in (1.0, 3.0))
    assert method.suited([weak, strong, weak], rows, labels, 3) == [1, 0, 2]


def test_task_accuracy_uses_summed_attention():
    method = method_of(steps=0, similarity="dot", scale=1.0).eval()
    support, labels = torch.randn(6, method.net.project.in_features), torch.tensor([9, 4, 4, 9, 4, 9])
    queries, query_labels = torch.randn(10, method.net.project.in_features), torch.tensor([4, 9] * 5)
    theta = method.net.project.weight.detach()
    weights = ((queries @ theta.T) @ (support @ theta.T).T).softmax(1)
    right = 0
    for row, label in zip(weights, query_labels, strict=True):
        sums = {4: float(row[labels == 4].sum()), 9: float(row[labels == 9].sum())}
        right += int(max(sums, key=sums.get) == int(label))
    assert method.judge(theta, support, labels, queries, query_labels)[1] == pytest.approx(right / 10)


def test_adapt_without_usable_support_is_an_error():
    method = method_of().eval()
    with pytest.raises(DataError, match="every class has one image"):
        method.adapted(torch.randn(3, method.net.project.in_features), torch.arange(3))


def test_query_of_an_unknown_class_is_named():
    with pytest.raises(DataError, match="the class of a query is not in the support"):
        matching_loss(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"rule": "adam"}, "rule must be one of learned, sgd, got 'adam'"),
        ({"similarity": "l2"}, "similarity must be one of dot, cosine, got 'l2'"),
        ({"rate": 0.0}, "rate must be > 0, got 0.0"),
        ({"scale": math.nan}, "scale must be > 0, got nan"),
        ({"hidden": 0}, "hidden must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, said):
    with pytest.raises(ConfigError) as told:
        MetaMetricConfig(**setting)
    assert str(told.value) == f"MetaMetricConfig.{said}"
