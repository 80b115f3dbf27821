"""The teacher's features are those of its network, and what is imitated is their pattern."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from reid_training.errors import ConfigError, ModelError
from tests.synthetic.drawn_people import small_config
from tools.detector_training.config import TeacherConfig
from tools.detector_training.imitation import FeatureTeacher, Imitation, correlation
from tools.detector_training.runs import load_checkpoint
from tools.detector_training.train import train

NAMES = ("fine", "coarse")


def write_network(path):
    """A convolution of stride 8 to `fine`, its means over 2x2 cells as `coarse`, their sum as the output."""
    weights = np.random.default_rng(0).normal(0, 0.1, (5, 3, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["picture", "weights"], ["fine"], strides=[8, 8]),
        helper.make_node("AveragePool", ["fine"], ["coarse"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceSum", ["coarse"], ["sum"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weights


def test_features_are_the_named_tensors_for_normalised_pictures(tmp_path):
    weights = write_network(tmp_path / "net.onnx")
    teacher = FeatureTeacher(tmp_path / "net.onnx", NAMES, tmp_path / "run", "cpu", 1)
    assert teacher.channels == [5, 5]
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fine, coarse = teacher(images)
    mean, deviation = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]  # RTMDet's documentation, BGR
    cell = (images[1, 8:16, 16:24].double().numpy() - mean) / deviation
    np.testing.assert_allclose(fine[1, :, 1, 2], np.einsum("hwc,ochw->o", cell, weights), atol=1e-4)
    np.testing.assert_allclose(coarse[0, :, 0, 0], fine[0, :, :2, :2].mean((1, 2)), atol=1e-4)


def test_correlation_is_pearsons():
    a, b = torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    expected = [np.corrcoef(a[:, c].ravel(), b[:, c].ravel())[0, 1] for c in range(4)]
    assert float(correlation(a, b)) == pytest.approx(np.mean(expected), abs=1e-4)


def test_alike_up_to_scale_and_order_of_channels_costs_nothing():
    theirs = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    own = 3 * theirs.flip(1) + 2
    imitation = Imitation(4, [4]).requires_grad_(False)
    with torch.no_grad():
        imitation.adapters[0].weight.copy_(torch.eye(4).flip(0)[..., None, None])
    coarser = torch.zeros(3, 4, 3, 3)  # that the teacher does not have
    assert float(imitation([own, coarser], [theirs])) == pytest.approx(0, abs=1e-4)
    assert float(imitation([-own, coarser], [theirs])) == pytest.approx(2, abs=1e-4)


@pytest.mark.slow
def test_a_run_with_a_teacher_comes_closer_to_it_and_goes_on_to_the_bit(data, tmp_path):
    write_network(data / "net.onnx")
    config = small_config(epochs=4, learning_rate=4e-3, steps_per_epoch=12)
    teacher = TeacherConfig(network="net.onnx", features=NAMES)
    config = dataclasses.replace(config, teacher=teacher)
    history = train(config, data, tmp_path / "run")
    assert history[-1]["feature_loss"] < 0.8 * history[0]["feature_loss"]
    train(config, data, tmp_path / "parts", until=2)
    train(config, data, tmp_path / "parts", resume=True)
    whole, parts = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "parts")
    assert all(value.equal(parts["net"][name]) for name, value in whole["net"].items())


def test_mistakes_are_one_sentence(tmp_path):
    write_network(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"net\.onnx: no network with the tensors fine, middle"):
        FeatureTeacher(tmp_path / "net.onnx", ("fine", "middle"), tmp_path / "run", "cpu", 1)
    with pytest.raises(ModelError, match=r"none\.onnx: no network"):
        FeatureTeacher(tmp_path / "none.onnx", NAMES, tmp_path / "run", "cpu", 1)
    with pytest.raises(ModelError, match="strides 8, 16"):
        Imitation(4, [4])([torch.zeros(1, 4, 8, 8)], [torch.zeros(1, 4, 4, 4)])
    with pytest.raises(ConfigError, match="go together"):
        TeacherConfig(network="net.onnx")
