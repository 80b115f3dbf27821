"""From what the user typed to a source."""

from __future__ import annotations

import math
from pathlib import Path

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, FrameSource
from tracker.sources.images import IMAGE_SUFFIXES, ImageFolder
from tracker.sources.mot import MotSequence
from tracker.sources.span import WHOLE, Span
from tracker.sources.video import VideoFile
from tracker.sources.webcam import RECONNECT_S, LiveSource, camera_name, is_live_spec, open_capture

MIN_FPS, MAX_FPS = 1e-3, 1e4  # a picture in 17 minutes, and the fastest cameras; beyond them times are no times


def open_source(
    spec: str | int | Path,
    *,
    fps: float | None = None,
    default_fps: float = DEFAULT_FPS,
    reconnect_s: float = RECONNECT_S,
    span: Span = WHOLE,
) -> FrameSource:
    """Open a video file, a folder or glob of images, a MOT sequence, a webcam index ("0", "webcam"), or an address.

    A path that exists wins over every other reading. fps: the frame rate to take instead of the source's own; None:
    its own. default_fps: for the times of frames where neither is known; `FrameSource.fps` is 0 then. span: the frames
    wanted of a source that has an end.
    reconnect_s: how long a camera or stream that is lost is tried again; 0: not at all, inf: for ever.
    Raises SourceError in one line: what is wrong, where, what would be right. Wrap the result in `Prefetch`.
    """
    if math.isnan(reconnect_s) or reconnect_s < 0:
        raise SourceError(f"the time for reconnecting must be 0 s or more, got {reconnect_s!r}")
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise SourceError(f"the frame rate must be a positive number, {MIN_FPS:g} to {MAX_FPS:g}, got {fps!r}")
    text = str(spec)
    path = Path(text).expanduser()
    try:
        exists = path.exists()
    except OSError as error:
        raise SourceError(f"{text}: cannot be read: {error.strerror}") from error
    if exists:
        return _open_path(path, fps, default_fps, span)
    if is_live_spec(text):
        return _open_live(text, fps, default_fps, reconnect_s, span)
    if any(character in text for character in "*?["):
        return ImageFolder(path, fps=fps, default_fps=default_fps, span=span)
    raise SourceError(
        f"{text}: no such file or folder; a source is a video file, a folder or glob of images, a MOT sequence "
        "folder, a webcam number, or an rtsp:// or http:// address"
    )


def _open_path(path: Path, fps: float | None, default_fps: float, span: Span) -> FrameSource:
    if path.name == "seqinfo.ini":
        return MotSequence(path.parent, fps=fps, span=span)
    if path.is_dir():
        if (path / "seqinfo.ini").is_file():
            return MotSequence(path, fps=fps, span=span)
        return ImageFolder(path, fps=fps, default_fps=default_fps, span=span)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder(path, fps=fps, default_fps=default_fps, span=span)
    return VideoFile(path, fps=fps, default_fps=default_fps, span=span)


def _open_live(spec: str, fps: float | None, default_fps: float, reconnect_s: float, span: Span) -> FrameSource:
    capture = open_capture(spec)
    if spec.lower().startswith(("http://", "https://")) and 0 < capture.get(_CAP_PROP_FRAME_COUNT) < 1e9:
        # A film behind an address has an end: it is read whole, and nothing is dropped.
        capture.release()
        return VideoFile(spec, fps=fps, default_fps=default_fps, span=span)
    if not span.whole:
        capture.release()
        raise SourceError(
            f"{camera_name(spec)}: is live, and its frames are taken as they come; --start, --end and --stride are for "
            "files"
        )
    return LiveSource(spec, fps=fps, reconnect_s=reconnect_s, capture=capture)


_CAP_PROP_FRAME_COUNT = 7  # cv2.CAP_PROP_FRAME_COUNT
