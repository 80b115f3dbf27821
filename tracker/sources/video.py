"""Video files, and pipes that carry one, through OpenCV."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, Recorded, SourceKind, SourceRequest, interruptible, quiet_opencv
from tracker.sources.clock import Clock, Decoded
from tracker.sources.container import Container, read_container
from tracker.sources.playlist import check_playlist
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame, ImageArray

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp"}
)
MAX_FPS = 1000.0  # a larger value in a header is a time base, not a frame rate
# CAP_PROP_FRAME_COUNT is an estimate (duration x rate) in many healthy files.
MISSING_FRAMES_OK = 2
MISSING_SHARE_OK = 0.01
_STEADY, _STEADY_SHARE = 0.25, 0.8  # a steady rate: so near to its step are so many frames
# OpenCV says of a damaged frame what it says of the end: there is none. So it is asked again, as often as frames are
# announced, within limits. An attempt behind the end takes 0.1 ms, over a network up to 30 s.
FEWEST_ATTEMPTS, MOST_ATTEMPTS, UNANNOUNCED_ATTEMPTS, REMOTE_ATTEMPTS = 50, 10_000, 1000, 5
DAMAGE_REACH = 32  # frames that a decoder may still hold when it meets a damaged one: the gap comes behind them
_FPS, _FRAME_COUNT = 5, 7  # CAP_PROP_FPS and CAP_PROP_FRAME_COUNT of cv2


class VideoFile(Recorded):
    """All frames of a video file, of a video behind an http address, or of a pipe; none is dropped.

    fps: the frame rate to assume instead of the file's own time stamps; None: the stamps.
    default_fps: for the time of frames in a file with neither stamps nor a rate. span: which frames to read.

    Frames that cannot be decoded are skipped; those after them keep their numbers and times. A file that is cut off
    raises SourceError after its last frame. Frames before the span are decoded and skipped: where OpenCV lands when it
    seeks depends on the codec and the key frames, and frame numbers must be right.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        default_fps: float = DEFAULT_FPS,
        span: Span = WHOLE,
    ) -> None:
        super().__init__(span)
        self.path = str(path)
        self._remote = "://" in self.path
        self.name = self.path if self._remote else Path(path).name
        self.read_once = not self._remote and Path(path).is_fifo()
        container = Container() if self._remote or self.read_once else _check_file(Path(path))
        self._cut_off = container.ends_early
        self._capture, self._n_failed, image = interruptible(self._open, self.name)
        self._first: ImageArray | None = image  # until the second is decoded
        self.height, self.width = image.shape[:2]
        self.header_fps = sane_fps(self._capture.get(_FPS))
        announced = _announced(self._capture)
        self.announced = None if announced is None else round(announced * container.shown)
        self._given_fps = fps
        self._step_s = 1 / (fps or self.header_fps or default_fps)
        self.fps = span.rate(fps or self.header_fps)
        self.n_frames = None if self.announced is None else span.count(self.announced, 1 / self._step_s)
        self._started = False
        self._n_steady = 0  # frames that came one step after the one before

    @property
    def files(self) -> Sequence[Path]:
        return () if self._remote or self.read_once else [Path(self.path)]

    def __iter__(self) -> Iterator[Frame]:
        if self._started:
            raise RuntimeError("a VideoFile is read once; open it again to read it again")
        self._started = True
        picker = Picker(self.span)
        n_frames, end_s, complete = 0, 0.0, True
        for index, time_s, decoded in self._numbered():
            if picker.over(index, time_s):
                complete = False
                break
            n_frames, end_s = index + 1, time_s
            if self._chosen(picker, index, time_s):
                image = decoded.picture()
                if image is None:
                    self._skip_damaged(index)
                    continue
                self._check_size(image, index)
                yield Frame(index, time_s, image, self.width, self.height)
        self._report_damaged(n_frames)
        if complete:
            self._check_complete(n_frames, end_s)
        self._check_found(picker, n_frames, end_s)

    def close(self) -> None:
        self._capture.release()

    def _open(self) -> tuple[Any, int, ImageArray]:
        """The opened video, how many attempts to decode failed, and the first picture after them."""
        import cv2

        # FFmpeg takes what stands before a colon for a protocol, but not in an absolute name.
        name = self.path if self._remote else os.path.abspath(self.path)
        n_failed = 0
        with quiet_opencv():
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG) if self.read_once else cv2.VideoCapture(name)
            opened = capture.isOpened()
            while opened and n_failed < self._patience(_announced(capture), 0):
                ok, image = capture.read()
                if ok and image is not None:
                    return capture, n_failed, cast(ImageArray, image)
                n_failed += 1
        capture.release()
        pipe = "; a pipe can carry .ts and .mkv, but hardly .mp4" if self.read_once else ""
        if opened:
            raise SourceError(f"{self.path}: a video without a single frame that can be decoded{pipe}")
        raise SourceError(
            f"{self.path}: not a video that OpenCV can open (damaged, cut off, or another kind of file){pipe}"
        )

    def _patience(self, announced: int | None, n_frames: int) -> int:
        """How many attempts in a row must fail after so many frames until it is the end."""
        if self._remote:
            return REMOTE_ATTEMPTS
        if self._cut_off:
            return FEWEST_ATTEMPTS
        left = UNANNOUNCED_ATTEMPTS if announced is None else announced - n_frames
        return min(max(left, FEWEST_ATTEMPTS), MOST_ATTEMPTS)

    def _decoded(self) -> Iterator[Decoded]:
        """The frames after the first one."""
        n_frames = 1
        while True:
            n_failed, patience = 0, self._patience(self.announced, n_frames)
            while not self._capture.grab():
                n_failed += 1
                if n_failed >= patience:
                    return
            self._first = None
            n_frames += 1 + n_failed
            yield Decoded(self._stamp(), n_failed, self._picture)

    def _numbered(self) -> Iterator[tuple[int, float, Decoded]]:
        """(index, time, frame) of every frame that can be decoded.

        Around a damaged place a steady rate and the stamps say how many frames were lost: a decoder reports one of
        them, and loses all that depend on it. Frames that it gives in disorder there are lost, too. Without stamps, or
        a steady rate, those are lost that it reports.
        """
        first = Decoded(self._stamp(), self._n_failed, self._picture)
        if self._n_failed:  # the first frame is found as after every gap: behind one before the start
            clock, index = Clock(-self._step_s, -self._step_s, self._step_s), -1
            frames = clock.timed(chain([first], self._decoded()))
        else:
            clock, index = Clock(0.0, first.stamp_s, self._step_s), 0
            frames = clock.timed(self._decoded())
            yield 0, 0.0, first
        last_s, late_s, reach = clock.time_s, 0.0, 0
        step_s: float | None = self._step_s
        for decoded, time_s, good in frames:
            reach = DAMAGE_REACH if decoded.n_failed else max(0, reach - 1)
            n_lost, stamped = decoded.n_failed, decoded.stamp_s > 0  # OpenCV gives 0 for a missing stamp
            if reach and step_s is not None and stamped:
                if not good:
                    continue
                n_lost = max(0, round((time_s - last_s) / step_s) - 1)
            elif not (good and stamped):
                late_s += n_lost * clock.step_s
            self._skip_damaged(index + 1, n_lost)
            index += 1 + n_lost
            self._n_steady += abs(time_s - last_s - self._step_s) < _STEADY * self._step_s
            last_s = time_s
            if not reach:
                step_s = clock.step_s if clock.regular else None
            yield index, time_s + late_s if self._given_fps is None else index / self._given_fps, decoded

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

    def _check_complete(self, n_frames: int, end_s: float) -> None:
        """Raise if frames are missing at the end because the file, or the connection, ended early.

        A header may count more frames than there are, or are to be shown; and a video with a variable frame rate has
        fewer than duration x rate, yet its last time stamp is at the end.
        """
        if self.announced is None or not self._capture.isOpened():
            return
        spare = max(MISSING_FRAMES_OK, MISSING_SHARE_OK * self.announced)
        missing = self.announced - n_frames
        if missing <= spare:
            return
        if end_s + self._step_s >= (self.announced - spare) * self._step_s:
            if self._n_steady > _STEADY_SHARE * n_frames:  # at a variable rate nothing is missing
                log.warning(
                    "%s: %d of %d frames are missing in the file; later frames are numbered without them, their times "
                    "are right", self.name, missing, self.announced,
                )  # fmt: skip
            return
        if self._cut_off or self._remote:
            what = "the connection ended there" if self._remote else "the file is cut off there"
            raise SourceError(f"{self.path}: breaks off after frame {n_frames} of {self.announced}: {what}")
        log.warning("%s: the header announces %d frames, %d can be shown", self.name, self.announced, n_frames)


def _announced(capture: Any) -> int | None:
    """How many frames the header counts; None if it cannot be."""
    n_frames = capture.get(_FRAME_COUNT)
    return int(n_frames) if math.isfinite(n_frames) and 0 < n_frames < 1e9 else None


def sane_fps(value: float) -> float:
    """A frame rate from a header, 0 if it cannot be one."""
    return float(value) if math.isfinite(value) and 0 < value <= MAX_FPS else 0.0


def _check_file(path: Path) -> Container:
    if not path.is_file():
        raise SourceError(f"{path}: no such video file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
        check_playlist(path)
        container = read_container(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if empty:
        raise SourceError(f"{path}: the file is empty (0 bytes), not a video")
    return container


def _open(request: SourceRequest) -> VideoFile:
    return VideoFile(request.path, fps=request.fps, default_fps=request.default_fps, span=request.span)


KIND = SourceKind("a video file", lambda request: request.exists, _open)
