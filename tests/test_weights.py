"""The bundled networks are those of the manifest; a changed file is not loaded."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnxruntime
import pytest

from tracker.appearance.encoder import OnnxEncoder
from tracker.commands import track as cli
from tracker.detector.open import PACKAGED as DETECTOR
from tracker.detector.open import open_detector
from tracker.errors import ModelError
from tracker.runtime import onnx_session
from tracker.runtime.weights import REID

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
MANIFEST = WEIGHTS / "SHA256SUMS"
NAMES = sorted({*REID.values(), DETECTOR})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy of the folder that a test may damage."""
    home = tmp_path / "weights"
    home.mkdir()
    for path in [MANIFEST, *WEIGHTS.glob("*.onnx")]:
        shutil.copy(path, home)
    monkeypatch.setattr(onnx_session, "weights_folder", lambda: home)
    return home


def load(name: str) -> None:
    with onnx_session.packaged_model(name) as model:
        onnx_session.open_session(model, "cpu", 1)


def problem(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_manifest_lists_exactly_the_networks():
    """In the form that `sha256sum --check` reads; made by `cd weights && sha256sum *.onnx > SHA256SUMS`."""
    expected = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(WEIGHTS.glob("*.onnx"))
    ]
    assert MANIFEST.read_text("ascii").splitlines() == expected
    assert [line.split()[1] for line in expected] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_intact_file_loads(home, name):
    load(name)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_flipped_bit_is_found(home, place):
    content = bytearray((home / DETECTOR).read_bytes())
    content[place] ^= 1
    (home / DETECTOR).write_bytes(content)
    said = problem(DETECTOR)
    assert said.startswith(f"{home / DETECTOR}: is not the file that came with tracklet")
    assert hashlib.sha256(content).hexdigest()[:12] in said
    assert MANIFEST.read_text().split()[0][:12] in said  # the detector's is the first line


@pytest.mark.parametrize("left", [1, 1000, -1])
def test_truncated_file_is_found(home, left):
    (home / DETECTOR).write_bytes((home / DETECTOR).read_bytes()[:left])
    assert "is not the file that came with tracklet" in problem(DETECTOR)


def test_swapped_network_is_found(home):
    shutil.copy(home / REID["fast"], home / REID["accurate"])
    assert "is not the file that came with tracklet" in problem(REID["accurate"])
    load(REID["fast"])


@pytest.mark.parametrize("text", ["", "\n\nno digest\n", f"{'0' * 64}  other.onnx\n", "\x00\xff"])
def test_network_not_in_manifest_is_rejected(home, text):
    (home / "SHA256SUMS").write_text(text, encoding="latin-1")
    assert problem(DETECTOR) == f"{home / 'SHA256SUMS'}: has no line for {DETECTOR}; install tracklet again"


def test_missing_manifest_loads_nothing(home):
    (home / "SHA256SUMS").unlink()
    assert problem(DETECTOR).startswith(f"{home / 'SHA256SUMS'}: cannot be read: No such file")


def test_file_not_in_manifest_does_not_disturb_others(home):
    (home / "mine.onnx").write_bytes(b"mine")
    load(DETECTOR)
    assert "has no line for mine.onnx" in problem("mine.onnx")


@pytest.mark.parametrize("form", ["{}  {}", "{} *{}", "{}\t{}\r"])
def test_manifest_formats_of_other_programs_are_read(home, form):
    content = (home / DETECTOR).read_bytes()
    line = form.format(hashlib.sha256(content).hexdigest().upper(), DETECTOR)
    (home / "SHA256SUMS").write_text(line + "\n", newline="")
    load(DETECTOR)


def test_loaded_bytes_are_the_hashed_bytes(home, monkeypatch):
    """A file replaced after hashing changes nothing: the runtime gets the bytes, not the name."""
    loaded = []
    original = onnxruntime.InferenceSession

    def session(model, *rest, **options):
        (home / DETECTOR).write_bytes(b"too late")
        loaded.append(model)
        return original(model, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load(DETECTOR)
    assert loaded == [(WEIGHTS / DETECTOR).read_bytes()]


def test_user_file_is_loaded_by_its_name(home, monkeypatch):
    """Its weights may lie in a second file, and its digest is unknown."""
    loaded = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda model, *a, **k: (loaded.append(model), original(model, *a, **k))[1]
    )
    mine = shutil.copy(home / DETECTOR, home / "mine.onnx")
    open_detector(model=mine, device="cpu", size=96)
    assert loaded == [str(mine)]


def test_encoder_and_detector_check_the_manifest(home):
    for name in NAMES:
        (home / name).write_bytes((home / name).read_bytes() + b"\0")
    for name in (None, *REID):
        with pytest.raises(ModelError, match="is not the file that came with tracklet"):
            OnnxEncoder(name, "cpu")
    with pytest.raises(ModelError, match="is not the file that came with tracklet"):
        open_detector(device="cpu")


def test_command_reports_a_corrupt_network_in_one_line(home, tmp_path, capfd):
    from tests.synthetic.mot import make_scene, write_sequence

    write_sequence(make_scene(0, n_people=2, n_frames=2, width=128, height=96), tmp_path / "one")
    (home / DETECTOR).write_bytes((home / DETECTOR).read_bytes()[:-1])
    assert cli.main([str(tmp_path / "one"), "--out", str(tmp_path / "t.txt"), "--device", "cpu"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"track: {home / DETECTOR}: is not the file that came with tracklet")
    assert not (tmp_path / "t.txt").exists()
