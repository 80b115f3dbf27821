"""`track-eval`: tracks and scores a folder, names what is missing, and loses nothing else to it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.eval.scenes import as_table
from tests.synthetic.mot import make_scene, write_sequence
from tracker.detector.open import open_detector
from tracker.eval import clear_identity, hota
from tracker.eval.cli import main
from tracker.eval.mot_files import MotFileError, read_results
from tracker.eval.replicas import Replica
from tracker.eval.report import COLUMNS
from tracker.eval.sequences import find_sequences

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for seed, name in enumerate(["one", "two"]):
        scene = make_scene(seed, n_people=4, n_frames=40, burst_start=0)
        write_sequence(scene, tmp_path / "mot" / name, images=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: str) -> int:
    return main(["mot", "--reid", "none", "--jobs", "1", *options])


def table(text: str) -> dict[str, list[str]]:
    """Name -> cells, of the printed table."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def perfect_results(folder) -> None:
    (folder / "perfect").mkdir()
    for name in ("one", "two"):
        shutil.copy(folder / "mot" / name / "gt" / "gt.txt", folder / "perfect" / f"{name}.txt")


@pytest.mark.slow
def test_perfect_results_score_100(folder, capsys):
    perfect_results(folder)
    assert main(["mot", "--results", "perfect", "--jobs", "2"]) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert list(rows) == ["sequence", "one", "two", "combined"]
    assert rows["combined"] == [*["100.0"] * 5, "0", "0", "8", "0", "0", "0", "-", "-"]
    assert err == ""


def test_folder_is_tracked_and_scored(folder, capsys):
    assert run() == 0
    rows = table(capsys.readouterr().out)
    assert rows["sequence"] == list(COLUMNS[1:])
    for name in ("one", "two", "combined"):
        assert float(rows[name][COLUMNS.index("MOTA") - 1]) > 80
        assert float(rows[name][-1]) > 0
    written = (folder / "results" / "one.txt").read_bytes()
    assert written.count(b"\n") > 40
    assert run() == 2  # refuses to overwrite, before anything is tracked
    assert "one.txt: exists already" in capsys.readouterr().err
    assert run("--overwrite", "--set", "lifecycle.confirm_hits=2") == 0
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["one.txt", "two.txt"]
    capsys.readouterr()
    assert run("--results", "results") == 0  # the same scores from the files alone
    again = table(capsys.readouterr().out)
    assert again["combined"][-1] == "-"


@pytest.mark.slow
def test_several_jobs_equal_one_job(folder, capsys):
    tables = []
    for n_jobs in ("1", "2"):
        assert main(["mot", "--reid", "none", "--out", f"out{n_jobs}", "--jobs", n_jobs]) == 0
        tables.append({name: cells[:-1] for name, cells in table(capsys.readouterr().out).items()})
    assert tables[0] == tables[1]
    for name in ("one.txt", "two.txt"):
        assert (folder / "out1" / name).read_bytes() == (folder / "out2" / name).read_bytes()


def test_table_files_and_zip_equal_printed_table(folder, capsys):
    assert run("--csv", "s.csv", "--json", "s.json", "--markdown", "s.md", "--submit", "s.zip") == 0
    rows = table(capsys.readouterr().out)
    objects = json.loads((folder / "s.json").read_text())
    assert [one["sequence"] for one in objects] == ["one", "two", "combined"]
    assert [f"{one['HOTA']:.1f}" for one in objects] == [rows[one["sequence"]][0] for one in objects]
    lines = list(csv.DictReader(io.StringIO((folder / "s.csv").read_text())))
    assert [float(line["MOTA"]) for line in lines] == [one["MOTA"] for one in objects]
    assert (folder / "s.md").read_text().count("\n") == 5
    with zipfile.ZipFile(folder / "s.zip") as archive:
        assert archive.namelist() == ["one.txt", "two.txt"]
        assert archive.read("one.txt") == (folder / "results" / "one.txt").read_bytes()
    assert run("--out", "again", "--csv", "s.csv") == 2
    assert "s.csv: exists already" in capsys.readouterr().err
    assert not (folder / "again" / "one.txt").exists()


def scores_of(folder, results, seed, names=("one", "two")):
    """HOTA, MOTA and IDs of each sequence and of both, of one replica's files: the frames that it has."""
    clear, found = [], []
    for name in names:
        truth = as_table(np.loadtxt(folder / "mot" / name / "gt" / "gt.txt", delimiter=",")[:, :6])
        truth = truth.take(truth.frame > Replica.of(seed).first_index)
        pair = truth, read_results(results / str(seed) / f"{name}.txt")
        clear.append(clear_identity.evaluate(*pair))
        found.append(hota.evaluate(*pair))
    clear.append(clear_identity.combine(clear))
    found.append(hota.combine(found))
    return [(100 * h.hota, 100 * c.mota, c.switches) for h, c in zip(found, clear, strict=True)]


