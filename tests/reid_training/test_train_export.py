"""From images to the ONNX file: training, resuming, exporting."""

from __future__ import annotations

import copy
import csv
import dataclasses

import numpy as np
import pytest
import torch

from reid_training import export as exporting
from reid_training import train as training
from reid_training.config import NetConfig, from_dict, read_toml
from reid_training.data import market1501
from reid_training.data.base import split_identities
from reid_training.embedders import OnnxEmbedder, TorchEmbedder, embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import calibrate, rank_held_out
from reid_training.methods import METHODS
from reid_training.nets import build
from reid_training.nets.osnet import OSNet
from reid_training.runs import load_checkpoint, load_method, new_method, replace_file
from reid_training.train import learning_rate, train, update_average
from tests.oracles.training_runs import same_weights
from tracker.settings import to_dict, to_toml

pytestmark = pytest.mark.slow

DRAWN = {"miner": "distance_weighted", "centre_weight": 0.05}


@pytest.fixture(scope="module")
def run(tmp_path_factory, market, tiny):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny, market1501.read(market), folder)
    return folder


def test_run_writes_config_checkpoint_and_log(run, tiny):
    assert read_toml(str(run / "config.toml")) == tiny
    assert from_dict(load_checkpoint(run)["config"]) == tiny
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["held_out_map"]) for row in rows] == [False, True, False, True]
    assert list(run.glob("*.part")) == []


@pytest.fixture(scope="module", params=[("fp32", {}), ("bf16", {}), ("fp32", DRAWN), ("bf16", DRAWN)],
                ids=["fp32 plain", "bf16 plain", "fp32 drawn", "bf16 drawn"])  # fmt: skip
def whole(request, tmp_path_factory, market, tiny):
    """Settings, and the folder of a run to its end."""
    precision, options = request.param
    schedule = dataclasses.replace(tiny.schedule, precision=precision)
    config = dataclasses.replace(tiny, schedule=schedule, method={"name": "siamese", **options})
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config, market1501.read(market), folder)
    return config, folder


@pytest.mark.slow
@pytest.mark.parametrize("killed_in_epoch", [2, 3])
def test_killed_run_resumes_to_the_same_bits(tmp_path, market, whole, monkeypatch, killed_in_epoch):
    config, folder = whole
    data = market1501.read(market)
    real, calls = training.update_average, 0
    per_epoch = int(0.75 * 12) * 6 // 16

    def die(*arguments):
        nonlocal calls
        calls += 1
        if calls == per_epoch * (killed_in_epoch - 1) + 2:  # in the middle of that epoch
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(training, "update_average", die)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "cut")
    monkeypatch.undo()
    assert len(load_checkpoint(tmp_path / "cut")["history"]) == killed_in_epoch - 1
    torch.rand(3)  # other code draws from the global generator between the two halves
    train(config, data, tmp_path / "cut", resume=True)
    expected, cut = load_checkpoint(folder), load_checkpoint(tmp_path / "cut")
    assert same_weights(expected["method"], cut["method"])
    assert same_weights(expected["ema"], cut["ema"])


def test_another_seed_gives_other_weights(tmp_path, market, tiny, run):
    train(dataclasses.replace(tiny, seed=1), market1501.read(market), tmp_path / "other")
    assert not same_weights(load_checkpoint(run)["method"], load_checkpoint(tmp_path / "other")["method"])


def test_resume_refuses_other_settings(tmp_path, market, tiny, run):
    other = dataclasses.replace(tiny, seed=1)
    with pytest.raises(ModelError, match="other settings"):
        train(other, market1501.read(market), run, resume=True)


def test_run_is_not_overwritten(market, tiny, run):
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny, market1501.read(market), run)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_training_improves_on_unseen_people(tmp_path, market, tiny):
    data = market1501.read(market)
    schedule = dataclasses.replace(tiny.schedule, epochs=30, learning_rate=5e-3)
    config = dataclasses.replace(tiny, schedule=schedule)
    history = train(config, data, tmp_path)
    method, _, _ = load_method(tmp_path)
    torch.manual_seed(0)
    fresh = new_method(config, 9).eval()
    scores = [
        rank_held_out(embed_samples(TorchEmbedder(m, 64, 32), data.gallery), data.gallery) for m in (fresh, method)
    ]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert scores[1].mean_ap > scores[0].mean_ap + 0.05


def test_learning_rate_warms_up_and_ends_at_zero(tiny):
    schedule = dataclasses.replace(tiny.schedule, epochs=10, warmup_epochs=2)
    rates = [learning_rate(step, 5, schedule) for step in range(50)]
    assert rates[0] == pytest.approx(schedule.learning_rate / 10)
    assert max(rates) == rates[9] == rates[10] == schedule.learning_rate
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01 * schedule.learning_rate


