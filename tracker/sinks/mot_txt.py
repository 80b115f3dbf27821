"""MOTChallenge text: frame, id, left, top, width, height, score, -1, -1, -1."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from tracker.boxes import xyxy_to_ltwh
from tracker.errors import OutputError, WriteError
from tracker.sinks.base import ClosedByWith, check_output_path
from tracker.types import Frame, Tracks


class MotTextSink(ClosedByWith):
    """One line per box, on disk as soon as its frame is written. Path "-" is standard output.

    Frame numbers and pixel coordinates count from 1, as in MOTChallenge: a reader subtracts 1 from frame, left and top.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None
        self._bytes = 0  # of whole frames
        if str(path) == "-":
            self._name = "standard output"
            return
        self._name = str(path)
        check_output_path(self.path, overwrite)
        try:
            # Unbuffered: a full disk shows at the frame that no longer fits, not when the file closes.
            self._file = cast(BinaryIO, io.FileIO(self.path, "w"))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def write(self, frame: Frame, tracks: Tracks) -> None:
        text = mot_lines(frame.index, tracks)
        if not text:
            return
        try:
            if self._file is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                self._write_whole(self._file, text.encode("ascii"))
        except OSError as error:
            raise WriteError(
                f"{self._name}: cannot be written at frame {frame.index + 1}: {error.strerror or error}; "
                "the frames before it are there"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write_whole(self, file: BinaryIO, data: bytes) -> None:
        """All of a frame or nothing: half a line would make the file unreadable."""
        done = 0
        try:
            while done < len(data):
                done += file.write(data[done:])
        except OSError:
            if done and file.seekable():
                file.truncate(self._bytes)
            raise
        self._bytes += len(data)


def mot_lines(frame_index: int, tracks: Tracks) -> str:
    """The lines of one frame, ids ascending, each with its line end."""
    ltwh = xyxy_to_ltwh(tracks.xyxy)
    ltwh[:, :2] += 1
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    ltwh = np.round(ltwh, 2) + 0.0
    scores = np.round(tracks.score, 4) + 0.0
    lines = [
        f"{frame_index + 1},{tracks.id[row]},"
        f"{ltwh[row, 0]:.2f},{ltwh[row, 1]:.2f},{ltwh[row, 2]:.2f},{ltwh[row, 3]:.2f},"
        f"{scores[row]:.4f},-1,-1,-1\n"
        for row in np.argsort(tracks.id, kind="stable")
    ]
    return "".join(lines)
