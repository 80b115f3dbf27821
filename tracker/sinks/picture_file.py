"""A picture that is written when the run ends: whole, or not at all."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path

from tracker.errors import OutputError, WriteError
from tracker.sinks.base import ClosedByWith, check_output_path
from tracker.types import ImageArray

KINDS = (".png", ".jpg", ".jpeg")


class PictureSink(ClosedByWith):
    """Claims its file at once, and writes `finished_picture` into it when it closes.

    Raises OutputError. If the file is removed meanwhile the picture is written all the same; if another file takes its
    place, that one stays: WriteError.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        check_kind(self.path)
        check_output_path(self.path, overwrite)
        try:
            self._begun = self.path.open("ab")  # fails now rather than at the end; open, its inode is not reused
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._closed = False

    @abstractmethod
    def finished_picture(self) -> ImageArray | None:
        """(H, W, 3) uint8 BGR, when the run ends; None where there is nothing to show: then no file is left."""

    def close(self) -> None:
        """Paint and write the picture. Raises WriteError."""
        import cv2

        if self._closed:
            return
        self._closed = True
        with self._begun:
            self._check_not_replaced()
        picture = self.finished_picture()
        if picture is None:
            if self.path.is_file() and self.path.stat().st_size == 0:
                self.path.unlink()
            return
        ok, data = cv2.imencode(self.path.suffix, picture)
        assert ok
        self._replace(data.tobytes())

    def _check_not_replaced(self) -> None:
        try:
            there = self.path.stat()
        except OSError:
            return
        if not os.path.samestat(os.fstat(self._begun.fileno()), there):
            raise WriteError(f"{self.path}: was replaced meanwhile; the picture is not written over what is there now")

    def _replace(self, data: bytes) -> None:
        """Whole or not at all: an older picture stays where there is no room."""
        if self.path.exists() and not self.path.is_file():  # a device
            draft = self.path
        else:
            draft = self.path.with_name(self.path.name + ".part")
        try:
            draft.write_bytes(data)
            if draft != self.path:
                os.replace(draft, self.path)
        except OSError as error:
            with suppress(OSError):
                if draft != self.path:
                    draft.unlink(missing_ok=True)
                if self.path.is_file() and self.path.stat().st_size == 0:  # as it was begun
                    self.path.unlink()
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error


def check_kind(path: str | Path) -> None:
    """Raise OutputError unless the name ends like a kind of picture that can be written."""
    if Path(path).suffix.lower() not in KINDS:
        raise OutputError(f"{path}: cannot write a picture of this kind; there are: {', '.join(KINDS)}")
