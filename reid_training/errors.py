"""Errors that users see: the tracker's, and DataError. The command prints them as one line."""

from __future__ import annotations

import errno

from tracker.errors import ConfigError, ModelError, OutputError, TrackletError, WriteError

__all__ = ["FULL", "ConfigError", "DataError", "ModelError", "TrackletError", "WriteError", "not_written"]

# The disk is full or fails. That is not a user mistake, unlike a folder in place of the file.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class DataError(TrackletError):
    """The images are missing, unreadable or too few."""


def not_written(what: object, error: OSError) -> OutputError:
    """The error to raise where `what` could not be written; a WriteError if that is no mistake of the user."""
    kind = WriteError if error.errno in FULL else OutputError
    return kind(f"cannot write {what}: {error.strerror or error}")
