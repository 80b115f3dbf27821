"""`track --people`: numbers outlive a run, whatever ends it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.synthetic.video import write_video
from tracker import track_video
from tracker.appearance.people import PeopleFile
from tracker.commands.track import main
from tracker.config import TrackerConfig
from tracker.runtime.weights import reid_file
from tracker.sinks.csv import CsvSink

N_FRAMES = 60


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("people"), n_people=3, n_frames=N_FRAMES, width=320, height=240)


@pytest.fixture
def track(scene, capsys):
    """Run the command with the bundled network on given detections; gives (exit status, stderr)."""

    def run(*words, source=scene / "video.avi"):
        options = ["--detections", scene / "SYN-01" / "det" / "det.txt", "--verify", "off", "--threads", 1]
        options += ["--checkpoint-every", 1e-9]
        capsys.readouterr()
        status = main([str(word) for word in (source, *options, *words)])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C while the frame with this number is written."""

    def at(number):
        plain = CsvSink.write

        def write(sink, frame, tracks):
            plain(sink, frame, tracks)
            if frame.index + 1 == number:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(CsvSink, "write", write)

    yield at
    monkeypatch.undo()


def people_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def test_next_run_gives_the_same_people_the_same_numbers(track, tmp_path):
    for name in ("monday.csv", "tuesday.csv"):
        status, err = track("--out", tmp_path / name, "--people", tmp_path / "people.npz")
        assert status == 0, err
    monday, tuesday = (pd.read_csv(tmp_path / f"{day}.csv") for day in ("monday", "tuesday"))
    pd.testing.assert_frame_equal(monday, tuesday)  # the same video: the same people, from their first frames on
    known = people_of(tmp_path / "people.npz")
    assert set(known["id"]) <= set(monday.id)
    assert known["n_visits"].min() >= 2
    assert f"{tmp_path / 'people.npz'} knows {len(known['id'])}" in err


def test_interrupted_run_keeps_its_people_and_resumes(track, interrupt, monkeypatch, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for folder in (whole, part):
        folder.mkdir()
    assert track("--out", whole / "t.csv", "--people", whole / "p.npz")[0] == 0
    interrupt(40)
    assert track("--out", part / "t.csv", "--people", part / "p.npz")[0] == 130
    assert len(people_of(part / "p.npz")["id"]) > 0
    monkeypatch.undo()
    status, err = track("--out", part / "t.csv", "--people", part / "p.npz", "--resume")
    assert status == 0, err
    assert (part / "t.csv").read_bytes() == (whole / "t.csv").read_bytes()
    for name in ("id", "mean", "n_visits", "next_id"):
        np.testing.assert_array_equal(people_of(part / "p.npz")[name], people_of(whole / "p.npz")[name])


def test_run_is_not_resumed_over_the_people_of_another_one(track, interrupt, monkeypatch, tmp_path):
    interrupt(40)
    words = ["--out", tmp_path / "t.csv", "--people", tmp_path / "p.npz"]
    assert track(*words)[0] == 130
    monkeypatch.undo()
    assert track("--out", tmp_path / "other.csv", "--people", tmp_path / "p.npz")[0] == 0
    status, err = track(*words, "--resume")
    assert status == 2
    assert "would lose its people" in err
    assert err.count("\n") == 1


def test_mistakes_are_one_line_and_leave_no_result(track, tmp_path):
    file = PeopleFile(tmp_path / "p.npz", reid_file("default"), 128)
    status, err = track("--out", tmp_path / "t.csv", "--people", tmp_path / "p.npz")
    file.close()
    assert (status, err.count("\n")) == (2, 1)
    assert "another run is using it" in err
    assert (
        "--reid none looks at none"
        in track("--out", tmp_path / "t.csv", "--people", tmp_path / "p.npz", "--reid", "none")[1]
    )
    assert "ends in .npz" in track("--out", tmp_path / "t.csv", "--people", tmp_path / "p.json")[1]
    assert not (tmp_path / "t.csv").exists()


def test_generator_that_is_left_early_writes_people(scene, tmp_path):
    config = TrackerConfig().override({"proposals.verify": "off"})
    det = scene / "SYN-01" / "det" / "det.txt"
    frames = track_video(scene / "video.avi", detections=det, config=config, people=tmp_path / "p.npz")
    for frame, _ in frames:
        if frame.index == 30:
            frames.close()
    assert len(people_of(tmp_path / "p.npz")["id"]) > 0
