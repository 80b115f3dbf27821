"""Video files through OpenCV."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, Recorded, SourceKind, SourceRequest, quiet_opencv
from tracker.sources.playlist import check_playlist
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame, ImageArray

log = logging.getLogger(__name__)

MAX_FPS = 1000.0  # a larger value in a header is a time base, not a frame rate
# CAP_PROP_FRAME_COUNT is an estimate (duration x rate) in many healthy files.
MISSING_FRAMES_OK = 2
MISSING_SHARE_OK = 0.01


class VideoFile(Recorded):
    """All frames of a video file, or of a video behind an http address; none is dropped.

    fps: the frame rate to assume instead of the file's own time stamps; None: the stamps.
    default_fps: for the time of frames in a file with neither stamps nor a rate. span: which frames to read.

    Frames before the span are decoded and skipped: where OpenCV lands when it seeks depends on the codec and the key
    frames, and frame numbers must be right.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        default_fps: float = DEFAULT_FPS,
        span: Span = WHOLE,
    ) -> None:
        import cv2

        super().__init__(span)
        self.path = str(path)
        remote = "://" in self.path
        self.name = self.path if remote else Path(path).name
        if not remote:
            _check_file(Path(path))
        with quiet_opencv():
            self._capture: Any = cv2.VideoCapture(self.path)
            opened = self._capture.isOpened()
            ok, image = self._capture.read() if opened else (False, None)
        if not ok or image is None:
            self._capture.release()
            if not opened:
                raise SourceError(
                    f"{self.path}: not a video that OpenCV can open (damaged, cut off, or another kind of file)"
                )
            raise SourceError(f"{self.path}: a video without a single frame that can be decoded")
        self._first: ImageArray | None = cast(ImageArray, image)  # until the second is decoded
        self.height, self.width = image.shape[:2]
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.announced = int(announced) if math.isfinite(announced) and 0 < announced < 1e9 else None
        self.header_fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        own_fps = fps or self.header_fps
        self.fps = span.rate(own_fps)
        self.n_frames = None if self.announced is None else span.count(self.announced, own_fps or default_fps)
        self._clock = _Clock(None if fps else self._stamp(), own_fps or default_fps)
        self._started = False

    @property
    def files(self) -> Sequence[Path]:
        return () if "://" in self.path else [Path(self.path)]

    def __iter__(self) -> Iterator[Frame]:
        if self._started:
            raise RuntimeError("a VideoFile is read once; open it again to read it again")
        self._started = True
        picker = Picker(self.span)
        index, there = 0, True
        while there and not picker.over(index, self._clock.time_s):
            if self._chosen(picker, index, self._clock.time_s):
                image = self._picture()
                if image is None:  # a frame that cannot be decoded ends the video
                    there = False
                    break
                self._check_size(image, index)
                yield Frame(index, self._clock.time_s, image, self.width, self.height)
            self._first = None
            index += 1
            there = self._grab()
        if not there:
            self._check_complete(index)
        self._check_found(picker, index, self._clock.time_s)

    def close(self) -> None:
        self._capture.release()

    def _grab(self) -> bool:
        """Decode the next frame, without making a picture of it; False at the end."""
        if not self._capture.grab():
            return False
        self._clock.tick(self._stamp())
        return True

    def _picture(self) -> ImageArray | None:
        """The picture of the frame decoded last."""
        if self._first is not None:
            return self._first
        ok, image = self._capture.retrieve()
        return cast(ImageArray, image) if ok and image is not None else None

    def _check_size(self, image: ImageArray, index: int) -> None:
        if image.shape[:2] != (self.height, self.width):
            raise SourceError(
                f"{self.path}: frame {index + 1} is {image.shape[1]}x{image.shape[0]}, the frames before it are "
                f"{self.width}x{self.height}; all frames must have one size"
            )

    def _stamp(self) -> float:
        import cv2

        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def _check_complete(self, n_read: int) -> None:
        """Raise if the file ended early by its count *and* by its clock.

        A video with a variable frame rate has fewer frames than duration x rate, yet its last time stamp is at the end.
        """
        if self.announced is None or not self._capture.isOpened():
            return
        spare = max(MISSING_FRAMES_OK, MISSING_SHARE_OK * self.announced)
        if n_read >= self.announced - spare:
            return
        if self._clock.stamped and self.header_fps > 0:
            expected = self.announced / self.header_fps
            if self._clock.time_s + 1 / self.header_fps >= expected - spare / self.header_fps:
                log.warning("%s: %d of %d announced frames could be decoded", self.path, n_read, self.announced)
                return
        raise SourceError(
            f"{self.path}: breaks off after frame {n_read} of {self.announced}; the file is cut off or damaged there"
        )


class _Clock:
    """Times of frames: the container's time stamps; from the first bad one on, a fixed step."""

    def __init__(self, first_stamp_s: float | None, fps: float) -> None:
        self.stamped = first_stamp_s is not None and math.isfinite(first_stamp_s)
        self.time_s = 0.0
        self._start_s = first_stamp_s if first_stamp_s is not None else 0.0
        self._step_s = 1 / fps
        self._base_s, self._ticks = 0.0, 0  # counted, so that rounding errors do not add up

    def tick(self, stamp_s: float) -> None:
        if self.stamped:
            time_s = stamp_s - self._start_s
            if math.isfinite(time_s) and time_s > self.time_s:
                self.time_s = time_s
                return
            self.stamped = False
            self._base_s = self.time_s
        self._ticks += 1
        self.time_s = self._base_s + self._ticks * self._step_s


def sane_fps(value: float) -> float:
    """A frame rate from a header, 0 if it cannot be one."""
    return float(value) if math.isfinite(value) and 0 < value <= MAX_FPS else 0.0


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"{path}: no such video file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
        check_playlist(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if empty:
        raise SourceError(f"{path}: the file is empty (0 bytes), not a video")


def _open(request: SourceRequest) -> VideoFile:
    return VideoFile(request.path, fps=request.fps, default_fps=request.default_fps, span=request.span)


KIND = SourceKind("a video file", lambda request: request.exists, _open)
