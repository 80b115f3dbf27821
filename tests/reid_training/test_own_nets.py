"""Networks and methods that are not bundled: registered, named as `module:function`, of timm and torchvision."""

from __future__ import annotations

import copy
import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn

from reid_training.adapt import adapt
from reid_training.cli import main
from reid_training.config import REGISTERED_NETS, NetConfig, from_dict
from reid_training.data import market1501
from reid_training.data.synthetic import write_market_folder
from reid_training.embedders import OnnxEmbedder, TorchEmbedder, embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.export import export
from reid_training.methods import METHODS, create, method_of, register_method
from reid_training.nets import build, register_net
from reid_training.nets.layers import PooledNet
from reid_training.runs import load_method, new_method
from reid_training.train import parameter_groups, train
from tests.contracts.test_methods import CASES
from tracker.settings import to_toml

pytestmark = pytest.mark.usefixtures("registers")

SIZE = (30, 20)  # no multiple of 16


class Plain(nn.Module):
    """(B, 3, H, W) to (B, 24)."""

    def __init__(self, n_features=24):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, n_features, 3), nn.ReLU()
        )

    def forward(self, images):
        return self.layers(images).mean((2, 3))


class Whole(Plain):
    """With both parts of its own."""

    def __init__(self, size):
        super().__init__(20)
        self.project = nn.Linear(20, size, bias=False)

    def pooled(self, images):
        return super().forward(images)

    def forward(self, images):
        return self.project(self.pooled(images))


def cut(config):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    return PooledNet(body, 16, config.embedding_size)


KINDS = {"plain": lambda config: Plain(), "whole": lambda config: Whole(config.embedding_size), "cut": cut}

FILE = """
from dataclasses import dataclass

from torch import nn

from reid_training.methods.base import IdentityMethod, Loss
from reid_training.nets.heads import unit_rows
from tracker.settings import Positive, Settings


def small(config):
    return nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def number(config):
    return 3


@dataclass(frozen=True, slots=True)
class OwnConfig(Settings):
    weight: Positive = 1.0  # of the identity loss


class Own(IdentityMethod):
    def __init__(self, net, size, config):
        super().__init__(net, size, config.weight, 0.1)

    def loss(self, images, labels, rng=None):
        parts = {}
        necked = self.neck(self.net(images).float())
        return Loss(self.identity_loss(necked, labels, parts), parts, unit_rows(necked))


OWN = (Own, OwnConfig)
"""


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Enough people to measure thresholds of adapted networks on."""
    return write_market_folder(tmp_path_factory.mktemp("market") / "drawn", n_train=24)


@pytest.fixture(scope="module")
def data(market):
    return market1501.read(market)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A current folder with own_reid_parts.py, which is not on the path."""
    (tmp_path / "own_reid_parts.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("own_reid_parts", None)


def settings(method, name, **net):
    return from_dict(
        {
            "data": {"val_fraction": 0.25, "height": SIZE[0], "width": SIZE[1], "n_ids": 4, "n_per_id": 4},
            "net": {"name": name, "embedding_size": 24, **net},
            "schedule": {"epochs": 1, "warmup_epochs": 0, "precision": "fp32", "threads": 1},
            "method": method,
        }
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", CASES.values(), ids=CASES)
def test_any_module_works_with_every_method(method, kind):
    register_net("own", KINDS[kind])
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(4)
    images = torch.randn(16, 3, *SIZE) + torch.randn(4, 3, 1, 1)[labels]
    if method["name"] == "abe" and kind != "cut":
        with pytest.raises(ConfigError, match=r"abe cuts the network .* PooledNet\(nn.Sequential\(...\), n_features"):
            new_method(settings(method, "own"), 4)
        return
    made = new_method(settings(method, "own"), 4, start=True).train()
    loss = made.loss(images, labels, np.random.default_rng(0))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert [name for name, p in made.named_parameters() if p.requires_grad and p.grad is None] == []
    embeddings = made.eval().embed(images)
    assert embeddings.shape == (16, made.size)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(16))


def test_module_of_the_right_size_begins_unchanged():
    register_net("own", KINDS["plain"])
    net = build(NetConfig("own", embedding_size=24), size=SIZE).eval()
    images = torch.randn(3, 3, *SIZE)
    torch.testing.assert_close(net(images), net.module(images))
    assert build(NetConfig("own", embedding_size=7), size=SIZE)(images).shape == (3, 7)


def test_module_with_both_parts_is_taken_as_it_is():
    register_net("own", KINDS["whole"])
    assert type(build(NetConfig("own", embedding_size=24), size=SIZE)) is Whole
    register_net("other", lambda config: Whole(5))
    with pytest.raises(ConfigError, match=r"other must give net.embedding_size values, 24; it gives \(2, 5\)"):
        build(NetConfig("other", embedding_size=24), size=SIZE)


@pytest.mark.parametrize("training", [True, False])
def test_trying_a_module_leaves_its_state(training):
    module = Plain().train(training)
    before = copy.deepcopy(module.state_dict())
    register_net("own", lambda config: module)
    build(NetConfig("own"), size=SIZE)
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (
            lambda config: nn.Conv2d(3, 8, 3),
            r"must give features \(2, F\) for images \(2, 3, 30, 20\), it gives \(2, 8",
        ),
        (
            lambda config: nn.Conv2d(1, 8, 3),
            r"does not take images \(2, 3, 30, 20\) of data.height and width: .*channels",
        ),
        (lambda config: nn.Linear, "must give an nn.Module, it gives a type"),
    ],
    ids=["maps", "grey", "class"],
)
def test_module_of_another_kind_is_refused(module, said):
    register_net("own", module)
    with pytest.raises(ConfigError, match=said):
        build(NetConfig("own"), size=SIZE)


