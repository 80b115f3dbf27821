"""Boosted independent embeddings: one learner is binomial deviance; diversity trains the last layer only."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from reid_training import losses
from reid_training.config import from_dict
from reid_training.data import market1501
from reid_training.data.synthetic import write_market_folder
from reid_training.errors import ConfigError
from reid_training.methods.bier import (
    AdversarialLoss,
    BIERConfig,
    activation_loss,
    boosted_deviance_loss,
    boosting_weights,
    learner_correlation,
    reverse_gradient,
    row_norm_penalty,
    sizes_of,
)
from reid_training.nets.heads import unit_blocks
from reid_training.runs import new_method
from reid_training.train import train
from tests.oracles.training_runs import train_in_parallel

NET = {"name": "conv4", "width": 0.25, "embedding_size": 16}
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2])
DIVERSE = ("activation", "adversarial")


def method_of(options, n_classes=4):
    torch.manual_seed(0)
    return new_method(from_dict({"net": NET, "method": options}), n_classes, start=True)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(8, 3, 32, 16), torch.arange(4).repeat_interleave(2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosines(n_learners=3):
    unit = F.normalize(drawn(n_learners, len(LABELS), 4), dim=2)
    return unit @ unit.mT


def slow_boosted(sims, labels, eta, online):
    """One pair and one learner at a time, as the specification writes it."""
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    n = len(labels)
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            same = bool(labels[i] == labels[j])
            counts[same] += 1
            weight, score = 1.0, 0.0 if online else 0.5
            for k in range(len(sims)):
                gained = 2.0 * (float(sims[k, i, j]) - 0.5) * (1.0 if same else -25.0)
                sums[same] += weight * math.log1p(math.exp(-gained))
                nu = 2.0 / (k + 2)
                score = (1.0 - nu) * score + nu * gained if online else score + eta * gained
                weight = (1.0 if same or online else 2.0) / (1.0 + math.exp(score))
    return sum(sums[same] / counts[same] for same in sums) / len(sims)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("n_learners", [1, 3])
@pytest.mark.parametrize("eta", [0.0, 0.06, 1.0])
def test_boosted_deviance_agrees_with_one_pair_at_a_time(eta, n_learners, online):
    sims = cosines(n_learners)
    value = boosted_deviance_loss(sims, LABELS, eta=eta, online=online)
    assert float(value) == pytest.approx(slow_boosted(sims, LABELS, eta, online), rel=1e-9)  # softplus(x > 20) is x


@pytest.mark.parametrize("online", [False, True])
def test_boosted_gradient_treats_weights_as_constants(online):
    """Finite differences with the weights held: they carry no gradient."""
    unit = F.normalize(drawn(3, len(LABELS), 4), dim=2)
    weights = boosting_weights(unit @ unit.mT, LABELS, online=online)
    assert not boosting_weights((unit @ unit.mT).requires_grad_(), LABELS, online=online).requires_grad

    def held(x):
        sims = x @ x.mT
        terms = [losses.binomial_deviance_loss(s, LABELS, weights=w) for s, w in zip(sims, weights, strict=True)]
        return torch.stack(terms).mean()

    x = unit.clone().requires_grad_()
    assert torch.autograd.gradcheck(held, (x,))
    expected = torch.autograd.grad(held(x), x)[0]
    got = torch.autograd.grad(boosted_deviance_loss(x @ x.mT, LABELS, online=online), x)[0]
    torch.testing.assert_close(got, expected)


def test_boosting_weight_is_the_negative_gradient_of_the_loss():
    sims = cosines(2)
    weights = boosting_weights(sims, LABELS, eta=0.3)[1]
    same = LABELS[:, None] == LABELS[None]
    score = 0.5 + 0.3 * 2.0 * (sims[0] - 0.5) * torch.where(same, 1.0, -25.0)
    step = 1e-6
    slope = (F.softplus(-(score + step)) - F.softplus(-(score - step))) / (2 * step)
    torch.testing.assert_close(weights, -slope * torch.where(same, 1.0, 2.0), atol=1e-8, rtol=1e-6)


def test_without_shrinkage_the_weights_are_constant():
    weights = boosting_weights(cosines(), LABELS, eta=0.0)
    same = LABELS[:, None] == LABELS[None]
    constant = 1.0 / (1.0 + math.exp(0.5))
    assert torch.equal(weights[0], torch.ones_like(weights[0]))
    for weight in weights[1:]:
        torch.testing.assert_close(weight, torch.where(same, constant, 2.0 * constant).double())


@pytest.mark.parametrize("online", [False, True])
def test_boosting_weights_solved_pairs_weigh_less(online):
    same = LABELS[:, None] == LABELS[None]
    solved = torch.where(same, 0.95, -0.3).double()
    unsolved = torch.where(same, 0.1, 0.9).double()
    easy, hard = (boosting_weights(sim.expand(3, -1, -1), LABELS, online=online) for sim in (solved, unsolved))
    assert (easy[1:] < hard[1:]).all()
    assert (easy[2] <= easy[1]).all()
    assert ((hard[1:] > 0) & (hard[1:] < 2)).all()


def slow_activation(learners):
    total = 0.0
    for i in range(len(learners)):
        for j in range(i + 1, len(learners)):
            terms = [
                (float(learners[i][b, p]) * float(learners[j][b, q])) ** 2
                for b in range(len(learners[i]))
                for p in range(learners[i].shape[1])
                for q in range(learners[j].shape[1])
            ]
            total += sum(terms) / len(terms)
    return total


def three_learners():
    return [drawn(5, size, seed=size) for size in (2, 3, 4)]


def test_activation_loss_agrees_with_one_product_at_a_time():
    learners = three_learners()
    assert float(activation_loss(learners)) == pytest.approx(slow_activation(learners), rel=1e-12)
    assert float(activation_loss(learners[:1])) == 0.0


def test_adversarial_loss_agrees_with_one_pair_of_learners_at_a_time():
    learners, adversary = three_learners(), AdversarialLoss((2, 3, 4), 6).double()
    by_hand, index = 0.0, 0
    for i in range(3):
        for j in range(i + 1, 3):
            first, _, second = adversary.regressors[index]
            index += 1
            for x, y in zip(learners[i].tolist(), learners[j], strict=True):
                told = second.weight @ (first.weight @ y + first.bias).clamp_min(0.0) + second.bias
                by_hand -= sum((a * b) ** 2 for a, b in zip(x, told.tolist(), strict=True)) / (5 * len(x))
    assert float(adversary(learners).detach()) == pytest.approx(by_hand, rel=1e-9)


def test_diversity_gradients_agree_with_finite_differences():
    learners = [learner.requires_grad_() for learner in three_learners()]
    assert torch.autograd.gradcheck(lambda *x: activation_loss(x), learners)
    assert torch.autograd.gradcheck(row_norm_penalty, (drawn(3, 4).requires_grad_(),))
    adversary = AdversarialLoss((2, 3, 4), 6).double()
    parameters = list(adversary.regressors[0].parameters())
    value = adversary([learner.detach() for learner in learners])
    for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
        flat = parameter.data.view(-1)
        step, old = 1e-6, float(flat[0])
        values = []
        for shifted in (old + step, old - step):
            flat[0] = shifted
            values.append(float(adversary([learner.detach() for learner in learners]).detach()))
        flat[0] = old
        assert float(gradient.view(-1)[0]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


def test_gradient_reversal_keeps_value_and_negates_gradient():
    x = drawn(4).requires_grad_()
    assert torch.equal(reverse_gradient(x), x)
    (gradient,) = torch.autograd.grad(reverse_gradient(x).pow(3).sum(), x)
    torch.testing.assert_close(gradient, -3.0 * x.detach().pow(2))


def test_regressors_and_learners_have_opposite_objectives():
    """One small step of each along its own gradient: the regressors find agreement, the learners lose it."""
    adversary = AdversarialLoss((2, 3), 8).double()
    for moved in ("regressors", "learners"):
        learners = [learner.requires_grad_() for learner in three_learners()[:2]]
        before = adversary(learners)
        variables = list(adversary.parameters()) if moved == "regressors" else learners
        gradients = torch.autograd.grad(before, variables)
        with torch.no_grad():
            for variable, gradient in zip(variables, gradients, strict=True):
                variable -= 1e-3 * gradient
            after = adversary(learners)
        assert (after < before) == (moved == "regressors")  # the loss is minus the agreement


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"diversity": "none"}], ids=["as the table says", "no diversity"])
def test_one_learner_equals_binomial_deviance_to_the_bit(batch, options):
    one = {"sizes": [16], "eta": 0.06, "diversity": "activation", "lambda_div": 0.0, **options}
    boosted = method_of({"name": "bier", **one})
    single = method_of({"name": "siamese", "pair_loss": "binomial_deviance", "id_weight": 0.0})
    train_in_parallel(boosted, single, batch)
    trained = dict(boosted.named_parameters())
    assert all(torch.equal(trained[name], p) for name, p in single.named_parameters())
    assert torch.equal(boosted.eval().embed(batch[0]), single.eval().embed(batch[0]))


def test_one_learner_with_classes_equals_the_siamese_loss(batch):
    values = [
        method_of({**options, "id_weight": 0.7}).loss(*batch)
        for options in (
            {"name": "bier", "sizes": [16], "diversity": "none"},
            {"name": "siamese", "pair_loss": "binomial_deviance"},
        )
    ]
    assert torch.equal(values[0].total, values[1].total)
    assert torch.equal(values[0].embeddings, values[1].embeddings)


@pytest.mark.parametrize("diversity", DIVERSE)
def test_diversity_trains_last_layer_and_regressors_only(batch, diversity):
    method = method_of({"name": "bier", "diversity": diversity, "hidden": 8})

    def gradients(weight):
        method.config = dataclasses.replace(method.config, lambda_div=weight)
        method.zero_grad()
        method.loss(*batch).total.backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    without, with_it = gradients(0.0), gradients(10.0)
    moved = {name for name in with_it if not torch.equal(without[name], with_it[name])}
    expected = {"net.project.weight"} | {name for name in with_it if name.startswith("adversary")}
    assert moved == expected
    assert len(expected) == (1 if diversity == "activation" else 1 + 3 * 4)


def test_row_norm_penalty_is_zero_for_unit_rows():
    assert float(row_norm_penalty(torch.eye(3))) == 0.0
    assert float(row_norm_penalty(2.0 * torch.eye(3))) == 9.0


def test_dot_product_of_embeddings_weighs_learners_by_their_sizes(batch):
    method = method_of({"name": "bier", "sizes": [2, 4, 10]}).eval()
    with torch.no_grad():
        emb, features = method.embed(batch[0]), method.net(batch[0])
    expected = torch.zeros(8, 8)
    for block in features.split([2, 4, 10], dim=1):
        share = block.shape[1] / 16  # d_k / sum d
        unit = F.normalize(block, dim=1)
        expected += (share * unit) @ (share * unit).T
    torch.testing.assert_close(emb @ emb.T, expected / expected[0, 0])


def test_blocks_of_one_size_are_one_unit_row_each():
    features = drawn(3, 6)
    assert torch.equal(unit_blocks(features, [6]), F.normalize(features, dim=1))
    halves = unit_blocks(features, [3, 3]).unflatten(1, (2, 3)).norm(dim=2)
    torch.testing.assert_close(halves, torch.full((3, 2), math.sqrt(0.5), dtype=torch.float64))


def test_correlation_agrees_with_numpy():
    features = drawn(20, 5)
    table = np.abs(np.corrcoef(features.numpy().T))
    across = [table[a, b] for a in (0, 1) for b in (2, 3, 4)]
    assert float(learner_correlation(features, (2, 3))) == pytest.approx(np.mean(across), rel=1e-9)


@pytest.mark.parametrize(("size", "expected"), [(512, (96, 160, 256)), (64, (12, 20, 32)), (3, (1, 1, 1))])
def test_default_sizes_have_the_proportions_of_the_release(size, expected):
    assert sizes_of(size) == expected
    assert all(sorted(sizes_of(n)) == list(sizes_of(n)) for n in range(3, 600))


@pytest.mark.parametrize("diversity", DIVERSE)
def test_initialisation_changes_last_layer_and_adversary_once(batch, diversity):
    method = method_of({"name": "bier", "diversity": diversity, "hidden": 8, "init_steps": 30, "lambda_div": 0.0})
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    fixed = method.net.body(batch[0]).mean((2, 3)).detach()
    strength = activation_loss(method._learners(F.linear(fixed, before["net.project.weight"])))
    method.loss(*batch)
    moved = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"net.project.weight"} | {name for name in before if name.startswith("adversary")}
    if diversity == "activation":
        assert activation_loss(method._learners(F.linear(fixed, method.net.project.weight))) < strength
    assert all(p.grad is None for p in method.parameters())
    once = method.net.project.weight.detach().clone()
    method.loss(*batch)
    assert torch.equal(method.net.project.weight, once)
    resumed = method_of({"name": "bier", "diversity": diversity, "hidden": 8, "init_steps": 30})
    resumed.load_state_dict(method.state_dict())
    resumed.loss(*batch)
    assert torch.equal(resumed.net.project.weight, once)


@pytest.fixture(scope="module")
def correlation_of(tmp_path_factory):
    """Of the learners at the end of a short training on drawn people, for a kind of diversity."""
    folder = tmp_path_factory.mktemp("bier")
    people = market1501.read(write_market_folder(folder / "drawn"))

    @functools.cache
    def trained(diversity):
        config = from_dict(
            {
                "data": {"val_fraction": 0.25, "height": 32, "width": 16, "n_ids": 4, "n_per_id": 4},
                "net": NET,
                "schedule": {"epochs": 10, "warmup_epochs": 1, "precision": "fp32", "threads": 1},
                "method": {"name": "bier", "diversity": diversity, "lambda_div": 1.0, "lambda_w": 5.0, "hidden": 32},
            }
        )
        return train(config, people, folder / diversity)[-1]["learner_correlation"]

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("diversity", DIVERSE)
def test_diversity_lowers_the_correlation_between_learners(correlation_of, diversity):
    assert correlation_of(diversity) < correlation_of("none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [8, 4, 4]}, r"method.sizes must ascend, got \(8, 4, 4\)"),
        ({"sizes": [0, 16]}, "sizes must be >= 1"),
        ({"sizes": [4, 8]}, r"method.sizes must sum to net.embedding_size, 16, got \(4, 8\)"),
        ({"boosting": "ada"}, "boosting must be one of shrinkage, online, got 'ada'"),
        ({"boosting": "online", "eta": 0.1}, "method.eta has no meaning for online boosting"),
        ({"diversity": "both"}, "diversity must be one of none, activation, adversarial, got 'both'"),
        ({"diversity": "none", "init_steps": 5}, "method.init_steps needs a method.diversity"),
        ({"eta": -0.1}, "eta must be >= 0, got -0.1"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"beta": 1.0}, r"beta must be in \(-1, 1\), got 1.0"),
        ({"lambda_div": -1.0}, "lambda_div must be >= 0, got -1.0"),
        ({"hidden": 0}, "hidden must be >= 1, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        method_of({"name": "bier", **options})


def test_small_embedding_needs_explicit_sizes():
    with pytest.raises(ConfigError, match=r"net.embedding_size 2 is too small for three learners; give method.sizes"):
        sizes_of(2)
    assert BIERConfig().sizes == ()
