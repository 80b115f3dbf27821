"""fp16 and int8 variants: file content, closeness to fp32, and one clear line for each user error."""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np
import onnx
import pytest

from reid_training import bench, precision
from reid_training.cli import main
from reid_training.data.base import read_images, split_identities
from reid_training.data.synthetic import write_market_folder
from reid_training.embedders import OnnxEmbedder, embed_samples
from reid_training.evaluate import calibrate
from reid_training.export import export
from reid_training.precision import crops_for_file, crops_for_run, export_variant
from reid_training.train import train
from tests.oracles.training_runs import mistake
from tracker.appearance.encoder import OnnxEncoder

pytestmark = pytest.mark.slow  # each trains something

VARIANTS = ("fp16", "int8")
THRESHOLDS = {"tau_same", "tau_diff", "sigma_same"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, tiny):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=2)), data, folder)
    return folder


@pytest.fixture(scope="module")
def fp32(tmp_path_factory, run, data):
    path = tmp_path_factory.mktemp("fp32") / "net.onnx"
    export(run, data, path)
    return path


@pytest.fixture(scope="module")
def of_run(tmp_path_factory, run, data):
    folder = tmp_path_factory.mktemp("of_run")
    return {
        name: (folder / f"{name}.onnx", export_variant(run, data, name, folder / f"{name}.onnx")) for name in VARIANTS
    }


@pytest.fixture(scope="module")
def of_file(tmp_path_factory, fp32, data):
    folder = tmp_path_factory.mktemp("of_file")
    return {
        name: (folder / f"{name}.onnx", export_variant(fp32, data, name, folder / f"{name}.onnx")) for name in VARIANTS
    }


def weights_of(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


def test_every_convolution_of_int8_has_the_rounded_weights_of_fp32(fp32, of_file):
    path, _ = of_file["int8"]
    before, after = weights_of(fp32), weights_of(path)
    graph = onnx.load(str(path)).graph
    source_of = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in onnx.load(str(fp32)).graph.node)
    for node in convolutions:
        stored, scale, zero = source_of[node.input[1]].input
        weights, scales = after[stored], after[scale][:, None, None, None]
        assert weights.dtype == np.int8
        assert np.abs(weights.astype(int)).max() <= 64, "7 bits, so that no x86 saturates"
        assert not after[zero].any()
        original = before[stored.removesuffix("_quantized")]
        assert scales.shape[0] == len(original), "a scale per channel"
        assert np.all(np.abs(weights * scales - original) <= 0.501 * scales)


def test_fp16_has_the_rounded_weights_of_fp32_except_the_norm(fp32, of_file):
    before, after = weights_of(fp32), weights_of(of_file["fp16"][0])
    kernels = [name for name, values in before.items() if values.ndim == 4]
    assert len(kernels) > 5
    for name in kernels:
        assert after[name].dtype == np.float16
        np.testing.assert_allclose(after[name].astype(np.float32), before[name], rtol=1e-3, atol=1e-7)
    norms = [node for node in onnx.load(str(of_file["fp16"][0])).graph.node if node.op_type == "BatchNormalization"]
    assert all(after[name].dtype == np.float32 for node in norms for name in node.input[1:])


@pytest.mark.parametrize(("name", "least"), [("fp16", 0.9999), ("int8", 0.98)])
def test_embeddings_stay_near_those_of_fp32(fp32, of_file, data, name, least):
    path, variant = of_file[name]
    measured = crops_for_file(data, 0).measured
    a, b = embed_samples(OnnxEmbedder(fp32), measured), embed_samples(OnnxEmbedder(path), measured)
    cosines = [float(x @ y) for x, y in zip(a, b, strict=True)]
    assert min(cosines) > least
    assert variant.n_crops == len(cosines)
    assert variant.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert variant.least_cosine == pytest.approx(min(cosines), abs=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("batch", [1, 2, 7, 32])
def test_crop_has_the_same_embedding_in_any_batch(of_run, data, name, batch):
    embedder = OnnxEmbedder(of_run[name][0])
    crops = read_images(data.train.take(np.arange(batch)), 64, 32)
    alone = np.concatenate([embedder(crop[None]) for crop in crops])
    together = embedder(crops)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=precision.BATCH_TOLERANCE[name])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_ports_and_metadata_equal_fp32_and_the_tracker_reads_them(fp32, of_file, data, name):
    reference, embedder = OnnxEmbedder(fp32), OnnxEmbedder(of_file[name][0])
    assert dict(embedder.metadata) == {**reference.metadata, "name": name, "precision": name}
    for port in ("get_inputs", "get_outputs"):
        (ours,), (theirs,) = getattr(embedder.session, port)(), getattr(reference.session, port)()
        assert (ours.name, ours.type, ours.shape[1:]) == (theirs.name, theirs.type, theirs.shape[1:])
        assert isinstance(ours.shape[0], str), "the batch is dynamic"
    crop = read_images(data.query.take(np.arange(1)), 64, 32)
    seen = OnnxEncoder(of_file[name][0], device="cpu").embed(
        crop[0, :, :, ::-1].copy(), np.array([[0.0, 0.0, 32.0, 64.0]])
    )
    assert float(seen[0] @ embedder(crop)[0]) > 0.999


