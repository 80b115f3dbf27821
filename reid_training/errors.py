"""What the user can get wrong. The command line prints these as one line and exits with 2."""

from __future__ import annotations


class ReidError(Exception):
    """Base of the mistakes below: says the bad value, what is allowed, and the file."""

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
