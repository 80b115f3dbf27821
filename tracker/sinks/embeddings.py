"""Embeddings of every output row, as one NumPy array that grows on disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tracker.errors import OutputError
from tracker.sinks.base import ClosedByWith, RunFacts, SinkOption
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, State, Tracks

ENDING = ".npy"


class EmbeddingSink(ClosedByWith):
    """The embedding of every output row, as a NumPy file.

    A structured array: frame (int64, from 1), id (int64), embedding (D float32, unit length). The rows are those of the
    other results, in the same order. A row that was not embedded (occluded or predicted) is NaN.
    `np.load(path, mmap_mode="r")` reads it, without pickle; it is whole after every frame. resume: see `FrameFile`.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, resume: State | None = None) -> None:
        check_ending(path)
        self._file = FrameFile(path, overwrite, seekable=True, resume=resume and resume["file"])
        self._path = path
        self._dtype = _row_dtype(resume["dim"] if resume else 0)  # D is known when the first row comes
        self._n_rows = resume["n_rows"] if resume else 0
        if resume is None:
            self._file.begin(_header(self._dtype, 0))
        elif self._n_rows:
            self._file.put(0, _header(self._dtype, self._n_rows))

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if len(tracks) == 0:
            return
        if tracks.features is None:
            raise OutputError(
                f"{self._path}: the tracks of frame {frame.index + 1} carry no embeddings; "
                "track with keep_features=True and a re-ID network"
            )
        if self._n_rows == 0:
            self._file.cut(0)
            self._dtype = _row_dtype(tracks.features.shape[1])
            self._file.append(_header(self._dtype, 0), frame.index)
        order = np.argsort(tracks.id, kind="stable")
        rows = np.empty(len(tracks), self._dtype)
        rows["frame"] = frame.index + 1
        rows["id"] = tracks.id[order]
        rows["embedding"] = tracks.features[order]
        self._file.append(rows.tobytes(), frame.index)
        # The rows first: a reader passes over what lies behind the number of rows that the header gives.
        self._n_rows += len(rows)
        self._file.put(0, _header(self._dtype, self._n_rows), frame.index)

    def state(self) -> State | None:
        # The header grows with the rows; before the first row it is replaced as a whole.
        file = self._file.state(fixed_from=self._file.size if self._n_rows == 0 else len(_header(self._dtype, 0)))
        return file and {"file": file, "n_rows": self._n_rows, "dim": self._dtype["embedding"].shape[0]}

    def close(self) -> None:
        self._file.close()


def check_ending(path: str | Path) -> None:
    """Raise OutputError unless the file is to be a .npy."""
    if Path(path).suffix.lower() != ENDING:
        raise OutputError(f"{path}: embeddings are written as {ENDING}; give a name that ends so")


def _row_dtype(dim: int) -> np.dtype[np.void]:
    return np.dtype([("frame", "<i8"), ("id", "<i8"), ("embedding", "<f4", (dim,))])


def _header(dtype: np.dtype[np.void], n_rows: int) -> bytes:
    """Equally long for every number of rows: NumPy leaves room for the digits."""
    buffer = io.BytesIO()
    description = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_rows,)}
    npy.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _open(path: str | None, run: RunFacts) -> EmbeddingSink:
    assert path is not None
    return EmbeddingSink(path, run.overwrite, run.resume)


EMBEDDINGS = SinkOption(
    flags=("--save-embeddings",),
    metavar="FILE",
    help="the embedding of every output row, as a NumPy array (.npy)",
    check=check_ending,
    open=_open,
    embeddings=True,
)
