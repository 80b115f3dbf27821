"""A disk that is full at any byte: one line, status 1, complete earlier output, and no temporary files.

The limit on the size of files (RLIMIT_FSIZE) stands for the disk, for libraries too: no write gets past it.
"""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.oracles.disks import room_for
from tests.synthetic.video import motion_only, write_video
from tracker.commands.many.plan import DONE, Entry, Record, Video
from tracker.commands.report.cli import main as report
from tracker.commands.smooth import main as smooth
from tracker.commands.track import main
from tracker.errors import WriteError
from tracker.runtime import checkpoint
from tracker.sinks.embeddings import EmbeddingSink
from tracker.types import Frame, Tracks

pytest.importorskip("resource")  # not on Windows

OPTIONS = {
    "tracks.txt": "--out", "tracks.csv": "--out", "tracks.jsonl": "--out", "tracks.json": "--out",
    "video.avi": "--video", "video.mp4": "--video", "video.mkv": "--video", "counts.csv": "--counts",
    "heat.png": "--heatmap", "crops": "--crops",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory) -> Path:
    """A folder with every result, written with enough disk space."""
    folder = tmp_path_factory.mktemp("whole")
    for name in OPTIONS:
        assert main(words(scene, folder, name)) == 0
    return folder


def words(scene: Path, folder: Path, name: str) -> list[str]:
    given = [scene / "video.avi", *motion_only(scene), "--quiet"]
    given += ["--line", "80,0,80,120"] if name == "counts.csv" else []
    given += ["--checkpoint-every", 0, OPTIONS[name], folder / name]
    return [str(word) for word in given]


def lines_of(path: Path) -> list[str]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def check_left(name: str, left: Path, whole: Path) -> None:
    """The written part of a result is a valid prefix of it."""
    if name == "tracks.jsonl":
        assert [json.loads(line)["frame"] for line in lines_of(left)] == list(range(1, len(lines_of(left)) + 1))
    if name.endswith((".txt", ".csv", ".jsonl")):
        assert lines_of(left) == lines_of(whole)[: len(lines_of(left))]
    elif name == "tracks.json":
        coco, all_of_it = json.loads(left.read_text()), json.loads(whole.read_text())
        assert coco["annotations"] == all_of_it["annotations"][: len(coco["annotations"])]
        assert coco["images"] == all_of_it["images"][: len(coco["images"])]
    elif name == "heat.png":
        assert not left.exists()  # an image has no valid prefix
    elif name == "crops":
        rows = list(csv.DictReader(lines_of(left / "people.csv")))
        named = {row["image"] for row in rows}
        pictures = {path.name for path in left.iterdir()} - {"people.csv"}
        assert named <= pictures
        assert all(cv2.imread(str(left / picture)) is not None for picture in pictures)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("name", OPTIONS)
def test_full_disk_each_result_is_one_line(scene, whole, tmp_path, capsys, name, share):
    size = (whole / name).stat().st_size if name != "crops" else (whole / "crops" / "people.csv").stat().st_size
    capsys.readouterr()
    with room_for(int(share * size)):
        status = main(words(scene, tmp_path, name))
    out, err = capsys.readouterr()
    assert (status, out) == (1, ""), err
    assert err.count("\n") == 1, err
    assert err.startswith("track: ")
    assert str(tmp_path / name) in err
    assert {path.name for path in tmp_path.iterdir()} <= {name}
    if (tmp_path / name).exists():
        check_left(name, tmp_path / name, whole / name)


@pytest.mark.parametrize("n_bytes", [0, 3000])
def test_full_disk_checkpoint_is_one_line(scene, whole, tmp_path, capsys, n_bytes):
    """With more space the same command resumes, to the same bytes."""
    given = words(scene, tmp_path, "tracks.txt")
    given[given.index("--checkpoint-every") + 1] = "1e-9"
    with room_for(n_bytes):
        status = main(given)
    assert status == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the checkpoint cannot be written" in err
    assert {path.name for path in tmp_path.iterdir()} <= {"tracks.txt", "tracks.txt.resume", "tracks.txt.resume.tracks"}
    if (tmp_path / "tracks.txt").exists():
        check_left("tracks.txt", tmp_path / "tracks.txt", whole / "tracks.txt")


