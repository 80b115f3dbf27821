"""Losses and miners of pytorch-metric-learning: ours equal the package's, and its own train through the adapter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from reid_training import distances, losses, mining
from reid_training.errors import ConfigError
from reid_training.methods.siamese import Siamese, SiameseConfig
from reid_training.pml import PackageLoss
from reid_training.runs import load_checkpoint
from reid_training.train import parameter_groups, train
from tests.oracles.training_runs import mistake, same_runs, train_in_two_parts

package = pytest.importorskip("pytorch_metric_learning", reason="the extra `losses` is not installed")
pml_losses = pytest.importorskip("pytorch_metric_learning.losses")
miners = pytest.importorskip("pytorch_metric_learning.miners")
pml_distances = pytest.importorskip("pytorch_metric_learning.distances")
reducers = pytest.importorskip("pytorch_metric_learning.reducers")

MARGIN = 0.3
SEEDS = range(8)


@pytest.fixture(params=SEEDS)
def batch(request):
    """Unit rows (12, 6) of double precision, which two images of one person share roughly, and labels (12,)."""
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, 4, 12)
    emb = rng.normal(size=(4, 6))[labels] + rng.normal(size=(12, 6))
    return torch.nn.functional.normalize(torch.from_numpy(emb), dim=1), torch.from_numpy(labels)


def rows_of(triplets):
    return set(zip(*(indices.tolist() for indices in triplets), strict=True))


def euclid(power=1):
    return pml_distances.LpDistance(normalize_embeddings=False, power=power)


def ours(miner, batch):
    dist = distances.euclidean(batch[0], batch[0])
    return dist, mining.mine(miner, dist, batch[1], MARGIN, 6, None)


def test_batch_hard_triplet_loss_equals_the_package(batch):
    dist, triplets = ours("hard", batch)
    mined = miners.BatchHardMiner(distance=euclid())(*batch)
    assert rows_of(triplets) == rows_of(mined)
    theirs = pml_losses.TripletMarginLoss(MARGIN, distance=euclid(), reducer=reducers.MeanReducer())
    torch.testing.assert_close(losses.triplet_loss(dist, triplets, MARGIN), theirs(*batch, mined))
    soft = pml_losses.TripletMarginLoss(0.0, smooth_loss=True, distance=euclid(), reducer=reducers.MeanReducer())
    torch.testing.assert_close(losses.soft_margin_triplet_loss(dist, triplets), soft(*batch, mined))


def test_semi_hard_triplets_are_the_nearest_negatives_of_the_package_s(batch):
    """The package keeps every semi-hard negative of a pair, ours the nearest."""
    dist, triplets = ours("semi_hard", batch)
    nearest = {}
    for a, p, n in rows_of(miners.TripletMarginMiner(MARGIN, "semihard", distance=euclid())(*batch)):
        nearest[a, p] = min(nearest.get((a, p), n), n, key=lambda n, a=a: float(dist[a, n]))
    assert rows_of(triplets) == {(a, p, n) for (a, p), n in nearest.items()}
    theirs = pml_losses.TripletMarginLoss(MARGIN, distance=euclid(), reducer=reducers.MeanReducer())
    torch.testing.assert_close(losses.triplet_loss(dist, triplets, MARGIN), theirs(*batch, triplets), check_dtype=False)


def test_batch_all_triplet_loss_equals_the_package(batch):
    """Both take the mean over the triplets above 0."""
    dist, triplets = ours("all", batch)
    theirs = pml_losses.TripletMarginLoss(MARGIN, distance=euclid())
    torch.testing.assert_close(losses.triplet_loss(dist, triplets, MARGIN, active_only=True), theirs(*batch))


def test_contrastive_losses_equal_the_package(batch):
    """The package has no square over the hinge of Hadsell: its terms are squared here."""
    dist = distances.euclidean(batch[0], batch[0])
    terms = pml_losses.ContrastiveLoss(0.0, MARGIN, distance=euclid(), reducer=reducers.DoNothingReducer())(*batch)
    expected = sum(terms[name]["losses"].square().mean() for name in ("pos_loss", "neg_loss"))
    torch.testing.assert_close(losses.contrastive_loss(dist, batch[1], MARGIN), expected)
    squared = pml_losses.ContrastiveLoss(0.0, MARGIN, distance=euclid(power=2), reducer=reducers.MeanReducer())
    torch.testing.assert_close(losses.squared_contrastive_loss(dist.square(), batch[1], MARGIN), squared(*batch))


def test_n_pair_loss_equals_the_package():
    """One pair of each identity, as in the package; free embeddings and scale 1, as in the paper."""
    emb, labels = torch.randn(10, 6, dtype=torch.float64), torch.arange(5).repeat_interleave(2)
    anchors, positives = mining.n_pairs(labels)
    theirs = pml_losses.NPairsLoss(distance=pml_distances.DotProductSimilarity(normalize_embeddings=False))
    found = losses.n_pair_loss(emb[anchors], emb[positives], labels[anchors])
    torch.testing.assert_close(found, theirs(emb, labels))


RUNS = {
    "multi-similarity": {"pair_loss": "pml:MultiSimilarityLoss", "miner": "pml:MultiSimilarityMiner"},
    "with a memory": {
        **{"pair_loss": "pml:MultiSimilarityLoss", "loss_options": {"beta": 40.0}, "memory": 40},
        **{"miner": "pml:MultiSimilarityMiner", "miner_options": {"epsilon": 0.2}},
    },
    "proxy anchor": {"pair_loss": "pml:ProxyAnchorLoss", "loss_rate": 100.0},
    "circle": {"pair_loss": "pml:CircleLoss", "loss_options": {"gamma": 32.0}},
    "supervised contrastive": {"pair_loss": "pml:SupConLoss"},
    "soft triple": {"pair_loss": "pml:SoftTripleLoss", "loss_options": {"centers_per_class": 2}, "loss_rate": 10.0},
    "arc face": {"pair_loss": "pml:ArcFaceLoss", "loss_options": {"scale": 16}, "loss_rate": 10.0},
    "random triplets": {"pair_loss": "pml:TripletMarginLoss", "miner": "pml:DistanceWeightedMiner"},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_labels_of_a_batch_are_learned(options):
    """Random rows with random labels: their own label is next to most of them after the training, not before."""
    torch.manual_seed(0)
    rows, labels = torch.randn(24, 32), torch.arange(4).repeat_interleave(6)
    method = Siamese(torch.nn.Linear(32, 8), 8, SiameseConfig(id_weight=0.0, **options))
    method.prepare(4)

    def found():
        sim = (method.embed(rows) @ method.embed(rows).T).fill_diagonal_(-1.0)
        return float((labels[sim.argmax(1)] == labels).float().mean())

    assert found() <= 0.5
    groups = [{**group, "lr": 0.01 * group["rate"]} for group in parameter_groups(method, weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups)
    rng = np.random.default_rng(0)
    for _ in range(100):
        optimiser.zero_grad()
        method.loss(rows, labels, rng).total.backward()
        optimiser.step()
    assert found() >= 0.7  # a loss with centres stops where these are told apart


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_run_learns_and_resumes_to_the_same_bits(tiny, data, tmp_path, options):
    schedule = dataclasses.replace(tiny.schedule, epochs=2, warmup_epochs=0, validate_every=2)
    method = {"name": "siamese", "id_weight": 0.0, **options}
    config = dataclasses.replace(tiny, schedule=schedule, method=method)
    history = train(config, data, tmp_path / "whole")
    loss = options["pair_loss"].removeprefix("pml:")
    if "memory" not in options:  # which grows in the first epoch, and brings more and harder pairs
        assert history[-1][loss] < history[0][loss]

    train_in_two_parts(config, data, tmp_path / "cut")
    assert same_runs(tmp_path / "whole", tmp_path / "cut")
    if "memory" in options:
        assert load_checkpoint(tmp_path / "cut")["method"]["package_loss.memory.embedding_memory"].abs().sum() > 0


def test_memory_holds_the_latest_batches_in_a_ring():
    loss = PackageLoss("pml:ContrastiveLoss", {}, None, {}, 6, n_classes=2, size=3)
    rng, labels = np.random.default_rng(0), torch.tensor([0, 0, 1, 1])
    rows = torch.nn.functional.normalize(torch.randn(3, 4, 3), dim=2)
    values = [loss(part, labels, rng) for part in rows[:2]]
    expected = torch.cat([rows[1, 2:], rows[0, 2:], rows[1, :2]])  # the second batch begins at the fifth place
    torch.testing.assert_close(loss.memory.embedding_memory, expected)
    assert loss.place.tolist() == [2, 1]
    # A loaded state goes on where the other one was.
    other = PackageLoss("pml:ContrastiveLoss", {}, None, {}, 6, n_classes=2, size=3)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(rows[2], labels, rng), loss(rows[2], labels, rng))
    torch.testing.assert_close(other.memory.embedding_memory, loss.memory.embedding_memory)
    assert all(torch.isfinite(value) for value in values)


def test_memory_adds_pairs_of_earlier_batches():
    """The first batch has itself alone: the loss without a memory. The second has more, by hand: mean squared hinge."""
    with_memory = PackageLoss("pml:ContrastiveLoss", {}, None, {}, 8, n_classes=2, size=3)
    without = PackageLoss("pml:ContrastiveLoss", {}, None, {}, 0, n_classes=2, size=3)
    rng, labels = np.random.default_rng(0), torch.tensor([0, 0, 1, 1])
    first, second = torch.nn.functional.normalize(
        torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), dim=2
    )
    torch.testing.assert_close(with_memory(first, labels, rng), without(first, labels, rng))
    known, own = torch.cat([first, second]), torch.cat([labels, labels])
    positive, negative = [], []
    for i in range(4):
        for j in range(8):
            dist = float((second[i] - known[j]).norm())
            if j != 4 + i:
                (positive if own[j] == labels[i] else negative).append(
                    dist if own[j] == labels[i] else max(0, 1 - dist)
                )
    by_hand = sum(np.mean([value for value in part if value > 0]) for part in (positive, negative))
    assert float(with_memory(second, labels, rng)) == pytest.approx(by_hand, abs=1e-5)


def test_weights_of_the_loss_are_a_group_with_a_rate_of_its_own():
    options = {"pair_loss": "pml:ProxyAnchorLoss", "loss_rate": 100.0}
    method = Siamese(torch.nn.Linear(6, 4), 4, SiameseConfig(**options))
    method.prepare(7)
    groups = method.groups()
    assert [tuple(p.shape) for p in groups["loss"]] == [(7, 4)]
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in method.parameters()}
    rate_of = {id(p): group["rate"] for group in parameter_groups(method, 0.05) for p in group["params"]}
    assert rate_of[id(method.package_loss.loss.proxies)] == 100.0
    assert rate_of[id(method.net.weight)] == 1.0


def test_random_numbers_come_from_the_run_alone():
    options = {"pair_loss": "pml:TripletMarginLoss", "loss_options": {"triplets_per_anchor": 1}, "id_weight": 0.0}
    method = Siamese(torch.nn.Identity(), 4, SiameseConfig(**options))
    method.prepare(3)
    batch = torch.randn(12, 4), torch.arange(3).repeat_interleave(4)
    before = torch.get_rng_state()
    first, again, other = (float(method.loss(*batch, np.random.default_rng(seed)).total) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="needs an rng"):
        method.loss(*batch)


MISTAKES = {
    "no class": (
        {"pair_loss": "pml:MultiSimilarity"},
        r"\(did you mean MultiSimilarityLoss\?\); there are: AngularLoss",
    ),
    "no loss": ({"pair_loss": "pml:MultiSimilarityMiner"}, "is not in pytorch_metric_learning.losses"),
    "no option": (
        {"pair_loss": "pml:CircleLoss", "loss_options": {"gama": 1}},
        r"no option gama \(did you mean gamma\?\)",
    ),
    "sizes are filled in": ({"pair_loss": "pml:ArcFaceLoss", "loss_options": {"num_classes": 3}}, "no option num_cl"),
    "no miner": ({"pair_loss": "pml:CircleLoss", "miner": "pml:Hard"}, "is not in pytorch_metric_learning.miners"),
    "miner alone": ({"miner": "pml:BatchHardMiner"}, "miner = pml:BatchHardMiner needs a loss of the package"),
    "options alone": ({"loss_options": {"gamma": 1}}, "loss_options needs a loss of the package"),
    "miner's options alone": (
        {"pair_loss": "pml:CircleLoss", "miner_options": {"m": 1}},
        "miner_options needs a miner",
    ),
    "memory alone": ({"memory": 100}, "memory needs a loss of the package"),
    "memory and proxies": ({"pair_loss": "pml:ProxyAnchorLoss", "memory": 100}, "memory does not go with pml:ProxyAnc"),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_named(options, said):
    with pytest.raises(ConfigError, match=said) as error:
        SiameseConfig(**options)
    assert "\n" not in str(error.value)


LATE = {
    "text for a number": (
        {"pair_loss": "pml:CircleLoss", "loss_options": {"m": "much"}},
        "pml:CircleLoss cannot be made from its options: unsupported operand",
    ),
    "text for a number, met later": (
        {"pair_loss": "pml:TripletMarginLoss", "loss_options": {"margin": "much"}},
        "pml:TripletMarginLoss does not work with these options: unsupported operand",
    ),
    "no such distance": (
        {"pair_loss": "pml:CircleLoss", "loss_options": {"distance": "CosSimilarity"}},
        r"distance = CosSimilarity is not in .*\(did you mean CosineSimilarity\?\)",
    ),
    "wrong distance": (
        {"pair_loss": "pml:CircleLoss", "loss_options": {"distance": "LpDistance"}},
        "pml:CircleLoss cannot be made from its options",
    ),
    "takes no labels": ({"pair_loss": "pml:VICRegLoss"}, "VICRegLoss does not work with these options: labels"),
    "a rate for nothing": (
        {"pair_loss": "pml:CircleLoss", "loss_rate": 2.0},
        "pml:CircleLoss has no weights of its own",
    ),
}


@pytest.mark.parametrize(("options", "said"), LATE.values(), ids=LATE)
def test_value_that_the_class_cannot_take_is_named_before_the_training(options, said):
    method = Siamese(torch.nn.Identity(), 4, SiameseConfig(**options))
    with pytest.raises(ConfigError, match=said) as error:
        method.prepare(3)
    assert "\n" not in str(error.value)


def test_memory_smaller_than_a_batch_is_refused():
    loss = PackageLoss("pml:ContrastiveLoss", {}, None, {}, 7, n_classes=2, size=3)
    with pytest.raises(ConfigError, match="memory = 7 is smaller than a batch of 8 images"):
        loss(torch.eye(8, 3), torch.arange(2).repeat(4), np.random.default_rng(0))


def test_package_that_is_absent_is_asked_for(monkeypatch, capsys, market, tmp_path, config):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning.losses", None)
    options = ["--set", "method.pair_loss=pml:CircleLoss", "--config", config]
    line = mistake(capsys, "train", "--data", market, "--out", tmp_path / "run", *options)
    assert "method.pair_loss = pml:CircleLoss needs pytorch-metric-learning" in line
    assert "pip install '.[losses]'" in line


@pytest.mark.slow
def test_options_from_the_command_line(capsys, market, tmp_path, config):
    from reid_training.cli import main

    changes = ["method.pair_loss=pml:MultiSimilarityLoss", "method.loss_options.beta=40", "schedule.epochs=1"]
    changes += ["method.miner=pml:MultiSimilarityMiner", "method.miner_options={epsilon = 0.2}"]
    sets = [word for change in changes for word in ("--set", change)]
    assert main(["train", "--data", str(market), "--out", str(tmp_path / "run"), "--config", config, *sets]) == 0
    assert "  MultiSimilarityLoss " in capsys.readouterr().out
    assert main(["train", "--data", str(market), "--out", str(tmp_path / "run"), "--resume",
                 "--config", str(tmp_path / "run" / "config.toml")]) == 0  # fmt: skip
