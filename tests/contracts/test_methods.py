"""One contract for all training methods, as `methods/base.py` states it, on a tiny network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reid_training.config import from_dict
from reid_training.data import market1501
from reid_training.data.base import decode, read_images
from reid_training.data.synthetic import write_market_folder
from reid_training.data.transforms import normalise, to_tensor
from reid_training.embedders import OnnxEmbedder, TorchEmbedder, embed_images
from reid_training.errors import DataError
from reid_training.export import export
from reid_training.methods import METHODS
from reid_training.runs import load_checkpoint, load_method, new_method
from reid_training.train import train
from tests.oracles.training_runs import train_in_two_parts
from tracker.appearance.encoder import OnnxEncoder

# Settings that make every part of a method work; a method with several faces has several rows.
CASES = {
    "siamese": {"name": "siamese", "miner": "distance_weighted", "centre_weight": 0.05},
    "siamese, proxies": {"name": "siamese", "pair_loss": "pml:ProxyAnchorLoss", "loss_rate": 10.0},
    "siamese, memory": {
        **{"name": "siamese", "pair_loss": "pml:MultiSimilarityLoss", "memory": 32},
        **{"miner": "pml:MultiSimilarityMiner"},
    },
    "cosine_intra": {"name": "cosine_constraint", "margin": 0.9},
    "cosine_hard": {"name": "cosine_constraint", "selection": "top_k", "margin": 0.9, "neck": True, "pair_weight": 1.0},
    "cosine_adaptive": {"name": "cosine_constraint", "adaptive": True, "adaptive_lead": 0.2},
    "cosine_normalised": {"name": "cosine_constraint", "logit_scale": 16.0},
    "cosine_exponential": {"name": "cosine_constraint", "constraint": "exponential"},
    "hdml_n_pair": {"name": "hdml", "window": 1, "hidden": 16},
    "hdml_triplet": {"name": "hdml", "base": "triplet", "miner": "all", "window": 2, "hidden": 16, "id_weight": 1.0},
    "triplet_vae": {"name": "triplet_vae"},
    "triplet_vae, the paper's triplets": {
        "name": "triplet_vae",
        "vae_weight": 0.01,
        "unit_means": False,
        "miner": "random",
        "margin": 0.2,
    },
    "triplet_vae with identities": {"name": "triplet_vae", "miner": "all", "id_weight": 1.0},
    "triplet_vae without its VAE": {"name": "triplet_vae", "vae_weight": 0.0},
    "dreml": {"name": "dreml", "members": 2, "meta_classes": 3},
    "dreml, one network": {"name": "dreml", "members": 3, "meta_classes": 2, "shared": True},
    "abe": {"name": "abe", "learners": 4},
    "abe, classes": {"name": "abe", "learners": 3, "id_weight": 1.0},
    "abe, heads": {"name": "abe", "learners": 4, "attention": False},
    "bier": {"name": "bier", "diversity": "none"},
    "bier, activation": {"name": "bier", "diversity": "activation", "boosting": "online", "id_weight": 1.0},
    "bier, adversarial": {"name": "bier", "diversity": "adversarial", "hidden": 16, "init_steps": 5},
    "prototypes, large margin": {"name": "large_margin_few_shot", "scale": 0.0, "way": 3},
    "prototypes, margin of items": {"name": "large_margin_few_shot", "margin_on": "items", "active_only": True},
    "graph, large margin": {
        **{"name": "large_margin_few_shot", "base": "graph", "way": 4, "hidden": 8, "margin_on": "nodes"},
    },
    "meta_metric": {"name": "meta_metric"},
    "meta_metric, dot": {"name": "meta_metric", "similarity": "dot", "scale": 1.0, "rule": "sgd"},
}
N_CLASSES, PER_CLASS = 4, 4


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def config(request):
    if "pml:" in str(request.param):
        pytest.importorskip("pytorch_metric_learning", reason="the extra `losses` is not installed")
    return from_dict(
        {
            "data": {"val_fraction": 0.25, "height": 32, "width": 16, "n_ids": N_CLASSES, "n_per_id": PER_CLASS},
            "net": {"channels": [8, 16, 24], "last_channels": 32, "width": 1.0, "blocks": 1, "embedding_size": 24},
            "schedule": {"epochs": 2, "warmup_epochs": 1, "ema_decay": 0.9, "precision": "fp32", "threads": 1},
            "method": request.param,
        }
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return market1501.read(write_market_folder(tmp_path_factory.mktemp("market") / "drawn"))


@pytest.fixture(scope="module")
def whole(config, drawn, tmp_path_factory):
    """The folder of a run to its end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config, drawn, folder)
    return folder


