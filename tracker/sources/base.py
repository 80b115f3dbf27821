"""What every source of frames offers, and the settings of OpenCV that all of them need."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from tracker.config import TrackerConfig
from tracker.errors import SourceError
from tracker.sources.span import Picker, Span
from tracker.types import Frame

DEFAULT_FPS = TrackerConfig().default_fps
_LOG_SILENT = 0  # cv2.utils.logging.LOG_LEVEL_SILENT


@runtime_checkable
class FrameSource(Protocol):
    """Frames in order, read once: iterate, then `close()`, or use `with`.

    `Frame.index` is the place in the source, from 0; it has gaps only where a part of the source was asked for.
    `Frame.time_s` is seconds since the start of the source and never decreases. All frames have the size `width` x
    `height`. Opening and iterating raise SourceError; frames before the error have been given out.
    """

    @property
    def name(self) -> str:
        """What a user calls it: file name, folder, sequence, camera or address."""

    @property
    def fps(self) -> float:
        """Frames given out per second of the source, as best known; 0 if unknown."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def n_frames(self) -> int | None:
        """Announced number of frames to be given out, of video files an estimate; None if unknown or endless."""

    @property
    def live(self) -> bool:
        """True where frames come in real time and late ones are dropped."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class ClosedByWith:
    """The context manager that every source has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to release unless a subclass says so."""


class Recorded(ClosedByWith, ABC):
    """What sources with an end have in common: a part of them may be wanted, and a run may go on in the middle."""

    live = False
    name: str

    def __init__(self, span: Span) -> None:
        self.span = span
        self._done = -1  # index of the last frame that is not wanted again

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """What it is read from; [] for an address."""

    def go_on_after(self, index: int) -> None:
        """Give out only frames later than this index, the same ones as without it. Call before iterating."""
        self._done = index

    def _chosen(self, picker: Picker, index: int, time_s: float) -> bool:
        """Whether to give out this frame; `picker` must hear of those that are not, too."""
        return picker.wants(index, time_s) and index > self._done

    def _check_found(self, picker: Picker, n_frames: int, end_s: float) -> None:
        """Raise SourceError if the source has ended, after n_frames and end_s seconds, and no frame was wanted."""
        if not picker.found:
            raise SourceError(
                f"{self.name}: has no frame in the part asked for, {self.span}; it ends with frame {n_frames}, "
                f"after {end_s:.2f} s"
            )


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing on stderr what the SourceError says better.

    FFmpeg's level is read from the environment when the first video opens, and holds for the process; a value that the
    user has set stays. OpenCV's own level is put back at the end.
    """
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV up to 4.11 has the two functions in cv2 itself
    before = logging.getLogLevel()
    logging.setLogLevel(_LOG_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