def test_replicas_are_averaged_by_replica(folder, capsys):
    """The table equals mean and standard error of the scores of the result files."""
    assert run("--replicas", "3", "--seed", "2", "--json", "s.json", "--csv", "s.csv", "--markdown", "s.md") == 0
    printed = capsys.readouterr().out
    objects = json.loads((folder / "s.json").read_text())
    assert [one["sequence"] for one in objects] == ["one", "two", "combined"]
    scores = np.array([scores_of(folder, folder / "results", seed) for seed in (2, 3, 4)])
    mean, error = scores.mean(axis=0), scores.std(axis=0, ddof=1) / np.sqrt(3)
    for at, one in enumerate(objects):
        assert one["replicas"] == 3
        np.testing.assert_allclose([one["HOTA"], one["MOTA"], one["IDs"]], mean[at], atol=1e-9)
        np.testing.assert_allclose([one["HOTA_se"], one["MOTA_se"], one["IDs_se"]], error[at], atol=1e-9)
        assert f"{mean[at, 0]:.1f} ± {error[at, 0]:.1f}" in printed.splitlines()[at + 1]
    lines = list(csv.DictReader(io.StringIO((folder / "s.csv").read_text())))
    assert [float(line["MOTA_se"]) for line in lines] == [one["MOTA_se"] for one in objects]
    assert " ± " in (folder / "s.md").read_text()
    assert run("--replicas", "2", "--seed", "3", "--out", "again") == 0
    for seed in ("3", "4"):
        first, again = ((folder / out / seed / "one.txt").read_bytes() for out in ("results", "again"))
        assert first == again
    assert (folder / "again" / "3" / "one.txt").read_bytes() != (folder / "again" / "4" / "one.txt").read_bytes()


def test_replicas_of_a_perfect_detector_are_nearly_perfect(folder, capsys):
    """Mirrored results that were not mirrored back would score nothing."""
    for name in ("one", "two"):
        shutil.copy(folder / "mot" / name / "gt" / "gt.txt", folder / "mot" / name / "det" / "det.txt")
    assert run("--replicas", "2", "--json", "s.json") == 0
    for one in json.loads((folder / "s.json").read_text()):
        assert one["MOTA"] > 90
        assert one["MOTA_se"] < 5


def test_replicas_without_ground_truth_or_late_truth_are_named_once(folder, capsys):
    shutil.rmtree(folder / "mot" / "two" / "gt")
    text = (folder / "mot" / "one" / "gt" / "gt.txt").read_text().splitlines()
    kept = [line for line in text if line.startswith("1,")]
    (folder / "mot" / "one" / "gt" / "gt.txt").write_text("\n".join(kept))
    late = [seed for seed in range(2) if Replica.of(seed).first_index > 0]
    assert run("--replicas", "2") == 2
    err = capsys.readouterr().err.splitlines()
    assert late
    assert err[:-1] == [
        f"track-eval: {seed}/one: no box that counts after frame {Replica.of(seed).first_index}, where replica {seed} "
        "starts; replicas start up to 14 frames late"
        for seed in late
    ]
    assert err[-1] == "track-eval: no ground truth, so not scored: two"


def test_sequence_without_ground_truth_is_submitted(folder, capsys):
    shutil.rmtree(folder / "mot" / "two" / "gt")
    assert run("--submit", "s.zip") == 0
    out, err = capsys.readouterr()
    assert table(out)["two"][:-1] == [*["-"] * 11, "off"]
    assert table(out)["combined"][:4] == ["(1", "of", "2)", table(out)["one"][0]]
    assert err == "track-eval: no ground truth, so not scored: two\n"
    assert zipfile.ZipFile(folder / "s.zip").namelist() == ["one.txt", "two.txt"]
    assert run("--results", "results", "--submit", "s2.zip") == 0
    assert run("--results", "results") == 2  # nothing else could be meant than to score it
    assert "gt.txt: cannot be read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", ["1", "2"])
