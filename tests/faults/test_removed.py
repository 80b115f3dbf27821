"""A result that is removed, replaced or protected while it is written is one line; the others are complete."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.synthetic.video import motion_only, write_video
from tracker.commands.track import main
from tracker.sinks.summary import SummarySink

OPTIONS = {
    "tracks.txt": "--out", "tracks.csv": "--out", "tracks.json": "--out", "tracks.db": "--out",
    "video.avi": "--video", "video.mp4": "--video", "counts.csv": "--counts", "heat.png": "--heatmap",
    "crops": "--crops",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("removed"))


@pytest.fixture
def track(scene, capsys, monkeypatch):
    """Run the command with a text result beside the tested one; `meanwhile` is called at the 12th frame."""

    def run(place, name, meanwhile, every=0):
        plain = SummarySink.write

        def write(tally, frame, tracks):
            if frame.index == 11:
                meanwhile()
            plain(tally, frame, tracks)

        monkeypatch.setattr(SummarySink, "write", write)
        words = [scene / "video.avi", *motion_only(scene), "--quiet"]
        words += ["--checkpoint-every", every, "--out", scene / "other.txt", "--overwrite"]
        words += ["--line", "80,0,80,120"] if name == "counts.csv" else []
        status = main([str(word) for word in (*words, OPTIONS[name], place / name)])
        monkeypatch.undo()
        return status, capsys.readouterr().err

    return run


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_by_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def check_said(result, path: Path, scene: Path) -> None:
    status, err = result
    assert status == 1, err
    assert err.count("\n") == 1, err
    assert str(path) in err
    lines = (scene / "other.txt").read_text().splitlines()
    assert {int(line.split(",")[0]) for line in lines} >= set(range(5, 11))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "heat.png"])
def test_removed_result_is_one_line(track, scene, tmp_path, name):
    result = track(tmp_path, name, lambda: remove(tmp_path / name))
    check_said(result, tmp_path / name, scene)


def test_removed_heatmap_is_written_at_the_end(track, tmp_path):
    """Removal loses nothing."""
    assert track(tmp_path, "heat.png", lambda: remove(tmp_path / "heat.png")) == (0, "")
    assert (tmp_path / "heat.png").stat().st_size > 1000


@pytest.mark.parametrize("every", [0, 1e-9])
def test_heatmap_file_of_another_program_is_kept(track, scene, tmp_path, every):
    def replace():
        remove(tmp_path / "heat.png")
        (tmp_path / "heat.png").write_bytes(b"foreign")

    result = track(tmp_path, "heat.png", replace, every)
    check_said(result, tmp_path / "heat.png", scene)
    assert "heat.png: was replaced meanwhile" in result[1]
    assert (tmp_path / "heat.png").read_bytes() == b"foreign"
    remove(scene / "other.txt.resume") if every else None


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "crops"])
def test_result_replaced_by_a_folder_is_one_line(track, scene, tmp_path, name):
    result = track(tmp_path, name, lambda: replace_by_folder(tmp_path / name))
    check_said(result, tmp_path / name, scene)
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("name", OPTIONS)
def test_removed_result_folder_is_one_line(track, scene, tmp_path, name):
    place = tmp_path / "place"
    place.mkdir()
    result = track(place, name, lambda: remove(place))
    check_said(result, place / name, scene)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_result_made_read_only_is_still_written(track, tmp_path, name):
    """Permissions are checked when a file is opened; an open file stays writable."""
    track(tmp_path, name, lambda: None)
    result = tmp_path / name
    size = result.stat().st_size
    remove(result)
    assert track(tmp_path, name, lambda: result.chmod(0o555 if name == "crops" else 0o444)) == (0, "")
    assert result.stat().st_size == size
    result.chmod(0o777)


def test_removed_result_is_noticed_at_next_checkpoint(track, scene, tmp_path):
    """Not after an hour."""
    seen = []

    def meanwhile():
        (tmp_path / "tracks.csv").unlink()
        seen.append((scene / "other.txt").stat().st_size)

    status, err = track(tmp_path, "tracks.csv", meanwhile, every=1e-9)
    assert status == 1
    assert "tracks.csv: was removed or replaced while it was written" in err
    lines = (scene / "other.txt").read_text().splitlines()
    assert max(int(line.split(",")[0]) for line in lines) < 25
    (scene / "other.txt.resume").unlink()
