"""Metres on the floor against a pinhole camera whose place and angle are known."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from tests.oracles.pages import blocks
from tracker.analytics.ground import MAX_M_PER_PX, open_ground, parse_ground, walked
from tracker.commands.report.cli import write_report
from tracker.commands.report.table import TableError, read_table
from tracker.errors import ConfigError
from tracker.sinks.base import RunFacts
from tracker.sinks.open import _open
from tracker.types import Frame, Tracks

SIZE = (1280, 720)
CORNERS_M = np.array([[-2.0, 6.0], [2.0, 6.0], [4.0, 18.0], [-4.0, 18.0]])


class Camera:
    """At (0, 0, height), looks along the floor's y axis, down by `tilt`; x right, y ahead, z up, all in metres."""

    def __init__(self, height_m: float = 4.0, tilt: float = np.radians(20), focal_px: float = 900.0) -> None:
        self._place = np.array([0.0, 0.0, height_m])
        ahead = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
        right = np.array([1.0, 0.0, 0.0])
        self._axes = np.stack([right, np.cross(ahead, right), ahead])
        self._focal_px, self.horizon_px = focal_px, SIZE[1] / 2 - focal_px * np.tan(tilt)

    def pixels(self, floor_m: np.ndarray, height_m: float = 0.0) -> np.ndarray:
        """(N, 2) metres -> (N, 2) pixels."""
        there = np.column_stack([floor_m, np.full(len(floor_m), height_m)]) - self._place
        x, y, depth = self._axes @ there.T
        assert (depth > 0).all()
        return np.column_stack([SIZE[0] / 2 + self._focal_px * x / depth, SIZE[1] / 2 + self._focal_px * y / depth])

    def points(self, floor_m: np.ndarray = CORNERS_M) -> list[tuple]:
        return [tuple(row) for row in np.hstack([self.pixels(floor_m), floor_m]).tolist()]


@pytest.mark.parametrize(("height_m", "degrees"), [(4.0, 20), (3.0, 20), (8.0, 35)])
def test_floor_points_come_back_in_metres(rng, height_m, degrees):
    camera = Camera(height_m, np.radians(degrees))
    floor_m = np.column_stack([rng.uniform(-6, 6, 200), rng.uniform(5, 20, 200)])
    plane = open_ground(camera.points(), *SIZE)
    np.testing.assert_allclose(plane.locate(camera.pixels(floor_m)), floor_m, atol=1e-6)


def test_more_points_average_their_errors(rng):
    camera = Camera()
    floor_m = np.column_stack([rng.uniform(-3, 3, 30), rng.uniform(6, 16, 30)])
    noisy = np.array(camera.points(floor_m))
    noisy[:, :2] += rng.normal(0, 1.0, (30, 2))
    found = open_ground([tuple(row) for row in noisy.tolist()], *SIZE).locate(camera.pixels(CORNERS_M[:2]))
    np.testing.assert_allclose(found, CORNERS_M[:2], atol=0.1)


def test_no_position_at_and_above_the_horizon():
    camera = Camera()
    plane = open_ground(camera.points(), *SIZE)
    y = np.linspace(-2000, 2000, 4001)
    found = plane.locate(np.column_stack([np.full(len(y), 700.0), y]))
    known = np.isfinite(found).all(axis=1)
    assert not known[y <= camera.horizon_px].any()
    assert known[y > camera.horizon_px + 100].all()
    assert np.abs(found[known]).max() < 60  # metres: a pixel before the horizon it would be thousands
    # Slow: what a step of a tiny part of a pixel, in any direction, is on the floor.
    for x, y in ((700.0, 300.0), (100.0, 120.0), (640.0, 88.0)):
        around = np.array([x, y]) + 1e-4 * np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, np.pi, 721)])
        places = [plane.to_metres @ [*point, 1] for point in [np.array([x, y]), *around]]
        floor_m = np.array([[a / w, b / w] for a, b, w in places])
        longest = np.linalg.norm(floor_m[1:] - floor_m[0], axis=1).max() / 1e-4
        assert np.isfinite(plane.locate(np.array([[x, y]]))).all() == (longest <= MAX_M_PER_PX)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p[[0, 2, 1, 3], :2], "the points are crossed"),
        (lambda p: p[[1, 0, 2, 3], :2], "the points are crossed"),
        (lambda p: np.vstack([p[:3, :2], (p[0, :2] + p[1, :2]) / 2]), "three of the points lie on a line"),
        (lambda p: p[[0, 1, 2, 2], :2], "three of the points lie on a line"),
        (lambda p: p[:, :2] + [2000, 0], r"lies outside the picture, which has 1280x720 pixels"),
    ],
)
def test_points_that_no_camera_shows_are_one_line(change, said):
    points = np.array(Camera().points())
    points[:, :2] = change(points)
    with pytest.raises(ConfigError, match=said) as caught:
        open_ground([tuple(row) for row in points.tolist()], *SIZE)
    assert "\n" not in str(caught.value)


