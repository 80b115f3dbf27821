"""OpenVINO behind the same `Session`: onnxruntime's answers, from any number of threads, and errors of one line."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tracker.errors import ModelError
from tracker.runtime import onnx_session
from tracker.runtime.onnx_session import open_session

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="the package openvino is not installed")


def save(path, nodes, inputs, outputs, *, constants=(), dtype=TensorProto.FLOAT, **metadata):
    """inputs, outputs: shape by name."""
    ports = [
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *ports, initializer=list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.fixture
def layer(tmp_path):
    """positive = max(0, x w), sums = the sum of its columns: rows that do not depend on one another."""
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("ReduceSum", ["positive", "axis"], ["sums"], keepdims=0),
    ]
    constants = [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(np.array([1]), "axis")]
    path = tmp_path / "layer.onnx"
    ports = {"x": ["batch", 6]}, {"sums": ["batch"], "positive": ["batch", 4]}
    return save(path, nodes, *ports, constants=constants, greeting="hello, you", number="1.50", empty="")


def both(path, threads=1):
    return open_session(path, "cpu", threads), open_session(path, "openvino-f32", threads)


@needs_openvino
def test_ports_and_metadata_equal_those_of_onnxruntime(layer):
    expected, session = both(layer)
    assert session.provider == "openvino-f32"
    assert session.metadata == expected.metadata == {"greeting": "hello, you", "number": "1.50", "empty": ""}
    assert session.inputs == expected.inputs
    assert session.outputs == expected.outputs
    assert [port.name for port in session.outputs] == ["sums", "positive"]


@needs_openvino
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 16, 17, 55])
def test_batch_of_any_size_equals_onnxruntime(layer, n):
    expected, session = both(layer)
    x = np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32)
    for found, right in zip(session.run(x), expected.run(x), strict=True):
        assert (found.shape, found.dtype) == (right.shape, right.dtype)
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)


@needs_openvino
def test_rows_that_depend_on_one_another_are_run_together(tmp_path):
    """Outputs without the batch as their first dimension: the batch must not be split."""
    node = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=0)
    session = open_session(save(tmp_path / "m.onnx", [node], {"x": ["batch", 2]}, {"mean": [2]}), "openvino", 1)
    for n in (3, 5, 3):
        x = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
        np.testing.assert_allclose(session.run(x)[0], [n - 1, n], rtol=1e-2)


@needs_openvino
def test_several_inputs_are_taken_in_order(tmp_path):
    shape = [2, "any"]
    path = save(
        tmp_path / "m.onnx", [helper.make_node("Sub", ["b", "a"], ["y"])], {"b": shape, "a": shape}, {"y": shape}
    )
    session = open_session(path, "openvino", 1)
    for width in (1, 4):
        (y,) = session.run(np.full((2, width), 5, np.float32), np.full((2, width), 3, np.float32))
        np.testing.assert_array_equal(y, np.full((2, width), 2.0))


@needs_openvino
@pytest.mark.parametrize(
    ("dtype", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.INT64, "int64"), (TensorProto.DOUBLE, "double")]
)
def test_types_are_named_as_onnxruntime_names_them(tmp_path, dtype, name):
    shape = {"x": ["batch", 3]}, {"y": ["batch", 3]}
    expected, session = both(save(tmp_path / "m.onnx", [helper.make_node("Abs", ["x"], ["y"])], *shape, dtype=dtype))
    assert session.inputs == expected.inputs
    assert session.outputs == expected.outputs
    assert session.inputs[0].dtype == name
    x = np.array([[-1, 2, -3]], helper.tensor_dtype_to_np_dtype(dtype))
    (found,), (right,) = session.run(x), expected.run(x)
    assert found.dtype == right.dtype
    np.testing.assert_array_equal(found, right)


@needs_openvino
def test_results_of_one_run_survive_the_next(layer):
    session = open_session(layer, "openvino", 1)
    first = session.run(np.ones((4, 6), np.float32))[1]
    kept = first.copy()
    session.run(np.zeros((4, 6), np.float32))
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_array_with_gaps_or_read_only_is_taken(layer):
    expected, session = both(layer)
    x = np.random.default_rng(1).normal(size=(6, 10)).astype(np.float32)
    x.flags.writeable = False
    for n in (1, 2, 1, 2):
        for array in (x[:n], x.T[:n, :], x[:6:2][:n]):
            array = np.broadcast_to(array[:, :6], (n, 6))
            np.testing.assert_allclose(session.run(array)[1], expected.run(array)[1], atol=1e-5)


@needs_openvino
def test_input_of_another_type_is_one_line(layer):
    for session in both(layer):
        with pytest.raises(ModelError, match=r"failed on input of shape \(2, 6\): [^\n]+$"):
            session.run(np.ones((2, 6)))


@needs_openvino
def test_wrong_number_of_inputs_is_one_line(layer):
    for session in both(layer):
        with pytest.raises(ModelError, match=r"failed on input of shape \(2, 6\), \(2, 6\): [^\n]+$"):
            session.run(np.ones((2, 6), np.float32), np.ones((2, 6), np.float32))


@needs_openvino
@pytest.mark.parametrize("threads", [1, None])
def test_threads_at_once_get_their_own_results(layer, threads):
    expected, session = both(layer, threads)
    rng = np.random.default_rng(2)
    inputs = [rng.normal(size=(int(n), 6)).astype(np.float32) for n in rng.integers(1, 40, 200)]
    with ThreadPoolExecutor(4) as pool:
        for x, found in zip(inputs, pool.map(session.run, inputs), strict=True):
            np.testing.assert_allclose(found[1], expected.run(x)[1], atol=1e-5)


@needs_openvino
def test_copy_shares_the_model_and_pickle_loads_it_again(layer):
    session = open_session(layer, "openvino", 1)
    x = np.ones((3, 6), np.float32)
    assert copy.copy(session) is session
    assert copy.deepcopy(session) is session
    again = pickle.loads(pickle.dumps(session))
    assert again.provider == "openvino"
    np.testing.assert_array_equal(again.run(x)[1], session.run(x)[1])


@needs_openvino
@pytest.mark.parametrize("shape", [(2, 7), (6,), ()])
def test_run_wrong_shape_is_one_line(layer, shape):
    session = open_session(layer, "openvino", 1)
    with pytest.raises(ModelError) as caught:
        session.run(np.ones(shape, np.float32))
    assert str(caught.value).startswith(f"{layer}: the model failed on input of shape {shape}: ")
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)
    assert session.run(np.ones((2, 6), np.float32))[0].shape == (2,)  # and it still works


@needs_openvino
@pytest.mark.parametrize(
    "content", [bytes(range(255, 0, -1)) * 9, b"1,-1,10,20\n", b'<?xml version="1.0"?><net/>', None]
)
def test_file_that_is_no_model_is_one_line_and_prints_nothing(layer, content, capfd):
    layer.write_bytes(layer.read_bytes()[:-15] if content is None else content)
    with pytest.raises(ModelError) as caught:
        open_session(layer, "openvino", 1)
    assert str(caught.value) == f"{layer}: cannot be loaded: is not an ONNX model, or is truncated or corrupt"
    assert capfd.readouterr() == ("", "")


@needs_openvino
def test_unknown_operation_is_named(tmp_path):
    ports = {"x": ["batch", 3]}, {"y": ["batch", 3]}
    path = save(tmp_path / "m.onnx", [helper.make_node("Nothing", ["x"], ["y"], domain="ours")], *ports)
    with pytest.raises(ModelError) as caught:
        open_session(path, "openvino")
    assert str(caught.value).startswith(f"{path}: cannot be loaded: ")
    assert "ours.Nothing" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_openvino
def test_weights_beside_the_file_are_read_and_those_outside_its_folder_are_not(layer):
    model = onnx.load(layer)
    onnx.save(model, layer, save_as_external_data=True, location="layer.bin", size_threshold=50)
    expected, session = both(layer)
    x = np.ones((2, 6), np.float32)
    np.testing.assert_allclose(session.run(x)[1], expected.run(x)[1], atol=1e-5)
    layer.write_bytes(layer.read_bytes().replace(b"layer.bin", b"../er.bin"))
    with pytest.raises(ModelError, match="outside its folder"):
        open_session(layer, "openvino")


@needs_openvino
def test_bundled_model_is_checked_and_its_bytes_are_loaded(tmp_path, monkeypatch):
    for name in ("reid_fast.onnx", "SHA256SUMS"):
        shutil.copy(WEIGHTS / name, tmp_path)
    monkeypatch.setattr(onnx_session, "weights_folder", lambda: tmp_path)
    with onnx_session.packaged_model("reid_fast.onnx") as model:
        assert open_session(model, "openvino", 1).metadata == open_session(model, "cpu", 1).metadata
    (tmp_path / "reid_fast.onnx").write_bytes((tmp_path / "reid_fast.onnx").read_bytes()[:-1])
    with onnx_session.packaged_model("reid_fast.onnx") as model, pytest.raises(ModelError, match="SHA-256"):
        open_session(model, "openvino", 1)


@needs_openvino
def test_bundled_reid_networks_give_the_embeddings_of_onnxruntime():
    """Cosine distances: to the last digits in f32; in bfloat16 far below those between crops of one person, 0.1 up."""
    crops = np.random.default_rng(3).normal(size=(5, 3, 128, 64)).astype(np.float32)
    right = open_session(WEIGHTS / "reid_fast.onnx", "cpu", 1).run(crops)[0]
    for device, most in (("openvino-f32", 1e-6), ("openvino", 2e-3)):
        found = open_session(WEIGHTS / "reid_fast.onnx", device, 1).run(crops)[0]
        cosine = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
        assert (1 - cosine < most).all(), device


@needs_openvino
def test_bundled_detector_gives_the_boxes_of_onnxruntime_at_every_size():
    """At any height and width, and one model in two threads."""
    expected, session = both(WEIGHTS / "person.onnx")
    rng = np.random.default_rng(4)
    inputs = [
        np.repeat(np.repeat(rng.uniform(0, 255, (1, 3, h // 32, w // 32)), 32, 2), 32, 3).astype(np.float32)
        for h, w in ((64, 96), (96, 64), (160, 128), (64, 96), (32, 320))
    ]
    with ThreadPoolExecutor(2) as pool:
        for x, (found,) in zip(inputs, pool.map(session.run, inputs), strict=True):
            (right,) = expected.run(x)
            assert found.shape == right.shape
            np.testing.assert_allclose(found[..., :4], right[..., :4], rtol=0, atol=0.01)  # pixels
            np.testing.assert_allclose(found[..., 4], right[..., 4], rtol=0, atol=1e-4)  # scores


def test_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "m.onnx", [helper.make_node("Abs", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"^device openvino was asked for, but [^\n]+ \(pip install openvino\); use"):
        open_session(path, "openvino")


@needs_openvino
def test_usage_data_is_neither_collected_nor_sent(layer, tmp_path):
    """OpenVINO's own package for that would be imported with it; a later import by others still finds it."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('telemetry')")
    code = (
        "import sys\nfrom tracker.runtime.onnx_session import open_session\nopen_session(sys.argv[1], 'openvino')\n"
        "assert 'openvino_telemetry' not in sys.modules"
    )
    env = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(WEIGHTS.parent)])
    done = subprocess.run([sys.executable, "-c", code, layer], env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


@needs_openvino
def test_interruption_after_models_are_deleted_does_not_crash(layer):
    code = (
        "import signal, sys\nfrom tracker.runtime.onnx_session import open_session\n"
        "first, second = (open_session(sys.argv[1], 'openvino') for _ in range(2))\n"
        "del first\ndel second\nsignal.raise_signal(signal.SIGINT)"
    )
    env = {**os.environ, "PYTHONPATH": str(WEIGHTS.parent)}
    done = subprocess.run([sys.executable, "-c", code, layer], env=env, capture_output=True, text=True, timeout=100)
    assert done.stderr.endswith("KeyboardInterrupt\n"), done
