"""What the user can get wrong, or meet. The command line prints these as one line and exits with `exit_code`."""

from __future__ import annotations

import errno

# Not a mistake, as a folder of that name or a missing permission is: the system takes no more, or its disk is broken.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class ReidError(Exception):
    """Base of the mistakes below: says the bad value, what is allowed, and the file."""

    exit_code = 2

    def __str__(self) -> str:
        """The text with line breaks and other control characters, of file names or of what is in files, spelled out."""
        text = super().__str__()
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ConfigError(ReidError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ReidError):
    """The images are missing, unreadable or too few."""


class ModelError(ReidError):
    """A checkpoint or an ONNX file is not what was asked for."""


class WriteError(ReidError):
    """Writing broke off: a full disk, or a broken one. What was there before stays."""

    exit_code = 1


def not_written(what: object, error: OSError) -> ReidError:
    """The error to raise where `what` could not be written; a WriteError if that is no mistake of the user."""
    kind = WriteError if error.errno in FULL else ReidError
    return kind(f"cannot write {what}: {error.strerror or error}")
