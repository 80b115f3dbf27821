"""The base classes of all sources of frames, and how a source says which names it opens."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from tracker.config import TrackerConfig
from tracker.errors import SourceError
from tracker.runtime.signals import SLICE_S, check
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame

log = logging.getLogger(__name__)
Made = TypeVar("Made")

DEFAULT_FPS = TrackerConfig().default_fps
_LOG_SILENT = 0  # cv2.utils.logging.LOG_LEVEL_SILENT


class FrameSource(ABC):
    """Frames in order, read once: iterate, then `close()`, or use `with`.

    `Frame.index` is the place in the source, from 0; it has gaps only where a part of the source was asked for, and
    where frames are damaged.
    `Frame.time_s` is seconds since the start of the source and never decreases. All frames have the size `width` x
    `height`, in pixels. Opening and iterating raise SourceError, iterating only after the frames before the error.

    A subclass sets `name`, `width` and `height`, and of the rest what differs from the values here.
    """

    name: str  # what a user calls it: file name, folder, sequence, camera or address
    width: int
    height: int
    fps: float = 0.0  # frames of this source per second, as best known; 0: unknown
    n_frames: int | None = None  # announced number of frames, for video files an estimate; None: unknown or endless
    live: bool = False  # frames come in real time, and late ones are dropped
    read_once: bool = False  # a pipe: what came out of it cannot be read again
    has_images: bool = True  # False: `Frame.image` is None
    detections_path: Path | None = None  # the file of public detections that comes with it
    span: Span = WHOLE  # the part of it that was asked for

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @property
    def files(self) -> Sequence[Path]:
        """The files that it is read from; () for cameras and addresses."""
        return ()

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release what is open; may be called more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Recorded(FrameSource):
    """A source with an end: part of it can be asked for, and an interrupted run can be resumed."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._done = -1  # index of the last frame to skip
        self.n_damaged = 0  # frames so far that cannot be decoded

    def go_on_after(self, index: int) -> None:
        """Give only the frames after this index, unchanged. Call it before iterating."""
        self._done = index

    def _chosen(self, picker: Picker, index: int, time_s: float) -> bool:
        """Whether to give this frame. Ask about every frame: `picker` counts those that are skipped too."""
        return picker.wants(index, time_s) and index > self._done

    def _skip_damaged(self, first: int, n_frames: int = 1, why: str = "cannot be decoded") -> None:
        """Count frames that are left out, from this index on, and say so at the first."""
        if not self.n_damaged and n_frames:
            which = f"frame {first + 1}" if n_frames == 1 else f"frames {first + 1} to {first + n_frames}"
            log.warning("%s: %s %s; skipped, later frames keep their numbers and times", self.name, which, why)
        self.n_damaged += n_frames

    def _report_damaged(self, n_frames: int) -> None:
        """Say at the end how many of so many frames were left out."""
        if self.n_damaged:
            log.warning("%s: damaged frames that were skipped: %d of %d", self.name, self.n_damaged, n_frames)

    def _check_found(self, picker: Picker, n_frames: int, end_s: float) -> None:
        """Raise SourceError if the source has ended, after n_frames and end_s seconds, and no frame was chosen."""
        if not picker.found:
            raise SourceError(
                f"{self.name}: has no frame in the part asked for, {self.span}; it ends with frame {n_frames}, "
                f"after {end_s:.2f} s"
            )


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a user asks for; see `open_source`."""

    spec: str  # as typed
    exists: bool  # whether it is a file or folder
    fps: float | None
    default_fps: float
    reconnect_s: float
    span: Span
    late_s: float  # of a live source: for which time frames are given late, see `FrameQueue`

    @property
    def path(self) -> Path:
        return Path(self.spec).expanduser()


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source: which requests it accepts, and how it opens them. `sources.open` lists all kinds."""

    title: str  # for the message that lists the kinds: "a video file"
    accepts: Callable[[SourceRequest], bool]
    open: Callable[[SourceRequest], FrameSource]


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing on stderr what the SourceError says better.

    FFmpeg reads its level from the environment when the first video opens, and keeps it for the process; a value that
    the user has set stays. OpenCV's own level is restored at the end.
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


def interruptible(work: Callable[[], Made], name: str) -> Made:
    """work() in a thread of its own, so that Ctrl-C works while it waits for a camera, an address or a pipe."""
    made: list[Made | Exception] = []

    def run() -> None:
        try:
            made.append(work())
        except Exception as error:
            made.append(error)

    thread = threading.Thread(target=run, name=f"tracklet opener {name}", daemon=True)
    thread.start()
    while thread.is_alive():
        check()
        thread.join(SLICE_S)
    if isinstance(made[0], Exception):
        raise made[0]
    return made[0]
