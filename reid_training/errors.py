"""What the user can get wrong. The command line prints these as one line and exits with 2."""

from __future__ import annotations


class ReidError(Exception):
    """Base of the mistakes below: says the bad value, what is allowed, and the file."""


class ConfigError(ReidError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ReidError):
    """The images are missing, unreadable or too few."""


class ModelError(ReidError):
    """A checkpoint or an ONNX file is not what was asked for."""
