"""Append-only result files with atomic frames: a failed write leaves no partial frame."""

from __future__ import annotations

import io
import os
import stat
import sys
import zlib
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tracker.errors import OutputError, ResumeError, WriteError
from tracker.sinks.base import ClosedByWith, check_output_path
from tracker.types import Frame, State, Tracks

CHECKED_BYTES = 1 << 16  # before the place where a run resumes: enough to recognise the file, quick to read


class FrameFile:
    """Bytes on disk as soon as they are appended. Path "-" is standard output.

    Raises OutputError if the file cannot be created, and WriteError, with the frame, if a write fails (full disk); the
    frames before are whole then. seekable: the format needs `put` and `cut`, which no pipe offers.
    resume: what `state` gave in an interrupted run; the file is truncated to that size and continued. Raises
    ResumeError, and changes nothing, if it is no longer the same file.
    """

    def __init__(
        self, path: str | Path, overwrite: bool = False, *, seekable: bool = False, resume: State | None = None
    ) -> None:
        self.path = Path(path)
        self.size = 0  # bytes appended
        self._file: io.FileIO | None = None
        self._name = "standard output" if str(path) == "-" else str(path)
        if str(path) == "-":
            return
        check_output_path(self.path, overwrite or resume is not None)
        try:
            # Unbuffered: a full disk shows at the frame that no longer fits, not when the file closes.
            self._file = io.FileIO(self.path, "w" if resume is None else "r+")
        except OSError as error:
            if resume is not None:
                raise ResumeError(f"{self.path}: cannot be resumed: {error.strerror}") from error
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        if resume is not None:
            self._resume(self._file, resume)
        if seekable and not self._file.seekable():
            self._file.close()
            raise OutputError(
                f"{self.path}: results of this kind need a file on disk, and this is a pipe; .jsonl takes one"
            )

    def begin(self, head: bytes) -> None:
        """Append what stands before the first frame; if the disk has no room for it, no file is left."""
        try:
            self.append(head)
        except WriteError:
            self.close()
            if self.path.is_file():
                self.path.unlink()
            raise

    def append(self, data: bytes, frame_index: int | None = None) -> None:
        """All of `data` at the end, or nothing. frame_index: for the message, from 0.

        Raises BrokenPipeError where a pipe has no reader any more: that is no mistake, see `runtime.signals`.
        """
        try:
            if self._file is None:
                sys.stdout.write(data.decode())
                sys.stdout.flush()
            else:
                self._append_whole(self._file, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._write_error(error, frame_index) from error

    def put(self, at: int, data: bytes, frame_index: int | None = None) -> None:
        """Replace what stands at byte `at`; the file is as long afterwards as before."""
        assert self._file is not None
        assert at + len(data) <= self.size
        try:
            self._file.seek(at)
            _write_all(self._file, data)
            self._file.seek(self.size)
        except OSError as error:
            raise self._write_error(error, frame_index) from error

    def cut(self, size: int) -> None:
        """Truncate the file to `size` bytes."""
        assert self._file is not None
        try:
            self._file.truncate(size)
            self._file.seek(size)
        except OSError as error:
            raise self._write_error(error, None) from error
        self.size = size

    def state(self, fixed_from: int = 0) -> State | None:
        """How to resume with all that is written now; None for a pipe or a device, which cannot be truncated.

        fixed_from: bytes before it are changed by `put` later. All of the file is on disk when this returns.
        """
        if self._file is None or not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            return None
        self._check_there(self._file)
        checked_from = max(fixed_from, self.size - CHECKED_BYTES)
        try:
            os.fsync(self._file.fileno())
            with self.path.open("rb") as file:
                check = _checksum(file, checked_from, self.size)
        except OSError as error:
            raise self._write_error(error, None) from error
        return {"bytes": self.size, "checked_from": checked_from, "check": check}

    def close(self) -> None:
        """Raises WriteError if the file was removed or replaced while it was written: its bytes are lost."""
        if self._file is None or self._file.closed:
            return
        try:
            self._check_there(self._file)
        finally:
            self._file.close()

    def _check_there(self, file: io.FileIO) -> None:
        written = os.fstat(file.fileno())
        if stat.S_ISREG(written.st_mode):
            check_in_place(self.path, written)

    def _resume(self, file: io.FileIO, resume: State) -> None:
        kept, found = resume["bytes"], os.fstat(file.fileno()).st_size
        if found < kept:
            problem = f"has {found} bytes, but had {kept} at the checkpoint: it was cut or replaced"
        elif _checksum(file, resume["checked_from"], kept) != resume["check"]:
            problem = "was changed since the checkpoint"
        else:
            file.truncate(kept)
            file.seek(kept)
            self.size = kept
            return
        file.close()
        raise ResumeError(f"{self.path}: {problem}, so the run cannot be resumed; --overwrite starts again")

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

    def _write_error(self, error: OSError, frame_index: int | None) -> WriteError:
        why = error.strerror or error
        if frame_index is None:
            return WriteError(f"{self._name}: cannot be written: {why}")
        return WriteError(
            f"{self._name}: cannot be written at frame {frame_index + 1}: {why}; the frames before it are there"
        )


class FrameFileSink(ClosedByWith, ABC):
    """A sink that only appends to one file; subclasses have `write`. resume: see `FrameFile`."""

    HEAD = b""  # written before the first frame

    def __init__(self, path: str | Path, overwrite: bool = False, resume: State | None = None) -> None:
        self._file = FrameFile(path, overwrite, resume=resume)
        if resume is None and self.HEAD:
            self._file.begin(self.HEAD)

    @abstractmethod
    def write(self, frame: Frame, tracks: Tracks) -> None: ...

    def state(self) -> State | None:
        """How to resume the file in another process; asked for between frames."""
        return self._file.state()

    def close(self) -> None:
        self._file.close()


def check_in_place(path: Path, written: os.stat_result) -> None:
    """Raise WriteError unless `path` is still the file that is written.

    Systems let an open file be removed, or another take its name, without an error.
    """
    try:
        there = os.path.samestat(written, path.stat())
    except OSError:
        there = False
    if not there:
        raise WriteError(f"{path}: was removed or replaced while it was written; what it held is lost")


def _checksum(file: io.FileIO | BinaryIO, start: int, end: int) -> int:
    """CRC-32 of the bytes [start, end)."""
    file.seek(start)
    return zlib.crc32(file.read(max(0, end - start)))


def _write_all(file: io.FileIO, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += file.write(data[done:])
