"""Counts as a table, in the annotated video and in the summary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.errors import OutputError
from tracker.sinks.counts import CountsSink
from tracker.types import Frame, Tracks


def frame_of(index: int) -> Frame:
    return Frame(index, index / 10, None, 160, 120)


def people(*feet) -> Tracks:
    """Identities 1, 2, ... with their feet at these places; None is absent."""
    there = [(i, x, y) for i, (x, y) in enumerate(f or (None, None) for f in feet) if x is not None]
    n = len(there)
    xyxy = np.array([[x - 5, y - 20, x + 5, y] for _, x, y in there], float).reshape(n, 4)
    ids = np.array([i + 1 for i, _, _ in there], np.int64)
    return Tracks(xyxy, ids, np.ones(n), np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.uint8))


def counters():
    zone = ZoneCounter([(80, 10), (150, 10), (150, 110), (80, 110)], name="shop, ground floor")
    return [LineCounter((0, 60), (160, 60), name="door")], [zone]


STEPS = [
    people((20, 30), (100, 30)),
    people((20, 90), (100, 50)),
    people((20, 30), (100, 90)),
    people((20, 20), (40, 90)),
]


def test_events_are_on_disk_as_they_come(tmp_path):
    path = tmp_path / "counts.csv"
    with CountsSink(*counters(), path) as sink:
        sink.write(frame_of(0), STEPS[0])
        sink.write(frame_of(1), STEPS[1])
        assert len(pd.read_csv(path)) == 2  # before the file is closed
        sink.write(frame_of(2), STEPS[2])
        sink.write(frame_of(3), STEPS[3])
    table = pd.read_csv(path)
    assert list(table) == ["time_s", "frame", "kind", "name", "id", "direction", "stay_s"]
    rows = [tuple(row) for row in table[["frame", "name", "id", "direction"]].itertuples(index=False)]
    assert rows == [
        (1, "shop, ground floor", 2, "appeared"),
        (2, "door", 1, "in"),
        (3, "door", 1, "out"),
        (3, "door", 2, "in"),
        (4, "shop, ground floor", 2, "left"),
    ]
    np.testing.assert_allclose(table["time_s"], (table["frame"] - 1) / 10)
    assert table["stay_s"].notna().tolist() == [False] * 4 + [True]
    assert 0.2 < table["stay_s"].iloc[-1] < 0.3
    assert sink.text().splitlines() == [
        "door               2 in, 1 out",
        f"shop, ground floor 0 entered, 1 left, 0 inside at the end; 1 visitors stayed "
        f"{table['stay_s'].iloc[-1]:.1f} s (median), {table['stay_s'].iloc[-1]:.1f} s at most",
    ]


def test_stays_until_the_end_are_written(tmp_path):
    path = tmp_path / "counts.csv"
    with CountsSink(*counters(), path) as sink:
        for k in range(3):
            sink.write(frame_of(k), people((100, 50)))
    last = pd.read_csv(path).iloc[-1]
    assert (last["direction"], last["frame"], last["stay_s"]) == ("ended", 3, 0.2)
    assert "1 inside at the end" in sink.text()


def test_without_a_file_it_only_counts():
    with CountsSink(*counters()) as sink:
        for k, step in enumerate(STEPS):
            sink.write(frame_of(k), step)
    assert sink.text().startswith("door               2 in, 1 out")


def test_on_standard_output(capsys):
    with CountsSink(*counters(), "-") as sink:
        for k, step in enumerate(STEPS):
            sink.write(frame_of(k), step)
    assert capsys.readouterr().out.splitlines()[2] == "0.100,2,line,door,1,in,"


def test_existing_file_is_kept(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        CountsSink(*counters(), path)
    assert path.read_text() == "mine"


def test_lines_and_zones_are_drawn_where_they_are():
    zone = ZoneCounter([(400, 20), (600, 20), (600, 120), (400, 120)])
    sink = CountsSink([LineCounter((0, 240), (640, 240))], [zone])
    picture = np.full((480, 640, 3), 90, np.uint8)
    sink.draw(picture)
    assert (picture[240, 500] == 255).all()
    np.testing.assert_allclose(picture[60, 500], 0.15 * 255 + 0.85 * 90, atol=1)
    assert (picture[60, 200] == 90).all()  # neither line nor zone
    # In points down: to the right, seen along the line.
    assert (picture[248, 320] == 255).all()
    assert (picture[232, 320] == 90).all()


def test_zone_at_the_image_edge_is_drawn_inside():
    sink = CountsSink([], [ZoneCounter([(0, 0), (160, 0), (160, 120), (0, 120)])])
    picture = np.zeros((120, 160, 3), np.uint8)
    sink.draw(picture)
    assert picture[20, 100].any()
