"""Opening ONNX models: every unusable file is one line, and onnxruntime logs nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tracker.errors import ModelError
from tracker.runtime import onnx_session
from tracker.runtime.onnx_session import open_session


@pytest.fixture
def doubling(tmp_path):
    """y = x + x, with an open batch and one metadata entry."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"greeting": "hello, you"})
    path = tmp_path / "doubling.onnx"
    onnx.save(model, path)
    return path


def test_session_valid_model_has_ports_metadata_and_runs(doubling):
    session = open_session(doubling, "cpu", threads=1)
    assert session.provider == "cpu"
    assert session.metadata == {"greeting": "hello, you"}
    assert session.inputs[0].shape == (None, 3)
    assert session.inputs[0].dtype == "float"
    np.testing.assert_array_equal(session.run(np.ones((5, 3), np.float32))[0], np.full((5, 3), 2.0))


def test_auto_without_driver_uses_cpu_and_cuda_is_an_error(doubling):
    if onnx_session.cuda_driver_problem() is None:
        pytest.skip("there is a GPU")
    assert open_session(doubling, "auto").provider == "cpu"
    why = "driver" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "no CUDA provider"
    with pytest.raises(ModelError, match=rf"cuda was asked for, but .*{why}.*--device auto or cpu"):
        open_session(doubling, "cuda")


def test_auto_without_cuda_libraries_uses_cpu_silently(doubling, monkeypatch, capfd):
    if onnx_session.cuda_driver_problem() is None:
        pytest.skip("there is a GPU")
    monkeypatch.setattr(onnx_session, "cuda_driver_problem", lambda: None)
    assert open_session(doubling, "auto").provider == "cpu"
    with pytest.raises(ModelError, match=r"device cuda was asked for, but [^\n]+$"):
        open_session(doubling, "cuda")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_open_session_wrong_argument_is_named(doubling):
    with pytest.raises(ModelError, match="'tpu'; there are: auto, cpu, cuda"):
        open_session(doubling, "tpu")
    with pytest.raises(ModelError, match="threads must be >= 1, got 0"):
        open_session(doubling, threads=0)


def test_run_wrong_input_shape_is_one_line(doubling):
    with pytest.raises(ModelError, match=r"failed on input of shape \(2, 4\)") as caught:
        open_session(doubling, "cpu").run(np.ones((2, 4), np.float32))
    assert "\n" not in str(caught.value)


_BROKEN = {
    "missing": (None, "no such model file"),
    "empty": (b"", "the file is empty"),
    "garbage": (bytes(range(255, 0, -1)) * 9, "is not an ONNX model"),
    "text": (b"1,-1,10,20,30,40,0.9,-1,-1,-1\n", "is not an ONNX model"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
}


@pytest.mark.parametrize("kind", [*_BROKEN, "folder", "cut"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_malformed_file_is_named_with_its_reason(kind, device, tmp_path, doubling):
    path = tmp_path / "broken.onnx"
    content, reason = _BROKEN.get(kind, (None, "is no file"))
    if kind == "folder":
        path.mkdir()
    elif kind == "cut":
        content, reason = doubling.read_bytes()[:-15], "is not an ONNX model, or is truncated or corrupt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_session(path, device)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_model_at_any_length_is_an_error(tmp_path, doubling):
    whole, path = doubling.read_bytes(), tmp_path / "cut.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        problem = ""
        try:
            open_session(path, "cpu")
        except ModelError as error:
            problem = str(error)
        assert "\n" not in problem
        # Metadata stands at the end: without it, or without a part that nothing needs, it is still a model.
        assert problem or onnx.load(path).graph.node, length


def test_fresh_process_prints_one_line_per_error(tmp_path, doubling):
    (tmp_path / "cut.onnx").write_bytes(doubling.read_bytes()[:-15])
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage" * 20)
    code = (
        "import sys\nfrom tracker.errors import ModelError\nfrom tracker.runtime.onnx_session import open_session\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        open_session(path)\n"
        "    except ModelError as error:\n        print(error, file=sys.stderr)\n"
    )
    names = ["cut.onnx", "bad.onnx", "none.onnx", "doubling.onnx"]
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["cannot be loaded", "cannot be loaded", "no such model file"]


def test_onnxruntime_telemetry_is_off(doubling, tmp_path):
    """Telemetry would write to the folder for temporary files."""
    noted = tmp_path / "noted"
    noted.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = f"from tracker.runtime.onnx_session import open_session; open_session({str(doubling)!r}, 'cpu')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, env={**kept, "TMPDIR": str(noted)})
    assert list(noted.iterdir()) == []
