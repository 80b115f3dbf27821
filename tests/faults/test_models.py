"""Damaged model files: one line that names the error, or the network still runs; never a crash."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPEN = """
import json, sys
import numpy as np
from tracker.appearance.encoder import OnnxEncoder
from tracker.detector.onnx import OnnxDetector
from tracker.errors import TrackletError
from tracker.types import Frame
from reid_training.embedders import OnnxEmbedder
from pathlib import Path

pytestmark = pytest.mark.robustness

image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
for path in sys.argv[2:]:
    try:
        if sys.argv[1] == "detector":
            found = OnnxDetector(path, device="cpu", threads=1, size=96).detect(Frame(0, 0.0, image, 128, 96))
            assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
        elif sys.argv[1] == "encoder":
            assert np.isfinite(OnnxEncoder(path, "cpu", 1).embed(image, np.array([[5.0, 5, 40, 90]]))).all()
        else:
            OnnxEmbedder(Path(path), threads=1)(np.zeros((1, 128, 64, 3), np.uint8))
        said = ""
    except TrackletError as error:
        said = str(error)
    print(json.dumps(said), flush=True)
"""


def outcomes(kind: str, paths: list[Path]) -> list[str]:
    """The error of each model, "" if it runs; in a process of its own, which a crash would end."""
    command = [sys.executable, "-c", OPEN, kind, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, (
        f"ended after {done.stdout.count(chr(10))} of {len(paths)} models: {done.stderr[-800:]}"
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


CASES = [("detector", "person.onnx"), ("encoder", "reid_fast.onnx"), ("embedder", "reid_fast.onnx")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model"), CASES)
def test_damaged_model_is_one_line_or_still_runs(tmp_path, kind, model):
    """A flipped bit in the structure is detected; in the weights it may only change the detections."""
    whole, rng = (ROOT / "weights" / model).read_bytes(), random.Random(3)
    damaged = {f"cut{n}": whole[:n] for n in (1, 17, 100, len(whole) // 2, len(whole) - 2000, len(whole) - 1)}
    places = [rng.randrange(400) for _ in range(4)] + [len(whole) - 1 - rng.randrange(900) for _ in range(4)]
    for place in [*places, rng.randrange(len(whole))]:
        wrong = whole[place] ^ 1 << rng.randrange(8)
        damaged[f"bit{place}"] = whole[:place] + bytes([wrong]) + whole[place + 1 :]
    paths = [tmp_path / f"{name}.onnx" for name in damaged]
    for path, data in zip(paths, damaged.values(), strict=True):
        path.write_bytes(data)
    for path, said in zip(paths, outcomes(kind, paths), strict=True):
        assert str(path) in said or (said == "" and path.name.startswith("bit"))
        assert said == "" or said.isprintable()


@pytest.mark.parametrize("name", ["../w.bin", "/w.bin", "a/../../w.bin", "C:\\w.bin", "missing.bin"])
def test_external_weights_outside_the_folder_are_refused(tmp_path, name):
    import onnx

    from tests.fuzz.__main__ import TARGETS
    from tracker.errors import ModelError
    from tracker.runtime.onnx_session import open_session

    model = onnx.load_from_string(TARGETS["model"].seeds()[0])
    weights = model.graph.initializer[0]
    data = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", str(len(data)))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "models" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    (tmp_path / "w.bin").write_bytes(data)
    said = "cannot be loaded" if name == "missing.bin" else "keeps weights in a file outside its folder"
    with pytest.raises(ModelError, match=said) as caught:
        open_session(path, "cpu")
    assert str(caught.value).isprintable()
