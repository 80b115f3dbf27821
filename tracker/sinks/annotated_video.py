"""Annotated video: boxes, identities, trails; what was seen, proposed and predicted behind somebody look different."""

from __future__ import annotations

import colorsys
import io
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tracker.errors import OutputError, WriteError
from tracker.sinks.base import ClosedByWith, Overlay, check_output_path
from tracker.sinks.redraw_log import RedrawLog
from tracker.sinks.video_writer import is_finished
from tracker.types import Frame, ImageArray, Source, State, TrackRow, Tracks

Colour: TypeAlias = tuple[int, int, int]  # BGR
Point: TypeAlias = tuple[float, float]  # x, y in pixels

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
ROOM = 4096  # bytes that a disk must take before a film is begun: less than the shortest
TRAIL_S = 2.0
LONGEST_STILL_S = 5.0  # a longer gap of a live source is cut to this in its film: nobody wants an hour of one picture
HIDDEN_OPACITY = 0.7  # of the dots around somebody hidden
GOLDEN_RATIO = 0.6180339887498949


class AnnotatedVideoSink(ClosedByWith):
    """An annotated video file: .mp4 (MPEG-4 part 2), or .avi (Motion JPEG).

    fps: of the film. size: (width, height) of the frames; the codecs need even numbers, so an odd last row or column is
    left out. trail_s: how long the trail of foot points reaches back. overlay: draws on each picture after the tracks.
    live: frames come when they come, and the film shows at each moment the newest one, so that it plays as fast as it
    happened; else every frame is written once.
    With a `log` a run can go on after an interruption: the film is drawn again from the start, by `redraw`.
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
        self.log: RedrawLog | None = None
        self._pace = Pace(fps) if live else None
        self._waiting: ImageArray | None = None  # the newest picture of a live film, not yet written for good

    def _check_room(self, file: io.FileIO) -> None:
        try:
            file.write(bytes(ROOM))
            if file.seekable():
                file.truncate(0)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._draw(frame, tracks, self._overlay)
        if self.log is not None:
            self.log.append(frame.index, tracks)

    def redraw(self, frame: Frame, tracks: Tracks, overlay: Overlay | None) -> None:
        """Draw a frame as it was written into the film of the interrupted run.

        tracks: those of `log`. overlay: in place of that of the film, which is further on already.
        """
        self._draw(frame, tracks, overlay)

    def state(self) -> State | None:
        return None if self.log is None else self.log.state()

    def noted(self) -> None:
        """The log only grows: nothing can go."""

    def forget(self) -> None:
        """Nobody will draw the film again: take its log away."""
        if self.log is not None:
            self.log.close()
            self.log.remove()
        self.log = None

    def _draw(self, frame: Frame, tracks: Tracks, overlay: Overlay | None) -> None:
        if frame.image is None:
            raise OutputError(f"{self.path}: the source has no pictures, so there is no video to draw; leave it out")
        if (frame.width // 2 * 2, frame.height // 2 * 2) != self._size:
            raise OutputError(f"{self.path}: frame {frame.index + 1} is {frame.width}x{frame.height}, not {self._size}")
        self._trails.update(frame.time_s, tracks)
        picture = annotate(frame.image, tracks, self._trails.of(tracks), caption=caption(frame, tracks))
        if overlay is not None:
            overlay(picture)
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
        if self.log is not None:
            self.log.close()
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
        film = cv2.VideoCapture(str(self.path)) if finished else None
        if film is None or not (film.isOpened() and film.read()[0]):
            raise WriteError(f"{self.path}: the video could not be finished; is the disk full?")
        film.release()


class Pace:
    """How many pictures of a film pass from one frame of a live source to the next, by the clock.

    Picture k stands for the time k / fps and shows the newest frame that was there then. Where nothing came for longer
    than LONGEST_STILL_S (a lost camera, a pause), the film skips the rest of the gap.
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


class Trails:
    """Foot points of every identity over the last `keep_s` seconds; identities gone for longer are forgotten."""

    def __init__(self, keep_s: float = TRAIL_S) -> None:
        self.keep_s = keep_s
        self._points: dict[int, deque[tuple[float, float, float]]] = {}  # time_s, x, y

    def __len__(self) -> int:
        return len(self._points)

    def update(self, time_s: float, tracks: Tracks) -> None:
        for row in tracks:
            x1, _, x2, y2 = (float(value) for value in row.xyxy)
            self._points.setdefault(row.id, deque()).append((time_s, (x1 + x2) / 2, y2))
        oldest = time_s - self.keep_s
        for identity, points in list(self._points.items()):
            while points and points[0][0] < oldest:
                points.popleft()
            if not points:
                del self._points[identity]

    def of(self, tracks: Tracks) -> dict[int, list[Point]]:
        """Points of the identities in `tracks`, oldest first."""
        return {int(i): [(x, y) for _, x, y in self._points.get(int(i), ())] for i in tracks.id}


def caption(frame: Frame, tracks: Tracks) -> str:
    """The line in the corner."""
    people = "1 person" if len(tracks) == 1 else f"{len(tracks)} people"
    kinds = (
        (tracks.proposed, "proposed"), (tracks.occluded, "hidden"), (tracks.predicted, "predicted"),
        (tracks.interpolated, "interpolated"),
    )  # fmt: skip
    counts = [(int(rows.sum()), what) for rows, what in kinds]
    return f"frame {frame.index + 1}  {people}" + "".join(f", {n} {what}" for n, what in counts if n)


