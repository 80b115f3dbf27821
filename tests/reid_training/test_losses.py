"""Losses against slow loops written like the formula, against finite differences, and in limiting cases."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from reid_training import distances, losses, mining
from reid_training import train as training
from reid_training.config import read_toml
from reid_training.data import market1501
from reid_training.errors import ConfigError
from reid_training.methods.siamese import MINERS, PAIR_LOSSES, SiameseConfig
from reid_training.runs import load_checkpoint, load_method, new_method
from reid_training.train import train

LABELS = {
    "PK batch": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "unbalanced": [0, 1, 1, 2, 2, 2, 2, 3],
    "a pair": [0, 0],
    "two people": [0, 1],
    "one person": [4, 4, 4],
    "all different": [3, 1, 2, 0],
    "one image": [7],
}
N_CLASSES = 8


def embeddings(labels, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(len(labels), 5)), dtype=torch.float64)


def centres(seed=9):
    return torch.tensor(np.random.default_rng(seed).normal(size=(N_CLASSES, 5)), dtype=torch.float64)


def distance_by_hand(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def dot_by_hand(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def mean(terms):
    return sum(terms) / len(terms) if terms else 0.0


def slow_triplets(emb, labels):
    """(d(a, p), d(a, n)) of every triplet, by anchor."""
    n = len(labels)
    for a in range(n):
        positives = [distance_by_hand(emb[a], emb[p]) for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [distance_by_hand(emb[a], emb[j]) for j in range(n) if labels[j] != labels[a]]
        if positives and negatives:
            yield positives, negatives


def slow_batch_hard(emb, labels, margin):
    return mean([max(0.0, margin + max(p) - min(n)) for p, n in slow_triplets(emb, labels)])


def slow_batch_all(emb, labels, margin):
    terms = [margin + p - n for ps, ns in slow_triplets(emb, labels) for p in ps for n in ns]
    return mean([term for term in terms if term > 0])


def slow_semi_hard(emb, labels, margin):
    terms = []
    for positives, negatives in slow_triplets(emb, labels):
        for p in positives:
            within = [n for n in negatives if p < n < p + margin]
            terms += [margin + p - min(within)] if within else []
    return mean(terms)


def slow_soft_margin(emb, labels, margin):
    return mean([math.log(1.0 + math.exp(max(p) - min(n))) for p, n in slow_triplets(emb, labels)])


def slow_contrastive(emb, labels, margin):
    positives, negatives = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i == j:
                continue
            dist = distance_by_hand(emb[i], emb[j])
            if labels[i] == labels[j]:
                positives.append(dist**2)
            else:
                negatives.append(max(0.0, margin - dist) ** 2)
    return mean(positives) + mean(negatives)


def slow_squared_contrastive(emb, labels, margin):
    n = range(len(labels))
    squares = [(labels[i] == labels[j], distance_by_hand(emb[i], emb[j]) ** 2) for i in n for j in n if i != j]
    positives = [square for same, square in squares if same]
    negatives = [max(0.0, margin - square) for same, square in squares if not same]
    return mean(positives) + mean(negatives)


def slow_n_pair(emb, labels, scale):
    pairs = []
    for label in sorted(set(labels)):
        images = [i for i, x in enumerate(labels) if x == label]
        pairs += [(images[k], images[k + 1]) for k in range(0, len(images) - 1, 2)]
    terms = []
    for a, p in pairs:
        others = [q for b, q in pairs if labels[b] != labels[a]]
        own = dot_by_hand(emb[a], emb[p])
        terms.append(math.log(1.0 + sum(math.exp(scale * (dot_by_hand(emb[a], emb[q]) - own)) for q in others)))
    return mean(terms)


def slow_deviance(emb, labels, cost, alpha=2.0, beta=0.5):
    positives, negatives = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            sim = dot_by_hand(emb[i], emb[j])
            if i != j and labels[i] == labels[j]:
                positives.append(math.log(1.0 + math.exp(-alpha * (sim - beta))))
            elif i != j:
                negatives.append(math.log(1.0 + math.exp(alpha * cost * (sim - beta))))
    return mean(positives) + mean(negatives)


def batch_hard(emb, labels, margin):
    dist = distances.euclidean(emb, emb)
    return losses.triplet_loss(dist, mining.batch_hard(dist.detach(), labels), margin)


def batch_all(emb, labels, margin):
    return losses.triplet_loss(distances.euclidean(emb, emb), mining.batch_all(labels), margin, active_only=True)


def semi_hard(emb, labels, margin):
    dist = distances.euclidean(emb, emb)
    return losses.triplet_loss(dist, mining.semi_hard(dist.detach(), labels, margin), margin)


def soft_margin(emb, labels, margin):
    dist = distances.euclidean(emb, emb)
    return losses.soft_margin_triplet_loss(dist, mining.batch_hard(dist.detach(), labels))


def contrastive(emb, labels, margin):
    return losses.contrastive_loss(distances.euclidean(emb, emb), labels, margin)


def squared_contrastive(emb, labels, margin):
    return losses.squared_contrastive_loss(distances.squared_euclidean(emb, emb), labels, margin)


def n_pair(emb, labels, scale):
    anchors, positives = mining.n_pairs(labels)
    return losses.n_pair_loss(emb[anchors], emb[positives], labels[anchors], scale)


def deviance(emb, labels, cost):
    return losses.binomial_deviance_loss(emb @ emb.T, labels, negative_cost=cost)


# (embeddings, labels, margin or scale or cost) -> loss; and the loop it must agree with.
PAIRWISE = {
    "batch-hard": (batch_hard, slow_batch_hard),
    "batch-all": (batch_all, slow_batch_all),
    "semi-hard": (semi_hard, slow_semi_hard),
    "soft margin": (soft_margin, slow_soft_margin),
    "contrastive": (contrastive, slow_contrastive),
    "squared contrastive": (squared_contrastive, slow_squared_contrastive),
    "n-pair": (n_pair, slow_n_pair),
    "binomial deviance": (deviance, slow_deviance),
}


@pytest.mark.parametrize("batch", LABELS)
@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("number", [0.3, 3.0])
def test_pair_loss_agrees_with_one_pair_at_a_time(batch, name, number):
    fast, slow = PAIRWISE[name]
    labels = LABELS[batch]
    emb = embeddings(labels)
    value = fast(emb, torch.tensor(labels), number)
    assert float(value) == pytest.approx(slow(emb, labels, number), abs=1e-8)


@pytest.mark.parametrize("batch", ["PK batch", "unbalanced"])
@pytest.mark.parametrize("name", PAIRWISE)
def test_pair_loss_gradient_agrees_with_finite_differences(batch, name):
    labels = torch.tensor(LABELS[batch])
    emb = embeddings(labels).requires_grad_()
    loss = PAIRWISE[name][0]
    assert float(loss(emb, labels, 2.0).detach()) > 0.0
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, 2.0), (emb,), eps=1e-6, atol=1e-5)


def test_deviance_weights_multiply_losses_not_pair_counts():
    labels = torch.tensor(LABELS["unbalanced"])
    sim = embeddings(labels) @ embeddings(labels).T
    plain = losses.binomial_deviance_loss(sim, labels)
    assert torch.equal(losses.binomial_deviance_loss(sim, labels, weights=torch.ones_like(sim)), plain)
    tripled = losses.binomial_deviance_loss(sim, labels, weights=torch.full_like(sim, 3.0))
    torch.testing.assert_close(tripled, 3.0 * plain)


def drawn_triplets(emb, labels, margin):
    dist = distances.euclidean(emb, emb)
    triplets = mining.distance_weighted(dist.detach(), labels, emb.shape[1], np.random.default_rng(0))
    return losses.triplet_loss(dist, triplets, margin)


@pytest.mark.parametrize("name", [*PAIRWISE, "distance-weighted", "centre", "identity"])
@pytest.mark.parametrize("batch", LABELS)
@pytest.mark.parametrize("length", [1.0, 0.0])
def test_equal_embeddings_have_a_finite_loss_and_gradient(name, batch, length):
    labels = torch.tensor(LABELS[batch])
    emb = torch.zeros(len(labels), 5)
    emb[:, 0] = length
    emb.requires_grad_()
    others = {
        "distance-weighted": lambda: drawn_triplets(emb, labels, 0.3),
        "centre": lambda: losses.centre_loss(emb, torch.zeros(N_CLASSES, 5), labels),
        "identity": lambda: losses.identity_loss(emb @ torch.ones(5, N_CLASSES), labels, 0.1),
    }
    value = others[name]() if name in others else PAIRWISE[name][0](emb, labels, 0.3)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(emb.grad).all()


@pytest.mark.parametrize("name", PAIRWISE)
def test_batch_without_pairs_has_zero_loss(name):
    emb = embeddings([7]).requires_grad_()
    value = PAIRWISE[name][0](emb, torch.tensor([7]), 0.3)
    value.backward()
    assert float(value.detach()) == 0.0
    assert not emb.grad.any()


def test_losses_of_perfectly_separated_people_are_zero():
    emb = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("batch-hard", "batch-all", "semi-hard"):
        assert float(PAIRWISE[name][0](emb, labels, 0.3)) == 0.0
    assert float(contrastive(emb, labels, 0.3)) == pytest.approx(0.0, abs=1e-9)
    assert float(n_pair(emb, labels, 30.0)) == pytest.approx(0.0, abs=1e-9)
    apart = losses.binomial_deviance_loss(emb @ emb.T, labels, alpha=80.0)
    assert float(apart) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_mean_over_active_triplets_is_mean_over_all_by_their_share(seed):
    labels = torch.tensor(LABELS["unbalanced"])
    emb = embeddings(labels, seed)
    dist, triplets = distances.euclidean(emb, emb), mining.batch_all(labels)
    anchors, positives, negatives = triplets
    share = float((0.3 + dist[anchors, positives] - dist[anchors, negatives] > 0).double().mean())
    assert 0 < share < 1
    active, every = (losses.triplet_loss(dist, triplets, 0.3, active_only=only) for only in (True, False))
    assert float(active) == pytest.approx(float(every) / share)


def test_n_pair_of_two_images_each_is_the_paper_s_loss():
    """Sohn's loss uses no labels: pair i against every other pair."""
    anchors, positives = embeddings([0] * 6), embeddings([0] * 6, seed=1)
    terms = []
    for i in range(6):
        own = dot_by_hand(anchors[i], positives[i])
        terms.append(sum(math.exp(dot_by_hand(anchors[i], positives[j]) - own) for j in range(6) if j != i))
    expected = mean([math.log(1.0 + term) for term in terms])
    assert float(losses.n_pair_loss(anchors, positives, torch.arange(6))) == pytest.approx(expected)
    squares = [dot_by_hand(x, x) for x in (*anchors, *positives)]
    with_norm = losses.n_pair_loss(anchors, positives, torch.arange(6), norm_weight=0.02)
    assert float(with_norm) == pytest.approx(expected + 0.02 * mean(squares))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_identity_loss_agrees_with_one_class_at_a_time(smoothing):
    labels = LABELS["unbalanced"]
    logits = torch.tensor(np.random.default_rng(0).normal(size=(len(labels), N_CLASSES))).requires_grad_()
    terms = []
    for row, label in zip(logits.tolist(), labels, strict=True):
        total = sum(math.exp(x) for x in row)
        wanted = [smoothing / N_CLASSES + (1.0 - smoothing) * (c == label) for c in range(N_CLASSES)]
        terms.append(-sum(q * math.log(math.exp(x) / total) for q, x in zip(wanted, row, strict=True)))
    value = losses.identity_loss(logits, torch.tensor(labels), smoothing)
    assert float(value.detach()) == pytest.approx(mean(terms))
    assert torch.autograd.gradcheck(lambda x: losses.identity_loss(x, torch.tensor(labels), smoothing), (logits,))


