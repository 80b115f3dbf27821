"""docs/queries.md: each query gives what pandas computes from the arrays that were written, without SQL."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.oracles.pages import blocks
from tracker.sinks.base import RunFacts
from tracker.sinks.open import _open
from tracker.types import Frame, Tracks

QUERIES = [block.text for block in blocks("docs/queries.md") if block.language == "sql"]
FPS, N_FRAMES = 5.0, 900  # three minutes
FACTS = RunFacts("a.mp4", 640, 480, FPS)
BOX = ["x1", "y1", "x2", "y2"]


def walkers(seed: int) -> pd.DataFrame:
    """Boxes of twelve people who walk, come, leave, and are missed for a while; hundredths of a pixel."""
    rng = np.random.default_rng(seed)
    parts = []
    for identity in range(1, 13):
        first = int(rng.integers(0, N_FRAMES - 200))
        frames = np.arange(first, first + int(rng.integers(60, 200)))
        if identity % 3 == 0:  # missed once, for two seconds
            frames = np.delete(frames, np.arange(20, 30))
        x, y = rng.uniform(100, 600, (2, 1)) + rng.normal(0, 2, (len(frames), 2)).cumsum(axis=0).T
        table = pd.DataFrame({"frame": frames + 1, "time_s": (frames / FPS).round(6), "id": identity})
        for name, values in zip(BOX, (x - 15, y - 70, x + 15, y), strict=True):
            table[name] = values.round(2)
        parts.append(table)
    return pd.concat(parts)


def write(path, table: pd.DataFrame, facts: RunFacts) -> None:
    of_frame = dict(list(table.groupby("frame")))
    with _open(str(path), facts) as sink:
        for index in range(N_FRAMES):
            rows = of_frame.get(index + 1, table[:0])
            n = len(rows)
            tracks = Tracks(
                rows[BOX].to_numpy(float), rows.id.to_numpy(), np.full(n, 0.9), np.zeros(n, np.int64),
                np.arange(n), np.zeros(n, np.uint8),
            )  # fmt: skip
            sink.write(Frame(index, index / FPS, None, 640, 480), tracks)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Of run 1, with the point where each person stands."""
    table = walkers(1)
    return table.assign(x=(table.x1 + table.x2) / 2, y=table.y2)


@pytest.fixture(scope="module")
def database(tmp_path_factory, table):
    """Run 1, and a second one with the same identities, which must not be mixed in."""
    path = tmp_path_factory.mktemp("queries") / "tracks.db"
    write(path, table, FACTS)
    write(path, walkers(2), replace(FACTS, place="b.mp4"))
    with closing(sqlite3.connect(path)) as database:
        yield database


def seen(table):
    return table.groupby("id").time_s.agg(["min", "max", "size"])


def ordered(rows, *by):
    return sorted(rows, key=lambda row: tuple(row[i] if i >= 0 else -row[~i] for i in by))


def people_per_minute(table):
    minutes = table.groupby(table.time_s // 60).id.nunique()
    return [(int(minute), n) for minute, n in minutes.items()]


def busiest_minute(table):
    per_frame = table.groupby("frame").id.size()
    minute = ((per_frame.index - 1) / FPS) // 60
    mean = per_frame.groupby(minute).mean()
    return [(int(mean.idxmax()), mean.max())]


def first_and_last(table):
    return ordered([(i, row["min"], row["max"], int(row["size"])) for i, row in seen(table).iterrows()], 1, 0)


def longest_stays(table):
    return ordered([(i, row["max"] - row["min"]) for i, row in seen(table).iterrows()], ~1, 0)[:10]


def inside(table):
    return table[(table.x >= 200) & (table.x <= 500) & (table.y >= 150) & (table.y <= 400)]


def who_was_there(table):
    return ordered(list(inside(table).groupby("id").time_s.min().items()), 1, 0)


def dwell(table):
    return ordered([(i, n / FPS) for i, n in inside(table).groupby("id").size().items()], ~1, 0)


def speeds(table):
    rows = []
    for identity, person in table.groupby("id"):
        by_second = dict(list(person.groupby(person.time_s.astype(int))))
        for second, part in by_second.items():
            if second - 1 in by_second:
                before = by_second[second - 1]
                step = part[["x", "y"]].to_numpy().mean(axis=0) - before[["x", "y"]].to_numpy().mean(axis=0)
                rows.append((identity, second, np.hypot(*step) / (part.time_s.mean() - before.time_s.mean())))
    return rows


def together(table):
    frames = {identity: set(person.frame) for identity, person in table.groupby("id")}
    pairs = [(a, b, len(frames[a] & frames[b]) / FPS) for a, b in itertools.combinations(sorted(frames), 2)]
    return ordered([pair for pair in pairs if pair[2]], ~2, 0, 1)


def path_of_one(table):
    return list(table[table.id == 1].sort_values("frame")[["frame", "time_s", "x", "y"]].itertuples(index=False))


def gaps(table):
    rows = []
    for identity, person in table.groupby("id"):
        for a, b in itertools.pairwise(sorted(person.time_s)):
            if b - a > 0.5:
                rows.append((identity, a, b, b - a))
    return ordered(rows, 1, 0)


EXPECTED = [
    people_per_minute, busiest_minute, first_and_last, longest_stays, who_was_there, dwell, speeds, together,
    path_of_one, gaps,
]  # fmt: skip


@pytest.mark.parametrize("number", range(1, 11))
def test_query_agrees_with_pandas(database, table, number):
    assert len(QUERIES) == len(EXPECTED) == 10
    found, expected = database.execute(QUERIES[number - 1]).fetchall(), EXPECTED[number - 1](table)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(np.array(found, float), np.array(expected, float), rtol=1e-9, atol=1e-9)
