"""The networks in the box are those of the manifest, and no others are loaded in their place."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnxruntime
import pytest

from tracker.appearance.encoder import PACKAGED, OnnxEncoder
from tracker.commands import track as cli
from tracker.detector.open import PACKAGED as DETECTOR
from tracker.detector.open import open_detector
from tracker.errors import ModelError
from tracker.runtime import onnx_session

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
MANIFEST = WEIGHTS / "SHA256SUMS"
NAMES = sorted([*PACKAGED.values(), DETECTOR])


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A copy of the folder, in which a test may do harm."""
    home = tmp_path / "weights"
    home.mkdir()
    for path in [MANIFEST, *WEIGHTS.glob("*.onnx")]:
        shutil.copy(path, home)
    monkeypatch.setattr(onnx_session, "_weights_folder", lambda: home)
    return home


def load(name: str) -> None:
    with onnx_session.packaged_model(name) as model:
        onnx_session.open_session(model, "cpu", 1)


def problem(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_manifest_names_every_network_and_nothing_else():
    """In the form that `sha256sum --check` reads; made by `cd weights && sha256sum *.onnx > SHA256SUMS`."""
    expected = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(WEIGHTS.glob("*.onnx"))
    ]
    assert MANIFEST.read_text("ascii").splitlines() == expected
    assert [line.split()[1] for line in expected] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_right_file_loads(box, name):
    load(name)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_one_flipped_bit_is_found(box, place):
    content = bytearray((box / DETECTOR).read_bytes())
    content[place] ^= 1
    (box / DETECTOR).write_bytes(content)
    said = problem(DETECTOR)
    assert said.startswith(f"{box / DETECTOR}: is not the file that came with tracklet")
    assert hashlib.sha256(content).hexdigest()[:12] in said
    assert MANIFEST.read_text().split()[0][:12] in said  # the detector's is the first line


@pytest.mark.parametrize("left", [1, 1000, -1])
def test_a_file_cut_short_is_found(box, left):
    (box / DETECTOR).write_bytes((box / DETECTOR).read_bytes()[:left])
    assert "is not the file that came with tracklet" in problem(DETECTOR)


def test_another_network_in_its_place_is_found(box):
    shutil.copy(box / PACKAGED["fast"], box / PACKAGED["accurate"])
    assert "is not the file that came with tracklet" in problem(PACKAGED["accurate"])
    load(PACKAGED["fast"])


@pytest.mark.parametrize("text", ["", "\n\nno digest\n", f"{'0' * 64}  other.onnx\n", "\x00\xff"])
def test_a_network_that_the_manifest_does_not_name_is_refused(box, text):
    (box / "SHA256SUMS").write_text(text, encoding="latin-1")
    assert problem(DETECTOR) == f"{box / 'SHA256SUMS'}: has no line for {DETECTOR}; install tracklet again"


def test_without_a_manifest_nothing_is_loaded(box):
    (box / "SHA256SUMS").unlink()
    assert problem(DETECTOR).startswith(f"{box / 'SHA256SUMS'}: cannot be read: No such file")


def test_a_file_that_is_not_in_the_manifest_is_in_nobodys_way(box):
    (box / "mine.onnx").write_bytes(b"mine")
    load(DETECTOR)
    assert "has no line for mine.onnx" in problem("mine.onnx")


@pytest.mark.parametrize("form", ["{}  {}", "{} *{}", "{}\t{}\r"])
def test_the_manifest_may_be_written_by_other_programs(box, form):
    content = (box / DETECTOR).read_bytes()
    line = form.format(hashlib.sha256(content).hexdigest().upper(), DETECTOR)
    (box / "SHA256SUMS").write_text(line + "\n", newline="")
    load(DETECTOR)


def test_what_is_hashed_is_what_is_loaded(box, monkeypatch):
    """A file that is replaced in between changes nothing: the runtime gets the bytes, not the name."""
    loaded = []
    original = onnxruntime.InferenceSession

    def session(model, *rest, **options):
        (box / DETECTOR).write_bytes(b"too late")
        loaded.append(model)
        return original(model, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    load(DETECTOR)
    assert loaded == [(WEIGHTS / DETECTOR).read_bytes()]


def test_a_file_of_the_user_is_loaded_by_its_name(box, monkeypatch):
    """It may keep its numbers in a file beside it, and nobody knows its digest."""
    loaded = []
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda model, *a, **k: (loaded.append(model), original(model, *a, **k))[1]
    )
    mine = shutil.copy(box / DETECTOR, box / "mine.onnx")
    open_detector(model=mine, device="cpu", size=96)
    assert loaded == [str(mine)]


def test_encoder_and_detector_check(box):
    for name in NAMES:
        (box / name).write_bytes((box / name).read_bytes() + b"\0")
    for name in (None, *PACKAGED):
        with pytest.raises(ModelError, match="is not the file that came with tracklet"):
            OnnxEncoder(name, "cpu")
    with pytest.raises(ModelError, match="is not the file that came with tracklet"):
        open_detector(device="cpu")


def test_the_command_says_so_in_one_line(box, tmp_path, capfd):
    from tests.synthetic.mot import make_scene, write_sequence

    write_sequence(make_scene(0, n_people=2, n_frames=2, width=128, height=96), tmp_path / "one")
    (box / DETECTOR).write_bytes((box / DETECTOR).read_bytes()[:-1])
    assert cli.main([str(tmp_path / "one"), "--out", str(tmp_path / "t.txt"), "--device", "cpu"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"track: {box / DETECTOR}: is not the file that came with tracklet")
    assert not (tmp_path / "t.txt").exists()