def test_run_resumes_after_disk_has_room(scene, tmp_path, capsys):
    given = [str(scene / "video.avi"), *motion_only(scene)]
    given += ["--quiet", "--out", str(tmp_path / "t.jsonl"), "--video", str(tmp_path / "t.avi")]
    assert main([*given, "--checkpoint-every", "0"]) == 0
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        path.unlink()
    with room_for(len(whole["t.avi"]) // 2):
        assert main([*given, "--resume"]) == 1
    assert "t.avi: the video could not be finished" in capsys.readouterr().err
    assert main([*given, "--resume"]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


@pytest.mark.parametrize("n_bytes", [0, 100, 130, 400, 1000])
def test_embeddings(tmp_path, n_bytes):
    tracks = Tracks(
        np.array([[0.0, 0, 5, 9]]), np.array([1]), np.ones(1), np.zeros(1, np.int64), np.zeros(1, np.int64),
        np.zeros(1, np.uint8), np.eye(1, 8, dtype=np.float32),
    )  # fmt: skip
    path, n_written = tmp_path / "embeddings.npy", 0
    full = pytest.raises(WriteError, match=r"embeddings\.npy: cannot be written")
    with room_for(n_bytes), full, EmbeddingSink(path) as sink:
        for index in range(100):
            sink.write(Frame(index, index / 25, None, 160, 120), tracks)
            n_written += 1
    if path.exists():  # there was space for its header
        assert np.load(path).shape == (n_written,)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_full_disk_report_and_smooth_are_one_line(scene, whole, tmp_path, capsys, share):
    """A page or a smoothed text is complete, or a valid prefix."""
    made = tmp_path / "made.txt"
    assert smooth([str(whole / "tracks.txt"), "--fps", "25", "--out", str(made)]) == 0
    assert report([str(whole / "tracks.csv"), "--out", str(tmp_path / "made.html")]) == 0
    capsys.readouterr()
    with room_for(int(share * made.stat().st_size)):
        assert smooth([str(whole / "tracks.txt"), "--fps", "25", "--out", str(tmp_path / "t.txt")]) == 1
        said = capsys.readouterr().err
        assert report([str(whole / "tracks.csv"), "--out", str(tmp_path / "t.html")]) == 1
        said += capsys.readouterr().err
    assert said.count("\n") == 2, said
    assert lines_of(tmp_path / "t.txt") == lines_of(made)[: len(lines_of(tmp_path / "t.txt"))]
    assert {path.name for path in tmp_path.iterdir()} == {"made.txt", "made.html", "t.txt"}


def test_full_disk_record_of_many_videos_is_one_line(tmp_path):
    """The old file stays until the new one is complete."""
    video = Video(tmp_path / "a.avi", tmp_path / "a.txt")
    Record(tmp_path, []).put(video, Entry(DONE, "x"))
    before = (tmp_path / "track-many.json").read_bytes()
    with room_for(len(before) // 2), pytest.raises(WriteError, match=r"track-many\.json: cannot be written"):
        Record(tmp_path, []).put(video, Entry(DONE, "y"))
    assert [path.name for path in tmp_path.iterdir()] == ["track-many.json"]
    assert (tmp_path / "track-many.json").read_bytes() == before


@pytest.mark.parametrize("fails_at", range(4))
def test_old_checkpoint_survives_each_failing_step(tmp_path, monkeypatch, fails_at):
    path = tmp_path / "t.resume"
    checkpoint.save(path, {"n": 1})
    calls = 0

    def failing(plain):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == fails_at + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(*arguments)

        return call

    monkeypatch.setattr("os.fsync", failing(os.fsync))
    monkeypatch.setattr("os.replace", failing(os.replace))
    if fails_at < 2:
        with pytest.raises(WriteError, match="the checkpoint cannot be written: No space left on device"):
            checkpoint.save(path, {"n": 2})
    else:  # the folder's own note cannot be forced everywhere; the new file is whole
        checkpoint.save(path, {"n": 2})
    monkeypatch.undo()
    assert checkpoint.load(path) == {"n": 1 if fails_at < 2 else 2}
    assert [file.name for file in tmp_path.iterdir()] == ["t.resume"]