def test_weight_average_with_zero_decay_is_the_network(tiny):
    method = new_method(tiny, 5)
    average = copy.deepcopy(method)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter))
    update_average(average, method, 0.0, step=100)
    assert same_weights(average.state_dict(), method.state_dict())


def test_weight_average_moves_by_its_share(tiny):
    method = new_method(tiny, 5)
    average = copy.deepcopy(method)
    before = average.state_dict()["net.project.weight"].clone()
    with torch.no_grad():
        method.net.project.weight.add_(1.0)
    update_average(average, method, 0.9, step=10_000)
    torch.testing.assert_close(average.state_dict()["net.project.weight"], before + 0.1)


METHOD_OPTIONS = {
    "triplet and classes": {"name": "siamese"},
    "triplet alone": {"name": "siamese", "id_weight": 0.0, "margin": 5.0},
    "contrastive and classes": {"name": "siamese", "pair_loss": "contrastive"},
    "contrastive alone": {"name": "siamese", "pair_loss": "contrastive", "id_weight": 0.0},
    "classes alone": {"name": "siamese", "pair_weight": 0.0},
    "cosine classifier": {"name": "siamese", "logit_scale": 16.0},
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 64, 32, generator=generator), torch.arange(4).repeat_interleave(3)


@pytest.mark.parametrize("options", METHOD_OPTIONS.values(), ids=METHOD_OPTIONS)
def test_every_trained_parameter_gets_a_gradient(tiny, batch, options):
    torch.manual_seed(0)
    method = new_method(dataclasses.replace(tiny, method=options), 4)
    method.loss(*batch).total.backward()
    without = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []


@pytest.mark.parametrize("options", METHOD_OPTIONS.values(), ids=METHOD_OPTIONS)
def test_embeddings_are_unit_rows_that_do_not_depend_on_the_batch(tiny, batch, options):
    method = new_method(dataclasses.replace(tiny, method=options), 4).eval()
    with torch.no_grad():
        together = method.embed(batch[0])
        alone = torch.cat([method.embed(image[None]) for image in batch[0]])
    assert together.shape == (12, 16)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(12))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_zero_weight_leaves_the_other_loss(tiny, batch):
    parts = {}
    for name in ("triplet and classes", "triplet alone", "classes alone"):
        torch.manual_seed(0)
        options = {**METHOD_OPTIONS[name], "margin": 0.3}
        parts[name] = new_method(dataclasses.replace(tiny, method=options), 4).loss(*batch)
    both = parts["triplet and classes"].parts
    assert both["triplet"] == pytest.approx(float(parts["triplet alone"].total.detach()), abs=1e-6)
    assert both["id"] == pytest.approx(float(parts["classes alone"].total.detach()), abs=1e-5)


@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("size", [(16, 16), (128, 64), (256, 128)])
@pytest.mark.parametrize("embedding_size", [1, 128])
def test_network_embeds_any_input_size(width, size, embedding_size):
    net = OSNet(NetConfig(width=width, channels=(32, 64, 96, 128), embedding_size=embedding_size)).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 3, *size)).shape == (2, embedding_size)


def test_block_receptive_field_follows_its_scales():
    """One light convolution reaches a pixel further; nothing but the gate's mean goes beyond."""
    for scales in (1, 2, 4):
        net = OSNet(NetConfig(width=0.25, scales=scales))
        block = net.body[2].eval()
        x = torch.zeros(1, 16, 21, 21).normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
        for module in block.modules():  # a fixed gate, so that only convolutions carry information sideways
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                torch.nn.init.zeros_(module.weight)
        block(x)[0, :, 10, 10].sum().backward()
        reached = torch.nonzero(x.grad.abs().sum((0, 1)))
        assert int((reached - 10).abs().max()) == scales


def test_default_network_and_method_are_registered():
    assert build(NetConfig()).__class__ is OSNet
    assert "siamese" in METHODS


