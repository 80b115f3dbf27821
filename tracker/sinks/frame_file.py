"""A result file that grows by whole frames: what breaks off in the middle of one leaves none of it."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path

from tracker.errors import OutputError, WriteError
from tracker.sinks.base import check_output_path


class FrameFile:
    """Bytes on disk as soon as they are appended. Path "-" is standard output.

    Raises OutputError where the file cannot be begun, and WriteError, with the frame, where writing breaks off: a full
    disk, a pipe that closed. The frames before are whole then. seekable: the format needs `put` and `cut`, which no
    pipe offers.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, *, seekable: bool = False) -> None:
        self.path = Path(path)
        self.size = 0  # bytes appended
        self._file: io.FileIO | None = None
        self._name = "standard output" if str(path) == "-" else str(path)
        if str(path) == "-":
            return
        check_output_path(self.path, overwrite)
        try:
            # Unbuffered: a full disk shows at the frame that no longer fits, not when the file closes.
            self._file = io.FileIO(self.path, "w")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        if seekable and not self._file.seekable():
            self._file.close()
            raise OutputError(
                f"{self.path}: results of this kind need a file on disk, and this is a pipe; .jsonl takes one"
            )

    def append(self, data: bytes, frame_index: int | None = None) -> None:
        """All of `data` at the end, or nothing. frame_index: for the message, from 0; None: no frame's."""
        try:
            if self._file is None:
                sys.stdout.write(data.decode())
                sys.stdout.flush()
            else:
                self._append_whole(self._file, data)
        except OSError as error:
            raise self._broken_off(error, frame_index) from error

    def put(self, at: int, data: bytes, frame_index: int | None = None) -> None:
        """Replace what stands at byte `at`; the file is as long afterwards as before."""
        assert self._file is not None
        assert at + len(data) <= self.size
        try:
            self._file.seek(at)
            _write_all(self._file, data)
            self._file.seek(self.size)
        except OSError as error:
            raise self._broken_off(error, frame_index) from error

    def cut(self, size: int) -> None:
        """Forget everything from byte `size` on."""
        assert self._file is not None
        try:
            self._file.truncate(size)
            self._file.seek(size)
        except OSError as error:
            raise self._broken_off(error, None) from error
        self.size = size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _append_whole(self, file: io.FileIO, data: bytes) -> None:
        try:
            _write_all(file, data)
        except BaseException:  # a second Ctrl-C too
            with suppress(OSError):  # a device cannot be cut
                if file.seekable() and file.tell() != self.size:
                    file.truncate(self.size)
                    file.seek(self.size)
            raise
        self.size += len(data)

    def _broken_off(self, error: OSError, frame_index: int | None) -> WriteError:
        why = error.strerror or error
        if frame_index is None:
            return WriteError(f"{self._name}: cannot be written: {why}")
        return WriteError(
            f"{self._name}: cannot be written at frame {frame_index + 1}: {why}; the frames before it are there"
        )


def _write_all(file: io.FileIO, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += file.write(data[done:])
