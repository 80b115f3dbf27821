"""The database: runs are added, never mixed; a kill or a full disk loses no frame that was written."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.oracles.disks import room_for
from tests.sinks.test_formats import assert_same_rows, frame_of, random_run, table_of
from tracker.errors import OutputError, ResumeError, WriteError
from tracker.sinks.base import RunFacts
from tracker.sinks.open import open_sink
from tracker.sinks.sqlite import SqliteSink

FACTS = RunFacts("a.mp4", 640, 480, 30.0, place="/videos/a.mp4", settings='{"lifecycle": {"lost_s": 2.5}}')


def ask(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def written(path: Path, run, facts: RunFacts = FACTS) -> Path:
    with SqliteSink(path, facts) as sink:
        for index, tracks in enumerate(run):
            sink.write(frame_of(index), tracks)
    return path


def test_runs_have_a_row_each(tmp_path, rng):
    first, second = random_run(rng, 12), random_run(rng, 7)
    path = written(tmp_path / "t.db", first)
    written(path, second, replace(FACTS, place="/videos/b.mp4", fps=25.0, started="2026-11-30 12:00:00.000000"))
    assert ask(path, "SELECT run, source, fps, width, height, frames, seconds FROM runs") == [
        (1, "/videos/a.mp4", 30.0, 640, 480, 12, round(11 / 30, 6)),
        (2, "/videos/b.mp4", 25.0, 640, 480, 7, 0.2),
    ]
    assert ask(path, "SELECT json_extract(settings, '$.lifecycle.lost_s'), version FROM runs WHERE run = 2") == [
        (2.5, "0.1.0")
    ]
    assert [row["run"] for row in table_of(path)] == [1] * sum(map(len, first)) + [2] * sum(map(len, second))
    ask_and_keep = sqlite3.connect(path)
    ask_and_keep.execute("DELETE FROM runs WHERE run = 1")
    ask_and_keep.commit()
    ask_and_keep.close()
    assert_same_rows(path, second)
    assert [each.name for each in tmp_path.iterdir()] == ["t.db"]


def test_overwrite_replaces_the_runs_of_the_same_source_alone(tmp_path, rng):
    path = tmp_path / "t.db"
    for place in "abab":
        written(path, random_run(rng, 4), replace(FACTS, place=place, started=str(rng.random())))
    run = random_run(rng, 9)
    written(path, run, replace(FACTS, place="a", overwrite=True, started="now"))
    assert ask(path, "SELECT source, COUNT(DISTINCT run) FROM runs GROUP BY source") == [("a", 1), ("b", 2)]
    assert ask(path, "SELECT COUNT(*) FROM tracks JOIN runs USING (run) WHERE runs.source = 'a'") == [
        (sum(map(len, run)),)
    ]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM tracks WHERE run = 1 AND frame BETWEEN 5 AND 9",
        "SELECT * FROM tracks WHERE run = 1 AND id = 7 ORDER BY frame",
        "SELECT id, MIN(frame), MAX(frame) FROM tracks WHERE run = 1 GROUP BY id",
    ],
)
def test_queries_by_frame_and_by_person_use_an_index(tmp_path, rng, query):
    path = written(tmp_path / "t.db", random_run(rng))
    plan = " ".join(row[-1] for row in ask(path, f"EXPLAIN QUERY PLAN {query}"))
    assert plan.startswith("SEARCH tracks USING")
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("more", [0, 1, 9])
def test_resumed_database_has_the_rows_of_an_uninterrupted_run(tmp_path, rng, more):
    """`more` frames were written after the checkpoint, when the process ended without closing anything."""
    run, path = random_run(rng, 25), tmp_path / "t.db"
    written(path, random_run(rng, 5), replace(FACTS, place="another", started="before"))
    sink = SqliteSink(path, FACTS)
    for index in range(11):
        sink.write(frame_of(index), run[index])
    state = sink.state()
    for index in range(11, 11 + more):
        sink.write(frame_of(index), run[index])
    copy = tmp_path / "copy"  # the files as a kill leaves them
    copy.mkdir()
    for name in ("t.db", "t.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    with SqliteSink(copy / "t.db", replace(FACTS, resume=state)) as resumed:
        for index in range(11, 25):
            resumed.write(frame_of(index), run[index])
    for index in range(11 + more, 25):
        sink.write(frame_of(index), run[index])
    sink.close()
    for query in ("SELECT * FROM tracks", "SELECT * FROM runs"):
        assert ask(copy / "t.db", query) == ask(path, query)
    assert len(ask(path, "SELECT * FROM runs")) == 2


@pytest.mark.parametrize("change", ["DELETE FROM tracks WHERE frame = 3", "UPDATE runs SET started = ''", None])
def test_changed_database_is_not_resumed(tmp_path, rng, change):
    path = tmp_path / "t.db"
    sink = SqliteSink(path, FACTS)
    for index, tracks in enumerate(random_run(rng, 9, most=9)[3:]):
        sink.write(frame_of(index), tracks)
    state = sink.state()
    sink.close()
    if change is None:
        path.unlink()
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(change)
    before = None if change is None else ask(path, "SELECT * FROM tracks")
    with pytest.raises(
        ResumeError, match="removed" if change is None else "was changed since the checkpoint"
    ) as caught:
        SqliteSink(path, replace(FACTS, resume=state))
    assert "\n" not in str(caught.value)
    assert (ask(path, "SELECT * FROM tracks") if path.exists() else None) == before


def test_run_killed_before_its_first_checkpoint_begins_once(tmp_path, rng):
    """`resumed` without a state: the rows of the first attempt go, those of earlier runs of the source stay."""
    path, run = written(tmp_path / "t.db", random_run(rng, 3), replace(FACTS, started="earlier")), random_run(rng, 6)
    written(path, run[:2])
    written(path, run, replace(FACTS, overwrite=True, resumed=True))
    assert ask(path, "SELECT started, frames FROM runs") == [("earlier", 3), (FACTS.started, 6)]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_killed_process_keeps_every_written_frame(tmp_path):
    """No checkpoint and no close: what `write` returned from is there."""
    code = (
        "import os, signal, sys, numpy as np\n"
        "from tests.sinks.test_formats import frame_of, random_run\n"
        "from tracker.sinks.open import open_sink\n"
        "sink = open_sink(sys.argv[1])\n"
        "for index, tracks in enumerate(random_run(np.random.default_rng(3), 20)):\n"
        "    sink.write(frame_of(index), tracks)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "t.db"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert_same_rows(path, random_run(np.random.default_rng(3), 20))


def test_two_runs_at_once_share_a_database(tmp_path, rng):
    path, runs = tmp_path / "t.db", [random_run(rng, 15), random_run(rng, 15)]
    with SqliteSink(path, FACTS) as a, SqliteSink(path, replace(FACTS, place="b")) as b:
        for index in range(15):
            a.write(frame_of(index), runs[0][index])
            b.write(frame_of(index), runs[1][index])
    counts = ask(path, "SELECT run, COUNT(*) FROM tracks GROUP BY run")
    assert counts == [(1, sum(map(len, runs[0]))), (2, sum(map(len, runs[1])))]


@pytest.mark.parametrize("room", [60_000, 120_000])
def test_full_disk_keeps_the_frames_before(tmp_path, rng, room):
    run, path, n_frames = random_run(rng, 2000), tmp_path / "t.db", 0
    with room_for(room), pytest.raises(WriteError) as caught, open_sink(path) as sink:
        for n_frames, tracks in enumerate(run):
            sink.write(frame_of(n_frames), tracks)
    assert str(caught.value).startswith(f"{path}: cannot be written at frame {n_frames + 1}: ")
    assert n_frames > 0
    assert_same_rows(path, run[:n_frames])


def test_full_disk_from_the_start_leaves_no_file(tmp_path):
    with room_for(1000), pytest.raises(OutputError) as caught:
        open_sink(tmp_path / "t.db")
    assert "t.db: cannot be written: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_during_a_write_leaves_whole_frames(tmp_path, rng, monkeypatch):
    run, path = random_run(rng, 8, most=9), tmp_path / "t.db"

    def interrupted(*words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_sink(path) as sink:
        for index in range(5):
            sink.write(frame_of(index), run[index])
        monkeypatch.setattr("tracker.sinks.sqlite.round", interrupted, raising=False)  # after the rows
        sink.write(frame_of(5), run[5])
    assert_same_rows(path, run[:5])


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_removed_database_is_an_error(tmp_path, rng, how):
    path = tmp_path / "t.db"
    with pytest.raises(WriteError, match="was removed or replaced while it was written"), open_sink(path) as sink:
        for index, tracks in enumerate(random_run(rng, 4)):
            sink.write(frame_of(index), tracks)
        os.replace(path, tmp_path / "elsewhere.db")
        if how == "replaced":
            path.write_bytes(b"foreign")
        sink.state() if how == "removed" else None
    assert how == "removed" or path.read_bytes() == b"foreign"


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE runs (distance)")


def newer(path: Path) -> None:
    open_sink(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"text" * 300), "is no database to add a run to"),
        (foreign, "is a database of another program; give another name"),
        (newer, "has tables of version 2, and this program writes 1"),
        (Path.mkdir, "is a folder"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_file_that_is_not_ours_is_kept(tmp_path, make, said, overwrite):
    path = tmp_path / "t.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(OutputError, match=said) as caught:
        open_sink(path, overwrite)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before