def test_frozen_layers_need_a_pooled_net():
    for name, kind in KINDS.items():
        register_net(f"own_{name}", kind)
    assert build(NetConfig("own_cut", frozen=2), size=SIZE).n_frozen == 2
    with pytest.raises(ConfigError, match=r"net.frozen counts the layers of a PooledNet, and own_plain is none"):
        build(NetConfig("own_plain", frozen=2), size=SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_body_rate_slows_all_but_the_projection(kind):
    register_net("own", KINDS[kind])
    method = new_method(settings({"name": "siamese"}, "own"), 4, start=True)
    rates = {id(p): group["rate"] for group in parameter_groups(method, 0.05, 0.1) for p in group["params"]}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            slow = name.startswith("net.") and name != "net.project.weight"
            assert rates[id(parameter)] == pytest.approx(0.1 if slow else 1.0), name


# Names


def test_unknown_network_is_named_with_those_there_are():
    register_net("own", KINDS["plain"])
    said = ".*name must be one of osnet, .*, conv4, own, or module:function, timm/NAME or torchvision/NAME, got 'vgg'"
    with pytest.raises(ConfigError, match=said):
        NetConfig("vgg")


@pytest.mark.parametrize("name", ["osnet", "a:b", "timm/resnet18"])
def test_registering_a_taken_name_is_refused(name):
    with pytest.raises(ConfigError, match=f"cannot be registered as {name!r}"):
        register_net(name, KINDS["plain"])


@pytest.mark.parametrize("name", ["siamese", "a:b"])
def test_registering_a_taken_method_is_refused(name):
    with pytest.raises(ConfigError, match=f"cannot be registered as {name!r}"):
        register_method(name, *METHODS["siamese"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:net", "net.name = no_such_module:net: no module no_such_module, neither installed nor in"),
        ("own_reid_parts:none", "net.name = own_reid_parts:none: the module own_reid_parts has no none"),
        ("own_reid_parts:number", "must give an nn.Module, it gives a int"),
    ],
)
def test_function_that_gives_no_network_is_named(desk, name, said):
    with pytest.raises(ConfigError, match=said):
        build(NetConfig(name), size=SIZE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("magic", "method.name must be one of siamese, .*, or module:NAME, got 'magic'"),
        ("no_such_module:OWN", "method.name = no_such_module:OWN: no module"),
        ("own_reid_parts:Own", r"must be a pair \(method, settings\) of classes"),
    ],
)
def test_name_of_no_method_is_explained(desk, name, said):
    with pytest.raises(ConfigError, match=said):
        create({"name": name}, build, NetConfig("conv4"))


def test_registered_method_checks_its_settings(desk):
    register_method("own", *method_of("own_reid_parts:OWN"))
    assert create({"name": "own", "weight": 2.0}, build, NetConfig("conv4")).id_weight == 2.0
    with pytest.raises(ConfigError, match=r"method.weight must be > 0, got -1"):
        create({"name": "own", "weight": -1}, build, NetConfig("conv4"))


@pytest.mark.slow
def test_commands_find_network_and_method_by_their_modules(desk, market, capsys):
    config = settings({"name": "own_reid_parts:OWN"}, "own_reid_parts:small")
    (desk / "own.toml").write_text(to_toml(config))
    run = [*("train", "--config", "own.toml", "--data", str(market), "--out", "run")]
    assert main([*run, "--set", "schedule.epochs=2"]) == 0
    sys.modules.pop("own_reid_parts")  # as in another process
    assert main(["methods", "own_reid_parts:OWN"]) == 0
    assert "of the identity loss" in capsys.readouterr().out
    assert main(["export", "run", "--data", str(market), "--out", "own.onnx"]) == 0
    for model in ("run", "own.onnx"):
        assert main(["evaluate", model, "--data", str(market)]) == 0
        assert main(["adapt", model, "--support", str(market), "--out", f"{model[:3]}_here.onnx", "--force"]) == 0


