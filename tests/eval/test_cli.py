"""`track-eval`: scores what it is given, runs the tracker otherwise, and names what is missing."""

from __future__ import annotations

import pytest

from make_synthetic_mot import make_scene, write_sequence
from tracker.eval.cli import find_sequences, main
from tracker.eval.mot_files import MotFileError


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(["one", "two"]):
        scene = make_scene(seed, n_people=4, n_frames=40, burst_start=0)
        write_sequence(scene, tmp_path / "mot" / name, images=False)
    return tmp_path


def test_perfect_results_score_100(folder, capsys):
    results = folder / "results"
    results.mkdir()
    for name in ("one", "two"):
        (results / f"{name}.txt").write_text((folder / "mot" / name / "gt" / "gt.txt").read_text())
    assert main([str(folder / "mot"), "--results", str(results)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["sequence", "one", "two", "combined"]
    # name, MOTA, IDF1, IDs, Frag, MT, ML, FP, FN, precision, recall, fps
    assert lines[3] == ["combined", "100.0", "100.0", "0", "0", "8", "0", "0", "0", "100.0", "100.0", "-"]


def test_tracks_and_scores_without_pictures(folder, capsys):
    command = [str(folder / "mot" / "one"), "--out", str(folder / "out"), "--reid", "none"]
    assert main(command) == 0
    name, mota, *_, fps = capsys.readouterr().out.splitlines()[1].split()
    assert name == "one"
    assert float(mota) > 50
    assert float(fps) > 0
    assert (folder / "out" / "one.txt").read_text().count("\n") > 40
    assert main(command) != 0  # refuses to overwrite
    assert "one.txt" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--set", "lifecycle.confirm_hits=2"]) == 0


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (["--results", "nowhere"], "nowhere/one.txt: no such file"),
        ([], "--results DIR"),
        (["--out", "o", "--set", "lifecycle.nothing=2"], "lifecycle.nothing"),
        (["--out", "o", "--set", "novalue"], "NAME=VALUE"),
        (["--out", "o", "--video", "three=x.avi"], "the sequences are: one, two"),
        (["--out", "o", "--reid", "none", "--det", "det/absent.txt"], "absent.txt"),
    ],
)
def test_a_mistake_ends_in_one_line_and_2(folder, capsys, monkeypatch, tail, said):
    monkeypatch.chdir(folder)
    assert main(["mot", *tail]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("track-eval: ")
    assert err.count("\n") == 1


def test_folders_without_sequences_are_named(folder):
    (folder / "empty").mkdir()
    for path in ("absent", "empty"):
        with pytest.raises(MotFileError, match=path):
            find_sequences([str(folder / path)])
    assert [s.name for s in find_sequences([str(folder), str(folder / "mot" / "one")])] == ["one", "two"]
