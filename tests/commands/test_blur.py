"""`track --blur`: people are hidden in every picture that is written, and what cannot be hidden is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.synthetic.video import motion_only, write_video
from tracker.commands.report.cli import write_report
from tracker.commands.report.pictures import take_pictures
from tracker.commands.report.table import read_table
from tracker.commands.track import main
from tracker.errors import ConfigError
from tracker.sinks import annotated_video


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("blur"), 1, n_frames=20, width=320, height=240)


def detail(frame: np.ndarray, box: np.ndarray) -> float:
    """Mean strength of edges in the box."""
    x1, y1, x2, y2 = np.rint(box).astype(int)
    return float(np.abs(np.diff(frame[y1:y2, x1:x2].astype(np.float32), axis=0)).mean())


def boxes_of(scene: Path) -> dict[int, np.ndarray]:
    """Ground truth inside the picture, (N, 4) xyxy by frame from 0."""
    table = np.loadtxt(scene / "SYN-01" / "gt" / "gt.txt", delimiter=",")
    found = {}
    for number in np.unique(table[:, 0]).astype(int).tolist():
        ltwh = table[(table[:, 0] == number) & (table[:, 8] > 0.6)][:, 2:6]
        xyxy = np.column_stack([ltwh[:, :2] - 1, ltwh[:, :2] - 1 + ltwh[:, 2:]])
        found[number - 1] = xyxy[(xyxy[:, 0] > 0) & (xyxy[:, 2] < 320)]
    return found


def mean_detail(frames: list[np.ndarray], scene: Path) -> float:
    people = boxes_of(scene)
    assert len(frames) == 20
    return float(np.mean([detail(frame, box) for k, frame in enumerate(frames) for box in people[k]]))


@pytest.mark.parametrize("more", [[], ["--smooth", "--fill-gaps", "1"]])
def test_annotated_video_hides_people_in_every_frame(scene, tmp_path, monkeypatch, more):
    """In the pictures on which it draws: lines and numbers are detail, too."""
    drawn_on = []
    draw = annotated_video.annotate
    monkeypatch.setattr(
        annotated_video, "annotate", lambda image, *words, **more: drawn_on.append(image) or draw(image, *words, **more)
    )
    words = [str(scene / "video.avi"), *motion_only(scene), *more, "--video", str(tmp_path / "t.avi"), "--overwrite"]
    assert main([*words, "--out", str(tmp_path / "plain.txt")]) == 0
    assert main([*words, "--out", str(tmp_path / "hidden.txt"), "--blur", "people"]) == 0
    assert (tmp_path / "plain.txt").read_text() == (tmp_path / "hidden.txt").read_text()
    assert mean_detail(drawn_on[20:], scene) < mean_detail(drawn_on[:20], scene) / 4


def mean_edges(pictures: list[np.ndarray]) -> float:
    return float(np.mean([cv2.Laplacian(picture, cv2.CV_64F).var() for picture in pictures]))


def test_crops_and_heat_map_get_hidden_people(scene, tmp_path):
    words = [str(scene / "video.avi"), *motion_only(scene), "--crops", str(tmp_path / "crops")]

    def crops(*more: str) -> list[np.ndarray]:
        assert main([*words, "--heatmap", str(tmp_path / "heat.png"), "--overwrite", *more]) == 0
        return [cv2.imread(str(path)) for path in sorted((tmp_path / "crops").glob("*.jpg"))]

    plain, heat = mean_edges(crops()), cv2.imread(str(tmp_path / "heat.png"))
    assert mean_edges(crops("--blur", "people")) < plain / 20
    assert not np.array_equal(cv2.imread(str(tmp_path / "heat.png")), heat)


def test_report_hides_people(scene, tmp_path):
    table, video = tmp_path / "tracks.csv", str(scene / "video.avi")
    assert main([video, *motion_only(scene), "--out", str(table)]) == 0
    edges = {}
    for blur in (None, "people"):
        pictures = take_pictures(video, read_table(table), blur=blur)
        assert pictures.still is not None
        assert len(pictures.crops) == 4
        edges[blur] = mean_edges([cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1) for jpeg in pictures.crops.values()])
    assert edges["people"] < edges[None] / 20
    assert write_report(table, video=video, blur="heads").exists()
    with pytest.raises(ConfigError, match="blur must be one of people, heads, got 'faces'"):
        write_report(table, video=video, blur="faces", overwrite=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "t.txt", "--blur", "people"], "--blur hides people in pictures, and none was asked for"),
        (["--video", "t.avi", "--blur", "heads", "--classes", "car,bus"], "--classes bus,car finds none; add person"),
        (["--video", "t.avi", "--blur", "heads", "--resume"], "--resume makes pictures again from finished tracks"),
    ],
)
def test_what_cannot_be_hidden_is_refused(scene, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(scene / "video.avi"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_run_with_blur_keeps_no_checkpoint(scene, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("tracker.runtime.checkpoint.save", lambda path, state: saved.append(path))
    words = [str(scene / "video.avi"), *motion_only(scene), "--video", str(tmp_path / "t.avi"), "--blur", "heads"]
    assert main(words) == 0
    assert saved == []
    assert [path.name for path in tmp_path.iterdir()] == ["t.avi"]


def test_only_results_that_were_asked_for_are_written(scene, tmp_path, monkeypatch):
    """No crops, embeddings or other files of people beside the tracks."""
    monkeypatch.chdir(tmp_path)
    assert main([str(scene / "video.avi"), *motion_only(scene), "--out", "tracks.txt"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tracks.txt"]
