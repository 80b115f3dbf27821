"""The exceptions that a user can cause. The commands print their text as one line and exit with `exit_code`."""

from __future__ import annotations


class TrackletError(Exception):
    """Base of all errors that a user can cause; the text is one line: what is wrong, where, what is allowed."""

    exit_code = 2

    def __str__(self) -> str:
        """The text with line breaks and other control characters escaped."""
        text = super().__str__()
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ConfigError(TrackletError):
    """A setting has a value outside its range, or a name that does not exist."""


class SourceError(TrackletError):
    """A video, folder, stream or frame that cannot be read."""


class DetectionError(TrackletError):
    """Detections of a wrong shape or with impossible values, or a detection file that cannot be parsed."""


class ModelError(TrackletError):
    """A model file that is no ONNX model, has an unknown layout, or lacks metadata."""


class OutputError(TrackletError):
    """An output that cannot be opened: it exists already, its folder does not exist, or it may not be written."""


class ResumeError(TrackletError):
    """A run that cannot be resumed: its checkpoint, its files and the options do not fit together."""


class WriteError(OutputError):
    """Writing failed midway, as on a full disk. What was written before stays."""

    exit_code = 1
