"""`track --resume`: a run interrupted anywhere, in any way, gives the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.oracles.disks import contents
from tests.oracles.swallower import Swallower
from tests.synthetic.video import motion_only, write_damaged, write_video
from tracker.commands.track import main
from tracker.runtime import checkpoint
from tracker.sinks.annotated_video import AnnotatedVideoSink
from tracker.sinks.mot_txt import MotTextSink
from tracker.sinks.progress import ProgressSink
from tracker.sinks.sqlite import SqliteSink

ROOT = Path(__file__).resolve().parents[2]
N_FRAMES = 40
RESULTS = ("tracks.txt", "tracks.csv", "tracks.jsonl", "tracks.json", "tracked.mp4", "counts.csv", "heat.png", "crops")
OPTIONS = {"tracked.mp4": "--video", "counts.csv": "--counts", "heat.png": "--heatmap", "crops": "--crops"}
PLACES = ("--line", "gate=115,5,115,119", "--zone", "left part=0,0,97,0,97,120,0,120")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("resume"), n_frames=N_FRAMES)


@pytest.fixture
def track(scene, capsys):
    """Run the command in this process on the video with motion alone; gives (exit status, stderr)."""

    def run(*arguments, every=0, source=scene / "video.avi"):
        words = [source, *motion_only(scene)]
        words += ["--checkpoint-every", every or 1e-9]
        capsys.readouterr()
        status = main([*map(str, words), *map(str, arguments)])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return status, err

    return run


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C (or another signal) while the frame with this number is written to the MOT text."""

    def at(frame_number, number=signal.SIGINT):
        plain = MotTextSink.write

        def write(sink, frame, tracks):
            plain(sink, frame, tracks)
            if frame.index + 1 == frame_number:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(MotTextSink, "write", write)

    yield at
    monkeypatch.undo()


def outs(folder: Path, names=RESULTS) -> list[str]:
    words = list(PLACES) if "counts.csv" in names else []
    for name in names:
        words += [OPTIONS.get(name, "--out"), str(folder / name)]
    return words


