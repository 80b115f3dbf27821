"""Cameras and streams: the newest frames with real time stamps; a lost connection is opened again.

Drop policy: a thread reads the camera at its full rate and keeps the newest frame, and of those before it the ones that
are late by little, if they are asked for (`FrameQueue`). A tracker slower than the camera skips the others (`dropped`
counts them) and never falls behind. `Frame.index` counts the yielded frames, without gaps; `Frame.time_s` is the time
at which the frame came, so motion gets the true time step.

A silent camera is opened again, after waits that double from 0.5 s to 10 s, for at most `reconnect_s`. The clock keeps
running, so that the tracker treats a short loss like an occlusion.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from tracker.errors import SourceError
from tracker.runtime.signals import SLICE_S, check
from tracker.sources.base import DEFAULT_FPS, FrameSource, SourceKind, SourceRequest, interruptible, quiet_opencv
from tracker.sources.frame_queue import FrameQueue
from tracker.sources.video import VideoFile, sane_fps
from tracker.types import Frame, ImageArray

log = logging.getLogger(__name__)

URL_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
OPEN_TIMEOUT_S = 10.0
SILENCE_S = 5.0  # a camera without a frame for so long is lost
READ_FAILURES = 5  # in a row; one failed read is a lost packet
LONGEST_BACKLOG_S = 1.0  # for skipping the frames that a stream buffered while it was opened
DECODER_THREADS = 2  # each further thread delays by one frame
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # before the camera is opened again
RECONNECT_S = 60.0  # to wait for a lost camera; one that restarts needs about half a minute
# Without reading twenty frames to find the frame rate, an RTSP camera is back a second sooner. The first option is
# OpenCV's own default.
QUICK_OPTIONS = "rtsp_flags;prefer_tcp|fpsprobesize;0"
_FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_JOIN_S = 0.2  # do not wait for a thread that hangs in the driver


class LiveSource(FrameSource):
    """A webcam index ("0", "1", "webcam"), the device file of a camera, or the address of a stream.

    fps: what to report instead of the camera's own; time stamps are real in any case. reconnect_s: how long to try to
    get a lost camera back before SourceError is raised; 0: not at all, inf: for ever. late_s: for which time frames are
    given late, see `FrameQueue`; 0: each is the newest. `capture` is an opened cv2.VideoCapture, for callers that set
    up the camera themselves; `reopen` opens it again (None: by `spec`).
    All frames have the size of the first one: others, after a loss or in the middle, are scaled to it.
    """

    live = True

    def __init__(
        self,
        spec: str,
        *,
        fps: float | None = None,
        reconnect_s: float = RECONNECT_S,
        late_s: float = 0.0,
        capture: Any = None,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        self.name = camera_name(spec)
        self._capture = open_capture(spec) if capture is None else capture
        self._reopen = reopen or (lambda: open_capture(spec, again=True))
        self._gathers = spec.lower().startswith(URL_SCHEMES)
        self._reconnect_s = reconnect_s
        self._changed = threading.Condition()
        self._queue = FrameQueue(late_s)
        self._stopped = False
        self._failure: Exception | None = None
        self._given = 0  # frames yielded
        self._resized: tuple[int, int] | None = None  # height and width of the camera's frames, if not ours
        self.dropped = 0  # frames received but never yielded
        self.losses = 0  # how often the camera was lost
        self.lost = False  # True while it is
        self._idle: Callable[[], bool] = lambda: True
        self.fps = fps or sane_fps(self._capture.get(_CAP_PROP_FPS))
        self._start_s = 0.0
        self._thread = threading.Thread(target=self._grab, name=f"tracklet grabber {self.name}", daemon=True)
        self._thread.start()
        # In a user's script: Python (up to 3.13) aborts if it ends while the thread returns from the driver.
        atexit.register(self._end, SILENCE_S)
        first = self._first()
        self.width: int = first.shape[1]
        self.height: int = first.shape[0]

    def on_idle(self, keep_waiting: Callable[[], bool]) -> None:
        """Call this again and again while no frame comes; False ends the source."""
        self._idle = keep_waiting

    def __iter__(self) -> Iterator[Frame]:
        while (taken := self._take()) is not None:
            stamp_s, image, late = taken
            if self._given == 0:
                self._start_s = stamp_s
            index = self._given
            self._given += 1
            yield Frame(index, stamp_s - self._start_s, self._in_our_size(image), self.width, self.height, late)

    def age_s(self, time_s: float) -> float:
        """Seconds since the frame with this `Frame.time_s` came out of the driver."""
        return time.monotonic() - self._start_s - time_s

    def close(self) -> None:
        # The thread releases the camera: releasing it under a running read crashes some drivers.
        self._end(_JOIN_S)

    def _end(self, limit_s: float) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=limit_s)
        if not self._thread.is_alive():
            atexit.unregister(self._end)

    # ------------------------------------------------------------------------------------- in the thread that tracks

    def _first(self) -> ImageArray:
        """Wait for the first frame, without taking it. Raises SourceError if none comes."""
        try:
            for _ in range(math.ceil(OPEN_TIMEOUT_S / SLICE_S)):
                check()
                with self._changed:
                    if self._queue:
                        return self._queue.newest
                    if self._failure is not None:
                        break
                    self._changed.wait(SLICE_S)
            raise SourceError(f"{self.name}: opened, but gave no frame")
        except BaseException:
            self.close()
            raise

    def _take(self) -> tuple[float, ImageArray, bool] | None:
        """Wait for a frame; None if the source was closed. Raises SourceError if it is lost for good."""
        # The thread gives up by itself, unless it hangs in a driver.
        until_s = time.monotonic() + SILENCE_S + OPEN_TIMEOUT_S + self._reconnect_s
        while True:
            check()
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._queue or self._failure, SLICE_S)
                if self._stopped:
                    return None
                taken = self._queue.take() if self._queue else None
                failure = self._failure
            if taken is not None:
                return taken
            if failure is not None:
                how = f" {failure}" if isinstance(failure, EOFError) else ""
                raise SourceError(f"{self.name}: the stream ended after frame {self._given}{how}") from failure
            if time.monotonic() > until_s:
                raise SourceError(f"{self.name}: the camera hangs: no frame, and no error, after frame {self._given}")
            if not self._idle():
                return None

    def _in_our_size(self, image: ImageArray) -> ImageArray:
        size = image.shape[:2]
        if size == (self.height, self.width):
            self._resized = None
            return image
        if size != self._resized:
            self._resized = size
            log.warning(
                "%s: frames are %dx%d now; they are scaled to the %dx%d of the first",
                self.name, size[1], size[0], self.width, self.height,
            )  # fmt: skip
        return fitted(image, self.width, self.height)

    # ---------------------------------------------------------------------------------- in the thread of the camera

    def _grab(self) -> None:
        try:
            self._skip_backlog()
            while not self._stopped:
                why = self._read_until_lost()
                if not self._stopped:
                    self._bring_back(why)
        except Exception as error:  # the consumer raises whatever the driver raises
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            self._capture.release()

    def _read_until_lost(self) -> str:
        """Publish frames until the camera is lost; returns why."""
        failures, last_s = 0, time.monotonic()
        while not self._stopped and failures < READ_FAILURES:
            if self._publish():
                failures, last_s = 0, time.monotonic()
            elif time.monotonic() - last_s > SILENCE_S:
                return f"silent for {SILENCE_S:g} s"
            else:
                failures += 1
        return f"{READ_FAILURES} reads in a row failed"

    def _skip_backlog(self) -> None:
        """Skip the frames that a stream buffered while it was opened: about a second, which come without a wait."""
        if not self._gathers:
            return
        frame_s = 1 / (sane_fps(self._capture.get(_CAP_PROP_FPS)) or DEFAULT_FPS)
        start_s = last_s = time.monotonic()
        while not self._stopped and self._capture.grab():
            now_s = time.monotonic()
            if now_s - last_s > frame_s / 2 or now_s - start_s > LONGEST_BACKLOG_S:
                return
            self.dropped += 1
            last_s = now_s

    def _publish(self) -> bool:
        """Read one frame into the queue; False if there was none."""
        ok, image = self._capture.read()
        if not ok or image is None:
            return False
        with self._changed:
            self.dropped += self._queue.put(time.monotonic(), image)
            self._changed.notify_all()
        return True

    def _bring_back(self, why: str) -> None:
        """Retry to open the camera until a frame comes. Raises EOFError after `reconnect_s`."""
        lost_s = time.monotonic()
        self._capture.release()
        if self._reconnect_s <= 0 or (not self._queue and self._given == 0):
            raise EOFError(f"({why})")
        self.lost = True
        self.losses += 1
        log.warning("%s: connection lost (%s); trying again for %s", self.name, why, _span(self._reconnect_s))
        for wait_s in waits():
            left_s = self._reconnect_s - (time.monotonic() - lost_s)
            if left_s <= 0:
                raise EOFError(f"and did not come back within {_span(self._reconnect_s)}")
            with self._changed:
                if self._changed.wait_for(lambda: self._stopped, min(wait_s, left_s)):
                    return
            if self._open_again():
                break
            if wait_s < LONGEST_WAIT_S:  # then the waits stay the same: no line for each
                log.warning("%s: no answer, trying again in %g s", self.name, min(2 * wait_s, LONGEST_WAIT_S))
        self.lost = False
        log.warning("%s: back after %.1f s", self.name, time.monotonic() - lost_s)

    def _open_again(self) -> bool:
        """Whether the camera is open again and gave a frame."""
        try:
            self._capture = self._reopen()
        except SourceError:
            return False
        self._skip_backlog()
        if self._publish():
            return True
        self._capture.release()
        return False


LONGEST_NUMBER = 6  # digits of a camera number; a longer one is the name of a file
_CAP_PROP_FPS, _CAP_PROP_FRAME_COUNT = 5, 7  # of cv2


def waits() -> Iterator[float]:
    """Seconds to wait before each attempt: doubled each time, up to LONGEST_WAIT_S."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def fitted(image: ImageArray, width: int, height: int) -> ImageArray:
    """The whole image (H, W, 3) as large as width x height allows without changing its shape, centred on black."""
    import cv2

    scale = min(width / image.shape[1], height / image.shape[0])
    inner = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cast(ImageArray, cv2.resize(image, inner, interpolation=how))
    if inner == (width, height):
        return small
    out = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    out[top : top + inner[1], left : left + inner[0]] = small
    return out