def identity_colour(identity: int) -> Colour:
    """A stable bright BGR colour: steps of the golden ratio keep neighbouring numbers far apart on the colour wheel."""
    hue = (identity * GOLDEN_RATIO) % 1.0
    saturation = (0.95, 0.65, 0.8)[identity % 3]
    value = (1.0, 0.95, 0.75)[identity // 3 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def annotate(
    image: ImageArray,
    tracks: Tracks,
    trails: Mapping[int, Sequence[Point]] | None = None,
    *,
    caption: str = "",
    ids: bool = True,
) -> ImageArray:
    """A copy of the image (H, W, 3) BGR with tracks drawn on it; lines and letters grow with the image.

    Detected boxes are solid; proposed ones are dashed, with a diamond at the upper right corner; those predicted
    (behind somebody or between detections) or interpolated are rows of faint dots. `trails` holds foot points per
    identity, oldest first; they fade towards the past. ids: whether the numbers stand at the boxes.
    """
    picture = image.copy()
    thickness, letter = line_width(image)
    for row in tracks:
        _draw_trail(picture, (trails or {}).get(row.id, ()), identity_colour(row.id), thickness)
    for row in tracks:
        _draw_box(picture, row, thickness)
    for row in tracks if ids else ():  # labels last: a neighbour's box must not cross a number
        x1, y1 = _corners(row)[:2]
        draw_label(picture, str(row.id), (x1, y1), identity_colour(row.id), letter, thickness)
    if caption:
        draw_label(picture, caption, (4 * thickness, image.shape[0]), (32, 32, 32), letter, thickness)
    return picture


def line_width(image: ImageArray) -> tuple[int, float]:
    """Width of lines in pixels and scale of letters, by the size of the image."""
    return max(1, round(min(image.shape[:2]) / 360)), max(0.35, min(image.shape[:2]) / 1300)


def _corners(row: TrackRow) -> tuple[int, int, int, int]:
    # Far outside the picture OpenCV's integers overflow.
    x1, y1, x2, y2 = (round(float(value)) for value in np.clip(np.nan_to_num(row.xyxy), -20000, 20000))
    return x1, y1, x2, y2


def _draw_box(picture: ImageArray, row: TrackRow, thickness: int) -> None:
    import cv2

    colour = identity_colour(row.id)
    x1, y1, x2, y2 = _corners(row)
    sides = (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1)))
    if row.source == Source.DETECTED:
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, thickness)
        return
    if row.source in (Source.OCCLUDED, Source.PREDICTED, Source.INTERPOLATED):
        for start, end in sides:
            _draw_dots(picture, start, end, colour, thickness)
        return
    dash = 5 * thickness
    for start, end in sides:
        length = math.dist(start, end)
        for at in np.arange(0.0, length, 2 * dash):
            a, b = at / length, min(1.0, (at + dash) / length)
            cv2.line(picture, _between(start, end, a), _between(start, end, b), colour, thickness)
    half = 3 * thickness
    diamond = np.array([(x2 - half, y1), (x2, y1 - half), (x2 + half, y1), (x2, y1 + half)], np.int32)
    cv2.fillConvexPoly(picture, diamond, colour, cv2.LINE_AA)


def _draw_dots(picture: ImageArray, start: Point, end: Point, colour: Colour, thickness: int) -> None:
    """Faint dots from start to just before end. More than a pixel wide, or the codec of a film takes them away."""
    import cv2

    length = math.dist(start, end)
    for at in np.arange(0.0, length, 5 * thickness):
        place = _between(start, end, at / length)
        corner = place[0] + thickness, place[1] + thickness
        cv2.rectangle(picture, place, corner, _mixed(picture, place, colour, HIDDEN_OPACITY), cv2.FILLED)


def _mixed(picture: ImageArray, place: tuple[int, int], colour: Colour, share: float) -> tuple[float, ...]:
    """This share of the colour, the rest of the pixel there: fading without a second image."""
    height, width = picture.shape[:2]
    under = picture[min(max(place[1], 0), height - 1), min(max(place[0], 0), width - 1)]
    return tuple(share * over + (1 - share) * float(below) for over, below in zip(colour, under, strict=True))


def _between(start: Point, end: Point, share: float) -> tuple[int, int]:
    return round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1]))


def _draw_trail(picture: ImageArray, points: Sequence[Point], colour: Colour, thickness: int) -> None:
    """Fades towards the past: each piece mixes its colour with the pixel under its middle."""
    import cv2

    height, width = picture.shape[:2]
    for number, (start, end) in enumerate(pairwise(points), start=1):
        middle = _between(start, end, 0.5)
        if not (0 <= middle[0] < width and 0 <= middle[1] < height):
            continue
        mixed = _mixed(picture, middle, colour, number / len(points))
        cv2.line(picture, _between(start, end, 0), _between(start, end, 1), mixed, thickness, cv2.LINE_AA)


def draw_label(
    picture: ImageArray, text: str, corner: tuple[int, int], background: Colour, letter: float, thickness: int
) -> None:
    """Text on a filled plate that stands on `corner` (its lower left), pushed back into the picture."""
    import cv2

    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(letter * 1.8))
    (text_width, text_height), _ = cv2.getTextSize(text, font, letter, stroke)
    pad = 2 + thickness
    plate_width, plate_height = text_width + 2 * pad, text_height + 2 * pad
    x = min(max(corner[0], 0), max(picture.shape[1] - plate_width, 0))
    y = min(max(corner[1] - plate_height, 0), max(picture.shape[0] - plate_height, 0))
    blue, green, red = background
    bright = 0.114 * blue + 0.587 * green + 0.299 * red > 140  # ITU-R BT.601 luma
    cv2.rectangle(picture, (x, y), (x + plate_width, y + plate_height), background, cv2.FILLED)
    ink = (0, 0, 0) if bright else (255, 255, 255)
    cv2.putText(picture, text, (x + pad, y + pad + text_height), font, letter, ink, stroke, cv2.LINE_AA)
