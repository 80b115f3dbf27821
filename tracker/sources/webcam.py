"""Cameras and streams: the newest frame, with real time stamps.

Drop policy: a thread reads the camera as fast as it delivers and keeps one frame, the newest. A tracker slower than the
camera skips the frames that came meanwhile (`dropped` counts them) and never falls behind. `Frame.index` counts the
frames given out, without gaps; `Frame.time_s` is the time at which the frame came, so motion sees the true step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Condition, Thread
from typing import Any

from tracker.errors import SourceError
from tracker.sources.base import ClosedByWith, quiet_opencv
from tracker.sources.video import sane_fps
from tracker.types import Frame, ImageArray

URL_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")
OPEN_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 10.0  # a camera silent for so long is gone
READ_FAILURES = 5  # in a row; one failed read is a lost packet


class LiveSource(ClosedByWith):
    """A webcam index ("0", "1", "webcam") or the address of a stream.

    fps: what to report instead of the camera's own; time stamps are real in any case. `capture` is an opened
    cv2.VideoCapture, for callers that set up the camera themselves.
    """

    live = True

    def __init__(self, spec: str, *, fps: float | None = None, capture: Any = None) -> None:
        self.name = camera_name(spec)
        self._capture = open_capture(spec) if capture is None else capture
        self._changed = Condition()
        self._newest: tuple[float, ImageArray] | None = None
        self._stopped = False
        self._failure: Exception | None = None
        self.dropped = 0
        self.n_frames: int | None = None
        self.fps = fps or sane_fps(self._capture.get(_CAP_PROP_FPS))
        self._start_s = 0.0
        self._thread = Thread(target=self._grab, name=f"grabber {self.name}", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._failure is not None, OPEN_TIMEOUT_S)
            first = self._newest
        if first is None:
            self.close()
            raise SourceError(f"{self.name}: opened, but gave no frame")
        self.width: int = first[1].shape[1]
        self.height: int = first[1].shape[0]

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while (taken := self._take(index)) is not None:
            stamp_s, image = taken
            if image.shape[:2] != (self.height, self.width):
                raise SourceError(
                    f"{self.name}: frame {index + 1} is {image.shape[1]}x{image.shape[0]}, the frames before it were "
                    f"{self.width}x{self.height}; all frames must have one size"
                )
            if index == 0:
                self._start_s = stamp_s
            yield Frame(index, stamp_s - self._start_s, image, self.width, self.height)
            index += 1

    def close(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # The thread releases the camera: releasing it under a running read crashes some drivers.
        self._thread.join(timeout=1.0)

    def _take(self, index: int) -> tuple[float, ImageArray] | None:
        with self._changed:
            awake = self._changed.wait_for(
                lambda: self._stopped or self._newest is not None or self._failure is not None, STALL_TIMEOUT_S
            )
            if self._stopped:
                return None
            taken, self._newest = self._newest, None
            if taken is not None:
                return taken
            if not awake:
                raise SourceError(f"{self.name}: no frame for {STALL_TIMEOUT_S:g} s after frame {index}")
            raise SourceError(f"{self.name}: the stream ended after frame {index}") from self._failure

    def _grab(self) -> None:
        failures = 0
        try:
            while not self._stopped and failures < READ_FAILURES:
                ok, image = self._capture.read()
                if not ok or image is None:
                    failures += 1
                    continue
                failures = 0
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = (time.monotonic(), image)
                    self._changed.notify_all()
            raise EOFError(f"{READ_FAILURES} reads in a row failed")
        except Exception as error:  # whatever the driver throws, the consumer must hear of it
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            self._capture.release()


_CAP_PROP_FPS = 5  # cv2.CAP_PROP_FPS


def is_live_spec(spec: str) -> bool:
    """True for a webcam index or an address."""
    return spec == "webcam" or spec.isdecimal() or spec.lower().startswith(URL_SCHEMES)


def camera_name(spec: str) -> str:
    if spec == "webcam" or spec.isdecimal():
        return f"webcam {0 if spec == 'webcam' else int(spec)}"
    return spec


def open_capture(spec: str) -> Any:
    """An opened cv2.VideoCapture. Raises SourceError if there is no such camera, or nobody answers."""
    import cv2

    with quiet_opencv():
        if spec == "webcam" or spec.isdecimal():
            capture = cv2.VideoCapture(0 if spec == "webcam" else int(spec))
            hint = "no such camera, or another program holds it; 0 is the first camera"
        else:
            timeout_ms = int(OPEN_TIMEOUT_S * 1000)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
            capture = cv2.VideoCapture(spec, cv2.CAP_FFMPEG, limits)
            hint = f"the address does not answer with a video within {OPEN_TIMEOUT_S:g} s"
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{camera_name(spec)}: cannot be opened: {hint}")
    return capture