@pytest.mark.parametrize("batch", LABELS)
def test_centre_loss_agrees_with_one_image_at_a_time(batch):
    labels = LABELS[batch]
    emb, middle = embeddings(labels).requires_grad_(), centres().requires_grad_()
    value = losses.centre_loss(emb, middle, torch.tensor(labels))
    terms = [0.5 * distance_by_hand(x, middle[label]) ** 2 for x, label in zip(emb, labels, strict=True)]
    assert float(value.detach()) == pytest.approx(mean(terms))
    assert torch.autograd.gradcheck(lambda x, c: losses.centre_loss(x, c, torch.tensor(labels)), (emb, middle))


@pytest.mark.parametrize("batch", LABELS)
def test_centres_update_as_published_without_gradient(batch):
    labels = LABELS[batch]
    emb, middle = embeddings(labels).requires_grad_(), centres().requires_grad_()
    value = losses.centre_pull(emb, middle, torch.tensor(labels))
    value.backward()
    assert float(value.detach()) == 0.0
    assert emb.grad is None
    for j in range(N_CLASSES):
        own = [x.detach() for x, label in zip(emb, labels, strict=True) if label == j]
        expected = sum((middle[j].detach() - x for x in own), torch.zeros(5)) / (1.0 + len(own))
        torch.testing.assert_close(middle.grad[j], expected.double())


