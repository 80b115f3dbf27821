"""Open a source by the name that the user typed. All kinds of sources are listed here, in `KINDS`."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tracker.errors import SourceError
from tracker.sources import images, mot, video, webcam
from tracker.sources.base import DEFAULT_FPS, FrameSource, SourceRequest
from tracker.sources.span import WHOLE, Span
from tracker.sources.webcam import RECONNECT_S

# The first that accepts a request opens it.
KINDS = (webcam.KIND, mot.KIND, images.KIND, video.KIND)
MIN_FPS, MAX_FPS = 1e-3, 1e4  # one picture in 17 minutes, and the fastest cameras


def open_source(
    spec: str | int | Path,
    *,
    fps: float | None = None,
    default_fps: float = DEFAULT_FPS,
    reconnect_s: float = RECONNECT_S,
    span: Span = WHOLE,
    late_s: float = 0.0,
) -> FrameSource:
    """Open a video file, a folder or glob of images, a MOT sequence, a webcam index ("0", "webcam"), or an address.

    A camera's device file, and a pipe that carries a video, such as /dev/stdin, are opened by their paths. A path that
    exists wins over every other reading. fps: the frame rate to take instead of the source's own; None: its own.
    default_fps: for the times of frames where neither is known; `FrameSource.fps` is 0 then. span: which frames to
    read of a source that has an end. reconnect_s: how long to retry a lost camera or stream; 0: not at all, inf: for
    ever. late_s: for which time a live source gives late frames, see `FrameQueue`; 0: each is the newest. Raises
    SourceError in one line: what is wrong, where, what would be right. Wrap the result in `Prefetch`.
    """
    if math.isnan(reconnect_s) or reconnect_s < 0:
        raise SourceError(f"the time for reconnecting must be 0 s or more, got {reconnect_s!r}")
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise SourceError(f"the frame rate must be a positive number, {MIN_FPS:g} to {MAX_FPS:g}, got {fps!r}")
    text = str(spec)
    if text.lower().startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    try:
        exists = Path(text).expanduser().exists()
    except OSError as error:
        raise SourceError(f"{text}: cannot be read: {error.strerror}") from error
    request = SourceRequest(text, exists, fps, default_fps, reconnect_s, span, late_s)
    for kind in KINDS:
        if kind.accepts(request):
            return kind.open(request)
    titles = [kind.title for kind in KINDS[::-1]]
    raise SourceError(f"{text}: no such file or folder; a source is {', '.join(titles)}")
