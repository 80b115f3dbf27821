"""`track-many`: what it runs, what it skips, and its messages for failed videos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.oracles.swallower import Swallower
from tests.synthetic.mot import make_scene, write_sequence
from tracker.commands.many import cli, run
from tracker.commands.many.plan import DONE, FAILED, Entry, Record, Video, find_videos, plan
from tracker.errors import OutputError, SourceError
from tracker.runtime.signals import command

ROOT = Path(__file__).resolve().parents[3]
TRACK = ["--", "--detections", "public", "--reid", "none"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Two short MOT sequences with detections, one in a folder below."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, place in enumerate(("first", "more/second")):
        write_sequence(make_scene(seed, n_people=2, n_frames=6, width=160, height=120), folder / place)
    return folder


def results(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.txt"))


# Finding and planning videos


def test_find_videos_lists_folders_and_named_files(tmp_path):
    for name in ("b.mp4", "a.AVI", "notes.txt", ".hidden.mp4", "deep/er/c.mkv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "MOT").mkdir()
    (tmp_path / "MOT" / "seqinfo.ini").touch()
    assert [str(place) for _, place in find_videos([str(tmp_path)])] == ["MOT", "a.AVI", "b.mp4", "deep/er/c.mkv"]
    assert [str(p) for _, p in find_videos([str(tmp_path)], recursive=False)] == ["MOT", "a.AVI", "b.mp4"]
    twice = find_videos([str(tmp_path / "b.mp4"), str(tmp_path)])
    assert len(twice) == 4, "a video named twice is one task"
    assert find_videos([str(tmp_path / "notes.txt")])[0][1] == Path("notes.txt"), "what is named is taken"


def test_find_videos_empty_folder_or_missing_name_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: holds no videos \(.*\.mp4"):
        find_videos([str(tmp_path / "empty")])
    with pytest.raises(SourceError, match="nothing: no such file"):
        find_videos([str(tmp_path / "nothing")])


def test_plan_keeps_the_tree_and_unique_names(tmp_path):
    names = ["a.mp4", "a.avi", "b.mp4", "c/a.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    videos = plan(find_videos([str(tmp_path)]), Path("out"), ".txt")
    by_source = {video.source.relative_to(tmp_path.resolve()).as_posix(): video.out.as_posix() for video in videos}
    assert by_source == {
        "a.mp4": "out/a.mp4.txt",
        "a.avi": "out/a.avi.txt",
        "b.mp4": "out/b.txt",
        "c/a.mp4": "out/c/a.txt",
    }
    assert videos[0].part.suffix == ".txt"


def test_plan_two_videos_with_one_result_is_an_error(tmp_path):
    for name in ("one/a.mp4", "two/a.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"one/a\.mp4 and .*two/a\.mp4 would both be written to"):
        plan(find_videos([str(tmp_path / "one"), str(tmp_path / "two")]), Path("out"), ".txt")


def test_record_is_done_for_the_same_file_and_options(tmp_path):
    source, out = tmp_path / "a.mp4", tmp_path / "out"
    source.write_bytes(b"video")
    out.mkdir()
    video = Video(source, out / "a.txt")
    record = Record(out, ["--reid", "none"])
    assert not record.is_done(video)
    record.put(video, Entry(DONE, record.asked(video)))
    assert not record.is_done(video), "the result is not there"
    video.out.touch()
    assert Record(out, ["--reid", "none"]).is_done(video)
    assert not Record(out, []).is_done(video)
    source.write_bytes(b"another video")
    assert not Record(out, ["--reid", "none"]).is_done(video)
    record.put(video, Entry(FAILED, record.asked(video)))
    assert not record.is_done(video)


@pytest.mark.parametrize("text", ["", "[]", '{"a.txt": {"state": 1}}', "{"])
def test_record_damaged_is_an_error(tmp_path, text):
    (tmp_path / "track-many.json").write_text(text)
    with pytest.raises(OutputError, match=r"track-many\.json: is damaged"):
        Record(tmp_path, [])


# The command


@pytest.mark.slow
def test_track_many_tracks_a_folder_and_skips_finished_videos(sequences, tmp_path, capsys):
    command = [str(sequences), "--out", str(tmp_path / "out"), "--jobs", "2"]
    assert cli.main([*command, *TRACK]) == 0
    assert results(tmp_path / "out") == ["first.txt", "more/second.txt"]
    assert not list((tmp_path / "out").rglob("*.log"))
    assert not list((tmp_path / "out").rglob(".*"))
    alone = tmp_path / "alone.txt"
    single = [
        sys.executable,
        "-m",
        "tracker.commands.track",
        str(sequences / "first"),
        "--out",
        str(alone),
        *TRACK[1:],
        "--quiet",
    ]
    subprocess.run(single, check=True, cwd=ROOT)
    assert (tmp_path / "out" / "first.txt").read_bytes() == alone.read_bytes()
    before = (tmp_path / "out" / "first.txt").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main([*command, *TRACK]) == 0
    assert "2 of 2 videos are finished already" in capsys.readouterr().err
    assert (tmp_path / "out" / "first.txt").stat().st_mtime_ns == before


@pytest.mark.slow
def test_track_many_failed_video_is_retried_and_named(sequences, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    out = tmp_path / "out"
    command = [str(broken), str(sequences / "first"), "--out", str(out), "--jobs", "1", "--retries", "1", *TRACK]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert said.count("trying again") == 1
    assert "track-many: 1 tracked, 0 finished before, 1 failed" in said
    assert f"failed: {broken.resolve()}: " in said
    entries = json.loads((out / "track-many.json").read_text())
    assert entries["broken.txt"]["status"] == FAILED
    assert entries["broken.txt"]["attempts"] == 2
    assert entries["first.txt"]["status"] == DONE
    assert (out / "broken.txt.log").is_file(), "what the command said stays there"
    assert cli.main(command) == 1, "what failed is tried again next time"
    assert "1 of 2 videos are finished already" in capsys.readouterr().err


def test_track_many_video_that_works_when_retried_is_tracked(tmp_path, monkeypatch, capsys):
    source = tmp_path / "a.mp4"
    source.touch()
    tried = []

    def flaky(self, video, options):
        tried.append(options)
        if len(tried) == 1:
            return run.Outcome(-9, 1.0, "ended by signal 9")
        video.out.write_text("")
        return run.Outcome(0, 1.0, "")

    monkeypatch.setattr(run.TrackProcesses, "run", flaky)
    assert cli.main([str(source), "--out", str(tmp_path / "out"), "--threads", "3"]) == 0
    assert tried == [["--threads", "3"]] * 2
    assert "ended by signal 9; trying again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("{source}: not a video", "{source}: not a video"),
        ("{source}/seqinfo.ini: lacks frameRate", "{source}/seqinfo.ini: lacks frameRate"),
        ("ended by signal 9", "{source}: ended by signal 9"),
        ("ended with status 3; see {source}.txt.log", "{source}: ended with status 3; see {source}.txt.log"),
        ("{source}.txt: No space left on device", "{source}: {source}.txt: No space left on device"),
    ],
)
def test_track_many_failure_names_the_video_once(tmp_path, monkeypatch, capsys, why, said):
    source = tmp_path.resolve() / "a.mp4"
    source.touch()
    monkeypatch.setattr(run.TrackProcesses, "run", lambda *_: run.Outcome(1, 1.0, why.format(source=source)))
    assert cli.main([str(source), "--out", str(tmp_path / "out")]) == 1
    again, _, failed = capsys.readouterr().err.splitlines()
    assert again == f"track-many: {said.format(source=source)}; trying again"
    assert failed == f"track-many: failed: {said.format(source=source)}"


def test_track_many_foreign_result_is_not_replaced(sequences, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "first.txt").write_text("mine")
    assert cli.main([str(sequences / "first"), "--out", str(out), *TRACK]) == 2
    assert "first.txt: exists already, and not from here; --redo replaces it" in capsys.readouterr().err
    assert (out / "first.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--retries", "-1"], "--retries must be at least 0, got -1"),
        (["--", "--out=x.txt"], "--out=x.txt cannot be given for every video"),
        (["--", "--show"], "--show cannot be given for every video"),
    ],
)
def test_track_many_bad_arguments_are_one_line(sequences, tmp_path, capsys, more, said):
    assert cli.main([str(sequences), "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_track_many_dry_run_only_lists(sequences, tmp_path, capsys):
    assert cli.main([str(sequences), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert capsys.readouterr().out.count(" -> ") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.slow
def test_track_many_ctrl_c_ends_children_and_rerun_continues(tmp_path):
    videos = tmp_path / "videos"
    write_sequence(make_scene(0, n_people=2, n_frames=4, width=160, height=120), videos / "a")
    write_sequence(make_scene(1, n_people=12, n_frames=800, width=160, height=120), videos / "b")
    command = [
        sys.executable,
        "-m",
        "tracker.commands.many.cli",
        str(videos),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
    ]
    process = subprocess.Popen([*command, *TRACK], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    assert "1 of 2" in process.stderr.readline()
    part = tmp_path / "out" / ".b.part.txt"
    deadline = time.monotonic() + 240
    while not part.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "the same command continues from here" in said
    assert results(tmp_path / "out") in (["a.txt"], [".b.part.txt", "a.txt"])
    again = subprocess.run([*command, *TRACK], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert again.returncode == 0
    assert "1 of 2 videos are finished already" in again.stderr
    assert results(tmp_path / "out") == ["a.txt", "b.txt"]


# A cluster


def test_track_many_without_ray_says_what_to_install(sequences, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main([str(sequences), "--out", str(tmp_path / "out"), "--ray", "local"]) == 2
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.slow
def test_track_many_ray_gives_the_same_results(sequences, tmp_path, capsys):
    pytest.importorskip("ray")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    here = [str(sequences), str(broken), "--out", str(tmp_path / "here"), *TRACK]
    there = [str(sequences), str(broken), "--out", str(tmp_path / "there"), "--ray", "local", "--threads", "1", *TRACK]
    assert cli.main(here) == 1
    assert cli.main(there) == 1
    assert f"failed: {broken.resolve()}: " in capsys.readouterr().err
    assert results(tmp_path / "there") == results(tmp_path / "here") == ["first.txt", "more/second.txt"]
    for name in results(tmp_path / "here"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_track_many_lost_interruption_ends_the_wait(tmp_path, monkeypatch):
    stopped = threading.Event()
    monkeypatch.setattr(run.TrackProcesses, "run", lambda self, *_: stopped.wait(60))
    monkeypatch.setattr(run.TrackProcesses, "stop", lambda self: stopped.set())
    ended = []

    def work(interruption):
        with run.LocalWorkers(1) as workers:
            workers.submit(Video(tmp_path / "a.avi", tmp_path / "a.txt"), [])
            Swallower()
            ended.extend(workers.finished())
        return 0

    assert command("track-many", work) == 130
    assert not ended
