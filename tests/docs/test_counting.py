"""docs/counting.md and docs/offline.md: the results of their snippets are right; test_pages.py runs all pages."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tracker
from tests.synthetic.mot import make_scene, write_sequence
from tracker.commands.track import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
COUNTING = (DOCS / "counting.md").read_text(encoding="utf-8")
OFFLINE = (DOCS / "offline.md").read_text(encoding="utf-8")


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """video.mp4 of the size of the sample video, its detections, and counts.csv as the first command makes it."""
    folder = tmp_path_factory.mktemp("docs")
    scene = make_scene(4, n_people=6, n_frames=20, width=768, height=576)
    write_sequence(scene, folder / "SYN-04", images=False, video=folder / "video.mp4")
    words = ["--detections", str(folder / "SYN-04" / "det" / "det.txt"), "--reid", "none", "--quiet"]
    words += ["--set", "motion.camera=false"]
    zone = "crossing=330,230,530,190,680,250,620,350,430,330"
    places = ["--line", "gate=250,290,250,170", "--line", "0.5,0,0.5,1", "--zone", zone]
    assert main([str(folder / "video.mp4"), *words, *places, "--counts", str(folder / "counts.csv")]) == 0
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Run a snippet beside the video, tracked by motion alone; gives its names."""
    real = tracker.track_video
    det = folder / "SYN-04" / "det" / "det.txt"
    still = tracker.TrackerConfig().override({"motion.camera": False})
    by_motion = partial(real, detections=det, reid=None, config=still)
    monkeypatch.setattr(tracker, "track_video", by_motion, raising=False)
    monkeypatch.chdir(folder)

    def run(text: str) -> dict:
        names: dict = {}
        exec(compile(text, "docs", "exec"), names)
        return names

    return run


def test_page_pandas_example_reads_events(run, folder):
    found = run(snippets(COUNTING)[0])
    rows = [line.split(",") for line in (folder / "counts.csv").read_text().splitlines()[1:]]
    assert len(rows) > 0
    for (name, direction), n in found["crossings"].items():
        assert n == sum(row[2:4] == ["line", name] and row[5] == direction for row in rows)
    assert found["per_minute"].sum() == sum(row[5] == "in" for row in rows)
    for identity, stay_s in found["stays"].items():
        assert stay_s == max(float(row[6]) for row in rows if row[4] == str(identity) and row[6])


def test_page_counting_loop_runs(run, folder, capsys):
    found = run(snippets(COUNTING)[1])
    table = pd.read_csv(folder / "counts.csv")
    gate = table[table.name == "gate"]
    assert (found["gate"].n_in, found["gate"].n_out) == (
        (gate.direction == "in").sum(),
        (gate.direction == "out").sum(),
    )
    assert capsys.readouterr().out.count("went") == len(gate)


def test_page_refining_example_runs(run):
    found = run(snippets(OFFLINE)[0])
    assert len(found["refined"]) == len(found["frames"]) == 20
    assert sum(map(len, found["refined"])) >= sum(len(tracks) for _, tracks in found["frames"])
    assert np.concatenate([tracks.interpolated for tracks in found["refined"]]).dtype == bool


@pytest.mark.parametrize("page", [COUNTING, OFFLINE])
def test_page_pictures_exist_and_are_small(page):
    for name in re.findall(r"\]\((images/[^)]*)\)", page):
        assert 1000 < (DOCS / name).stat().st_size < 150_000
