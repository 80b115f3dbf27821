"""The network: cells, sizes, gradients, work, and the exported graph."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from reid_training.errors import ModelError
from tools.detector_training.config import NetConfig
from tools.detector_training.export import write_onnx
from tools.detector_training.net import STRIDES, Decoded, PersonNet, cells, decode, multiply_adds, n_parameters
from tools.detector_training.predict import TorchDetector
from tracker.boxes import iou, valid
from tracker.detector.onnx import PERSON_FORMAT, OnnxDetector
from tracker.runtime.onnx_session import open_session
from tracker.types import Frame

SMALL = NetConfig(channels=(8, 16, 16, 24, 32, 32), blocks=(1, 1, 1, 1, 0), width=16)


def test_no_more_than_a_million_parameters():
    assert n_parameters(PersonNet(NetConfig())) <= 1_000_000


def test_cells_agree_with_a_loop():
    height, width = 64, 96
    expected = [
        ((x + 0.5) * stride, (y + 0.5) * stride, stride)
        for stride in STRIDES
        for y in range(math.ceil(height / stride))
        for x in range(math.ceil(width / stride))
    ]
    places = cells(height, width)
    got = torch.cat([places.centres, places.strides[:, None]], 1).tolist()
    assert got == [list(row) for row in expected]


def test_decoding_one_cell_by_hand():
    places = cells(32, 32)
    distances = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0])).expand(len(places.strides), 4)
    np.testing.assert_allclose(decode(distances, places)[0], [4 - 8, 4 - 16, 4 + 24, 4 + 32], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (96, 160)])
def test_one_row_per_cell_whatever_the_size(height, width):
    net = PersonNet(SMALL).eval()
    rows = Decoded(net)(torch.rand(2, 3, height, width) * 255)
    assert rows.shape == (2, sum(math.ceil(height / s) * math.ceil(width / s) for s in STRIDES), 5)
    assert (rows[..., 2:4] > rows[..., :2]).all()
    assert ((rows[..., 4] > 0) & (rows[..., 4] < 1)).all()


def test_every_parameter_gets_a_gradient():
    net = PersonNet(NetConfig()).train()
    logits, distances = net(torch.rand(2, 3, 64, 64) * 255)
    (logits.square().mean() + distances.square().mean()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_multiply_adds_of_a_part_by_hand():
    counts = multiply_adds(PersonNet(SMALL), 64, 96)
    assert counts["stride 2"] == 32 * 48 * 3 * 9 * 8
    assert counts["stride 4"] == 16 * 24 * (8 * 16 * 9 + 16 * 25 + 16 * 16)
    cells_of = [8 * 12, 4 * 6, 2 * 3, 1 * 2]  # per stride; 64 / 64 and 96 / 64, rounded up
    layer = 16 * 25 + 16 * 16
    assert counts["head"] == sum(cells_of) * (4 * layer + 16 + 4 * 16)
    assert sum(multiply_adds(PersonNet(NetConfig()), 256, 416).values()) <= 330e6


@pytest.mark.slow
def test_the_graph_gives_what_torch_gives(tmp_path):
    torch.manual_seed(0)
    net = PersonNet(SMALL)
    net.train()(torch.rand(4, 3, 64, 64) * 255)  # statistics that are not 0 and 1
    out = tmp_path / "person.onnx"
    write_onnx(Decoded(net), {"tracklet.format": "person/1"}, out)
    session = open_session(out, "cpu", 1)
    assert session.metadata["tracklet.format"] == "person/1"
    images = torch.rand(3, 3, 96, 32) * 255  # neither the batch nor the size that was traced
    (got,) = session.run(images.numpy())
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(got), Decoded(net)(images), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(150, 200), (200, 90)])
def test_the_tracker_finds_what_torch_finds(tmp_path, height, width):
    """The same picture through the tracker's own preprocessing and decoding, to a fraction of a pixel."""
    torch.manual_seed(0)
    net = PersonNet(SMALL)
    net.train()(torch.rand(4, 3, 64, 64) * 255)
    out = tmp_path / "person.onnx"
    write_onnx(Decoded(net), {"tracklet.format": PERSON_FORMAT}, out)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 8)
    expected, _ = TorchDetector(net, 96, score=0.0, nms_iou=1.0)(image)
    expected = expected[valid(expected)]
    detector = OnnxDetector(out, size=96, score=0.0, nms_iou=1.0, device="cpu")
    found = detector.detect(Frame(0, 0.0, image, width, height))
    assert len(found) == len(expected) > 50
    nearest = iou(found.boxes, expected)  # of untrained scores any order is right
    assert nearest.max(axis=0).min() > 0.95
    assert nearest.max(axis=1).min() > 0.95


def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.detector_training.export.PARITY_SCORE", -1.0)
    with pytest.raises(ModelError, match="is off by"):
        write_onnx(Decoded(PersonNet(SMALL)), {}, tmp_path / "person.onnx")
    assert not (tmp_path / "person.onnx").exists()
