"""The int8 variant: the same detector with fewer bits."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
import torch

from reid_training.errors import DataError, ModelError
from tests.synthetic.drawn_people import draw
from tools.detector_training.config import NetConfig
from tools.detector_training.export import write_onnx
from tools.detector_training.net import Decoded, PersonNet
from tools.detector_training.quantise import as_input, quantise
from tracker.detector.onnx import PERSON_FORMAT, OnnxDetector
from tracker.runtime.onnx_session import open_session


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    write_onnx(
        Decoded(PersonNet(NetConfig(width=16))), {"tracklet.format": PERSON_FORMAT, "name": "net"}, folder / "net.onnx"
    )
    (folder / "pictures").mkdir()
    for k in range(4):
        cv2.imwrite(str(folder / "pictures" / f"{k}.png"), draw(np.random.default_rng(k), [(20, 10, 50, 80)]))
    return folder / "net.onnx"


@pytest.mark.slow
def test_boxes_and_scores_stay_close_to_fp32(source, tmp_path):
    assert quantise(source, source.parent / "pictures", tmp_path / "net_int8.onnx") == 4
    image = as_input(draw(np.random.default_rng(9), [(60, 20, 90, 90)]))
    (expected,), (got,) = (open_session(path, "cpu", 1).run(image) for path in (source, tmp_path / "net_int8.onnx"))
    assert got.shape == expected.shape
    assert np.abs(got[..., 4] - expected[..., 4]).max() < 0.05
    # Cells stay in fp32: boxes lie where they lay, also in inputs larger than those that set the scales.
    large = np.full((1, 3, 640, 640), 114, np.float32)
    (expected,), (got,) = (open_session(path, "cpu", 1).run(large) for path in (source, tmp_path / "net_int8.onnx"))
    centres = [(boxes[..., :2] + boxes[..., 2:4]) / 2 for boxes in (got, expected)]
    assert np.abs(centres[0] - centres[1]).max() < 8.0
    assert (tmp_path / "net_int8.onnx").stat().st_size < 0.5 * source.stat().st_size
    detector = OnnxDetector(tmp_path / "net_int8.onnx", device="cpu")
    assert detector.layout == "person"
    types = {node.op_type for node in onnx.load(tmp_path / "net_int8.onnx").graph.node}
    assert "DequantizeLinear" in types


@pytest.mark.slow
def test_mistakes_are_one_line(source, tmp_path):
    quantise(source, source.parent / "pictures", tmp_path / "net_int8.onnx")
    with pytest.raises(ModelError, match=r"is no fp32 file of `python -m tools\.detector_training export`"):
        quantise(tmp_path / "net_int8.onnx", source.parent / "pictures", tmp_path / "again.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        quantise(source, tmp_path / "empty", tmp_path / "other.onnx")
