"""Append-only record of final tracks: from it a resumed run makes those results again that cannot be continued."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker.errors import ResumeError
from tracker.sinks.base import ClosedByWith
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, State, Tracks, pack_masks, unpack_masks

_HEAD = struct.Struct("<qdiq")  # of each frame: index, time_s, number of rows, bytes behind them
_COLUMNS = [("id", "<i8"), ("score", "<f8"), ("class_id", "<i8"), ("det_index", "<i8"), ("source", "u1")]
_ROW = np.dtype([("xyxy", "<f8", (4,)), *_COLUMNS])


class TrackRecord(ClosedByWith):
    """All columns of `Tracks` but the embeddings: 28 bytes a frame and 65 a row; behind them an archive of NumPy with
    keypoints and masks, if there are any. resume: see `FrameFile`.
    """

    def __init__(self, path: Path, resume: State | None = None) -> None:
        self.path = path
        self._file = FrameFile(path, overwrite=True, resume=resume)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        rows = np.empty(len(tracks), _ROW)
        for name in _ROW.names or ():
            rows[name] = getattr(tracks, name)
        extras = _extras_of(tracks)
        head = _HEAD.pack(frame.index, frame.time_s, len(rows), len(extras))
        self._file.append(head + rows.tobytes() + extras, frame.index)

    def read(self, width: int, height: int) -> Iterator[tuple[Frame, Tracks]]:
        """What was written so far, without pictures; width, height: of the frames. Raises ResumeError."""
        size = self._file.size
        with self.path.open("rb") as file:
            while file.tell() < size:
                head = file.read(_HEAD.size)
                index, time_s, n_rows, n_extra = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0.0, -1, 0)
                n_bytes = n_rows * _ROW.itemsize
                if n_bytes < 0 or n_extra < 0 or n_bytes + n_extra > size - file.tell():
                    raise ResumeError(
                        f"{self.path}: is damaged, so the run cannot be resumed; --overwrite starts again"
                    )
                rows = np.frombuffer(file.read(n_bytes), _ROW)
                columns = {name: np.array(rows[name]) for name in _ROW.names or ()}
                tracks = _with_extras(replace(Tracks(), **columns), file.read(n_extra))
                yield Frame(index, time_s, None, width, height), tracks

    def state(self) -> State | None:
        return self._file.state()

    def close(self) -> None:
        self._file.close()


def _extras_of(tracks: Tracks) -> bytes:
    arrays = {} if tracks.masks is None else pack_masks(tracks.masks)
    arrays |= {} if tracks.keypoints is None else {"keypoints": tracks.keypoints}
    packed = io.BytesIO()
    if arrays:
        np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def _with_extras(tracks: Tracks, packed: bytes) -> Tracks:
    if not packed:
        return tracks
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        masks = unpack_masks(archive) if "bits" in archive else None
        return replace(tracks, keypoints=archive.get("keypoints"), masks=masks)
