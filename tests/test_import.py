"""`import tracker` is quick and touches no disk, network or heavy library; what the wheel contains."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tracker

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


def test_version_is_the_same_everywhere():
    """pyproject.toml reads it from tracker/__init__.py; a checkout that is not installed has no metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "tracker.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", tracker.__version__)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as pip builds it."""
    pytest.importorskip("setuptools", minversion="77", reason="building without isolation needs setuptools >= 77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ["pyproject.toml", "setup.py", "README.md", "LICENSE", "tracker", "reid_training", "weights"]:
        copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob(f"tracklet-{tracker.__version__}-*.whl")
    return built


@pytest.mark.slow
def test_wheel_contains_both_packages_and_the_weights_below_tracker(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tracker", "reid_training"}
    for package in ("tracker", "reid_training"):
        files = {p for p in (ROOT / package).rglob("*") if p.is_file() and p.suffix not in (".pyc", ".md")}
        assert {p.relative_to(ROOT).as_posix() for p in files} <= set(names)
    weights = {p.name for p in (ROOT / "weights").iterdir() if p.suffix in (".onnx", ".md")} | {"SHA256SUMS"}
    assert {f"tracker/weights/{name}" for name in weights} <= set(names)


@pytest.mark.slow
def test_bundled_models_load_from_the_wheel_in_another_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tracker.runtime.onnx_session import open_session, packaged_model\n"
        "for name in sys.argv[2:]:\n"
        "    with packaged_model(name) as model:\n"
        "        assert str(model.path).startswith(sys.argv[1]), model.path\n"
        "        open_session(model, 'cpu', 1)\n"
    )
    models = [path.name for path in (ROOT / "weights").glob("*.onnx")]
    assert models
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "site", *models],
        cwd=elsewhere, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


def copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif path.exists():
        shutil.copy(path, target)
    else:
        pytest.fail(f"{path.name} is missing from the repository")
