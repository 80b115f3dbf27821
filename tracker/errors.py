"""The few exceptions a user can cause. The commands print their text as one line and exit with `exit_code`."""

from __future__ import annotations


class TrackletError(Exception):
    """Base of everything a user can cause or meet; the text is one line: what is wrong, where, what would be right."""

    exit_code = 2

    def __str__(self) -> str:
        """The text with line breaks and other control characters, of file names or of what is in files, spelled out."""
        text = super().__str__()
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ConfigError(TrackletError):
    """A setting has a value outside its range, or a name that does not exist."""


class SourceError(TrackletError):
    """A video, folder, stream or frame that cannot be read."""


class DetectionError(TrackletError):
    """Detections of a wrong shape or with impossible values, or a detection file that cannot be parsed."""


class ModelError(TrackletError):
    """A model file that is no ONNX, has another layout than expected, or lacks metadata."""


class OutputError(TrackletError):
    """An output that cannot be begun: it exists already, its folder does not, or it may not be written."""


class ResumeError(TrackletError):
    """An interrupted run that cannot go on: its checkpoint, its files or what is asked for do not fit together."""


class WriteError(OutputError):
    """Writing broke off in the middle: a full disk, a pipe that closed. What was written before stays."""

    exit_code = 1
