"""Annotated video file: every frame with its tracks drawn on it, at the times of the source."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from tracker.errors import OutputError, WriteError
from tracker.runtime.write_behind import WriteBehind
from tracker.sinks.base import ClosedByWith, Overlay, RunFacts, SinkOption, check_output_path
from tracker.sinks.drawing import TRAIL_S, ClassNames, Trails, annotate, caption
from tracker.sinks.video_writer import codec_of, is_finished, open_writer
from tracker.types import Frame, ImageArray, Tracks

log = logging.getLogger(__name__)

QUEUE = 4  # drawn pictures that may wait for the encoder; 1920x1080 pixels take 6 MB
ROOM = 4096  # bytes that a disk must take before a video is begun: less than the shortest
LONGEST_STILL_S = 5.0  # a longer gap of a live source is cut to this: an hour of one picture helps no viewer
LONGEST_GAP_S = 3600.0  # of a file likewise: MP4 has 32 bits for a gap, and a day of one picture is a wrong stamp


class AnnotatedVideoSink(ClosedByWith):
    """An annotated video file: H.264 in .mp4, .m4v, .mov and .mkv where PyAV is installed; Motion JPEG in .avi.

    fps: of the source, as best known. size: (width, height) of the frames; the codecs need even numbers, so an odd last
    row or column is left out. trail_s: how long the trail of foot points reaches back. overlay: draws on each picture
    after the tracks. class_names: by class number, for the labels once there are several classes.

    Each frame is shown from its time on, counted from the first. A thread encodes. live: a frame for which the encoder
    has no room is left out and counted, so that `write` never waits, and gaps are cut to LONGEST_STILL_S; else every
    frame is written, and `write` waits for room.
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
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        self.path = Path(path)
        codec_of(self.path)
        if not (math.isfinite(fps) and fps > 0) or min(size) < 2:
            raise OutputError(f"{self.path}: a video needs a frame rate and a size, got {fps!r} fps and {size}")
        check_output_path(self.path, overwrite)
        if self.path.is_fifo():
            raise OutputError(f"{self.path}: a video needs a file on disk, and this is a pipe")
        # Codecs do not say why they cannot open a file; the operating system does.
        try:
            with self.path.open("wb", buffering=0) as file:
                self._check_room(file)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._size = (size[0] // 2 * 2, size[1] // 2 * 2)
        self._live = live
        try:
            self._writer = open_writer(self.path, fps, self._size, live, self._is_late)
        except OutputError:
            self.path.unlink(missing_ok=True)
            raise
        self._behind = WriteBehind(self._encode, QUEUE, f"encode {self.path.name}")
        self._closed = False
        self._trails = Trails(trail_s)
        self._names = ClassNames(class_names)
        self._overlay = overlay
        self._n_frames = self._n_dropped = 0
        self._last_s = 0.0  # time of the frame before
        self._skipped_s = 0.0  # of the source's time, not in the video

    def _check_room(self, file: io.FileIO) -> None:
        try:
            file.write(bytes(ROOM))
            if self.path.is_file():
                file.truncate(0)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if frame.image is None:
            raise OutputError(f"{self.path}: the source has no pictures, so there is no video to draw; leave it out")
        if (frame.width // 2 * 2, frame.height // 2 * 2) != self._size:
            raise OutputError(f"{self.path}: frame {frame.index + 1} is {frame.width}x{frame.height}, not {self._size}")
        time_s = self._video_time(frame.time_s)
        self._trails.update(frame.time_s, tracks)
        names = self._names.shown(tracks)
        self._n_frames += 1
        if self._live and self._behind.full:
            self._n_dropped += 1
            return
        picture = annotate(
            frame.image, tracks, self._trails.of(tracks), caption=caption(frame, tracks, bool(names)), names=names
        )
        if self._overlay is not None:
            self._overlay(picture)
        picture = np.ascontiguousarray(picture[: self._size[1], : self._size[0]])
        self._behind.put((picture, time_s))

    def close(self) -> None:
        """Finish the file. Raises WriteError if it cannot be read back: OpenCV is silent about a full disk."""
        if self._closed:
            return
        self._closed = True
        try:
            self._behind.close()
        except BaseException:
            with suppress(OutputError):  # the first error is the one to show
                self._writer.close()
            raise
        self._writer.close()
        if self._n_dropped:
            log.warning(
                "%s: %d of %d frames came faster than they could be encoded, and are not in the video",
                self.path, self._n_dropped, self._n_frames,
            )  # fmt: skip
        if self._n_frames:
            self._check_whole()

    def _video_time(self, time_s: float) -> float:
        """Seconds from the first frame, without what is cut from long gaps."""
        if self._n_frames == 0:
            self._skipped_s = self._last_s = time_s
        longest_s = LONGEST_STILL_S if self._live else LONGEST_GAP_S
        self._skipped_s += max(0.0, time_s - self._last_s - longest_s)
        self._last_s = time_s
        return time_s - self._skipped_s

    def _encode(self, item: tuple[ImageArray, float]) -> None:
        """In the thread that encodes."""
        self._writer.write(*item)

    def _is_late(self) -> bool:
        return self._live and self._behind.full

    def _check_whole(self) -> None:
        """Raise WriteError unless the file is there, finished, and can be read."""
        import cv2

        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            return  # a device takes everything and gives nothing back
        try:
            finished = is_finished(self.path)
        except OSError as error:
            raise WriteError(f"{self.path}: the video was lost while it was written: {error.strerror}") from error
        video = cv2.VideoCapture(str(self.path.absolute())) if finished else None
        if video is None or not (video.isOpened() and video.read()[0]):
            raise WriteError(f"{self.path}: the video could not be finished; is the disk full?")
        video.release()


def _open(path: str | None, run: RunFacts) -> AnnotatedVideoSink:
    assert path is not None
    size = run.width, run.height
    return AnnotatedVideoSink(
        path, run.fps, size, run.overwrite, overlay=run.overlay, live=run.live, class_names=run.class_names
    )


VIDEO = SinkOption(
    flags=("--video",),
    metavar="FILE",
    help="annotated video (.mp4, .mov, .mkv, .avi)",
    check=codec_of,
    open=_open,
    pictures="required",
)