def is_live_spec(spec: str) -> bool:
    """True for a webcam index, the device file of a camera, or an address."""
    return spec == "webcam" or _is_number(spec) or spec.lower().startswith(URL_SCHEMES) or _is_device(spec)


def _is_device(spec: str) -> bool:
    """Whether it is the file of a device, such as /dev/video0 or /dev/v4l/by-id/..."""
    try:
        return Path(spec).expanduser().is_char_device()
    except OSError:
        return False


def _is_number(spec: str) -> bool:
    return spec.isdecimal() and len(spec) <= LONGEST_NUMBER


def camera_name(spec: str) -> str:
    """The name for messages and file names: an address without its password."""
    if spec == "webcam" or _is_number(spec):
        return f"webcam {0 if spec == 'webcam' else int(spec)}"
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", spec)


def open_capture(spec: str, *, again: bool = False) -> Any:
    """An opened cv2.VideoCapture. Raises SourceError if there is no such camera or no answer.

    again: the frame rate is known already.
    """
    return interruptible(partial(_opened_capture, spec, again), camera_name(spec))


def _opened_capture(spec: str, again: bool) -> Any:
    import cv2

    with quiet_opencv(), _ffmpeg_options(QUICK_OPTIONS if again else None):
        if spec == "webcam" or _is_number(spec):
            capture = cv2.VideoCapture(0 if spec == "webcam" else int(spec))
            hint = "no such camera, or another program holds it; 0 is the first camera"
        elif _is_device(spec):
            capture = cv2.VideoCapture(str(Path(spec).expanduser()), cv2.CAP_V4L2)
            hint = "this device is no camera, or another program holds it"
        else:
            open_ms, read_ms = int(OPEN_TIMEOUT_S * 1000), int(SILENCE_S * 1000)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
            limits += [cv2.CAP_PROP_N_THREADS, DECODER_THREADS]
            capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, limits)
            hint = f"the address does not answer with a video within {OPEN_TIMEOUT_S:g} s"
            if spec.lower().startswith("srt://"):
                hint += (
                    ", or this OpenCV has no SRT; `ffmpeg -i ADDRESS -c copy -f mpegts - | track /dev/stdin` reads it"
                )
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{camera_name(spec)}: cannot be opened: {hint}")
    return capture