@pytest.fixture(scope="module")
def uninterrupted(scene, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    words = [scene / "video.avi", *motion_only(scene), "--quiet"]
    assert main([*map(str, words), *outs(folder)]) == 0
    found = contents(folder)
    assert {name.split("/")[0] for name in found} == set(RESULTS)  # no checkpoint or record of tracks is left
    assert found["counts.csv"].count(b",gate,") > 0
    assert found["counts.csv"].count(b",left part,") > 0
    assert sum(name.endswith(".jpg") for name in found) > 4
    return found


def test_interrupted_run_of_a_damaged_video_resumes_to_the_same_bytes(track, interrupt, scene, tmp_path):
    video = write_damaged(scene / "video.avi", tmp_path / "damaged.avi", 1, 12, 13, 20, 30)
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole, resumed = (outs(tmp_path / name, ("tracks.txt", "tracked.mp4")) for name in ("whole", "resumed"))
    assert track(*whole, source=video)[0] == 0
    interrupt(23)
    assert track(*resumed, source=video)[0] == 130
    status, err = track("--resume", *resumed, source=video)
    assert status == 0, err
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("every", [0, 1000])
def test_interrupted_run_resumes_to_the_same_bytes(track, interrupt, uninterrupted, tmp_path, number, every):
    """With a checkpoint at every frame, or only at the interruption."""
    interrupt(23, number)
    status, err = track(*outs(tmp_path), every=every)
    assert status == 130
    assert "interrupted after frame" in err
    assert "--resume continues" in err
    written = (tmp_path / "tracks.txt").read_text().splitlines()
    assert {int(line.split(",")[0]) for line in written} >= {22, 23}  # known rows are written before the run resumes
    assert (tmp_path / "tracks.txt.resume").is_file()
    status, err = track("--resume", *outs(tmp_path))
    assert status == 0, err
    assert "resuming after frame" in err
    assert "tracked.mp4" in err.split("made again up to there: ")[1].split("\n")[0]
    assert f"frames      {N_FRAMES}" in err
    assert contents(tmp_path) == uninterrupted


def test_repeatedly_interrupted_run_resumes(track, interrupt, uninterrupted, tmp_path, monkeypatch):
    for frame_number in (1, 12, 20, 30):  # far enough apart that each comes again
        interrupt(frame_number)
        assert track("--resume", *outs(tmp_path))[0] == 130
        monkeypatch.undo()
    assert track("--resume", *outs(tmp_path), "--quiet")[0] == 0
    assert contents(tmp_path) == uninterrupted


@pytest.mark.slow
def test_copy_of_files_at_any_frame_resumes(track, uninterrupted, tmp_path, monkeypatch):
    """The files as a kill or a power cut leaves them between two writes, with the last checkpoint."""
    plain, copies = MotTextSink.write, []

    def write(sink, frame, tracks):
        if frame.index % 9 == 4:
            copies.append(tmp_path / f"copy{frame.index}")
            shutil.copytree(tmp_path / "run", copies[-1])
        plain(sink, frame, tracks)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(MotTextSink, "write", write)
    assert track(*outs(tmp_path / "run"))[0] == 0
    monkeypatch.undo()
    assert len(copies) == 4
    for copy in copies:
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(copy, tmp_path / "run")
        assert track("--resume", *outs(tmp_path / "run"))[0] == 0
        assert contents(tmp_path / "run") == uninterrupted


def rows_of(path: Path) -> list[tuple]:
    """Of the database, by the source of the run; all but the time at which it began."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        columns = "run, source, fps, width, height, frames, seconds, version"
        runs = database.execute(f"SELECT {columns}, settings FROM runs ORDER BY run").fetchall()
        return [*runs, *database.execute("SELECT * FROM tracks ORDER BY run, frame, id")]


@pytest.mark.parametrize("when", ["interrupted", "killed as it began", "killed later"])
def test_database_and_parquet_resume_to_the_same_rows(track, interrupt, scene, tmp_path, monkeypatch, when):
    """The database had a run of the same video before; no kill adds or loses a row."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    names = ("tracks.txt", "tracks.db", "tracks.parquet")
    whole, run, copy = (tmp_path / name for name in ("whole", "run", "copy"))
    for folder in (whole, run):
        folder.mkdir()
        assert track("--out", folder / "tracks.db", "--end", 5)[0] == 0
    assert track(*outs(whole, names))[0] == 0
    if when == "interrupted":
        interrupt(23)
        assert track(*outs(run, names))[0] == 130
    else:
        plain, at = SqliteSink.write, 1 if when == "killed as it began" else 23

        def write(sink, frame, tracks):
            plain(sink, frame, tracks)
            if frame.index + 1 == at:  # the files as a kill leaves them
                shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*-shm"))

        monkeypatch.setattr(SqliteSink, "write", write)
        assert track(*outs(run, names))[0] == 0
        assert (copy / "tracks.db-wal").stat().st_size > 0
        shutil.rmtree(run)
        copy.rename(run)
    monkeypatch.undo()
    status, err = track("--resume", *outs(run, names))
    assert status == 0, err
    assert {path.name for path in run.iterdir()} == set(names)
    assert rows_of(run / "tracks.db") == rows_of(whole / "tracks.db")
    assert [row[5] for row in rows_of(run / "tracks.db")[:2]] == [5, N_FRAMES]
    tables = [pd.read_parquet(folder / "tracks.parquet") for folder in (run, whole)]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) > 40
    # Without a checkpoint nothing is resumed, and so nothing is there twice.
    refused(track("--resume", "--out", run / "tracks.db"), "tracks.db: nothing to resume")


