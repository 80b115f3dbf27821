"""Attention-based ensemble: its limit is the contrastive network, its divergence treats each image alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from reid_training.config import NETS, NetConfig, from_dict
from reid_training.data import market1501
from reid_training.data.synthetic import write_market_folder
from reid_training.errors import ConfigError
from reid_training.methods.abe import ABEConfig, channels_into, divergence_loss, head_of, learner_cosine, split_of
from reid_training.nets import build
from reid_training.runs import new_method
from reid_training.train import train
from tests.oracles.training_runs import train_in_parallel

NET = {"name": "conv4", "width": 0.25, "embedding_size": 16}


def method_of(options, net=NET, n_classes=4):
    torch.manual_seed(0)
    return new_method(from_dict({"net": net, "method": options}), n_classes, start=True)


def with_masks_of_one(method):
    """sigmoid(40) is 1 in float32, and its derivative is 0."""
    torch.nn.init.zeros_(method.attention.branch.weight)
    torch.nn.init.constant_(method.attention.branch.bias, 40.0)
    return method


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(8, 3, 32, 16), torch.arange(4).repeat_interleave(2)


def unit_learners(n_images=5, n_learners=3, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n_images, n_learners, size, dtype=torch.float64, generator=generator)
    return F.normalize(drawn, dim=2)


def slow_divergence(learners, margin):
    terms = []
    for image in learners.tolist():
        for p in range(len(image)):
            for q in range(p + 1, len(image)):
                squared = sum((a - b) ** 2 for a, b in zip(image[p], image[q], strict=True))
                terms.append(max(0.0, margin - squared))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("n_learners", [1, 2, 5])
def test_divergence_agrees_with_one_pair_of_learners_at_a_time(n_learners, margin):
    learners = unit_learners(n_learners=n_learners)
    assert float(divergence_loss(learners, margin)) == pytest.approx(slow_divergence(learners, margin), abs=1e-12)


def test_divergence_gradient_agrees_with_finite_differences():
    learners = unit_learners().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence_loss(F.normalize(x, dim=2), 2.5), (learners,))


def test_divergence_equal_learners_cost_the_margin_distant_ones_nothing():
    same = unit_learners(n_learners=1).expand(-1, 4, -1)
    assert float(divergence_loss(same, 0.7)) == pytest.approx(0.7)
    apart = torch.eye(4, dtype=torch.float64).expand(5, 4, 4).clone().requires_grad_()  # squared distances of 2
    value = divergence_loss(apart, 1.9)
    value.backward()
    assert float(value.detach()) == 0.0
    assert not apart.grad.any()


def test_divergence_compares_learners_within_an_image_only():
    learners = unit_learners(n_images=2).requires_grad_()
    alone = learners.detach()[:1].clone().requires_grad_()
    divergence_loss(learners, 4.0).backward()
    divergence_loss(alone, 4.0).backward()
    torch.testing.assert_close(learners.grad[:1], alone.grad / 2)  # the mean has twice the images, and nothing more


def test_learner_cosine_agrees_with_one_pair_at_a_time():
    learners = unit_learners()
    pairs = [(a[p] @ a[q]).item() for a in learners for p in range(3) for q in range(3) if p != q]
    assert float(learner_cosine(learners)) == pytest.approx(sum(pairs) / len(pairs))


def test_one_learner_without_mask_equals_contrastive_to_the_bit(batch):
    ensemble = with_masks_of_one(method_of({"name": "abe", "learners": 1}))
    single = method_of({"name": "siamese", "pair_loss": "squared_contrastive", "margin": 1.0, "id_weight": 0.0})
    train_in_parallel(ensemble, single, batch)
    trained = dict(ensemble.named_parameters())
    assert all(torch.equal(trained[name], p) for name, p in single.named_parameters())
    assert torch.equal(ensemble.eval().embed(batch[0]), single.eval().embed(batch[0]))


def test_one_learner_with_classes_equals_contrastive_with_classes(batch):
    ensemble = with_masks_of_one(method_of({"name": "abe", "learners": 1, "id_weight": 0.7}))
    single = method_of({"name": "siamese", "pair_loss": "squared_contrastive", "margin": 1.0, "id_weight": 0.7})
    ensemble.classifier.load_state_dict(single.classifier.state_dict())  # the ensemble drew its attention first
    values = [method.loss(*batch) for method in (ensemble, single)]
    assert torch.equal(values[0].total, values[1].total)
    assert torch.equal(values[0].embeddings, values[1].embeddings)
    for value in values:
        value.total.backward()
    trained = dict(ensemble.named_parameters())
    for name, p in single.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(trained[name].grad, p.grad, atol=1e-6, rtol=1e-5)


def test_without_masks_all_learners_are_equal(batch):
    method = with_masks_of_one(method_of({"name": "abe", "learners": 4, "margin_div": 0.8}))
    loss = method.loss(*batch)
    assert loss.parts["learner_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert loss.parts["divergence"] == pytest.approx(0.8, abs=1e-5)
    with torch.no_grad():
        emb = method.eval().embed(batch[0])
    single = F.normalize(emb[:, :4], dim=1)
    torch.testing.assert_close(emb @ emb.T, single @ single.T)


def test_ensemble_distance_is_the_mean_of_the_learners(batch):
    method = method_of({"name": "abe", "learners": 4}).eval()
    with torch.no_grad():
        emb = method.embed(batch[0])
        features = method.features(batch[0])
    learners = F.normalize(features.unflatten(1, (4, 4)), dim=2).transpose(0, 1)  # (M, B, D)
    torch.testing.assert_close(torch.cdist(emb, emb).pow(2), torch.cdist(learners, learners).pow(2).mean(0))


def test_learner_is_the_shared_network_behind_its_own_mask(batch):
    method = method_of({"name": "abe", "learners": 2}).eval()
    with torch.no_grad():
        seen = method.net.body[:2](batch[0])
        masks = torch.sigmoid(method.attention.branch(method.attention.look(seen)))
        n = seen.shape[1]
        by_hand = [
            method.net.project(method.net.body[2:](seen * masks[:, m * n : (m + 1) * n]).mean((2, 3))) for m in (0, 1)
        ]
        torch.testing.assert_close(method.features(batch[0]), torch.cat(by_hand, 1))


def test_learner_adds_one_1x1_convolution():
    counts = {m: sum(p.numel() for p in method_of({"name": "abe", "learners": m}).parameters()) for m in (1, 2, 4)}
    n = channels_into(build(NetConfig(**NET)).body[2:])
    projection = n * 16  # shrinks to D / M columns
    assert counts[2] - counts[1] == n * n + n - projection // 2
    assert counts[4] - counts[2] == 2 * (n * n + n) - projection // 4


@pytest.mark.parametrize("name", NETS)
def test_every_network_can_be_split(name, batch):
    options = {"name": name, "width": 0.25, "embedding_size": 16}
    method = method_of({"name": "abe", "learners": 2}, options).eval()
    assert method.split == split_of(method.net) == len(method.net.body) // 2
    with torch.no_grad():
        seen = method.net.body[: method.split](torch.randn(1, 3, 64, 32))
        emb = method.embed(batch[0])
    assert seen.shape[1] == method.attention.look[0].in_channels
    assert min(seen.shape[2:]) > 1  # a mask has several positions
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(8))


def test_heads_without_attention_share_the_first_layers_only(batch):
    method = method_of({"name": "abe", "learners": 4, "attention": False})
    torch.manual_seed(0)
    start = build(NetConfig(**NET), start=True)
    with torch.no_grad():
        expected = start(batch[0])  # all heads start as the network that is cut into them
    torch.testing.assert_close(method.features(batch[0]), expected)
    assert all(torch.equal(head.body[0][0][0].weight, method.net.body[2][0][0].weight) for head in method.heads)
    _, second, _, _ = method.features(batch[0]).split(4, dim=1)
    second.sum().backward()
    assert method.net.body[0][0][0].weight.grad.any()
    assert not method.net.body[2][0][0].weight.grad.any()
    assert [bool(head.project.weight.grad.any()) for head in method.heads] == [True, False, False]


def test_heads_keep_the_frozen_layers_frozen():
    net = build(NetConfig(**NET))
    net.freeze(3)
    head = head_of(net, 2, net.project.weight.data[:4]).train()
    assert [any(p.requires_grad for p in layer.parameters()) for layer in head.body] == [False, True]
    assert not head.body[0].training


def test_masks_get_gradients_of_both_losses(batch):
    method = method_of({"name": "abe", "learners": 2})
    for weight in (0.0, 50.0):
        method.config = dataclasses.replace(method.config, lambda_div=weight)
        method.zero_grad()
        method.loss(*batch).total.backward()
        gradient = method.attention.branch.weight.grad.clone()
        assert gradient.any()
    method.config = dataclasses.replace(method.config, lambda_div=0.0)
    method.zero_grad()
    method.loss(*batch).total.backward()
    assert not torch.allclose(method.attention.branch.weight.grad, gradient)


@pytest.mark.slow
def test_divergence_loss_separates_the_learners(tmp_path):
    cosines = {}
    people = market1501.read(write_market_folder(tmp_path / "drawn"))
    for weight in (0.0, 1.0):
        config = from_dict(
            {
                "data": {"val_fraction": 0.25, "height": 32, "width": 16, "n_ids": 4, "n_per_id": 4},
                "net": NET,
                "schedule": {"epochs": 20, "warmup_epochs": 1, "precision": "fp32", "threads": 1},
                "method": {"name": "abe", "learners": 4, "lambda_div": weight},
            }
        )
        cosines[weight] = train(config, people, tmp_path / str(weight))[-1]["learner_cosine"]
    assert cosines[0.0] > 0.9  # shared learners collapse
    assert cosines[1.0] < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learners": 0}, "learners must be >= 1, got 0"),
        ({"learners": 3}, "net.embedding_size must be a multiple of method.learners, got 16 and 3"),
        ({"split": -1}, "split must be >= 0, got -1"),
        ({"split": 4}, "method.split must be below 4, the layers of the network, got 4"),
        ({"margin": 0.0}, r"margin must be in \(0, 4\], got 0.0"),
        ({"margin_div": 5.0}, r"margin_div must be in \(0, 4\], got 5.0"),
        ({"lambda_div": -1.0}, "lambda_div must be >= 0, got -1.0"),
        ({"id_weight": -1.0}, "id_weight must be >= 0, got -1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"heads": 3}, "unknown setting method.heads"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        method_of({"name": "abe", **options})


def test_default_settings_are_valid():
    assert NetConfig().embedding_size % ABEConfig().learners == 0