@contextmanager
def _ffmpeg_options(options: str | None) -> Iterator[None]:
    """FFmpeg options for streams opened in here. OpenCV reads them only from the environment; the user's own stay."""
    if options is None or _FFMPEG_OPTIONS in os.environ:
        yield
        return
    os.environ[_FFMPEG_OPTIONS] = options
    try:
        yield
    finally:
        os.environ.pop(_FFMPEG_OPTIONS, None)


def _span(seconds: float) -> str:
    return "as long as it takes" if math.isinf(seconds) else f"{seconds:g} s"


def _open(request: SourceRequest) -> FrameSource:
    """The camera or stream, or the video file behind an http address: it has an end, and no frame is dropped."""
    spec = request.spec
    capture = open_capture(spec)
    if spec.lower().startswith(("http://", "https://")) and 0 < capture.get(_CAP_PROP_FRAME_COUNT) < 1e9:
        capture.release()
        return VideoFile(spec, fps=request.fps, default_fps=request.default_fps, span=request.span)
    if not request.span.whole:
        capture.release()
        raise SourceError(
            f"{camera_name(spec)}: is live, and its frames are taken as they come; --start, --end and --stride are for "
            "files"
        )
    return LiveSource(spec, fps=request.fps, reconnect_s=request.reconnect_s, late_s=request.late_s, capture=capture)


KIND = SourceKind(
    "a webcam number or its device file, or an rtsp://, srt:// or http:// address",
    lambda request: is_live_spec(request.spec) and (not request.exists or _is_device(request.spec)),
    _open,
)