def test_span_of_a_video_resumes(track, interrupt, tmp_path, monkeypatch):
    part = ("--start", 6, "--end", 35, "--stride", 2, "--detect-every", 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert track(*part, *outs(tmp_path / "a", RESULTS[:3]))[0] == 0
    interrupt(20)
    assert track(*part, *outs(tmp_path / "b", RESULTS[:3]))[0] == 130
    monkeypatch.undo()
    assert track(*part, *outs(tmp_path / "b", RESULTS[:3]), "--resume")[0] == 0
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    frames = [int(line.split(",")[0]) for line in (tmp_path / "b" / "tracks.txt").read_text().splitlines()]
    assert set(frames) <= set(range(6, 36, 2))
    assert max(frames) > 30


@pytest.mark.slow
@pytest.mark.parametrize("source", ["SYN-01", "SYN-01/img1"])
def test_image_folder_resumes(track, interrupt, scene, tmp_path, monkeypatch, source):
    out = tmp_path / "tracks.txt"
    assert track("--out", out, source=scene / source)[0] == 0
    whole = out.read_bytes()
    interrupt(12)
    assert track("--out", out, "--overwrite", source=scene / source)[0] == 130
    monkeypatch.undo()
    assert out.read_bytes() != whole
    assert track("--out", out, "--resume", source=scene / source)[0] == 0
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_embeddings_and_proposals_resume(track, scene, tmp_path, interrupt, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def words(folder):
        network = ("--reid", "fast", "--device", "cpu", "--end", 24)
        return (*network, "--save-embeddings", folder / "embeddings.npy", "--out", folder / "tracks.txt")

    assert track(*words(tmp_path / "a"))[0] == 0
    interrupt(13)
    assert track(*words(tmp_path / "b"))[0] == 130
    monkeypatch.undo()
    assert track(*words(tmp_path / "b"), "--resume")[0] == 0
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert len(np.load(tmp_path / "b" / "embeddings.npy")) > 20


@pytest.fixture
def cut(track, interrupt, monkeypatch, tmp_path) -> Path:
    """The text of a run that was interrupted in the middle, with its checkpoint."""
    interrupt(20)
    assert track("--out", tmp_path / "tracks.txt")[0] == 130
    monkeypatch.undo()
    return tmp_path / "tracks.txt"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("how", ["swallowed", "another error"])
def test_swallowed_interrupt_while_replaying_still_ends_the_run(
    track, interrupt, uninterrupted, tmp_path, monkeypatch, how
):
    interrupt(20)
    assert track(*outs(tmp_path))[0] == 130
    plain, drawn = AnnotatedVideoSink.write, []

    def redraw(sink, frame, tracks):
        plain(sink, frame, tracks)
        drawn.append(frame.index)
        if frame.index == 5 and how == "swallowed":
            Swallower()
        elif frame.index == 5:
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                raise OSError("interrupted system call")

    monkeypatch.setattr(AnnotatedVideoSink, "write", redraw)
    status, err = track("--resume", *outs(tmp_path))
    assert (status, drawn) == (130, [0, 1, 2, 3, 4, 5])
    assert err.endswith("track: interrupted\n")
    assert "Exception ignored" not in err
    monkeypatch.undo()
    assert track("--resume", *outs(tmp_path))[0] == 0
    assert contents(tmp_path) == uninterrupted


def refused(result, *said: str) -> None:
    status, err = result
    assert status == 2
    assert err.startswith("track: ")
    assert err.count("\n") == 1, err
    for words in said:
        assert words in err


def test_resume_with_other_options_is_refused(track, scene, cut, tmp_path):
    before = contents(tmp_path)
    cases = {
        ("--set", "lifecycle.lost_s=5"): "lifecycle.lost_s is 5.0 and was 3.0",
        ("--start", "3"): "--start is 3 and was not given",
        ("--fps", "10"): "--fps is 10.0 and was not given",
        ("--reid", "fast", "--device", "cpu"): "the re-ID network is reid_fast.onnx, SHA-256",
        ("--video", str(tmp_path / "t.avi")): "--video 2 is",
        ("--set", "motion.camera=false", "--detect-every", "2", "--fps", "9", "--end", "30"): "and 2 more",
    }
    for words, said in cases.items():
        refused(track("--out", cut, "--resume", *words), f"{cut}.resume: is of another run: ", said)
    det = tmp_path / "det.txt"
    det.write_text((scene / "SYN-01" / "det" / "det.txt").read_text() + "40,-1,1,1,9,9,0.9,-1,-1,-1\n")
    refused(track("--out", cut, "--resume", "--detections", det), "the detector is det.txt, SHA-256")
    det.unlink()
    assert contents(tmp_path) == before


def test_changed_source_is_refused(track, scene, interrupt, tmp_path, monkeypatch):
    video = tmp_path / "video.avi"
    shutil.copy(scene / "video.avi", video)
    interrupt(20)
    assert track("--out", tmp_path / "t.txt", source=video)[0] == 130
    monkeypatch.undo()
    os.utime(video, (0, 0))
    refused(track("--out", tmp_path / "t.txt", "--resume", source=video), "the time of its last change is 1970-01-01")
    with video.open("ab") as file:
        file.write(b"more")
    refused(track("--out", tmp_path / "t.txt", "--resume", source=video), "the size of the source in bytes is")


def test_results_changed_since_the_checkpoint_are_refused(track, cut):
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 3])
    refused(track("--out", cut, "--resume"), f"{cut}: has {len(whole) // 3} bytes, but had ", "cut or replaced")
    cut.write_bytes(whole.replace(b",-1,-1,-1", b",-1,-1,-2"))
    refused(track("--out", cut, "--resume"), f"{cut}: was changed since the checkpoint")
    cut.unlink()
    refused(track("--out", cut, "--resume"), f"{cut}: cannot be resumed: No such file")
    cut.write_bytes(whole + b"a line of the frames that come again\n")
    assert track("--out", cut, "--resume")[0] == 0
    assert b"come again" not in cut.read_bytes()