@pytest.mark.slow
def test_registered_network_is_exported_and_adapted_at_any_size(tmp_path, data):
    register_net("own", KINDS["plain"])
    config = settings({"name": "hdml", "window": 1, "hidden": 16}, "own", embedding_size=10)
    train(config, data, tmp_path / "run")
    export(tmp_path / "run", data, tmp_path / "own.onnx")
    method, _, _ = load_method(tmp_path / "run")
    expected = embed_samples(TorchEmbedder(method, *SIZE), data.gallery)
    np.testing.assert_allclose(embed_samples(OnnxEmbedder(tmp_path / "own.onnx"), data.gallery), expected, atol=1e-4)
    adapt(tmp_path / "run", data, tmp_path / "here.onnx", force=True)
    assert OnnxEmbedder(tmp_path / "here.onnx").height == SIZE[0]
    REGISTERED_NETS.clear()
    with pytest.raises(ConfigError, match=r"net.name must be one of .*, got 'own'"):
        load_method(tmp_path / "run")


class Unwritable(Plain):
    def forward(self, images):
        return torch.special.bessel_j0(super().forward(images))


@pytest.mark.slow
def test_network_that_onnx_cannot_hold_is_refused_in_one_line(tmp_path, data):
    register_net("own", lambda config: Unwritable())
    config = settings({"name": "siamese"}, "own")
    train(config, data, tmp_path / "run")
    with pytest.raises(ModelError, match=r"this network cannot be written as ONNX: .*bessel") as caught:
        export(tmp_path / "run", data, tmp_path / "own.onnx")
    assert "\n" not in str(caught.value)


# First weights


def test_weights_come_from_a_file_when_training_starts(tmp_path):
    given = Plain()
    torch.save(given.state_dict(), tmp_path / "given.pt")
    register_net("own", lambda config: Plain())
    config = NetConfig("own", start=str(tmp_path / "given.pt"))
    started, empty = (build(config, start=start, size=SIZE) for start in (True, False))
    assert torch.equal(started.module.layers[0].weight, given.layers[0].weight)
    assert not torch.equal(empty.module.layers[0].weight, given.layers[0].weight)
    (tmp_path / "given.pt").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"given.pt holds no weights of this network"):
        build(config, start=True, size=SIZE)
    (tmp_path / "given.pt").unlink()
    build(config, size=SIZE)  # a checkpoint is read without the file


def test_bundled_network_starts_from_no_file():
    with pytest.raises(ConfigError, match=r"net.start must be one of random, imagenet, got 'given.pt'"):
        NetConfig("efficientnet_lite0", start="given.pt")
    with pytest.raises(ConfigError, match=r"net.start must be random or a file of weights for a:b, got imagenet"):
        NetConfig("a:b", start="imagenet")


# Libraries


@pytest.fixture(params=["timm", "torchvision"])
def library(request):
    try:
        return __import__(request.param)
    except ImportError:
        pytest.skip(f"{request.param} is not installed")
    except RuntimeError as error:  # timm imports torchvision, and that needs the torch that it was built for
        pytest.skip(f"no torchvision for torch {torch.__version__}: {error}")


def test_network_of_a_library_gives_its_features(library, tmp_path):
    name = library.__name__
    classes = library.create_model("resnet18") if name == "timm" else library.models.get_model("resnet18")
    torch.save(classes.state_dict(), tmp_path / "resnet18.pth")
    config = dataclasses.replace(NetConfig(f"{name}/resnet18", embedding_size=16), start=str(tmp_path / "resnet18.pth"))
    net = build(config, start=True, size=(64, 32)).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        # The classifier, a linear layer, behind the features gives what the whole network gives.
        torch.testing.assert_close(classes.fc(net.pooled(images)), classes.eval()(images))
        assert net(images).shape == (2, 16)
    with pytest.raises(ConfigError, match=f"{name} has no network 'resnet1899'"):
        build(NetConfig(f"{name}/resnet1899"), size=(64, 32))


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_missing_library_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigError, match=rf"net.name = {name}/resnet18 needs the package {name}: pip install '.\[timm\]'"
    ):
        build(NetConfig(f"{name}/resnet18"), size=(64, 32))
