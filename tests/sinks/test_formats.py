"""Every format holds the written rows, and only whole frames, however the run ends."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tracker.boxes import xyxy_to_ltwh
from tracker.errors import OutputError, WriteError
from tracker.sinks import frame_file
from tracker.sinks.embeddings import EmbeddingSink
from tracker.sinks.open import FORMATS, open_sink
from tracker.types import Frame, Source, Tracks

DIM = 5
no_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
RESULTS = [pytest.param(ending, marks=no_pyarrow if ending == ".parquet" else ()) for ending in FORMATS]
ENDINGS = [*RESULTS, ".npy"]
OWN_WRITER = [".txt", ".csv", ".jsonl", ".json", ".npy"]  # test_sqlite.py and test_parquet.py have the others


def frame_of(index: int) -> Frame:
    return Frame(index, index / 30, None, 640, 480)


def random_run(rng: np.random.Generator, n_frames: int = 30, most: int = 5) -> list[Tracks]:
    """Frames of random people; the third frame is empty."""
    run = []
    for index in range(n_frames):
        n = 0 if index == 2 else int(rng.integers(0, most + 1))
        left_top = rng.uniform(-50, 600, (n, 2))
        features = rng.normal(size=(n, DIM)).astype(np.float32)
        features[rng.random(n) < 0.3] = np.nan
        run.append(
            Tracks(
                np.hstack([left_top, left_top + rng.uniform(1, 200, (n, 2))]),
                rng.permutation(40)[:n] + 1, rng.random(n), rng.integers(0, 3, n), np.arange(n),
                rng.integers(0, 4, n).astype(np.uint8), features,
            )
        )  # fmt: skip
    return run


def sink_of(path: Path):
    return EmbeddingSink(path) if path.suffix == ".npy" else open_sink(path, name="a video")


def written(path: Path, run: list[Tracks]) -> Path:
    with sink_of(path) as sink:
        for index, tracks in enumerate(run):
            sink.write(frame_of(index), tracks)
    return path


def expected_rows(run: list[Tracks]) -> list[tuple]:
    """(frame from 1, id, xyxy, score, class, source) one by one, ids ascending."""
    return [
        (index + 1, row.id, row.xyxy, row.score, row.class_id, Source(row.source).name.lower())
        for index, tracks in enumerate(run)
        for row in sorted(tracks, key=lambda row: row.id)
    ]


def read_rows(path: Path) -> list[tuple]:
    """The same from a file, by its ending; pixels from 0."""
    if path.suffix in (".db", ".parquet"):
        return [
            (row["frame"], row["id"], np.array([row[edge] for edge in ("x1", "y1", "x2", "y2")]), row["score"],
             row["class"], row["source"])
            for row in table_of(path)
        ]  # fmt: skip
    text = path.read_text()
    if path.suffix == ".txt":
        rows = [[float(field) for field in line.split(",")] for line in text.splitlines()]
        assert all(row[7:] == [-1, -1, -1] for row in rows)
        boxes = [np.array([x - 1, y - 1, x - 1 + w, y - 1 + h]) for _, _, x, y, w, h, *_ in rows]
        return [(int(row[0]), int(row[1]), box, row[6], None, None) for row, box in zip(rows, boxes, strict=True)]
    if path.suffix == ".csv":
        return [
            (
                int(row["frame"]), int(row["id"]), np.array([float(row[edge]) for edge in ("x1", "y1", "x2", "y2")]),
                float(row["score"]), int(row["class"]), row["source"],
            )
            for row in csv.DictReader(text.splitlines())
        ]  # fmt: skip
    if path.suffix == ".jsonl":
        return [
            (line["frame"], row["id"], np.array(row["xyxy"]), row["score"], row["class"], row["source"])
            for line in map(json.loads, text.splitlines())
            for row in line["tracks"]
        ]
    rows = json.loads(text)["annotations"]
    boxes = [np.array([x, y, x + w, y + h]) for x, y, w, h in (row["bbox"] for row in rows)]
    return [
        (row["image_id"], row["track_id"], box, row["score"], row["category_id"] - 1, row["source"])
        for row, box in zip(rows, boxes, strict=True)
    ]


def table_of(path: Path) -> list[dict]:
    """The rows of a database, of all its runs, or of a Parquet file."""
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM tracks ORDER BY run, frame, id")]


def assert_same_rows(path: Path, run: list[Tracks]) -> None:
    found, expected = read_rows(path), expected_rows(run)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[2], known[2], atol=0.0151)  # two digits, for the corner and for the size
        assert row[3] == pytest.approx(known[3], abs=5e-5)
        assert row[4] in (None, known[4])
        assert row[5] in (None, known[5])


@pytest.mark.parametrize("ending", RESULTS)
def test_written_rows_read_back(tmp_path, rng, ending):
    run = random_run(rng)
    assert_same_rows(written(tmp_path / f"Tracks{ending.upper()}", run).rename(tmp_path / f"tracks{ending}"), run)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_frames_and_frames_without_people(tmp_path, ending):
    for name, run in (("none", []), ("empty", [Tracks()] * 3)):
        path = written(tmp_path / (name + ending), run)
        if ending == ".npy":
            assert np.load(path).shape == (0,)
        else:
            assert read_rows(path) == []
    assert ending != ".jsonl" or [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_time_is_in_seconds(tmp_path):
    tracks = Tracks(np.array([[1.0, 2, 3, 4]]), *(np.array([n]) for n in (7, 0.5, 0, 0)), np.array([1], np.uint8))
    for ending in (".csv", ".jsonl", ".json"):
        with open_sink(tmp_path / f"t{ending}") as sink:
            sink.write(Frame(9, 12.3456789, None, 640, 480), tracks)
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == (
        "10,12.345679,7,1.00,2.00,3.00,4.00,0.5000,0,proposed,person"
    )
    assert json.loads((tmp_path / "t.jsonl").read_text())["time_s"] == 12.345679
    image = json.loads((tmp_path / "t.json").read_text())["images"][0]
    assert (image["id"], image["frame_index"], image["time_s"]) == (10, 9, 12.345679)
    assert image["file_name"] == "frame_000009.jpg"


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".db", ".npy"])
def test_concurrent_reader_sees_whole_frames(tmp_path, rng, ending):
    run = random_run(rng, 8)
    path = tmp_path / f"t{ending}"
    with sink_of(path) as sink:
        for index, tracks in enumerate(run):
            sink.write(frame_of(index), tracks)
            if ending == ".npy":
                assert len(np.load(path)) == sum(map(len, run[: index + 1]))
            else:
                assert_same_rows(path, run[: index + 1])


# ------------------------------------------------------------------------------------------------ what breaks off


def assert_whole(path: Path, run: list[Tracks], n_frames: int) -> None:
    """The file has the first frames of the run and nothing of the others."""
    if path.suffix == ".npy":
        rows = np.load(path)
        assert rows["id"].tolist() == [row[1] for row in expected_rows(run[:n_frames])]
        return
    assert_same_rows(path, run[:n_frames])
    if path.suffix == ".json":
        assert [image["id"] for image in json.loads(path.read_text())["images"]] == list(range(1, n_frames + 1))


@pytest.mark.parametrize("room", [2500, 4000, 9000])
@pytest.mark.parametrize("ending", OWN_WRITER)
def test_full_disk_leaves_whole_frames(tmp_path, rng, ending, room):
    """The process limit on file sizes stands for a full disk."""
    resource = pytest.importorskip("resource", reason="no limits on files here")
    run = random_run(rng, 200)
    path = tmp_path / f"t{ending}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    n_frames = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(WriteError) as caught, sink_of(path) as sink:
            for n_frames, tracks in enumerate(run):
                sink.write(frame_of(n_frames), tracks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{path}: cannot be written at frame {n_frames + 1}: " in str(caught.value)
    assert path.stat().st_size <= room
    assert n_frames > 0
    assert_whole(path, run, n_frames)


@pytest.mark.parametrize("cut", [0, 10])
@pytest.mark.parametrize("ending", OWN_WRITER)
def test_interrupt_during_a_write_leaves_whole_frames(tmp_path, rng, monkeypatch, ending, cut):
    """A second Ctrl-C ends the run at once, wherever it is."""
    run = [tracks for tracks in random_run(rng, 40) if len(tracks)]
    path = tmp_path / f"t{ending}"
    real = frame_file._write_all
    with pytest.raises(KeyboardInterrupt), sink_of(path) as sink:
        for index, tracks in enumerate(run[:6]):
            sink.write(frame_of(index), tracks)

        def interrupted(file, data):
            monkeypatch.setattr(frame_file, "_write_all", real)
            real(file, data[:cut])
            raise KeyboardInterrupt

        monkeypatch.setattr(frame_file, "_write_all", interrupted)
        sink.write(frame_of(6), run[6])
    assert_whole(path, run, 6)


@pytest.mark.parametrize("ending", RESULTS)
def test_error_elsewhere_closes_the_file(tmp_path, rng, ending):
    run = random_run(rng, 5)
    path = tmp_path / f"t{ending}"
    with pytest.raises(ZeroDivisionError), open_sink(path) as sink:
        for index, tracks in enumerate(run):
            sink.write(frame_of(index), tracks)
        raise ZeroDivisionError
    assert_whole(path, run, 5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_for_the_header_is_an_error(tmp_path):
    (tmp_path / "t.csv").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="No space left"):
        open_sink(tmp_path / "t.csv", overwrite=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("ending", ENDINGS)
def test_pipe_takes_append_only_formats(tmp_path, rng, ending):
    run = random_run(rng, 3)
    path = tmp_path / f"t{ending}"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if ending in (".json", ".npy", ".db"):
            with pytest.raises(OutputError, match=r"needs? a file on disk"):
                sink_of(path)
            return
        written(path, run)
        text = os.read(reader, 10**5)
    finally:
        os.close(reader)
    path.unlink()
    path.write_bytes(text)
    assert_same_rows(path, run)


# ------------------------------------------------------------------------------------------------------- endings


def test_unknown_ending_lists_the_known_ones():
    for name in ("tracks.tsv", "tracks.xml", "a.txt.gz"):
        with pytest.raises(OutputError) as caught:
            open_sink(name)
        assert "\n" not in str(caught.value)
        assert all(ending in str(caught.value) for ending in (name, *FORMATS))


def test_name_without_extension_is_mot_text(tmp_path, rng):
    run = random_run(rng, 5)
    assert written(tmp_path / "tracks", run).read_text() == written(tmp_path / "t.txt", run).read_text()


@pytest.mark.parametrize("ending", ENDINGS)
def test_existing_file_is_kept(tmp_path, ending):
    path = tmp_path / f"t{ending}"
    path.write_text("mine")
    with pytest.raises(OutputError, match="another name" if ending == ".db" else "--overwrite"):
        sink_of(path)
    assert path.read_text() == "mine"


def test_closing_twice_is_harmless(tmp_path, rng):
    run = random_run(rng, 4)
    sink = open_sink(tmp_path / "t.json")
    for index, tracks in enumerate(run):
        sink.write(frame_of(index), tracks)
    sink.close()
    sink.close()
    assert_whole(tmp_path / "t.json", run, 4)


# ---------------------------------------------------------------------------------------------------------- COCO


def test_coco_lists_refer_to_each_other(tmp_path, rng):
    run = random_run(rng)
    names = {0: "person", 1: "bicyclé"}
    with open_sink(tmp_path / "t.json", name='a "video"', class_names=names) as sink:
        for index, tracks in enumerate(run):
            sink.write(frame_of(index), tracks)
    table = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert [video["name"] for video in table["videos"]] == ['a "video"']
    assert (table["videos"][0]["width"], table["videos"][0]["height"]) == (640, 480)
    assert [image["frame_index"] for image in table["images"]] == list(range(len(run)))
    assert {row["id"]: row["name"] for row in table["categories"]} == {1: "person", 2: "bicyclé", 3: "class 2"}
    first_class = {}
    for row in expected_rows(run):
        first_class.setdefault(row[1], row[4])
    assert {row["id"]: row["category_id"] - 1 for row in table["tracks"]} == first_class
    assert [row["id"] for row in table["annotations"]] == list(range(1, len(expected_rows(run)) + 1))
    for row, (_, identity, box, _, _, source) in zip(table["annotations"], expected_rows(run), strict=True):
        assert row["instance_id"] == identity
        assert row["attributes"] == {"track_id": identity, "keyframe": True, "occluded": source == "occluded"}
        np.testing.assert_allclose(row["bbox"], xyxy_to_ltwh(box[None])[0], atol=0.0151)
        assert row["area"] == pytest.approx(row["bbox"][2] * row["bbox"][3], abs=0.01)


def test_coco_file_has_no_padding(tmp_path, rng):
    """The space reserved for the end is truncated."""
    text = written(tmp_path / "t.json", random_run(rng)).read_text()
    assert text.endswith("]}\n")
    assert "  " not in text


# ----------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_stand_beside_the_rows(tmp_path, rng):
    run = random_run(rng)
    rows = np.load(written(tmp_path / "t.npy", run), allow_pickle=False)
    expected = [
        (index + 1, tracks.id[row], tracks.features[row])
        for index, tracks in enumerate(run)
        for row in np.argsort(tracks.id)
    ]
    assert rows["embedding"].dtype == np.float32
    assert [tuple(row) for row in rows[["frame", "id"]]] == [(frame, identity) for frame, identity, _ in expected]
    np.testing.assert_array_equal(rows["embedding"], np.array([features for *_, features in expected]))
    mapped = np.load(tmp_path / "t.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped["embedding"], rows["embedding"])


def test_tracks_without_embeddings_cannot_be_saved(tmp_path):
    tracks = Tracks(np.array([[1.0, 2, 3, 4]]), *(np.array([n]) for n in (7, 0.5, 0, 0)), np.array([1], np.uint8))
    with EmbeddingSink(tmp_path / "t.npy") as sink, pytest.raises(OutputError, match="keep_features"):
        sink.write(frame_of(0), tracks)
    for name in ("t.npz", "t.txt", "t"):
        with pytest.raises(OutputError, match=r"\.npy"):
            EmbeddingSink(tmp_path / name)


def test_csv_names_classes(tmp_path):
    """Whatever a network calls them, a row stays one line that csv and pandas read."""
    names = {1: "bicycle", 2: 'van, "large"', 3: "Fußgänger\nzwei"}
    tracks = Tracks(np.zeros((5, 4)), np.arange(1, 6), np.ones(5), np.arange(5), np.arange(5), np.zeros(5, np.uint8))
    with open_sink(tmp_path / "t.csv", class_names=names) as sink:
        sink.write(Frame(0, 0.0, None, 640, 480), tracks)
    assert (tmp_path / "t.csv").read_bytes().count(b"\n") == 6
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["class_name"] for row in rows] == ["person", "bicycle", 'van, "large"', "Fußgänger zwei", "class 4"]


def test_json_lines_have_keypoints_of_those_who_were_detected(tmp_path):
    points = np.array([[[10.126, 20, 0.98768]], [[np.nan] * 3]])
    tracks = Tracks(np.zeros((2, 4)), np.array([7, 3]), *(np.zeros(2, kind) for kind in (float, int, int, np.uint8)))
    path = written(tmp_path / "t.jsonl", [replace(tracks, keypoints=points), Tracks(keypoints=points[:0])])
    rows = [json.loads(line)["tracks"] for line in path.read_text().splitlines()]
    assert [(row["id"], row["keypoints"]) for row in rows[0]] == [(3, None), (7, [[10.13, 20.0, 0.9877]])]
    assert rows[1] == []