def test_damaged_checkpoint_is_refused(track, cut):
    noted = Path(f"{cut}.resume")
    data = noted.read_bytes()
    noted.write_bytes(data[: len(data) // 2])
    refused(track("--out", cut, "--resume"), f"{noted}: the checkpoint is damaged or truncated")
    noted.write_text("1,1,1\n")
    refused(track("--out", cut, "--resume"), "is no checkpoint of track")
    noted.unlink()
    refused(track("--out", cut, "--resume"), "nothing to resume", "--overwrite starts again")


def test_checkpoint_made_by_hand_is_refused(track, cut, tmp_path):
    """A valid checksum with a missing part: one line, and nothing is lost."""
    noted = Path(f"{cut}.resume")
    state, before = checkpoint.load(noted), contents(tmp_path)
    for part in ("pipeline", "record"):
        for inner in state[part]:
            others = {key: value for key, value in state[part].items() if key != inner}
            checkpoint.save(noted, {**state, part: others})
            refused(track("--out", cut, "--resume"), "tracks.txt.resume: is no checkpoint of this run")
            assert cut.read_bytes() == before[cut.name]
    checkpoint.save(noted, state)
    assert track("--out", cut, "--resume")[0] == 0


def test_interrupted_run_is_not_replaced_without_overwrite(track, cut):
    whole = cut.read_bytes()
    refused(track("--out", cut), "exists already, of an interrupted run: --resume continues it")
    assert cut.read_bytes() == whole
    refused(track("--out", cut, "--resume", "--overwrite"), "give one only")
    assert track("--out", cut, "--overwrite")[0] == 0
    assert cut.read_bytes() != whole
    assert not Path(f"{cut}.resume").exists()


def test_resume_without_checkpoint_starts(track, tmp_path):
    assert track("--out", tmp_path / "t.txt", "--resume")[0] == 0
    refused(track("--out", tmp_path / "t.txt", "--resume"), "nothing to resume")


def test_result_that_cannot_be_resumed_is_named(track, scene, tmp_path):
    out = ("--out", tmp_path / "t.txt")
    refused(track("--resume", *out, "--out", "-"), "--resume cannot continue --out -; leave one of them out")
    crops = ("--crops", tmp_path / "crops", "--heatmap", tmp_path / "heat.png", "--video", tmp_path / "t.avi")
    said = "--resume cannot continue --counts -; leave one of them out"
    refused(track("--resume", *out, *crops, *PLACES, "--counts", "-"), said)
    assert contents(tmp_path) == {}
    refused(track("--resume", "--out", "-"), "--resume continues result files")
    assert not (tmp_path / "t.txt").exists()  # or the next try would find it
    refused(track("--resume", *out, "--checkpoint-every", "0"), "--checkpoint-every 0 keeps none")
    refused(track(*out, "--checkpoint-every", "-1"), "--checkpoint-every takes seconds")


def test_no_checkpoint_is_kept_where_unwanted_or_impossible(track, interrupt, tmp_path):
    interrupt(20)
    for words in (("--checkpoint-every", "0"), ("--out", "-")):
        status, err = track("--out", tmp_path / "t.txt", "--video", tmp_path / "t.avi", "--overwrite", *words)
        assert status == 130
        assert "--resume" not in err
        assert sorted(contents(tmp_path)) == ["t.avi", "t.txt"]


def test_progress_counts_frames_of_earlier_runs(capsys):
    now = iter([0.0, 10.0, 10.0])
    with ProgressSink(100, "lines", stream=sys.stderr, every_s=5.0, done=40, clock=lambda: next(now)) as progress:
        progress.write(None, [])
    assert capsys.readouterr().err == "frame 41 of 100, 0.1 fps, 0 in view, 9:50 left\n"


KILLED = """
import os, signal, sys
from tracker.commands.track import main
from tracker.sinks.mot_txt import MotTextSink
at, plain = int(sys.argv[1]), MotTextSink.write
def write(sink, frame, tracks):
    if frame.index + 1 == at:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(sink, frame, tracks)
MotTextSink.write = write
raise SystemExit(main(sys.argv[2:]))
"""


def killed(at: int, *words) -> int:
    """Run the command in a process of its own that is killed (SIGKILL) at this frame."""
    command = [sys.executable, "-c", KILLED, str(at), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.slow
def test_killed_at_random_frames_resumes(scene, uninterrupted, tmp_path):
    words = [scene / "video.avi", *motion_only(scene)]
    words += ["--checkpoint-every", 1e-9, *outs(tmp_path)]
    frames = sorted(random.Random(1).sample(range(3, N_FRAMES), 3))
    for frame_number in frames:
        assert killed(frame_number, *words, "--resume") == -signal.SIGKILL
    assert killed(0, *words, "--resume") == 0
    assert contents(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.data
def test_killed_during_a_real_video_resumes(data_root, tmp_path):
    """The detector and the network (bundled), proposals, occlusion and camera motion."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    words = [data_root / "videos" / "vtest.avi", "--device", "cpu", "--end", 100, "--checkpoint-every", 0.2]
    assert killed(0, *words, "--out", tmp_path / "a" / "t.txt", "--video", tmp_path / "a" / "t.mp4") == 0
    results = ["--out", tmp_path / "b" / "t.txt", "--video", tmp_path / "b" / "t.mp4"]
    for frame_number in (31, 70):
        assert killed(frame_number, *words, *results, "--resume") == -signal.SIGKILL
    assert killed(0, *words, *results, "--resume") == 0
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
