"""The encoder on a tiny model with a known output, the checks of a model's metadata, and the packaged networks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tracker.appearance.encoder import Calibration, OnnxEncoder
from tracker.errors import ModelError
from tracker.runtime.weights import DEFAULT_REID, REID

CARD = {
    "tracklet.format": "reid/1",
    "name": "mean-colour",
    "input_height": "16",
    "input_width": "8",
    "color_order": "RGB",
    "pixel_scale": "0.00392156862745098",
    "mean": "0,0,0",
    "std": "1,1,1",
    "embedding_size": "3",
    "normalized": "true",
    "distance": "cosine",
    "tau_same": "0.2",
    "tau_diff": "0.5",
    "sigma_same": "0.1",
    "trained_on": "nothing",
    "licence": "MIT",
}


@pytest.fixture
def model(tmp_path):
    def save(changes=None, batch="batch", height=16):
        """The mean of every colour: not normalised, so that the encoder has to do it."""
        graph = helper.make_graph(
            [helper.make_node("ReduceMean", ["images"], ["embeddings"], axes=[2, 3], keepdims=0)],
            "mean_colour",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, height, 8])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [batch, 3])],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        card = {**CARD, **(changes or {})}
        helper.set_model_props(proto, {key: value for key, value in card.items() if value is not None})
        onnx.save(proto, tmp_path / "reid.onnx")
        return tmp_path / "reid.onnx"

    return save


@pytest.mark.parametrize("n", [0, 1, 7, 150])
def test_embeddings_are_the_normalised_answer_of_the_model(model, n):
    image = np.zeros((50, 90, 3), np.uint8)
    image[:, :45] = 30, 60, 90  # BGR
    image[:, 45:] = 200, 100, 50
    boxes = np.array([[0, 0, 20, 40] if row % 2 else [60, 5, 80, 45] for row in range(n)], float).reshape(n, 4)
    encoder = OnnxEncoder(model(), "cpu", threads=1)
    features = encoder.embed(image, boxes)
    expected = np.array([[90, 60, 30] if row % 2 else [50, 100, 200] for row in range(n)], float).reshape(n, 3)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert encoder.n_crops == n


def test_empty_box_gives_a_zero_row(model):
    image = np.full((50, 90, 3), 70, np.uint8)
    features = OnnxEncoder(model({"mean": "0.5,0,0"}), "cpu").embed(image, np.array([[1, 1, 9, 9], [99, 1, 120, 9.0]]))
    assert np.linalg.norm(features[0]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(features[1], np.zeros(3))


def test_model_metadata_is_readable(model):
    encoder = OnnxEncoder(model(), "cpu")
    assert encoder.calibration == Calibration(0.2, 0.5, 0.1)
    assert (encoder.name, encoder.embedding_size, encoder.provider) == ("mean-colour", 3, "cpu")


@pytest.mark.parametrize("key", CARD)
def test_every_metadata_key_is_required(model, key):
    with pytest.raises(ModelError, match=f"reid.onnx: metadata '{key}' is missing; expected "):
        OnnxEncoder(model({key: None}), "cpu")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tracklet.format", "reid/2", "'reid/2'; expected 'reid/1'"),
        ("distance", "euclidean", "expected 'cosine'"),
        ("input_height", "tall", "'tall'; expected a whole number"),
        ("input_height", "16.5", "a whole number"),
        ("input_width", "0", "a whole number from 8"),
        ("color_order", "GBR", "expected 'RGB' or 'BGR'"),
        ("pixel_scale", "0", "a number from"),
        ("mean", "0,0", "three numbers"),
        ("std", "1,0,1", "three numbers from 1e-06"),
        ("std", "1,x,1", "three numbers"),
        ("normalized", "maybe", "'true' or 'false'"),
        ("tau_same", "nan", "'nan'; expected a number from 0 to 2"),
        ("tau_diff", "0.1", "'0.1'; expected a number from 0.2 to 2"),
        ("sigma_same", "-1", "a number from"),
        ("name", " ", "is empty"),
    ],
)
def test_invalid_metadata_names_key_value_and_remedy(model, key, value, words):
    with pytest.raises(ModelError) as caught:
        OnnxEncoder(model({key: value}), "cpu")
    assert f"metadata {key!r}" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"batch": 1}, {"height": 32}, {"changes": {"embedding_size": "4"}}])
def test_ports_unlike_the_metadata_are_refused(model, wrong):
    with pytest.raises(ModelError, match=r"expected .*\(batch, .*found 'images'"):
        OnnxEncoder(model(**wrong), "cpu")


@pytest.mark.parametrize("name", sorted(set(REID.values())))
def test_packaged_networks_match_their_metadata(name):
    path = Path(__file__).resolve().parents[2] / "weights" / name
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert OnnxEncoder(path).name == path.stem, "what `track` says it runs"


@pytest.mark.parametrize("name", [None, *REID, "reid_accurate"])
def test_packaged_networks_embed_images(name):
    encoder = OnnxEncoder(name, device="cpu", threads=1)
    assert encoder.path.name == (DEFAULT_REID if name is None else REID[name.removeprefix("reid_")])
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    boxes = np.array([[10, 10, 60, 150], [100, 20, 150, 160], [10, 10, 60, 150.0]])
    features = encoder.embed(image, boxes)
    assert features.shape == (3, encoder.embedding_size)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(features[0], features[2], atol=1e-5)
    assert encoder.calibration.tau_same <= encoder.calibration.tau_diff


def test_file_wins_over_a_packaged_network_of_the_same_name(model, tmp_path, monkeypatch):
    (tmp_path / "accurate").write_bytes(model({"name": "mine"}).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert OnnxEncoder("accurate", "cpu").name == "mine"


def test_misspelt_name_of_a_network_lists_the_bundled_ones():
    with pytest.raises(ModelError, match=r"^acurate: no such file; the bundled re-ID networks are fast .* accurate$"):
        OnnxEncoder("acurate", "cpu")