@pytest.fixture
def batch():
    """Images (16, 3, 32, 16) whose classes differ in colour, and labels (16,)."""
    torch.manual_seed(0)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    images = torch.randn(len(labels), 3, 32, 16) + torch.randn(N_CLASSES, 3, 1, 1)[labels]
    return images, labels


def ready(config, n_classes=N_CLASSES):
    torch.manual_seed(1)
    return new_method(config, n_classes, start=True).train()


def loss_of(method, batch):
    return method.loss(*batch, np.random.default_rng(0))


def test_every_method_has_a_case():
    assert {case["name"] for case in CASES.values()} == set(METHODS)


def test_embeddings_are_unit_rows_of_the_declared_size(config, batch):
    method = ready(config).eval()
    with torch.no_grad():
        emb = method.embed(batch[0])
    assert emb.shape == (len(batch[0]), method.size)
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(len(emb)))


def test_loss_returns_the_embeddings_with_their_gradient(config, batch):
    loss = loss_of(ready(config), batch)
    assert loss.embeddings.shape[0] == len(batch[0])
    torch.testing.assert_close(loss.embeddings.norm(dim=1), torch.ones(len(batch[0])))
    assert loss.embeddings.requires_grad
    assert loss.total.ndim == 0
    assert torch.isfinite(loss.total)
    assert all(np.isfinite(value) for value in loss.parts.values())


def test_every_parameter_is_in_exactly_one_group(config):
    method = ready(config)
    grouped = [id(p) for group in method.groups().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    assert set(method.rates()) <= set(method.groups())


def test_objective_gives_gradients_to_its_own_group_only(config, batch):
    method = ready(config)
    loss = loss_of(method, batch)
    objectives = dict(loss.objectives) or dict.fromkeys(method.groups(), loss.total)
    if loss.objectives:
        assert set(objectives) == set(method.groups())
        torch.testing.assert_close(loss.total, torch.stack(list(objectives.values())).sum())
    for name, objective in objectives.items():
        for group, parameters in method.groups().items():
            trained = [p for p in parameters if p.requires_grad]
            gradients = torch.autograd.grad(objective, trained, retain_graph=True, allow_unused=True)
            reached = [g is not None and bool(g.abs().sum() > 0) for g in gradients]
            if group == name or loss.objectives:  # without objectives the total moves every group
                assert any(reached) == (group == name), f"{name} and the group {group}"


def test_every_trained_parameter_gets_a_gradient(config, batch):
    method = ready(config)
    loss_of(method, batch).total.backward()
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


def test_same_seed_gives_the_same_loss(config, batch):
    first, second = (loss_of(ready(config), batch) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert first.parts == second.parts


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda images, labels: (images, torch.zeros_like(labels)), "at least 2 identities, got 1"),
        (lambda images, labels: (images[::PER_CLASS], labels[::PER_CLASS]), "at least 2 images, got 1"),
        (lambda images, labels: (images * float("nan"), labels), "not finite"),
    ],
    ids=["one identity", "one image each", "NaN"],
)
def test_invalid_batch_is_refused(config, batch, spoil, said):
    with pytest.raises(DataError, match=said):
        loss_of(ready(config), spoil(*batch))


@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_bits(config, drawn, whole, tmp_path):
    train_in_two_parts(config, drawn, tmp_path / "cut")
    whole, cut = load_checkpoint(whole), load_checkpoint(tmp_path / "cut")
    for part in ("method", "ema"):
        assert whole[part].keys() == cut[part].keys()
        assert all(torch.equal(whole[part][key], cut[part][key]) for key in whole[part])


@pytest.mark.slow
def test_exported_file_gives_the_embeddings_of_torch(config, drawn, whole, tmp_path):
    export(whole, drawn, tmp_path / "net.onnx")
    method, _, _ = load_method(whole)
    images = read_images(drawn.query, 32, 16)
    network = OnnxEmbedder(tmp_path / "net.onnx")
    assert network.metadata["embedding_size"] == str(method.size)
    assert network.metadata["method"] == config.method["name"]
    expected = embed_images(TorchEmbedder(method, 32, 16), images)
    np.testing.assert_allclose(embed_images(network, images), expected, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(method.embed(normalise(to_tensor(images))), expected, atol=1e-5)
    # The tracker reads it: the same vector for the same crop, here a whole image.
    picture = decode(drawn.query.paths[0])
    box = np.array([[0.0, 0.0, picture.shape[1], picture.shape[0]]])
    encoder = OnnxEncoder(tmp_path / "net.onnx", device="cpu")
    np.testing.assert_allclose(encoder.embed(picture, box), expected[:1], atol=1e-3)
