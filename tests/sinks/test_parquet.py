"""Parquet: typed columns in row groups, complete or absent."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tests.oracles.disks import room_for
from tests.sinks.test_formats import assert_same_rows, frame_of, random_run
from tracker.errors import OutputError, WriteError
from tracker.sinks import parquet
from tracker.sinks.base import COLUMNS, RunFacts
from tracker.sinks.open import open_sink


@pytest.fixture
def pq():
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def write(path, run) -> None:
    for ending in (path, path.with_suffix(".csv")):
        with open_sink(ending) as sink:
            for index, tracks in enumerate(run):
                sink.write(frame_of(index), tracks)


def test_table_equals_the_csv(pq, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 20)
    write(tmp_path / "t.parquet", random_run(rng))
    table, csv = pd.read_parquet(tmp_path / "t.parquet"), pd.read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(table, csv, check_dtype=False)
    kinds = {int: np.int64, float: np.float64}
    assert all(table[name].dtype == kinds[kind] for name, kind in COLUMNS.items() if kind is not str)
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert file.num_row_groups > 2


def test_metadata_names_the_run(pq, tmp_path):
    run = RunFacts("a.mp4", 640, 480, 25.0, place="/videos/a.mp4", settings='{"x": 1}')
    parquet.ParquetSink(tmp_path / "t.parquet", run).close()
    facts = json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[b"tracklet"])
    assert (facts["source"], facts["fps"], facts["settings"]) == ("/videos/a.mp4", 25.0, {"x": 1})
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 0


@pytest.mark.parametrize("rows_at_once", [20, 10**6])
@pytest.mark.parametrize("room", [0, 3, 3000])
def test_full_disk_leaves_no_file(pq, tmp_path, rng, monkeypatch, room, rows_at_once):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", rows_at_once)
    full = pytest.raises(WriteError, match=r"t\.parquet: cannot be written: ")
    with room_for(room), full, open_sink(tmp_path / "t.parquet") as sink:
        for index, tracks in enumerate(random_run(rng)):
            sink.write(frame_of(index), tracks)
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_is_harmless(pq, tmp_path, rng):
    run = random_run(rng, 4)
    sink = open_sink(tmp_path / "t.parquet")
    for index, tracks in enumerate(run):
        sink.write(frame_of(index), tracks)
    sink.close()
    sink.close()
    assert_same_rows(tmp_path / "t.parquet", run)


def test_missing_pyarrow_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r'needs pyarrow, which is not installed: pip install "\.\[parquet\]"'):
        open_sink(tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []
