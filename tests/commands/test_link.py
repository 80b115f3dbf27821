"""`track-link`: tables of several videos with one identity per person, links, and the page."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pandas as pd
import pytest

from tracker.appearance.encoder import read_card
from tracker.commands.link.cli import main
from tracker.runtime.onnx_session import open_session
from tracker.runtime.weights import reid_file
from tracker.sinks.csv import CsvSink
from tracker.sinks.embeddings import EmbeddingSink
from tracker.types import Frame, Tracks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DIM = 128  # of reid_fast


def write_video(folder, name, visits, n_frames=60, fps=10.0) -> None:
    """name.csv and name.npy. visits: (track, person, first frame, last frame), frames from 0; person None: no crop."""
    with CsvSink(folder / f"{name}.csv") as table, EmbeddingSink(folder / f"{name}.npy") as embeddings:
        for index in range(n_frames):
            here = [visit for visit in visits if visit[2] <= index <= visit[3]]
            n = len(here)
            features = np.zeros((n, DIM), np.float32)
            for row, (track, person, *_) in enumerate(here):
                crop = np.eye(DIM)[person if person is not None else 0] + 0.2 * np.eye(DIM)[100 + (index + track) % 20]
                features[row] = np.nan if person is None else crop / np.linalg.norm(crop)
            boxes = np.array([[10.0 * track, 10, 10 * track + 8, 40] for track, *_ in here]).reshape(-1, 4)
            ids = np.array([track for track, *_ in here], np.int64)
            zeros = np.zeros(n, np.int64)
            tracks = Tracks(boxes, ids, np.full(n, 0.9), zeros, zeros, np.zeros(n, np.uint8), features)
            frame = Frame(index, index / fps, None, 640, 480)
            table.write(frame, tracks)
            embeddings.write(frame, tracks)


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Door: persons 0, 1, and 0 again as track 3; hall: persons 1, 0 and 2. Track 9 of the hall has no crop."""
    write_video(tmp_path, "door", [(1, 0, 0, 20), (2, 1, 5, 25), (3, 0, 40, 55)])
    write_video(tmp_path, "hall", [(1, 1, 0, 30), (2, 0, 10, 40), (5, 2, 20, 50), (9, None, 0, 9)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def identities(folder) -> dict[tuple[str, int], int]:
    found = {}
    for name in ("door", "hall"):
        table = pd.read_csv(folder / f"{name}.csv")
        for track, ids in table.groupby("track").id.unique().items():
            assert len(ids) == 1
            found[name, track] = ids[0]
    return found


def test_people_have_one_identity_in_all_tables(videos, capsys):
    assert main(["door.csv", "hall.csv", "--out", "linked"]) == 0
    found = identities(videos / "linked")
    assert found["door", 1] == found["door", 3] == found["hall", 2] == 1
    assert found["door", 2] == found["hall", 1] == 2
    assert len({found["hall", 5], found["hall", 9], 1, 2}) == 4
    assert "7 tracks of 2 videos are 4 people" in capsys.readouterr().err
    for name in ("door", "hall"):
        before, after = pd.read_csv(f"{name}.csv"), pd.read_csv(f"linked/{name}.csv")
        assert list(after.columns) == [*before.columns, "track"]
        assert not after.duplicated(["frame", "id"]).any()
        assert after.sort_values(["frame", "id"], kind="stable").index.tolist() == list(range(len(after)))
        again = after.assign(id=after.track).drop(columns="track").sort_values(["frame", "id"], ignore_index=True)
        pd.testing.assert_frame_equal(again, before)
    links = pd.read_csv("linked/links.csv")
    made = links[links.linked == "yes"]
    assert len(made) == 3  # seven tracks, four people
    for _, link in made.iterrows():
        assert found[link.table_a[:4], link.track_a] == found[link.table_b[:4], link.track_b] == link.identity


def test_times_between_cameras_are_those_of_the_file(videos):
    """The second person leaves the door at 2.5 s, and is in the hall from 60 s on."""
    cameras = '[cameras]\ndoor = { "door.csv" = 2026-11-30T08:00:00 }\nhall = { "hall.csv" = 2026-11-30T08:01:00 }\n'
    for most_s, same in ((57, False), (58, True)):
        way = f'[[ways]]\nfrom = "door"\nto = "hall"\nmost_s = {most_s}\n'
        (videos / "cameras.toml").write_text(cameras + way)
        words = ["door.csv", "hall.csv", "--cameras", "cameras.toml", "--out", "linked", "--overwrite"]
        assert main(words) == 0
        found = identities(videos / "linked")
        assert (found["door", 2] == found["hall", 1]) == same
        assert found["door", 2] != found["hall", 5]


def refused(capsys, *words) -> str:
    capsys.readouterr()
    assert main([*words, "--out", "linked"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("track-link: ")
    assert line.count("\n") == 1
    return line


def test_mistakes_are_one_clear_line(videos, capsys):
    assert "track-link takes tables" in refused(capsys, "door.txt")
    assert "--embeddings needs one for each table" in refused(capsys, "door.csv", "hall.csv", "--embeddings", "a.npy")
    assert "has other boxes than" in refused(capsys, "door.csv", "--embeddings", "hall.npy")
    assert "gives 256" in refused(capsys, "door.csv", "--reid", "accurate")
    assert "there is no such file" in refused(capsys, "door.csv", "--embeddings", "no.npy")
    assert "two tables are called" in refused(capsys, "door.csv", "./door.csv")
    assert "--crops needs one for each" in refused(capsys, "door.csv", "hall.csv", "--crops", "a")
    assert "would replace an input" in refused(capsys, "linked/door.csv")
    (videos / "c.json").write_text('{"same": [["door.csv", 77, "hall.csv", 1]], "different": []}')
    assert "no track 77 in door.csv" in refused(capsys, "door.csv", "hall.csv", "--corrections", "c.json")
    (videos / "c.json").write_text('{"same": [["door.csv", 1, "door.csv", 2]], "different": []}')
    assert "are in view at once" in refused(capsys, "door.csv", "hall.csv", "--corrections", "c.json")
    (videos / "c.json").write_text('{"same": [["door.csv"]], "different": []}')
    assert "same 1 must be like" in refused(capsys, "door.csv", "--corrections", "c.json")
    np.save(videos / "door.npy", np.zeros((3, 4)))
    assert "is no file of `track --save-embeddings`" in refused(capsys, "door.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cameras = 3", "has a table cameras"),
        ('[cameras]\ndoor = { "other.csv" = 0 }', "does not say which camera door.csv is of"),
        ('[cameras]\ndoor = { "door.csv" = "noon" }', "must be a date with a time, or seconds"),
        ('[cameras]\na = { "door.csv" = 0 }\nb = { "door.csv" = 0 }', "is of two cameras, a and b"),
        ('[cameras]\na = { "door.csv" = 0, "x.csv" = 2026-01-01T00:00:00 }', "all dates with times, or all numbers"),
        ('[cameras]\na = { "door.csv" = 0 }\n[[ways]]\nfrom = "a"\nto = "z"', "to must be one of the cameras, a"),
        (
            '[cameras]\na = { "door.csv" = 0 }\n[[ways]]\nfrom = "a"\nto = "a"\noverlap = true',
            "two places of one camera",
        ),
        (
            '[cameras]\na = { "door.csv" = 0 }\n[[ways]]\nfrom = "a"\nto = "a"\nleast_s = 5\nmost_s = 2',
            "least_s must be from 0 to most_s",
        ),
        ('[cameras]\na = { "door.csv" = 0 }\n[[ways]]\nfrom = "a"\nto = "a"\nspeed = 2', "needs from and to"),
        ("[cameras", "is not TOML"),
    ],
)
def test_malformed_camera_file_is_refused(videos, capsys, text, words):
    (videos / "cameras.toml").write_text(text)
    assert words in refused(capsys, "door.csv", "--cameras", "cameras.toml")


def write_crops(folder, tracks) -> None:
    folder.mkdir()
    rows = [["image", "id", "quality"]]
    for track in tracks:
        name = f"{track:04d}_000001.jpg"
        assert cv2.imwrite(str(folder / name), np.full((200, 90, 3), 20 * track, np.uint8))
        rows.append([name, track, 0.5])
    with (folder / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_page_holds_all_it_shows(videos):
    for name, tracks in (("door", (1, 2, 3)), ("hall", (1, 2))):
        write_crops(videos / f"{name}_crops", tracks)
    words = ["door.csv", "hall.csv", "--crops", "door_crops", "hall_crops", "--out", "linked"]
    assert main(words) == 0
    page = (videos / "linked" / "review.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert not re.findall(r"https?://|@import|url\(|<link", page)


CLICKS = """<script>
const cardOf = (table, id) => [...document.querySelectorAll("#people .track")].find(
  (each) => each.querySelector("b").textContent === `${table} ${id}`);
const choose = (...tracks) => tracks.forEach(([table, id]) => cardOf(table, id).click());
%s
document.body.replaceChildren(JSON.stringify({ ...corrections(), person: Object.fromEntries(
  data.tracks.map((track, i) => [`${track.table} ${track.id}`, state.person[i]])) }));
</script>"""
DOOR, HALL = "door.csv", "hall.csv"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("clicks", "same", "apart"),
    [
        ('choose(["hall.csv", 5], ["hall.csv", 9]); $("merge").click();', [("hall", 5, "hall", 9)], []),
        ('choose(["door.csv", 2], ["hall.csv", 5]); $("merge").click();', [], [("door", 2, "hall", 5)]),
        ('choose(["door.csv", 3]); $("split").click();', [], [("door", 1, "door", 3), ("door", 3, "hall", 2)]),
        (
            'choose(["hall.csv", 1], ["hall.csv", 2]); $("swap").click();',
            [("door", 1, "hall", 1), ("door", 3, "hall", 1), ("door", 2, "hall", 2)],
            [("door", 2, "hall", 1), ("door", 1, "hall", 2)],
        ),
        (
            'choose(["door.csv", 3]); $("split").click(); $("undo").click();'
            'choose(["door.csv", 1], ["hall.csv", 9]); $("merge").click();',
            [("door", 1, "hall", 9), ("door", 1, "door", 3)],
            [],
        ),
    ],
    ids=["merge", "merge at once", "split", "swap", "undo"],
)
def test_corrections_of_the_page_hold_in_the_next_run(videos, clicks, same, apart):
    """In Chromium, from the disk: what the page then shows is what the next run writes."""
    words = ["door.csv", "hall.csv", "--out", "linked", "--overwrite"]
    assert main(words) == 0
    page = (videos / "linked" / "review.html").read_text()
    (videos / "clicked.html").write_text(page.replace("</body>", CLICKS % clicks + "</body>"))
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={videos / 'profile'}"]
    browser += ["--dump-dom", (videos / "clicked.html").as_uri()]
    dom = subprocess.run(browser, capture_output=True, text=True, timeout=120).stdout
    said = json.loads(re.search(r"<body>(.*)</body>", dom, re.DOTALL)[1])
    shown = said.pop("person")
    (videos / "corrections.json").write_text(json.dumps(said))
    assert main([*words, "--corrections", "corrections.json"]) == 0
    found = identities(videos / "linked")
    for a, i, b, j in same:
        assert found[a, i] == found[b, j], (a, i, b, j)
    for a, i, b, j in apart:
        assert found[a, i] != found[b, j], (a, i, b, j)
    tracks = list(found)
    for one in tracks:
        for other in tracks:
            on_page = shown[f"{one[0]}.csv {one[1]}"] == shown[f"{other[0]}.csv {other[1]}"]
            assert on_page == (found[one] == found[other]), (one, other)


def test_size_of_the_bundled_network_is_that_of_the_tests():
    path = reid_file("default")
    assert read_card(open_session(path, "cpu", 1).metadata, path).embedding_size == DIM
