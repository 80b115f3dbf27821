"""`track --resume` after a kill at any moment, also before the first checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import tracker.commands.resume
from tests.oracles.disks import contents
from tests.synthetic.video import motion_only, write_video
from tools.benchmarks.torture_resume import Torture
from tracker.commands.track import main
from tracker.errors import OutputError
from tracker.pipeline import Pipeline

RESULTS = ("tracks.txt", "tracks.csv", "tracks.json", "tracked.mp4")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("killed"), n_frames=40)


@pytest.fixture
def track(scene, capsys):
    def run(folder, *arguments):
        words = [scene / "video.avi", *motion_only(scene)]
        for name in RESULTS:
            words += ["--video" if name.endswith(".mp4") else "--out", folder / name]
        capsys.readouterr()
        status = main([*map(str, words), "--quiet", *map(str, arguments)])
        return status, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_killed_at_random_moments_resumes(scene, tmp_path):
    """The reduced form of tools.benchmarks.torture_resume: at the start, anywhere, in a checkpoint, at the end."""
    torture = Torture(scene / "video.avi", motion_only(scene), tmp_path, seed=1, every_s=0.01)
    while torture.kills.total() < 5:
        torture.kill_once()
    torture.finish()
    assert torture.problems == []
    assert torture.n_compared >= 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_results_are_opened_resumes(track, tmp_path, monkeypatch, moment):
    """No frame is tracked yet: the files are as a kill leaves them before or after the results are opened."""
    opened = tracker.commands.resume.open_outputs
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()

    def open_outputs(*arguments, **record):
        if moment == "before":
            shutil.copytree(run, copy)
        outputs = opened(*arguments, **record)
        if moment == "after":
            shutil.copytree(run, copy)
        return outputs

    monkeypatch.setattr("tracker.commands.resume.open_outputs", open_outputs)
    assert track(run) == (0, "")
    monkeypatch.undo()
    whole = contents(run)
    assert ("tracks.txt" in contents(copy)) == (moment == "after")
    shutil.rmtree(run)
    copy.rename(run)
    status, err = track(run, "--resume", "--stride", 2)
    assert status == 2
    assert "is of another run: " in err
    assert "--stride is 2 and was not given" in err
    assert track(run, "--resume") == (0, "")
    assert contents(run) == whole


def test_failed_opening_leaves_no_checkpoint(track, tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise OutputError("tracked.mp4: no")

    monkeypatch.setattr("tracker.sinks.annotated_video.AnnotatedVideoSink", refuse)
    status, err = track(tmp_path, "--resume")
    assert (status, err) == (2, "track: tracked.mp4: no\n")
    assert not (tmp_path / "tracks.txt.resume").exists()


def test_interrupted_before_the_first_new_frame_resumes(track, tmp_path, monkeypatch):
    """Ctrl-C while frames held by an earlier run are replayed: its checkpoint must stay."""
    whole = tmp_path / "whole"
    whole.mkdir()
    assert track(whole) == (0, "")
    run = tmp_path / "run"
    run.mkdir()
    plain = Pipeline._detected

    def interrupted(after):
        def frames(pipeline):
            for n, frame in enumerate(plain(pipeline)):
                if n == after:
                    os.kill(os.getpid(), signal.SIGINT)
                yield frame

        return frames

    for after in (25, 0, 1):
        monkeypatch.setattr(Pipeline, "_detected", interrupted(after))
        status, err = track(run, "--resume", "--checkpoint-every", 1e-9)
        assert status == 130
        assert "--resume continues" in err
    monkeypatch.undo()
    assert track(run, "--resume") == (0, "")
    assert contents(run) == contents(whole)