def test_failing_sequence_is_named_and_others_finish(folder, capsys, n_jobs):
    pictures = folder / "mot" / "one" / "img1"
    pictures.mkdir()
    (pictures / "000001.jpg").write_bytes(b"")
    command = ["mot", "--reid", "none", "--jobs", n_jobs, "--submit", "s.zip"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("track-eval: one: ")
    assert "none of the 1 images can be read" in first
    assert second == "track-eval: s.zip: not written, because sequences are missing"
    assert list(table(out)) == ["sequence", "two", "combined"]
    assert [path.name for path in (folder / "results").iterdir()] == ["two.txt"]
    assert not (folder / "s.zip").exists()


def test_failing_sequence_leaves_no_partial_result(folder, capsys):
    scene = make_scene(0, n_people=2, n_frames=12, burst_start=0)
    shutil.rmtree(folder / "mot" / "one")
    write_sequence(scene, folder / "mot" / "one")
    cv2.imwrite(str(folder / "mot" / "one" / "img1" / "000010.jpg"), np.zeros((30, 40, 3), np.uint8))
    assert run() == 2
    assert "000010.jpg: " in capsys.readouterr().err
    assert [path.name for path in (folder / "results").iterdir()] == ["two.txt"]


def test_missing_result_is_named_and_others_are_scored(folder, capsys):
    perfect_results(folder)
    (folder / "perfect" / "one.txt").unlink()
    assert run("--results", "perfect") == 2
    out, err = capsys.readouterr()
    assert err == "track-eval: one: perfect/one.txt: cannot be read: No such file or directory\n"
    assert table(out)["two"][0] == "100.0"


def test_box_after_last_frame_is_named(folder, capsys):
    perfect_results(folder)
    with (folder / "perfect" / "two.txt").open("a") as file:
        file.write("41,1,10,10,20,40,1,1,1\n")
    assert run("--results", "perfect") == 2
    assert "perfect/two.txt: has a box in frame 41, but the sequence ends with frame 40" in capsys.readouterr().err


def test_detector_replaces_public_detections(folder, capsys):
    (folder / "detector.onnx").write_bytes(b"no model")
    assert run("--detector", "detector.onnx", "--video", "one=absent.avi") == 2
    err = capsys.readouterr().err
    assert "absent.avi" in err
    assert "two: has no images to find people in" in err  # the detector would search


def test_builtin_detector_is_opened_by_name(folder, capsys, monkeypatch):
    asked = []
    original = open_detector
    monkeypatch.setattr("tracker.build.open_detector", lambda **k: asked.append(original(**k)) or asked[-1])
    shutil.rmtree(folder / "mot")
    write_sequence(make_scene(0, n_people=2, n_frames=4, width=128, height=96), folder / "mot" / "one")
    assert run("--detector", "person", "--detector-size", "96", "--device", "cpu") == 0
    assert [(one.name, one._input_size(96, 128)) for one in asked] == [("person.onnx", (96, 96))]


def test_detector_size_needs_detector(folder, capsys):
    assert run("--detector-size", "416") == 2
    assert "--detector-size goes with --detector" in capsys.readouterr().err
    assert run("--layout", "yolo") == 2
    assert "--layout goes with --detector" in capsys.readouterr().err


def test_common_error_is_printed_once_for_all_sequences(folder, capsys):
    assert run("--set", "lifecycle.confirm_hits=0") == 2
    assert run("--results", "nowhere") == 2
    for name in ("one", "two"):
        shutil.rmtree(folder / "mot" / name)
        write_sequence(make_scene(0, n_people=1, n_frames=2), folder / "mot" / name)
    assert main(["mot", "--reid", "absent.onnx", "--jobs", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("track-eval: one, two: absent.onnx: ")


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (["--results", "nowhere"], "nowhere: no such folder"),
        (["--results", "mot", "--out", "o"], "not both"),
        (["--set", "lifecycle.nothing=2"], "lifecycle.nothing"),
        (["--set", "novalue"], "NAME=VALUE"),
        (["--video", "three=x.avi"], "the sequences are: one, two"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
        (["--replicas", "1"], "--replicas must be >= 2, which a standard error needs, got 1"),
        (["--replicas", "2", "--submit", "x.zip"], "does not go with --submit"),
        (["--replicas", "2", "--results", "mot"], "does not go with --results"),
        (["--replicas", "2", "--seed", "-1"], "--seed must be >= 0, got -1"),
        (["--seed", "1"], "--seed goes with --replicas N"),
        (["--csv", "x", "--json", "x"], "two outputs name the same file: x"),
        (["--csv", "nowhere/x.csv"], "nowhere does not exist"),
        (["--det", "det/absent.txt"], "absent.txt"),
    ],
)
def test_user_error_is_one_line_and_status_2(folder, capsys, tail, said):
    shutil.rmtree(folder / "mot" / "two" / "gt")
    if "--det" in tail:
        shutil.rmtree(folder / "mot" / "two")
    assert run(*tail) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("track-eval: ")
    assert err.count("\n") == 1


def test_folder_without_sequences_is_named(folder):
    (folder / "empty").mkdir()
    for path in ("absent", "empty"):
        with pytest.raises(MotFileError, match=path):
            find_sequences([str(folder / path)])
    shutil.rmtree(folder / "mot" / "two" / "gt")  # as in MOT16/test
    assert [s.name for s in find_sequences([str(folder), str(folder / "mot" / "one")])] == ["one", "two"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
@pytest.mark.parametrize("n_jobs", ["1", "2"])
def test_ctrl_c_is_one_line_and_leaves_no_partial_result(folder, n_jobs):
    shutil.rmtree(folder / "mot")
    write_sequence(make_scene(0, n_people=3, n_frames=80), folder / "mot" / "one")
    shutil.copytree(folder / "mot" / "one", folder / "mot" / "two")
    process = subprocess.Popen(
        [sys.executable, "-m", "tracker.eval.cli", "mot", "--jobs", n_jobs], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.PIPE, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list((folder / "results").glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert out == ""
    assert err == "track-eval: interrupted; the results of what was finished are written\n"
    assert list((folder / "results").glob("*.part")) == []
