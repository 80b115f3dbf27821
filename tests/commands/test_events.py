"""`track --events`: the same events from every target, beside the other results; resumed runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.commands.track import main

ZONE = ("--zone", "half=160,0,320,0,320,240,160,240", "--line", "middle=160,0,160,240")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    write_sequence(
        make_scene(3, n_people=5, n_frames=40, width=320, height=240), folder / "SYN-03", video=folder / "video.avi"
    )
    shutil.copy(folder / "SYN-03" / "det" / "det.txt", folder / "det.txt")
    return folder


@pytest.fixture
def track(scene, capsys):
    """Run `track` on the video with motion alone; gives (exit status, stdout, stderr)."""

    def run(*words):
        base = [scene / "video.avi", "--detections", scene / "det.txt", "--reid", "none"]
        status = main(list(map(str, [*base, *words])))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def lines_of(text: str):
    """The events without the moment at which the run began."""
    return [{name: value for name, value in json.loads(line).items() if name != "run"} for line in text.splitlines()]


def test_events_are_those_of_the_tracks_and_the_counts(track, tmp_path):
    path, table, counts = tmp_path / "e.jsonl", tmp_path / "t.csv", tmp_path / "c.csv"
    status, out, err = track("--events", path, "--events", "-", "--out", table, "--counts", counts, *ZONE)
    assert status == 0, err
    assert path.read_text() == out
    events = lines_of(out)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    rows = pd.read_csv(table)
    for kind, moment in (("start", "min"), ("end", "max")):
        found = {e["id"]: e["time_s"] if kind == "start" else e["last_s"] for e in events if e["kind"] == kind}
        assert found == getattr(rows.groupby("id").time_s, moment)().to_dict()
    counted = [(e["frame"], e["kind"], e["name"], e["id"], e["direction"]) for e in events if "direction" in e]
    expected = pd.read_csv(counts)[["frame", "kind", "name", "id", "direction"]]
    assert counted == [tuple(row) for row in expected.itertuples(index=False)]
    assert len(counted) > 3
    boxes = rows.set_index(["frame", "id"])
    for event in events:
        if event["kind"] == "line":
            assert event["xyxy"] == boxes.loc[(event["frame"], event["id"]), ["x1", "y1", "x2", "y2"]].tolist()


def test_server_that_is_away_costs_one_line_and_no_result(track, tmp_path):
    status, _, err = track("--events", "http://127.0.0.1:9/hook", "--out", tmp_path / "t.txt")
    assert status == 0
    said = [line for line in err.splitlines() if "127.0.0.1:9" in line]
    assert len(said) == 2
    assert said[0].startswith("track: http://127.0.0.1:9/hook: takes no events (")
    assert "events delivered; " in said[1]
    assert (tmp_path / "t.txt").stat().st_size > 0


def test_resumed_run_makes_the_file_again(track, tmp_path, monkeypatch):
    """Interrupted after 20 frames: the events of the whole run are those of a run without an interruption."""
    from tracker.pipeline import Pipeline

    words = ["--events", tmp_path / "e.jsonl", "--out", tmp_path / "t.txt", *ZONE]
    whole = ["--events", tmp_path / "w.jsonl", "--out", tmp_path / "w.txt", *ZONE]
    assert track(*whole)[0] == 0
    real = Pipeline.frames

    def interrupted(self, *more):
        for frame, tracks in real(self, *more):
            yield frame, tracks
            if frame.index == 20:
                self.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "frames", interrupted)
        assert track(*words)[0] == 0
    assert len((tmp_path / "t.txt").read_text()) < len((tmp_path / "w.txt").read_text())
    status, _, err = track(*words, "--resume")
    assert status == 0, err
    assert lines_of((tmp_path / "e.jsonl").read_text()) == lines_of((tmp_path / "w.jsonl").read_text())


@pytest.mark.parametrize("target", [("--events", "http://host/"), ("--embedded-events", "e.jsonl")])
def test_resume_with_what_cannot_be_made_again_is_one_line(track, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    status, _, err = track(*target, "--reid", "fast", "--out", "t.txt", "--resume")
    assert status == 2
    assert err == f"track: --resume cannot continue {' '.join(target)}; leave one of them out\n"


@pytest.mark.slow
def test_embedded_events_have_unit_vectors(track, tmp_path):
    status, _, err = track("--embedded-events", tmp_path / "e.jsonl", "--reid", "fast", "--end", 8)
    assert status == 0, err
    ends = [event for event in lines_of((tmp_path / "e.jsonl").read_text()) if event["kind"] == "end"]
    assert len(ends) > 2
    for event in ends:
        assert sum(x * x for x in event["embedding"]) == pytest.approx(1, abs=1e-3)
