"""TensorBoard curves of a run. Import it only where the package tensorboard is installed.

We write the file ourselves: the thread of torch's SummaryWriter prints a traceback on a full disk.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from reid_training.errors import not_written

SUFFIX = ".reid"  # ours among other event files in the same folder


class EventLog:
    """A file that grows by the epoch; a power cut can take its end. Raises TrackletError where it cannot be written."""

    def __init__(self, folder: Path, history: Sequence[Mapping[str, float]]) -> None:
        """Starts from `history`, in a new file: a resumed run leaves no points of the epochs that it repeats."""
        self.path = folder / f"events.out.tfevents.{time.time():010.0f}.{os.getpid()}{SUFFIX}"
        self.rows = list(history)
        try:
            for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise not_written(self.path, error) from None
        self._begin()

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Adds the row; all rows if the file was removed."""
        self.rows.append(row)
        if self.path.exists():
            self._append(_points(row))
        else:
            self._begin()

    def on_end(self) -> None:
        """Nothing is open between two epochs."""

    def _begin(self) -> None:
        now = time.time()
        # A running TensorBoard then drops what it read from the old file.
        forget = Event(wall_time=now, step=1, session_log=SessionLog(status=SessionLog.START))
        rows = [point for row in self.rows for point in _points(row)]
        self._append([Event(wall_time=now, file_version="brain.Event:2"), forget, *rows])

    def _append(self, events: Iterable[Any]) -> None:
        content = io.BytesIO()
        for event in events:
            RecordWriter(content).write(event.SerializeToString())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_whole(self.path, content.getbuffer())
        except OSError as error:
            raise not_written(self.path, error) from None


def _points(row: Mapping[str, float]) -> list[Any]:
    """One event for each number of an epoch."""
    return [
        Event(wall_time=time.time(), step=int(row["epoch"]), summary=Summary(value=[point]))
        for point in (Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "epoch")
    ]


def append_whole(path: Path, data: memoryview) -> None:
    """Appends all of `data` or nothing; removes the file if it was created here and stays empty. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size, done = os.fstat(file.fileno()).st_size, 0
        try:
            while done < len(data):
                done += file.write(data[done:])
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
                if size == 0:
                    path.unlink()
            raise
