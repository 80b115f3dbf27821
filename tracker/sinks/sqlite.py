"""A SQLite database: tables `runs` and `tracks`, to which each run adds its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracker import __version__
from tracker.errors import OutputError, ResumeError, WriteError
from tracker.sinks.base import COLUMNS, GROUND_COLUMNS, ClosedByWith, RunFacts, check_output_path, table_rows
from tracker.sinks.frame_file import check_in_place
from tracker.types import Frame, State, Tracks

APPLICATION_ID = 0x54726B6C  # marks a database as ours, so that no other one is written to
SCHEMA_VERSION = 1
BUSY_S = 30.0  # how long a frame waits for another program that writes to the database
_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT"}
_COLUMNS = ", ".join(f"{name} {_TYPES[kind]} NOT NULL" for name, kind in COLUMNS.items())
_GROUND = ", ".join(f"{name} REAL" for name in GROUND_COLUMNS)
# The primary key, in which the rows are stored, finds the frames of a run; the index finds the frames of a person.
_SCHEMA = f"""
    CREATE TABLE runs (run INTEGER PRIMARY KEY, source TEXT NOT NULL, started TEXT NOT NULL, fps REAL, width INTEGER,
        height INTEGER, frames INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0, version TEXT NOT NULL,
        settings TEXT NOT NULL);
    CREATE TABLE tracks (run INTEGER NOT NULL REFERENCES runs, {_COLUMNS}, {_GROUND},
        PRIMARY KEY (run, frame, id)) WITHOUT ROWID;
    CREATE INDEX tracks_by_person ON tracks (run, id, frame);
    CREATE TRIGGER delete_tracks_of_run AFTER DELETE ON runs BEGIN DELETE FROM tracks WHERE run = OLD.run; END;
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {SCHEMA_VERSION};
"""
_INSERT = f"INSERT INTO tracks VALUES (?{', ?' * (len(COLUMNS) + len(GROUND_COLUMNS))})"


class SqliteSink(ClosedByWith):
    """`tracks` has the columns of the CSV and the number of the run; `runs` has a row for each run.

    Each frame is a transaction: what was written is safe when the program is killed, and other programs may read
    meanwhile. A database that exists gets another run; with run.overwrite the earlier ones of the same source are
    deleted. After the last run the database is one file; until then two stand beside it, -wal and -shm.
    Raises OutputError for a file that is no such database, ResumeError where it was changed since the checkpoint, and
    WriteError for a full disk.
    """

    def __init__(self, path: str | Path, run: RunFacts) -> None:
        self.path = Path(path)
        self._class_names, self._ground = run.class_names, run.ground
        self._run, self._started = 0, run.started
        self._last_frame = self._n_rows = 0
        if run.resume is not None and not self.path.is_file():
            raise ResumeError(f"{path}: cannot be resumed: it was removed; --overwrite starts again")
        check_database(self.path)
        existed = self.path.exists()
        self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            self._begin(run)
        except BaseException:
            self._db.close()
            if not existed:
                self.path.unlink(missing_ok=True)
            raise
        self._written = self.path.stat()

    def write(self, frame: Frame, tracks: Tracks) -> None:
        rows = [(self._run, *row) for row in table_rows(frame, tracks, self._class_names, self._ground)]
        with self._transaction(f" at frame {frame.index + 1}", "; the frames before it are there"):
            self._db.executemany(_INSERT, rows)
            self._db.execute(
                "UPDATE runs SET frames = frames + 1, seconds = ?, width = ?, height = ? WHERE run = ?",
                (round(frame.time_s, 6), frame.width, frame.height, self._run),
            )
        self._last_frame, self._n_rows = frame.index + 1, self._n_rows + len(rows)

    def state(self) -> State:
        check_in_place(self.path, self._written)
        try:
            self._db.execute("PRAGMA wal_checkpoint(FULL)")  # forces all of it onto the disk
            frames, seconds = self._db.execute(
                "SELECT frames, seconds FROM runs WHERE run = ?", (self._run,)
            ).fetchone()
        except sqlite3.Error as error:
            raise WriteError(f"{self.path}: cannot be written: {error}") from error
        return {
            "run": self._run, "started": self._started, "frames": frames, "seconds": seconds,
            "last_frame": self._last_frame, "n_rows": self._n_rows,
        }  # fmt: skip

    def close(self) -> None:
        """Raises WriteError if the file was removed or replaced while it was written: its rows are lost."""
        with suppress(sqlite3.Error):  # closed already, or in use: the next run will do it
            self._db.execute("PRAGMA busy_timeout = 0")
            self._db.execute("PRAGMA journal_mode = DELETE")  # one file, which can be copied and read anywhere
        self._db.close()
        check_in_place(self.path, self._written)

    def _begin(self, run: RunFacts) -> None:
        """Make the tables, and the row of this run."""
        try:
            # Cheap transactions that a kill does not undo, and readers who do not wait; not on every network drive.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error
        with self._transaction():
            if _version(self._db) == (0, 0):
                for statement in _statements(_SCHEMA):
                    self._db.execute(statement)
            if run.resume is not None:
                self._resume(run.resume)
                return
            place = run.place or run.name
            # Of this very run: it was killed before its first checkpoint.
            self._db.execute("DELETE FROM runs WHERE source = ? AND started = ?", (place, run.started))
            if run.overwrite and not run.resumed:
                self._db.execute("DELETE FROM runs WHERE source = ?", (place,))
            added = self._db.execute(
                "INSERT INTO runs (source, started, fps, width, height, version, settings) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (place, run.started, run.fps or None, run.width, run.height, __version__, run.settings),
            )
            assert added.lastrowid is not None
            self._run = added.lastrowid

    def _resume(self, state: State) -> None:
        """Delete what came after the checkpoint."""
        self._run, self._started, self._last_frame, self._n_rows = (
            state["run"], state["started"], state["last_frame"], state["n_rows"]
        )  # fmt: skip
        ours = self._db.execute("SELECT started FROM runs WHERE run = ?", (self._run,)).fetchone()
        self._db.execute("DELETE FROM tracks WHERE run = ? AND frame > ?", (self._run, self._last_frame))
        (found,) = self._db.execute("SELECT COUNT(*) FROM tracks WHERE run = ?", (self._run,)).fetchone()
        if ours != (self._started,) or found != self._n_rows:
            raise ResumeError(
                f"{self.path}: was changed since the checkpoint, so the run cannot be resumed; --overwrite starts again"
            )
        self._db.execute(
            "UPDATE runs SET frames = ?, seconds = ? WHERE run = ?", (state["frames"], state["seconds"], self._run)
        )

    @contextmanager
    def _transaction(self, where: str = "", kept: str = "") -> Iterator[None]:
        """All of it or, after an error, nothing. Raises WriteError with these words for the place and what is left."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield
        except sqlite3.Error as error:
            raise WriteError(f"{self.path}: cannot be written{where}: {error}{kept}") from error


def check_database(path: Path) -> None:
    """Raise OutputError unless rows can be added: the file is a database of this kind, or does not exist."""
    check_output_path(path, overwrite=True)
    if not path.exists():
        return
    if not path.is_file():
        raise OutputError(f"{path}: a database needs a file on disk, and this is a pipe or a device; .jsonl takes one")
    try:
        db = sqlite3.connect(path, timeout=BUSY_S)
        try:
            application, version = _version(db)
            (n_tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise OutputError(f"{path}: is no database to add a run to ({error}); give another name") from error
    if application != APPLICATION_ID and n_tables:
        raise OutputError(f"{path}: is a database of another program; give another name")
    if version not in (0, SCHEMA_VERSION):
        raise OutputError(f"{path}: has tables of version {version}, and this program writes {SCHEMA_VERSION}")


def _version(db: sqlite3.Connection) -> tuple[int, int]:
    """Whose database it is, and which version its tables have; (0, 0): an empty one."""
    (application,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )  # fmt: skip
    return application, version


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would commit first."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
