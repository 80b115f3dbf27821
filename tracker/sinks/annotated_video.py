"""Annotated video file: every frame with its tracks drawn on it; live sources at the pace they came."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tracker.errors import OutputError, WriteError
from tracker.sinks.base import ClosedByWith, Overlay, RunFacts, SinkOption, check_output_path
from tracker.sinks.drawing import TRAIL_S, Trails, annotate, caption
from tracker.types import Frame, ImageArray, Tracks

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
ROOM = 4096  # bytes that a disk must take before a video is begun: less than the shortest
LONGEST_STILL_S = 5.0  # a longer gap of a live source is cut to this: an hour of one picture helps no viewer
MAX_LIVE_FPS = 60.0  # cameras that announce more rarely deliver it, and repeated pictures cost time
_MATROSKA_SIZES = 8  # bytes of the longest EBML number


class AnnotatedVideoSink(ClosedByWith):
    """An annotated video file: .mp4 (MPEG-4 part 2), or .avi (Motion JPEG).

    fps: of the video. size: (width, height) of the frames; the codecs need even numbers, so an odd last row or column
    is left out. trail_s: how long the trail of foot points reaches back. overlay: draws on each picture after the
    tracks. live: at each moment the video shows the newest frame, so that it plays as fast as it happened; else every
    frame is written once.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        overwrite: bool = False,
        trail_s: float = TRAIL_S,
        overlay: Overlay | None = None,
        live: bool = False,
    ) -> None:
        import cv2

        self.path = Path(path)
        codec = codec_of(self.path)
        if not (math.isfinite(fps) and fps > 0) or min(size) < 2:
            raise OutputError(f"{self.path}: a video needs a frame rate and a size, got {fps!r} fps and {size}")
        check_output_path(self.path, overwrite)
        # OpenCV does not say why it cannot open a file; the operating system does.
        try:
            with self.path.open("wb", buffering=0) as file:
                self._check_room(file)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._writer: Any = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*codec), fps, self._size)
        if not self._writer.isOpened():
            self.path.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: this OpenCV cannot write {codec} video of {size[0]}x{size[1]} pixels")
        self._trails = Trails(trail_s)
        self._overlay = overlay
        self._n_written = 0
        self._pace = Pace(fps) if live else None
        self._waiting: ImageArray | None = None  # the newest picture of a live source, not written yet

    def _check_room(self, file: io.FileIO) -> None:
        try:
            file.write(bytes(ROOM))
            if file.seekable():
                file.truncate(0)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if frame.image is None:
            raise OutputError(f"{self.path}: the source has no pictures, so there is no video to draw; leave it out")
        if (frame.width // 2 * 2, frame.height // 2 * 2) != self._size:
            raise OutputError(f"{self.path}: frame {frame.index + 1} is {frame.width}x{frame.height}, not {self._size}")
        self._trails.update(frame.time_s, tracks)
        picture = annotate(frame.image, tracks, self._trails.of(tracks), caption=caption(frame, tracks))
        if self._overlay is not None:
            self._overlay(picture)
        picture = np.ascontiguousarray(picture[: self._size[1], : self._size[0]])
        if self._pace is None:
            self._put(picture)
            return
        if self._waiting is not None:
            self._put(self._waiting, self._pace.due(frame.time_s))
        self._waiting = picture

    def _put(self, picture: ImageArray, times: int = 1) -> None:
        for _ in range(times):
            self._writer.write(picture)
        self._n_written += times

    def close(self) -> None:
        """Finish the file. Raises OutputError if it cannot be read back: OpenCV is silent about a full disk."""
        if self._writer is None:
            return
        if self._waiting is not None:
            self._put(self._waiting)
        self._writer.release()
        self._writer = None
        if self._n_written:
            self._check_whole()

    def _check_whole(self) -> None:
        """Raise WriteError unless the file is there, finished, and can be read."""
        import cv2

        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            return  # a device takes everything and gives nothing back
        try:
            finished = is_finished(self.path)
        except OSError as error:
            raise WriteError(f"{self.path}: the video was lost while it was written: {error.strerror}") from error
        video = cv2.VideoCapture(str(self.path)) if finished else None
        if video is None or not (video.isOpened() and video.read()[0]):
            raise WriteError(f"{self.path}: the video could not be finished; is the disk full?")
        video.release()


class Pace:
    """How many pictures of a video pass from one frame of a live source to the next, by the clock.

    Picture k stands for the time k / fps and shows the newest frame at that time. Where nothing came for longer than
    LONGEST_STILL_S (a lost camera, a pause), the video skips the rest of the gap.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._n_due = 0
        self._last_s = 0.0
        self._skipped_s = 0.0

    def due(self, time_s: float) -> int:
        """Pictures of the frame before that are due now that the next came at `time_s`; 0: it never shows."""
        self._skipped_s += max(0.0, time_s - self._last_s - LONGEST_STILL_S)
        self._last_s = time_s
        # The picture at the very time of the new frame shows the new frame.
        n_due = math.ceil((time_s - self._skipped_s) * self._fps - 1e-9)
        times = max(0, n_due - self._n_due)
        self._n_due += times
        return times


def codec_of(path: str | Path) -> str:
    """Four letters, by the ending of the name. Raises OutputError for an unknown one."""
    codec = CODECS.get(Path(path).suffix.lower())
    if codec is None:
        raise OutputError(f"{path}: cannot write a video of this kind; there are: {', '.join(CODECS)}")
    return codec


def is_finished(path: Path) -> bool:
    """Whether a video file is complete: the outermost parts of its container end where the file ends.

    Writers put sizes at the start of the file when it is finished, whether or not the disk had room for the rest, and
    OpenCV does not tell. AVI: RIFF chunks (AVI RIFF File Reference, Microsoft). MP4 and MOV: boxes (ISO/IEC 14496-12,
    4.2). Matroska: EBML elements (RFC 8794, 4 and 6). Raises OSError where the file cannot be read.
    """
    ending = path.suffix.lower()
    part_of = _riff if ending == ".avi" else _ebml if ending == ".mkv" else _box
    size, at, names = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            name, length = part_of(file, size - at)
            if length <= 0:
                return False
            names.add(name)
            at += length
    needed = {_riff: b"RIFF", _ebml: b"\x18\x53\x80\x67", _box: b"moov"}[part_of]
    return at == size and needed in names


def _riff(file: BinaryIO, left: int) -> tuple[bytes, int]:
    """Name and length in bytes of the part that begins here."""
    name, length = file.read(4), int.from_bytes(file.read(4), "little")
    return name, 8 + length + length % 2


def _box(file: BinaryIO, left: int) -> tuple[bytes, int]:
    length, name = int.from_bytes(file.read(4), "big"), file.read(4)
    if length == 1:
        return name, int.from_bytes(file.read(8), "big")
    return name, length or left


def _ebml(file: BinaryIO, left: int) -> tuple[bytes, int]:
    start = file.tell()
    name = _vint(file)
    number = _vint(file)
    if not name or not number:
        return b"", 0
    value = int.from_bytes(number, "big") & ((1 << 7 * len(number)) - 1)
    return name, file.tell() - start + value


def _vint(file: BinaryIO) -> bytes:
    """An EBML number, its marker included: leading zeros of the first byte say how many bytes follow."""
    first = file.read(1)
    more = _MATROSKA_SIZES - first[0].bit_length() if first and first[0] else -1
    found = first + file.read(max(0, more))
    return found if more >= 0 and len(found) == more + 1 else b""


def _open(path: str | None, run: RunFacts) -> AnnotatedVideoSink:
    assert path is not None
    fps = min(run.fps, MAX_LIVE_FPS) if run.live else run.fps
    size = run.width, run.height
    return AnnotatedVideoSink(path, fps, size, run.overwrite, overlay=run.overlay, live=run.live)


VIDEO = SinkOption(
    flags=("--video",),
    metavar="FILE",
    help="annotated video (.mp4, .avi)",
    check=codec_of,
    open=_open,
    pictures="required",
)
