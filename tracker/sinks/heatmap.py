"""A picture of where people stood: seconds at each place, in colours over a still of the video."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tracker.sinks.base import RunFacts, SinkOption
from tracker.sinks.drawing import draw_label, line_width
from tracker.sinks.picture_file import PictureSink, check_kind
from tracker.types import FloatArray, Frame, ImageArray, Tracks

LONGEST_FRAME_S = 1.0  # across a longer gap in a stream, where people were is unknown
FOOTPRINT = 0.08  # standard deviation of the spot of a person, as a share of the height of a typical box
STILLS = 9  # at most; odd, so that the median is one of them
OPACITY = 0.75  # of the colour of the busiest place
DARKER = 0.6  # brightness that the still keeps, so that the colours stand out
TICKS = 5  # numbers beside the scale


class HeatmapSink(PictureSink):
    """Collects foot points, each weighted with the time until the next frame, and paints them when it closes.

    A place shows how many seconds people stood there: a person who stands still for 10 s makes a spot that reads 10 s
    in its middle. The still is the median of frames spread over the video, so that people who walk by vanish from it.
    frame_s: weight of the last frame, which has no next one.
    """

    def __init__(self, path: str | Path, frame_s: float, overwrite: bool = False) -> None:
        super().__init__(path, overwrite)
        self._frame_s = frame_s
        self._seconds: FloatArray = np.zeros((0, 0))  # (H, W) of people at each pixel
        self._waiting: tuple[float, FloatArray] | None = None  # time and (M, 2) places of the frame before
        self._height_sum = 0.0
        self._n_feet = 0
        self._stills = _Stills()

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if self._seconds.size == 0:
            self._seconds = np.zeros((frame.height, frame.width))
        if self._waiting is not None:
            self._add(frame.time_s - self._waiting[0])
        self._waiting = frame.time_s, np.stack([(tracks.xyxy[:, 0] + tracks.xyxy[:, 2]) / 2, tracks.xyxy[:, 3]], axis=1)
        self._height_sum += float((tracks.xyxy[:, 3] - tracks.xyxy[:, 1]).sum())
        self._n_feet += len(tracks)
        if frame.image is not None:
            self._stills.offer(frame.image)

    @property
    def seconds(self) -> FloatArray:
        """(H, W): seconds that people stood at each place, spread over the size of a footprint.

        The spot of a person who stands still has its time in the middle, and falls off as a Gaussian.
        """
        import cv2

        height = self._height_sum / self._n_feet if self._n_feet else 0.0
        sigma = max(1.0, FOOTPRINT * height)
        spread = cv2.GaussianBlur(self._seconds, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        seconds: FloatArray = np.asarray(spread, dtype=np.float64) * (2 * math.pi * sigma**2)
        return seconds

    def finished_picture(self) -> ImageArray | None:
        if self._waiting is None:
            return None
        self._add(self._frame_s)
        return self.picture()

    def picture(self) -> ImageArray:
        """The still with the colours over it and the scale at its right edge: (H, W, 3) uint8 BGR."""
        import cv2

        seconds = self.seconds
        most = float(seconds.max())
        # The root: a bench with one person for an hour must not outshine the paths.
        share = np.sqrt(np.clip(seconds / most, 0, 1)) if most > 0 else np.zeros_like(seconds)
        still = self._stills.median()
        base = np.full((*seconds.shape, 3), 40.0) if still is None else still * DARKER
        colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        weight = np.clip(2 * share, 0, OPACITY)[..., None]
        picture: ImageArray = (weight * colours + (1 - weight) * base).astype(np.uint8)
        _draw_scale(picture, most)
        return picture

    def _add(self, span_s: float) -> None:
        assert self._waiting is not None
        places = np.floor(self._waiting[1]).astype(np.int64)
        height, width = self._seconds.shape
        # A box may end below the picture; there is nothing to paint there.
        there = ((places >= 0) & (places < (width, height))).all(axis=1)
        np.add.at(self._seconds, (places[there, 1], places[there, 0]), min(span_s, LONGEST_FRAME_S))


def _open(path: str | None, run: RunFacts) -> HeatmapSink:
    assert path is not None
    return HeatmapSink(path, 1 / run.fps, run.overwrite)


HEATMAP = SinkOption(
    flags=("--heatmap",),
    metavar="FILE.png",
    help="picture of where people stood, and for how long",
    check=check_kind,
    open=_open,
    group="counting",
    pictures="used",
)


class _Stills:
    """A few frames, evenly spread over what came so far, however long it lasts."""

    def __init__(self) -> None:
        self._kept: list[ImageArray] = []
        self._every = 1
        self._n_offered = 0

    def offer(self, image: ImageArray) -> None:
        if self._n_offered % self._every == 0:
            if len(self._kept) == STILLS:
                self._kept = self._kept[::2]
                self._every *= 2
            if self._n_offered % self._every == 0:
                self._kept.append(image.copy())
        self._n_offered += 1

    def median(self) -> ImageArray | None:
        """The middle value of every pixel; None if there was no image."""
        if not self._kept:
            return None
        middle = len(self._kept) // 2
        # Row by row: nine frames at once, as floats, can be gigabytes.
        rows = [np.sort(np.stack(parts), axis=0)[middle] for parts in zip(*self._kept, strict=True)]
        return np.stack(rows)


def _draw_scale(picture: ImageArray, most_s: float) -> None:
    """A bar of all colours at the right edge, with seconds beside it."""
    import cv2

    thickness, letter = line_width(picture)
    height, width = picture.shape[:2]
    bar, margin = max(6, 10 * thickness), 6 * thickness
    top, bottom = round(0.2 * height), round(0.8 * height)
    left = width - margin - bar
    if left < 0 or bottom - top < TICKS:
        return
    ramp = np.linspace(255, 0, bottom - top).astype(np.uint8)[:, None].repeat(bar, axis=1)
    picture[top:bottom, left : left + bar] = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)
    cv2.rectangle(picture, (left, top), (left + bar - 1, bottom), (255, 255, 255), 1)
    dark = (32, 32, 32)
    for share in np.linspace(0, 1, TICKS):
        y = round(bottom - share * (bottom - top))
        seconds = share**2 * most_s
        text = f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
        (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letter, 1)
        corner = (left - text_width - 4 * (2 + thickness), y + text_height // 2 + 2 + thickness)
        draw_label(picture, text, corner, dark, letter, thickness)
    draw_label(picture, "people stood here for", (width, top - margin), dark, letter, thickness)
