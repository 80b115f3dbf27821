"""What was drawn into a film, so that an interrupted run can draw it again: nobody can add to a video file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracker.sinks.frame_file import FrameFile
from tracker.types import State, Tracks

_ROW = np.dtype([("frame", "<i8"), ("id", "<i8"), ("xyxy", "<f8", (4,)), ("source", "u1")])


class RedrawLog:
    """A file beside the film, with 49 bytes for each box in it; `remove` it when the film is finished."""

    def __init__(self, film: Path, resume: State | None = None) -> None:
        self.path = film.with_name(film.name + ".log")
        self._file = FrameFile(self.path, overwrite=True, resume=resume)

    def append(self, frame_index: int, tracks: Tracks) -> None:
        rows = np.empty(len(tracks), _ROW)
        rows["frame"] = frame_index
        rows["id"], rows["xyxy"], rows["source"] = tracks.id, tracks.xyxy, tracks.source
        self._file.append(rows.tobytes(), frame_index)

    def tracks_of(self, frame_index: int) -> Tracks:
        """What `append` was given, as far as it shows in a picture."""
        n_rows = self._file.size // _ROW.itemsize
        if n_rows == 0:
            return Tracks()
        rows: NDArray[np.void] = np.memmap(self.path, _ROW, mode="r", shape=(n_rows,))
        rows = np.array(rows[slice(*np.searchsorted(rows["frame"], [frame_index, frame_index + 1]))])
        unknown = np.zeros(len(rows), np.int64)
        return Tracks(rows["xyxy"], rows["id"], np.zeros(len(rows)), unknown, unknown, rows["source"])

    def state(self) -> State | None:
        return self._file.state()

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
