"""Parquet: the table of the CSV with types, compressed, for pandas, Polars, DuckDB and Spark."""

from __future__ import annotations

import importlib.util
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracker import __version__
from tracker.errors import OutputError
from tracker.sinks.base import COLUMNS, GROUND_COLUMNS, ClosedByWith, RunFacts, table_rows
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, Tracks

ROWS_AT_ONCE = 1 << 16  # of a row group, which stays in memory until it is written: 15 MB as Python's numbers


class ParquetSink(ClosedByWith):
    """Rows are written in groups, and what makes the file readable when it closes.

    The metadata of the schema has one entry, "tracklet": JSON with source, fps, width, height, version and settings.
    Raises OutputError without pyarrow, and WriteError, with no file left, if the disk is full.
    """

    def __init__(self, path: str | Path, run: RunFacts) -> None:
        check_pyarrow(path)
        self._run_facts = run
        self._file = FrameFile(path, run.overwrite)
        self._rows: list[tuple[int | float | str | None, ...]] = []
        self._writer: Any = None
        self._open = True

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._rows += table_rows(frame, tracks, self._run_facts.class_names, self._run_facts.ground)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._write_group()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._write_group()
        try:
            self._writer.close()
        except BaseException:
            self._discard()
            raise
        self._file.close()

    def _write_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        run = self._run_facts
        facts = {
            "source": run.place or run.name, "fps": run.fps or None, "width": run.width, "height": run.height,
            "version": __version__, "settings": json.loads(run.settings),
        }  # fmt: skip
        kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        fields = [(name, kinds[kind]) for name, kind in COLUMNS.items()]
        if run.ground is not None:
            fields += [(name, pa.float64()) for name in GROUND_COLUMNS]
        schema = pa.schema(fields, {"tracklet": json.dumps(facts)})
        columns = [[row[i] for row in self._rows] for i in range(len(schema))]
        table = pa.table([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema)
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(_Appended(self._file), schema)
            self._writer.write_table(table)
        except BaseException:
            self._discard()
            raise
        self._rows = []

    def _discard(self) -> None:
        """Half a row group cannot be read, nor what stands before it."""
        self._open = False
        self._file.close()
        with suppress(OSError):
            if self._file.path.is_file():
                self._file.path.unlink()


class _Appended(io.RawIOBase):
    """A FrameFile as the stream that pyarrow writes to."""

    def __init__(self, file: FrameFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.append(bytes(data))
        return len(data)

    def tell(self) -> int:
        return self._file.size


def check_pyarrow(path: str | Path) -> None:
    """Raise OutputError unless pyarrow is installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise OutputError(f'{path}: needs pyarrow, which is not installed: pip install ".[parquet]"; .db needs nothing')