def test_points_of_no_common_plane_are_one_line(rng):
    points = np.array(Camera().points(np.column_stack([rng.uniform(-3, 3, 8), rng.uniform(6, 16, 8)])))
    points[3, 2] += 4
    with pytest.raises(ConfigError, match="do not fit one plane: "):
        open_ground([tuple(row) for row in points.tolist()], *SIZE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1,2=3,4"] * 3, "at least 4 points x,y=X,Y .* got 3"),
        (["1,2=3,4"] * 3 + ["1,2,3,4"], "got '1,2,3,4'"),
        (["1,2=3,4"] * 3 + ["1,2=3,inf"], "got '1,2=3,inf'"),
        (["1,2=3,4"] * 4 + ["video.mp4"], r"got 'video\.mp4'"),
    ],
)
def test_malformed_words_are_one_line(words, said):
    with pytest.raises(ConfigError, match=said):
        parse_ground(words)


def walk(camera: Camera, path, fps: float = 10.0, place: str = "a") -> None:
    """Two people: one walks at 1.4 m/s to the side, one at 0.8 m/s away from the camera; boxes tremble by a pixel."""
    rng = np.random.default_rng(4)
    facts = RunFacts("a.mp4", *SIZE, fps, place=place, ground=open_ground(camera.points(), *SIZE))
    with _open(str(path), facts) as sink:
        for index in range(50):
            t = index / fps
            floor_m = np.array([[-3.0 + 1.4 * t, 9.0], [0.5, 7.0 + 0.8 * t]])
            feet, heads = camera.pixels(floor_m), camera.pixels(floor_m, 1.75)
            width = (feet[:, 1] - heads[:, 1]) * 0.2
            boxes = np.column_stack([feet[:, 0] - width, heads[:, 1], feet[:, 0] + width, feet[:, 1]])
            boxes = np.vstack([boxes + rng.normal(0, 1.0, boxes.shape), [[600.0, 0.0, 620.0, 20.0]]])  # in the sky
            zeros = np.zeros(3, np.int64)
            tracks = Tracks(boxes, np.array([1, 2, 3]), np.ones(3), zeros, zeros, zeros.astype(np.uint8))
            sink.write(Frame(index, t, None, *SIZE), tracks)


def test_every_table_has_the_metres(tmp_path):
    endings = ["csv", "jsonl", "db", "parquet"]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        endings.remove("parquet")
    found = {}
    for ending in endings:
        path = tmp_path / f"t.{ending}"
        walk(Camera(), path)
        if ending == "csv":
            rows = [(r["frame"], r["id"], r["gx"], r["gy"]) for r in csv.DictReader(path.open())]
            assert [row[2:] for row in rows if row[1] == "3"] == [("", "")] * 50
            rows = [(int(f), int(i), float(x or "nan"), float(y or "nan")) for f, i, x, y in rows]
        elif ending == "jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            rows = [(line["frame"], r["id"], r["gx"], r["gy"]) for line in lines for r in line["tracks"]]
        elif ending == "db":
            with closing(sqlite3.connect(path)) as database:
                rows = database.execute("SELECT frame, id, gx, gy FROM tracks ORDER BY frame, id").fetchall()
        else:
            rows = pd.read_parquet(path)[["frame", "id", "gx", "gy"]].to_numpy()
        found[ending] = np.array([tuple(row) for row in rows], float)
        np.testing.assert_allclose(found[ending], found["csv"])
    table = found["csv"]
    one = table[table[:, 1] == 1]
    truth = np.column_stack([-3.0 + 1.4 * (one[:, 0] - 1) / 10, np.full(50, 9.0)])
    assert np.abs(one[:, 2:] - truth).max() < 0.15


