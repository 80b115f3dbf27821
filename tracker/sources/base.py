"""What every source of frames offers, and the settings of OpenCV that all of them need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, Self, runtime_checkable

from tracker.config import TrackerConfig
from tracker.types import Frame

DEFAULT_FPS = TrackerConfig().default_fps


@runtime_checkable
class FrameSource(Protocol):
    """Frames in order, read once: iterate, then `close()`, or use `with`.

    `Frame.index` counts from 0 without gaps. `Frame.time_s` starts at 0 and never decreases. All frames have the
    size `width` x `height`. Opening and iterating raise SourceError; frames before the error have been given out.
    """

    @property
    def name(self) -> str:
        """What a user calls it: file name, folder, sequence, camera or address."""

    @property
    def fps(self) -> float:
        """Frames per second as best known; 0 if unknown."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def n_frames(self) -> int | None:
        """Announced number of frames, of video files an estimate; None if unknown or endless."""

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


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing on stderr what the SourceError says better.

    FFmpeg's level is read from the environment when the first video opens, and holds for the process; a value that the
    user has set stays. OpenCV's own level is put back at the end.
    """
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
