"""Write a file as a whole or not at all, and hold a lock beside it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO


def replace_file(path: Path, data: bytes) -> None:
    """Write the file. Whatever happens meanwhile, power cuts included, `path` is the old file or the new one.

    Raises OSError; then the old file stands.
    """
    new = unfinished(path)
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        _sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def unfinished(path: Path) -> Path:
    """The name under which a file is written."""
    return path.with_name(path.name + ".new")


def lock(path: Path) -> IO[bytes] | None:
    """Lock the file `path`, which is created if it is missing, until what is returned is closed, or this process ends.

    None: another process holds the lock. Raises OSError.
    """
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    return file


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; where folders cannot be opened (Windows), the system does it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