def test_export_agrees_with_torch_and_with_itself_at_any_batch(tmp_path, market, run):
    data = market1501.read(market)
    exporting.export(run, data, tmp_path / "net.onnx")
    method, _, _ = load_method(run)
    onnx_embedder = OnnxEmbedder(tmp_path / "net.onnx")
    whole = embed_samples(TorchEmbedder(method, 64, 32), data.gallery)
    for batch in (1, 2, 7, 32):
        rows = np.arange(min(batch, len(data.gallery)))
        got = embed_samples(onnx_embedder, data.gallery.take(rows))
        np.testing.assert_allclose(got, whole[rows], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"], "one file, no external data"


def test_export_writes_all_metadata(tmp_path, market, run):
    data = market1501.read(market)
    returned = exporting.export(run, data, tmp_path / "net.onnx")
    embedder = OnnxEmbedder(tmp_path / "net.onnx")
    found = dict(embedder.metadata)
    fixed = {
        "tracklet.format": "reid/1",
        "name": "net",
        "input_height": "64",
        "input_width": "32",
        "color_order": "RGB",
        "pixel_scale": "0.00392156862745098",
        "mean": "0.485,0.456,0.406",
        "std": "0.229,0.224,0.225",
        "embedding_size": "16",
        "normalized": "true",
        "distance": "cosine",
        "method": "siamese",
    }
    assert {key: found.get(key) for key in fixed} == fixed
    assert set(found) == {*fixed, "tau_same", "tau_diff", "sigma_same", "trained_on", "licence"}
    assert found["licence"]
    # The thresholds are those of the held-out people, measured again from the file.
    _, held = split_identities(data.train, 0.25, 0)
    pooled = calibrate(embed_samples(embedder, held), held.pids, held.camids)["pooled"]
    for key in ("tau_same", "tau_diff", "sigma_same"):
        assert float(found[key]) == pytest.approx(getattr(pooled, key), abs=1e-4)
        assert float(found[key]) == pytest.approx(getattr(returned["pooled"], key), abs=1e-6)
    (given,), (result,) = embedder.session.get_inputs(), embedder.session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(float)", [3, 64, 32])
    assert (result.name, result.type, result.shape[1:]) == ("embeddings", "tensor(float)", [16])
    assert isinstance(given.shape[0], str), "the batch is dynamic"


def test_inaccurate_export_is_removed(tmp_path, market, run, monkeypatch):
    out = tmp_path / "net.onnx"
    out.write_bytes(b"the good one")
    monkeypatch.setattr(exporting, "parity", lambda *_: 0.1)
    with pytest.raises(ModelError, match="differs from torch"):
        exporting.export(run, market1501.read(market), out)
    assert out.read_bytes() == b"the good one"
    assert list(tmp_path.iterdir()) == [out]


def test_parity_check_finds_a_wrong_graph(tmp_path, market, run):
    exporting.export(run, market1501.read(market), tmp_path / "net.onnx")
    method, _, _ = load_method(run)
    embedder = OnnxEmbedder(tmp_path / "net.onnx")
    assert exporting.parity(method, embedder) < 1e-5
    with torch.no_grad():
        method.net.project.weight[0].neg_()
    assert exporting.parity(method, embedder) > 1e-2


def test_config_round_trips_through_toml_and_dict(tiny):
    assert from_dict(to_dict(tiny)) == tiny
    import tomllib

    assert from_dict(tomllib.loads(to_toml(tiny))) == tiny
    assert read_toml("reid_fast").data.val_fraction == 0.1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"data": {"val_fraction": 1.5}}, r"val_fraction must be in \[0, 1\), got 1.5"),
        ({"data": {"n_ids": 1}}, "n_ids must be >= 2"),
        ({"data": {"n_per_id": "4"}}, "n_per_id must be a whole number, got '4'"),
        ({"data": {"height": 100}}, "multiple of 16, got 100"),
        ({"data": {"hight": 128}}, "unknown setting data.hight .did you mean data.height.*; there are: data.val_f"),
        ({"augment": {"erase": 2}}, r"erase must be in \[0, 1\], got 2"),
        ({"augment": {"erase_area": [0.5, 0.1]}}, "erase_area must be two fractions"),
        (
            {"net": {"name": "vgg"}},
            "net.name must be one of osnet, resnet18, resnet50, mobilenetv2, .*, conv4, or .*, got 'vgg'",
        ),
        ({"net": {"width": 0}}, "net.width must be in"),
        ({"schedule": {"epochs": 0}}, "epochs must be >= 1, got 0"),
        ({"schedule": {"epochs": True}}, "epochs must be a whole number, got True"),
        ({"schedule": {"precision": "fp8"}}, "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"method": {}}, "method.name is missing"),
        ({"trainer": {}}, "unknown setting trainer; there are: seed, data"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_bad_settings_are_named(table, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "magic"}, "method.name must be one of .*siamese.*, got 'magic'"),
        ({"name": "siamese", "margin": -1.0}, "method.margin must be > 0"),
        ({"name": "siamese", "pair_loss": "quadruplet"}, "pair_loss must be one of contrastive, triplet"),
        ({"name": "siamese", "pair_weight": 0.0, "id_weight": 0.0}, "must not both be 0"),
        ({"name": "siamese", "depth": 3}, "unknown setting method.depth"),
    ],
)
def test_bad_method_options_are_named(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        new_method(dataclasses.replace(tiny, method=options), 3)