@pytest.mark.parametrize("name", VARIANTS)
def test_run_thresholds_are_measured_on_the_variant(of_run, data, name):
    path, variant = of_run[name]
    embedder = OnnxEmbedder(path)
    _, held = split_identities(data.train, 0.25, 0)
    pooled = calibrate(embed_samples(embedder, held), held.pids, held.camids)["pooled"]
    for key in THRESHOLDS:
        assert float(embedder.metadata[key]) == pytest.approx(getattr(pooled, key), abs=1e-4)
    assert variant.calibration["pooled"] == pooled


def test_calibration_and_measurement_people_are_disjoint(run, data):
    train_set, held = split_identities(data.train, 0.25, 0)
    of_run = crops_for_run(run, data, 0)
    assert set(of_run.scaling.paths) <= set(train_set.paths)
    assert set(of_run.measured.paths) == set(held.paths)
    of_file = crops_for_file(data, 0)
    assert set(of_file.scaling.paths) | set(of_file.measured.paths) <= set(data.train.paths)
    assert not set(of_file.scaling.paths) & set(of_file.measured.paths)


def test_same_seed_gives_the_same_bytes(tmp_path, fp32, of_file, data, monkeypatch):
    monkeypatch.setattr(precision, "SCALING_CROPS", 32)
    written = []
    for seed in (0, 0, 1):
        export_variant(fp32, data, "int8", tmp_path / "net.onnx", seed)
        written.append((tmp_path / "net.onnx").read_bytes())
    assert written[0] == written[1] != written[2]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_command_reports_what_it_wrote(tmp_path, capsys, market, run, fp32):
    out = tmp_path / "small.onnx"
    command = ["--precision", "int8", "--data", str(market), "--out", str(out)]
    assert main(["export", str(run), *command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("pooled")
    assert lines[-2].startswith(f"{out}: {out.stat().st_size} bytes; cosine to fp32 on 18 crops of held-out people")
    assert "batch 1, 2, 7 and 32" in lines[-1]
    assert main(["export", str(fp32), *command]) == 0
    assert "does not list the held-out people" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "chosen", "message"),
    [
        ("fp32", "int4", "--precision must be one of fp32, fp16, int8, got 'int4'"),
        ("fp32", "fp32", "is exported already"),
        ("int8", "fp16", "is int8 already"),
        ("none", "int8", "no file"),
        ("text", "int8", "is not an ONNX model"),
    ],
)
def test_user_error_is_named_and_nothing_is_written(tmp_path, capsys, market, fp32, of_file, model, chosen, message):
    (tmp_path / "text.onnx").write_text("hello")
    path = {"fp32": fp32, "int8": of_file["int8"][0]}.get(model, tmp_path / f"{model}.onnx")
    out = tmp_path / "out.onnx"
    assert message in mistake(capsys, "export", path, "--precision", chosen, "--data", market, "--out", out)
    assert not out.exists()


def test_too_few_crops(tmp_path, capsys, fp32):
    folder = write_market_folder(tmp_path / "data", n_train=10, n_test=2)
    line = mistake(capsys, "export", fp32, "--precision", "int8", "--data", folder, "--out", tmp_path / "out.onnx")
    assert "30 training crops to set scales by; at least 32" in line


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("LEAST_COSINE", 1.1, "mean cosine"), ("BATCH_TOLERANCE", {"fp16": -1.0}, "changes by")],
)
def test_inaccurate_variant_leaves_the_old_file(tmp_path, capsys, market, fp32, monkeypatch, limit, value, message):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"the good one")
    monkeypatch.setattr(precision, limit, value)
    assert message in mistake(capsys, "export", fp32, "--precision", "fp16", "--data", market, "--out", out)
    assert out.read_bytes() == b"the good one"


@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_full_disk_is_reported_and_leaves_the_old_file(tmp_path, capsys, market, fp32, monkeypatch, call):
    """fsync: where the file goes; mkdir: where the drafts go."""
    out = tmp_path / "out.onnx"
    out.write_bytes(b"the good one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    line = mistake(capsys, "export", fp32, "--precision", "fp16", "--data", market, "--out", out, status=1)
    assert "No space left on device" in line
    assert out.read_bytes() == b"the good one"
    assert list(tmp_path.iterdir()) == [out]


def test_bench_compares_models(capsys, fp32, of_file, monkeypatch):
    monkeypatch.setattr(bench.time_crops, "__defaults__", (0.01,))
    models = [str(fp32), str(of_file["int8"][0])]
    assert main(["bench", *models]) == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.count("ms per crop") == 2
    assert all(model in title for model in models)
    cells = [[float(cell) for cell in row.split()] for row in rows]
    assert [row[:2] for row in cells] == [[batch, n] for batch in (1, 8, 32) for n in (1, 2)]
    assert all(len(row) == 6 and 0 < row[2] <= row[3] and 0 < row[4] <= row[5] for row in cells)
