"""Video files with a time stamp for each picture: H.264 through PyAV, else a constant rate through OpenCV."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tracker.errors import OutputError, WriteError
from tracker.types import ImageArray

log = logging.getLogger(__name__)

# OpenCV's codec by the ending of the name. PyAV's format; Motion JPEG in .avi is for programs, and stays OpenCV's.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
_H264_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
TICK = Fraction(1, 90_000)  # seconds: 24, 25, 30 and 30000/1001 frames per second are whole numbers of it
_LEAST_TICKS = 90  # between pictures with one time: Matroska rounds to milliseconds
# x264: as large as MPEG-4 part 2 before it, at a quarter less time than the next slower preset.
_ENCODER_OPTIONS = {"preset": "superfast", "crf": "23"}
ENCODER_THREADS = 4  # encode 2160p at the rate of a camera; as many everywhere, for the bytes depend on their number
_BT601 = 6  # SMPTE 170M in ITU-T H.273: the matrix that pictures are converted by. Untagged, browsers guess by size
_VIDEO_RANGE = 1
MAX_CONSTANT_FPS = 240.0  # a larger rate in a header is a time base
MAX_LIVE_FPS = 60.0  # cameras that announce more rarely deliver it, and repeated pictures cost time
_MATROSKA_SIZES = 8  # bytes of the longest EBML number


class VideoWriter(Protocol):
    """A video file. Both methods raise WriteError."""

    def write(self, picture: ImageArray, time_s: float) -> None:
        """Append a picture (H, W, 3) uint8 BGR, shown from `time_s` on; 0 is the first, and times never decrease."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def open_writer(
    path: Path, fps: float, size: tuple[int, int], live: bool = False, late: Callable[[], bool] = lambda: False
) -> VideoWriter:
    """The writer for a name with this ending; where browsers will not play what is written, one line says why.

    fps: pictures per second, as best known. size: (width, height), even. late: see `ConstantRateWriter`. Raises
    OutputError.
    """
    h264 = _h264_writer(path, fps, size) if path.suffix.lower() in _H264_FORMATS else ""
    if not isinstance(h264, str):
        return h264
    writer = ConstantRateWriter(path, min(fps, MAX_LIVE_FPS if live else MAX_CONSTANT_FPS), size, late)
    if h264:
        log.warning("%s: is written as MPEG-4 part 2, which browsers do not play: %s", path, h264)
    return writer


def _h264_writer(path: Path, fps: float, size: tuple[int, int]) -> H264Writer | str:
    """The writer, or in words why there is none."""
    try:
        import av
    except ImportError:
        return "PyAV is not installed (pip install av)"
    try:
        return H264Writer(path, fps, size)
    except (av.FFmpegError, ValueError) as error:  # ValueError: no such encoder
        return f"this PyAV cannot write H.264 ({error})"


class H264Writer:
    """H.264 with 4:2:0 colours, what every player takes. MP4 has its index in front, so that it plays while it loads.

    Raises ValueError or av.FFmpegError where PyAV has no encoder or cannot open it.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        import av

        self._path = path
        self._last_tick, self._ticks = (
            -_LEAST_TICKS,
            round(1 / (fps * TICK)),
        )  # of the last picture; how long it is shown
        self._packet: Any = None  # the newest; when it is written depends on whether it is the last
        kind = _H264_FORMATS[path.suffix.lower()]
        # bitexact: no random number in the header, so that a resumed run gives the same bytes.
        options = {"fflags": "+bitexact"} | ({} if kind == "matroska" else {"movflags": "+faststart"})
        # "file:", or a colon in the name would be read as a protocol.
        self._container: Any = av.open(f"file:{path}", "w", format=kind, options=options)
        try:
            # FFmpeg's choice among its encoders: libx264 where it has that.
            self._stream = self._container.add_stream("h264", options=_ENCODER_OPTIONS)
            self._stream.width, self._stream.height, self._stream.pix_fmt = *size, "yuv420p"
            codec = self._stream.codec_context
            codec.time_base, codec.framerate = TICK, Fraction(fps).limit_denominator(1001) or Fraction(1)
            codec.max_b_frames = 0  # MP4 stores how long samples take in decoding order: with B-frames ends are cut off
            codec.thread_count = ENCODER_THREADS
            codec.colorspace, codec.color_range = _BT601, _VIDEO_RANGE
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            raise

    def write(self, picture: ImageArray, time_s: float) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        tick = max(self._last_tick + _LEAST_TICKS, round(time_s / TICK))
        if self._last_tick >= 0:
            self._ticks = tick - self._last_tick  # the last picture is shown as long as the one before it
        frame.pts, frame.time_base = tick, TICK
        self._last_tick = tick
        self._encode(frame)

    def close(self) -> None:
        import av

        try:
            if self._last_tick >= 0:
                self._encode(None)
        finally:
            try:
                self._container.close()
            except av.FFmpegError as error:
                raise WriteError(f"{self._path}: the video could not be finished: {error.strerror}") from error

    def _encode(self, frame: Any) -> None:
        """Encode a frame, or, with None, write what the encoder still holds."""
        import av

        try:
            for packet in self._stream.encode(frame):
                if self._packet is not None:
                    self._container.mux(self._packet)
                self._packet = packet
            if frame is None and self._packet is not None:
                self._packet.duration = self._ticks  # the others last until the next
                self._container.mux(self._packet)
        except av.FFmpegError as error:
            raise WriteError(f"{self._path}: the video cannot be written: {error.strerror}") from error


class ConstantRateWriter:
    """MPEG-4 part 2, or Motion JPEG in .avi, at a constant rate: pictures are repeated or left out by their times.

    late: asked before each repetition; True leaves it out, and the video plays faster than its times say.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int], late: Callable[[], bool] = lambda: False) -> None:
        import cv2

        self._path = path
        self._fps = fps
        self._late = late
        self._n_due = 0  # pictures until the one that waits
        self._waiting: ImageArray | None = None  # how often it is shown depends on the time of the next
        self._n_late = 0  # repetitions that were left out
        codec = codec_of(path)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        # An absolute name: a colon in a relative one would be read as a protocol.
        self._writer: Any = cv2.VideoWriter(str(path.absolute()), cv2.VideoWriter.fourcc(*codec), fps, size)
        if not self._writer.isOpened():
            raise OutputError(f"{path}: this OpenCV cannot write {codec} video of {size[0]}x{size[1]} pixels")

    def write(self, picture: ImageArray, time_s: float) -> None:
        due = max(self._n_due, round(time_s * self._fps))  # picture k stands for the times around k / fps
        for n_shown in range(due - self._n_due):
            if n_shown and self._late():
                self._n_late += due - self._n_due - n_shown
                break
            self._writer.write(self._waiting)
        self._n_due, self._waiting = due, picture

    def close(self) -> None:
        """OpenCV is silent about a full disk: see `is_finished`."""
        if self._waiting is not None:
            self._writer.write(self._waiting)
        self._writer.release()
        if self._n_late:
            log.warning(
                "%s: is %.1f s too short: repeated pictures came faster than they could be encoded",
                self._path, self._n_late / self._fps,
            )  # fmt: skip


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