def test_distances_agree_with_one_pair_at_a_time():
    a, b = embeddings([0] * 4), embeddings([0] * 6, seed=1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    cosine, euclidean = distances.cosine(a, b), distances.euclidean(a, b)
    for i in range(4):
        for j in range(6):
            by_hand = distance_by_hand(a[i], b[j])
            assert float(euclidean[i, j]) == pytest.approx(by_hand, abs=1e-9)
            assert float(cosine[i, j]) == pytest.approx(by_hand**2 / 2, abs=1e-9)  # holds on the unit sphere


OPTIONS = {
    **{name: {"pair_loss": name} for name in PAIR_LOSSES},
    **{f"triplet, {name}": {"miner": name} for name in MINERS},
    **{f"soft triplet, {name}": {"miner": name, "soft_margin": True, "id_weight": 0.0} for name in MINERS},
    "triplet and centres": {"centre_weight": 0.05},
    "classes and centres": {"centre_weight": 0.05, "pair_weight": 0.0},
}


@pytest.fixture
def people():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 64, 32, generator=generator), torch.arange(4).repeat_interleave(3)


def method_of(tiny, options, n_classes=4):
    torch.manual_seed(0)
    return new_method(dataclasses.replace(tiny, method={"name": "siamese", **options}), n_classes)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_choice_trains_on_drawn_people(tmp_path, market, tiny, options, precision):
    schedule = dataclasses.replace(tiny.schedule, epochs=1, precision=precision)
    config = dataclasses.replace(tiny, method={"name": "siamese", **options}, schedule=schedule)
    (row,) = train(config, market1501.read(market), tmp_path)
    assert math.isfinite(row["loss"])
    part = "centre" if "centre_weight" in options else options.get("pair_loss", "triplet")
    assert row[part] > 0.0
    method, read, _ = load_method(tmp_path)
    assert read == config
    assert (method.centres is not None) == ("centre_weight" in options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_choice_gives_a_gradient_to_every_trained_parameter(tiny, people, options):
    method = method_of(tiny, {**options, "margin": 2.0})
    method.loss(*people, np.random.default_rng(0)).total.backward()
    missing = [
        name for name, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert missing == []


# What the method must compute from its own unit features, by the loops above.
BY_HAND = {
    "contrastive": ({"pair_loss": "contrastive", "margin": 1.1}, lambda e, y: slow_contrastive(e, y, 1.1)),
    "squared_contrastive": (
        {"pair_loss": "squared_contrastive", "margin": 1.1},
        lambda e, y: slow_squared_contrastive(e, y, 1.1),
    ),
    "n_pair": ({"pair_loss": "n_pair", "n_pair_scale": 7.0}, lambda e, y: slow_n_pair(e, y, 7.0)),
    "binomial_deviance": (
        {
            "pair_loss": "binomial_deviance",
            "deviance_alpha": 3.0,
            "deviance_beta": 0.2,
            "deviance_negative_cost": 4.0,
        },
        lambda e, y: slow_deviance(e, y, 4.0, alpha=3.0, beta=0.2),
    ),
    "all": ({"miner": "all", "margin": 0.05}, lambda e, y: slow_batch_all(e, y, 0.05)),
    "semi_hard": ({"miner": "semi_hard", "margin": 0.05}, lambda e, y: slow_semi_hard(e, y, 0.05)),
    "hard": ({"margin": 0.05}, lambda e, y: slow_batch_hard(e, y, 0.05)),
    "soft hard": ({"soft_margin": True}, lambda e, y: slow_soft_margin(e, y, None)),
    "soft all": (
        {"soft_margin": True, "miner": "all"},
        lambda e, y: mean([math.log(1 + math.exp(p - n)) for ps, ns in slow_triplets(e, y) for p in ps for n in ns]),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_method_computes_the_loss_of_its_options(tiny, name):
    options, by_hand = BY_HAND[name]
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    images = torch.randn(12, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    images[labels == 0] += 2.0  # one person is easy: some triplets are solved
    method = method_of(tiny, {"id_weight": 0.0, "pair_weight": 2.0, **options}).double().eval()
    unit = torch.nn.functional.normalize(method.net(images.double()).float(), dim=1).detach()
    loss = method.loss(images.double(), labels)
    expected = by_hand(unit.double(), labels.tolist())
    assert expected > 1e-3
    assert list(loss.parts.values()) == pytest.approx([expected], rel=1e-3)
    assert float(loss.total.detach()) == pytest.approx(2.0 * expected, rel=1e-3)


def test_total_is_the_weighted_sum_of_the_parts(tiny, people):
    method = method_of(tiny, {"pair_weight": 2.0, "id_weight": 3.0, "centre_weight": 5.0})
    loss = method.loss(*people)
    expected = 2.0 * loss.parts["triplet"] + 3.0 * loss.parts["id"] + 5.0 * loss.parts["centre"]
    assert float(loss.total.detach()) == pytest.approx(expected)
    assert loss.parts["centre"] == pytest.approx(0.5), "young centres are at 0, features at 1 from there"


@pytest.mark.slow
def test_random_miner_changes_neither_batches_nor_augmentation(tmp_path, market, tiny, monkeypatch):
    seen: dict[str, list[float]] = {}
    real = training.augment
    for name in ("hard", "distance_weighted"):

        def spy(*arguments, name=name):
            batch = real(*arguments)
            seen.setdefault(name, []).append(float(batch.double().sum()))
            return batch

        monkeypatch.setattr(training, "augment", spy)
        train(
            dataclasses.replace(tiny, method={"name": "siamese", "miner": name}),
            market1501.read(market),
            tmp_path / name,
        )
    assert len(set(seen["hard"])) > 3
    assert seen["hard"] == seen["distance_weighted"]


def test_defaults_are_batch_hard_with_a_hinge_and_no_centres(tiny, people):
    """Earlier configs and checkpoints name neither the miner nor a centre."""
    plain = method_of(tiny, {"pair_loss": "triplet", "margin": 0.3})
    named = method_of(tiny, {"miner": "hard", "soft_margin": False, "centre_weight": 0.0})
    with torch.no_grad():
        assert float(plain.loss(*people).total) == float(named.loss(*people).total)
    assert [*plain.state_dict()] == [*named.state_dict()]
    assert "centres" not in plain.state_dict()


def test_small_centre_weight_still_updates_the_centres(tiny, people):
    gradients = {}
    for weight in (0.0, 1e-12, 0.5):
        method = method_of(tiny, {"centre_weight": weight})
        method.loss(*people).total.backward()
        gradients[weight] = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    centre = {weight: grads.pop("centres", None) for weight, grads in gradients.items()}
    torch.testing.assert_close(centre[1e-12], centre[0.5])
    assert centre[0.5].abs().max() > 0.01
    for name, grad in gradients[0.0].items():
        torch.testing.assert_close(gradients[1e-12][name], grad)
    assert not torch.equal(gradients[0.5]["net.project.weight"], gradients[0.0]["net.project.weight"])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_autocast_affects_the_network_only(tiny, people, name):
    labels = people[1]
    features = torch.randn(len(labels), tiny.net.embedding_size, generator=torch.Generator().manual_seed(0))
    method = method_of(tiny, {"pair_loss": name, "centre_weight": 0.5})
    method.net = torch.nn.Identity()
    plain = method.loss(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.loss(features, labels)
    assert torch.equal(plain.total, mixed.total)
    assert mixed.total.dtype == torch.float32


def test_random_mining_needs_and_follows_its_generator(tiny, people):
    method = method_of(tiny, {"miner": "distance_weighted", "margin": 2.0}).eval()
    with torch.no_grad():
        first, again, other = (float(method.loss(*people, np.random.default_rng(s)).total) for s in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ValueError, match="needs an rng"):
        method.loss(*people)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pair_loss": "quadruplet"},
            "pair_loss must be one of contrastive, .*, squared_contrastive, or pml:NAME, .*, got 'quadruplet'",
        ),
        (
            {"miner": "easy"},
            "miner must be one of all, semi_hard, hard, distance_weighted, or pml:NAME, .*, got 'easy'",
        ),
        ({"centre_weight": -0.1}, "centre_weight must be >= 0, got -0.1"),
        ({"n_pair_scale": 0.0}, "n_pair_scale must be > 0, got 0.0"),
        ({"deviance_alpha": -2.0}, "deviance_alpha must be > 0, got -2.0"),
        ({"deviance_beta": 1.5}, r"deviance_beta must be in \(-1, 1\), got 1.5"),
        ({"deviance_negative_cost": 0.0}, "deviance_negative_cost must be > 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        SiameseConfig(**options)


def test_unset_options_are_not_written(tmp_path, market, tiny):
    """So a checkpoint is read like one written before the newer options existed."""
    config = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=1))
    train(config, market1501.read(market), tmp_path)
    assert load_checkpoint(tmp_path)["config"]["method"] == {"name": "siamese"}


def test_packaged_recipe_equals_the_siamese_batch_hard_method():
    config = new_method(read_toml("reid_fast"), 5).config
    siamese = SiameseConfig()
    for name in ("miner", "margin", "id_weight", "label_smoothing"):
        assert getattr(config, name) == getattr(siamese, name)
    assert config.triplet_weight == siamese.pair_weight


def test_margin_is_taken_from_the_own_class_alone():
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1, 2])
    judged = losses.with_margin(logits, labels, 1.5)
    for row in range(4):
        for column in range(3):
            less = 1.5 if column == labels[row] else 0.0
            assert float(judged[row, column]) == pytest.approx(float(logits[row, column]) - less)


def test_confidence_is_minus_the_entropy_one_class_at_a_time():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for row in logits.tolist():
        shares = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        total += sum(share * math.log(share) for share in shares)
    assert float(losses.confidence(logits)) == pytest.approx(total / 4, abs=1e-12)


def test_margin_and_penalty_raise_the_loss_of_the_classifier(tiny, people):
    values = {}
    for margin, penalty in ((0.0, 0.0), (0.35, 0.0), (0.0, 0.3)):
        torch.manual_seed(0)
        options = {"name": "siamese", "pair_weight": 0.0, "logit_scale": 30.0}
        options |= {"id_margin": margin, "confidence_penalty": penalty}
        method = new_method(dataclasses.replace(tiny, method=options), 4)
        values[margin, penalty] = float(method.loss(*people).total)
    plain = values[0.0, 0.0]
    assert plain + 5.0 < values[0.35, 0.0] < plain + 10.5 + 1e-4  # at most 0.35 * 30
    assert values[0.0, 0.3] < plain
    with pytest.raises(ConfigError, match=r"method\.id_margin needs method\.logit_scale > 0"):
        SiameseConfig(id_margin=0.35)
