"""Append-only record of final tracks: from it a resumed run makes those results again that cannot be continued."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker.errors import ResumeError
from tracker.sinks.base import ClosedByWith
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, State, Tracks

_HEAD = struct.Struct("<qdi")  # of each frame: index, time_s, number of rows
_COLUMNS = [("id", "<i8"), ("score", "<f8"), ("class_id", "<i8"), ("det_index", "<i8"), ("source", "u1")]
_ROW = np.dtype([("xyxy", "<f8", (4,)), *_COLUMNS])


class TrackRecord(ClosedByWith):
    """All columns of `Tracks` but the embeddings: 20 bytes a frame and 65 a row. resume: see `FrameFile`."""

    def __init__(self, path: Path, resume: State | None = None) -> None:
        self.path = path
        self._file = FrameFile(path, overwrite=True, resume=resume)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        rows = np.empty(len(tracks), _ROW)
        for name in _ROW.names or ():
            rows[name] = getattr(tracks, name)
        self._file.append(_HEAD.pack(frame.index, frame.time_s, len(rows)) + rows.tobytes(), frame.index)

    def read(self, width: int, height: int) -> Iterator[tuple[Frame, Tracks]]:
        """What was written so far, without pictures; width, height: of the frames. Raises ResumeError."""
        size = self._file.size
        with self.path.open("rb") as file:
            while file.tell() < size:
                head = file.read(_HEAD.size)
                index, time_s, n_rows = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0.0, -1)
                n_bytes = n_rows * _ROW.itemsize
                if not 0 <= n_bytes <= size - file.tell():
                    raise ResumeError(
                        f"{self.path}: is damaged, so the run cannot be resumed; --overwrite starts again"
                    )
                rows = np.frombuffer(file.read(n_bytes), _ROW)
                columns = {name: np.array(rows[name]) for name in _ROW.names or ()}
                yield Frame(index, time_s, None, width, height), replace(Tracks(), **columns)

    def state(self) -> State | None:
        return self._file.state()

    def close(self) -> None:
        self._file.close()
