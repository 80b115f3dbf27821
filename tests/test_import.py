"""`import tracker` is quick and touches no disk, network or heavy library; weights/ travels in the wheel."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_S = 0.5

WATCH = """
import sys, time, json
opened, other = [], []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(args[0] if isinstance(args[0], str) else args[0].decode())
    elif event.startswith(("socket.", "subprocess.", "ctypes.")):
        other.append(event)
sys.addaudithook(hook)
start = time.process_time()  # of this process alone, whatever runs beside it
import tracker
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "opened": opened, "other": other, "modules": sorted(sys.modules)}))
"""


def import_once() -> dict:
    done = subprocess.run([sys.executable, "-c", WATCH], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_quick():
    import_once()  # compiles
    assert statistics.median(import_once()["seconds"] for _ in range(5)) < MAX_S


def test_import_touches_nothing():
    seen = import_once()
    heavy = {"torch", "cv2", "onnxruntime", "scipy", "pandas", "motmetrics"}
    assert heavy.isdisjoint(seen["modules"])
    # Python's own import system reads sources and caches; a cache is written under a name with a number behind it.
    assert [path for path in seen["opened"] if ".py" not in Path(path).name] == []
    assert seen["other"] == []


@pytest.mark.slow
def test_weights_travel_in_the_wheel(tmp_path):
    """Built as pip builds it, then read from another directory with nothing but the wheel's content on the path."""
    assert (ROOT / "weights" / "reid_fast.onnx").is_file()
    pytest.importorskip("setuptools", minversion="77", reason="building without isolation needs setuptools >= 77")
    source = tmp_path / "source"
    source.mkdir()
    tracked = ["pyproject.toml", "README.md", "LICENSE", "tracker", "reid_training", "weights"]
    for name in tracked:
        copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("tracklet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    for model in (ROOT / "weights").glob("*.onnx"):
        assert f"weights/{model.name}" in names
    assert "weights/SHA256SUMS" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from importlib.resources import files\n"
        "import tracker; assert tracker.__file__.startswith(sys.argv[1]), tracker.__file__\n"
        "print([p.name for p in files('weights').iterdir() if p.name.endswith('.onnx') and p.read_bytes()])\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "site"], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert all(model.name in found.stdout for model in (ROOT / "weights").glob("*.onnx"))


def copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif path.exists():
        shutil.copy(path, target)
    else:
        pytest.fail(f"{path.name} is missing from the repository")
