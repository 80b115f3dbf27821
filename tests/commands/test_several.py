"""`track` with several sources: the results are those of single runs, and one that fails does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.cameras import MjpegCamera
from tests.oracles.material import street, write_detector, write_film
from tests.synthetic.video import write_video
from tracker.commands import several
from tracker.commands.each_source import source_names
from tracker.commands.track import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Path]:
    """Two folders with other people in them; frames of two sizes."""
    return [
        write_video(tmp_path_factory.mktemp(f"scene{seed}"), seed, n_frames=20, width=width, height=240)
        for seed, width in ((1, 320), (2, 288))
    ]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[Path]:
    """People whom the bundled detector finds, forwards and backwards; of the same name in two folders."""
    frames, _ = street()
    paths = [tmp_path_factory.mktemp(f"film{number}") / "film.avi" for number in range(2)]
    write_film(paths[0], frames)
    write_film(paths[1], frames[::-1])
    return paths


@pytest.fixture
def track(capsys):
    """Run the command in this process; gives (exit status, stderr)."""

    def run(*arguments: object):
        capsys.readouterr()
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as ended:  # argparse
            status = ended.code
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return status, err

    return run


@pytest.mark.parametrize("more", [("--device", "cpu"), ("--reid", "none")])
def test_results_are_those_of_single_runs(track, films, tmp_path, more):
    for number, film in enumerate(films):
        assert track(film, "--out", tmp_path / f"{number}.txt", *more)[0] == 0
    out = tmp_path / "made" / "results"
    status, err = track(films[0], "--out", out, films[1], "--crops", tmp_path / "crops-{source}", *more)
    assert status == 0, err
    for number, name in enumerate(("film", "film-2")):
        assert f"wrote {out / name}.txt" in err
        assert list((tmp_path / f"crops-{name}").iterdir())
        single = np.loadtxt(tmp_path / f"{number}.txt", delimiter=",")
        assert len(single) > 20
        np.testing.assert_allclose(np.loadtxt(out / f"{name}.txt", delimiter=","), single, atol=0.02)


def test_sequences_replay_their_public_detections(track, scenes, tmp_path):
    sequences = [scene / "SYN-01" for scene in scenes]
    more = ("--detections", "public", "--reid", "none")
    for number, sequence in enumerate(sequences):
        assert track(sequence, "--out", tmp_path / f"{number}.csv", *more)[0] == 0
    status, err = track(*sequences, "--out", tmp_path / "{source}.csv", *more)
    assert status == 0, err
    for number, name in enumerate(("SYN-01", "SYN-01-2")):
        assert (tmp_path / f"{name}.csv").read_bytes() == (tmp_path / f"{number}.csv").read_bytes()


def test_counts_and_blur_work_for_each_source(track, scenes, tmp_path):
    words = ("--line", "0.5,0,0.5,1", "--blur", "people", "--video", tmp_path / "{source}.avi", "--reid", "none")
    status, err = track(*(scene / "video.avi" for scene in scenes), *words)
    assert status == 0, err
    assert err.count("line") == 2
    assert all((tmp_path / f"{name}.avi").stat().st_size > 1000 for name in ("video", "video-2"))


def test_source_that_fails_is_named_and_the_others_go_on(track, films, tmp_path):
    broken = tmp_path / "broken.avi"
    broken.write_bytes(films[0].read_bytes()[:300])
    status, err = track(
        broken, tmp_path / "absent.avi", films[0], "--out", tmp_path / "out", "--reid", "none", "--quiet"
    )
    assert status == 1
    lines = err.splitlines()
    assert len(lines) == 3, err
    assert all(line.startswith("track: ") for line in lines)
    assert sum("absent.avi: no such file or folder" in line for line in lines) == 1
    assert lines[-1] == f"track: 2 of 3 sources failed: {broken}, {tmp_path / 'absent.avi'}"
    assert len(np.loadtxt(tmp_path / "out" / "film.txt", delimiter=",")) > 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.txt"]


def test_fault_of_ours_ends_all_and_shows_itself(scenes, tmp_path, monkeypatch):
    def open_outputs(options, *more):
        if "SYN-01-2" in str(options.results):
            raise ZeroDivisionError("a bug")
        return real(options, *more)

    real = several.open_outputs
    monkeypatch.setattr(several, "open_outputs", open_outputs)
    words = [*(str(scene / "SYN-01") for scene in scenes), "--out", str(tmp_path), "--detections", "public"]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main([*words, "--reid", "none", "--quiet"])
    assert (tmp_path / "SYN-01.txt").exists()


def test_nothing_is_replaced_unasked_and_nothing_begun(track, scenes, tmp_path):
    (tmp_path / "video-2.txt").write_text("mine")
    videos = [scene / "video.avi" for scene in scenes]
    status, err = track(*videos, "--out", tmp_path, "--reid", "none")
    assert status == 2
    assert "video-2.txt: exists already; pass --overwrite to replace it" in err
    assert [path.name for path in tmp_path.iterdir()] == ["video-2.txt"]
    assert track(*videos, "--out", tmp_path, "--reid", "none", "--overwrite", "--quiet") == (0, "")


def test_source_names_are_unique_and_safe():
    sources = ["a/cam.mp4", "b/Cam.avi", "c/cam-2.mp4", "0", "webcam", "rtsp://me:secret@10.0.0.5:554/ch 1?key=2"]
    sources += ["/dev/video0.", "...", "http://camera/../../etc", "häuser/tür.mp4"]
    names = source_names(sources)
    assert names[:6] == ["cam", "Cam-2", "cam-2-2", "webcam-0", "webcam-0-2", "10.0.0.5-554-ch-1"]
    assert names[-1] == "tür"
    assert len({name.lower() for name in names}) == len(sources)
    for name in names:
        assert name.strip(".")
        assert not set(name) & set('/\\:*?"<>| @')


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--out", "tracks.txt"],
            "--out tracks.txt is one result, and there are 2 sources: put {source} into its name",
        ),
        (["--out", "o", "--video", "v.mp4"], "as in --video {source}.mp4"),
        (["--out", "-"], "as in --out {source}.txt"),
        (["--crops", "c"], "as in --crops c/{source}"),
        (["--out", "all.db"], "as in --out {source}.db"),
        (["--out", "o", "--show"], "--show is for one source, and there are 2"),
        (["--out", "o", "--serve", "8000"], "--serve is for one source"),
        (["--out", "o", "--resume"], "--resume is for one source"),
        (["--out", "o", "--smooth"], "track-smooth does the same to finished results"),
        (["--out", "o", "--fill-gaps", "1"], "--fill-gaps is for one source"),
        (["--out", "o", "--people", "p.npz"], "--people is for one source"),
        (["--out", "o", "--detections", "d.txt"], "a file belongs to one source; 'public' works"),
        (["--out", "o", "--out", "o/{source}.txt"], "name the same file"),
        (["--out", "o", "--blur", "people"], "--blur hides people in pictures"),
        (["--source", "c.mp4", "--out", "o"], "two sources: a.mp4 and c.mp4"),
        ([], "with several sources, give --out FOLDER"),
    ],
)
def test_options_without_a_meaning_are_refused(track, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    status, err = track("a.mp4", "b.mp4", *words)
    assert status == 2
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_faulty_detector_is_one_line_for_all(track, scenes, tmp_path):
    status, err = track(*(scene / "video.avi" for scene in scenes), "--out", tmp_path / "o", "--detector", "no.onnx")
    assert (status, err) == (2, "track: no.onnx: no such model file\n")


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_interrupt_ends_live_sources_with_whole_files(tmp_path):
    """A camera, another one that gives nothing any more, and one that was never there."""
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    write_detector(tmp_path / "person.onnx", ["person"])
    with MjpegCamera() as flowing, MjpegCamera() as mute:
        words = [flowing.address, mute.address, "http://127.0.0.1:9/none", "--detector", tmp_path / "person.onnx"]
        words += ["--reid", "none", "--verify", "off", "--out", tmp_path / "{source}.txt", "--reconnect", "inf"]
        command = [sys.executable, "-m", "tracker.commands.track", *map(str, words)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            said: list[str] = []
            reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
            reader.start()
            files = [tmp_path / f"127.0.0.1-{camera.port}-video.txt" for camera in (flowing, mute)]
            try:
                _wait(lambda: all(path.exists() and path.stat().st_size > 200 for path in files), said)
                mute.go_down()
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130, said
            finally:
                process.kill()
                reader.join(10)
    assert "interrupted after" in said[-1]
    assert not any("Traceback" in line for line in said)
    for path in files:
        text = path.read_text()
        assert text.endswith("\n")
        assert {len(line.split(",")) for line in text.splitlines()} == {10}


def _wait(met, said: list[str], limit_s: float = 60.0) -> None:
    until_s = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < until_s, said
        time.sleep(0.02)