def test_without_a_ground_plane_tables_are_as_before(tmp_path):
    tracks = Tracks(np.array([[1.0, 2, 3, 4]]), *(np.array([n]) for n in (7, 0.5, 0, 0)), np.array([1], np.uint8))
    for ending in ("csv", "jsonl", "db"):
        with _open(str(tmp_path / f"t.{ending}"), RunFacts("a", 64, 48, 5.0)) as sink:
            sink.write(Frame(0, 0.0, None, 64, 48), tracks)
    assert "gx" not in (tmp_path / "t.csv").read_text() + (tmp_path / "t.jsonl").read_text()
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        assert database.execute("SELECT gx, gy FROM tracks").fetchall() == [(None, None)]


def test_speeds_and_distances_of_the_page_are_those_walked(tmp_path):
    """docs/ground.md; the means of five seconds lie four seconds apart."""
    walk(Camera(), tmp_path / "t.db")
    speeds, distances, apart = (block.text for block in blocks("docs/ground.md") if block.language == "sql")
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        found = np.array(database.execute(speeds).fetchall())
        walked = database.execute(distances).fetchall()
        nearest = database.execute(apart.replace("< 2", "< 100")).fetchall()
        rows = np.array(database.execute("SELECT id, gx, gy FROM tracks WHERE id < 3 ORDER BY id, frame").fetchall())
    assert found[:, :2].tolist() == [[identity, second] for identity in (1, 2) for second in range(1, 5)]
    np.testing.assert_allclose(found[:, 2], [1.4] * 4 + [0.8] * 4, atol=0.05)
    assert [identity for identity, _ in walked] == [1, 2]
    np.testing.assert_allclose([metres for _, metres in walked], [4 * 1.4, 4 * 0.8], rtol=0.03)
    one, other = (rows[rows[:, 0] == identity, 1:] for identity in (1, 2))
    assert [pair for *pair, _ in nearest] == [[1, 2]]
    assert nearest[0][2] == pytest.approx(np.linalg.norm(one - other, axis=1).min())


def test_report_says_how_far_and_how_fast_each_person_walked(tmp_path):
    """The person in the sky has no place on the floor."""
    for ending in ("csv", "jsonl", "db"):
        walk(Camera(), tmp_path / f"t.{ending}")
        page = write_report(tmp_path / f"t.{ending}", out=tmp_path / f"{ending}.html").read_text()
        found = re.findall(r"walked ([\d.]+) m, ([\d.]+) m/s", page)
        assert [float(metres) for metres, _ in found] == pytest.approx([5.6, 3.2], abs=0.15)
        assert [speed for _, speed in found] == ["1.4", "0.8"]
    text = re.sub("person,[^,]+,", "person,inf,", (tmp_path / "t.csv").read_text(), count=1)
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TableError, match="all values must be finite"):
        read_table(tmp_path / "bad.csv")


def test_standing_person_walks_nothing_and_a_glimpse_is_not_known(rng):
    times = np.arange(0, 20, 0.1)
    trembling = np.array([3.0, 8.0]) + rng.normal(0, 0.05, (200, 2))
    metres, seconds = walked(times, trembling)
    assert metres < 1.0 < np.linalg.norm(np.diff(trembling, axis=0), axis=1).sum() / 5
    assert seconds == pytest.approx(19.0)
    assert np.isnan(walked(times[:5], trembling[:5])).all()
    assert np.isnan(walked(times, trembling * np.nan)).all()
