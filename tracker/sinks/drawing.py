"""Draws tracks on pictures: boxes by origin (detected, proposed, predicted), identities, trails, labels."""

from __future__ import annotations

import colorsys
import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from tracker.sinks.base import class_name
from tracker.types import FloatArray, Frame, ImageArray, Mask, Source, TrackRow, Tracks

Colour: TypeAlias = tuple[int, int, int]  # BGR
Point: TypeAlias = tuple[float, float]  # x, y in pixels

TRAIL_S = 2.0
SMOOTH_S = 0.15  # of a trail: shorter than a step, longer than the jitter of boxes
OCCLUDED_OPACITY = 0.7  # of the dots around an occluded person
SUBPIXEL_BITS = 4  # of the points of a trail: whole pixels would be steps again
GOLDEN_RATIO = 0.6180339887498949
MASK_OPACITY = 0.4
LEAST_KEYPOINT = 0.3  # score from which a keypoint is drawn
# Limbs between the 17 keypoints of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
LIMBS = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
    (13, 15), (12, 14), (14, 16),
)  # fmt: skip


class Trails:
    """Foot points of every identity over the last `keep_s` seconds; identities unseen for longer are dropped."""

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
        """Smoothed points of the identities in `tracks`, oldest first."""
        return {int(i): _smoothed(np.array(self._points[int(i)])) for i in tracks.id if int(i) in self._points}


def _smoothed(points: FloatArray) -> list[Point]:
    """A path without the jitter of boxes: points (N, 3) of time_s, x, y.

    Each point moves onto the line that fits its neighbours in time, with Gaussian weights (local linear regression;
    Cleveland 1979). Unlike an average it neither lags behind at the newest point nor cuts off steady motion.
    """
    time_s = points[:, 0]
    ahead = time_s - time_s[:, None]  # (N, N) from the point of the row to that of the column
    weights = np.exp(-0.5 * (ahead / SMOOTH_S) ** 2)
    first, second = (weights * ahead).sum(axis=1), (weights * ahead**2).sum(axis=1)
    weights *= second[:, None] - first[:, None] * ahead + 1e-12  # for a point alone
    x_y = weights @ points[:, 1:] / weights.sum(axis=1, keepdims=True)
    return [(x, y) for x, y in x_y.tolist()]


class ClassNames:
    """Names of classes for labels, once there are several classes: a single one needs no name.

    names: by class number.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self._names = names or {}
        self._seen: set[int] = set()

    def shown(self, tracks: Tracks) -> dict[int, str]:
        """By class number; empty while all boxes until this frame were of one class."""
        self._seen.update(tracks.class_id.tolist())
        return {each: class_name(each, self._names) for each in self._seen} if len(self._seen) > 1 else {}


def caption(frame: Frame, tracks: Tracks, several_classes: bool = False) -> str:
    """The line in the corner."""
    one, more = ("object", "objects") if several_classes else ("person", "people")
    found = f"{len(tracks)} {one if len(tracks) == 1 else more}"
    kinds = (
        (tracks.proposed, "proposed"), (tracks.occluded, "occluded"), (tracks.predicted, "predicted"),
        (tracks.interpolated, "interpolated"),
    )  # fmt: skip
    counts = [(int(rows.sum()), what) for rows, what in kinds]
    return f"frame {frame.index + 1}  {found}" + "".join(f", {n} {what}" for n, what in counts if n)


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
    names: Mapping[int, str] | None = None,
) -> ImageArray:
    """A copy of the image (H, W, 3) BGR with tracks drawn on it; lines and letters grow with the image.

    Detected boxes are solid; proposed ones are dashed, with a diamond at the upper right corner; those predicted
    (occluded or between detections) or interpolated are rows of faint dots. Masks are filled; keypoints are dots, with
    limbs between them if they are the 17 of COCO. `trails` holds foot points per identity, oldest first; they fade
    towards the past. ids: whether the numbers stand at the boxes. names: of the classes by number, to stand beside the
    numbers.
    """
    picture = image.copy()
    thickness, letter = line_width(image)
    for row in tracks:
        _draw_trail(picture, (trails or {}).get(row.id, ()), identity_colour(row.id), thickness)
    for row, mask in zip(tracks, tracks.masks if tracks.masks is not None else (), strict=False):
        if mask is not None:
            _draw_mask(picture, mask, identity_colour(row.id))
    for row in tracks:
        _draw_box(picture, row, thickness)
    for row, points in zip(tracks, tracks.keypoints if tracks.keypoints is not None else (), strict=False):
        _draw_keypoints(picture, points, row, thickness)
    for row in tracks if ids else ():  # labels last: a neighbour's box must not cross a number
        x1, y1 = _corners(row)[:2]
        name = _drawable(names.get(row.class_id, "")) if names else ""
        draw_label(picture, f"{row.id} {name}".strip(), (x1, y1), identity_colour(row.id), letter, thickness)
    if caption:
        draw_label(picture, caption, (4 * thickness, image.shape[0]), (32, 32, 32), letter, thickness)
    return picture


def _drawable(text: str) -> str:
    """OpenCV's letters are ASCII; others would become question marks, two for each."""
    return text.encode("ascii", "replace").decode()


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


def _draw_mask(picture: ImageArray, mask: Mask, colour: Colour) -> None:
    """Fills it; what lies below shines through."""
    inside = picture[mask.y : mask.y + mask.bits.shape[0], mask.x : mask.x + mask.bits.shape[1]]
    inside[mask.bits] = MASK_OPACITY * np.array(colour) + (1 - MASK_OPACITY) * inside[mask.bits]


def _draw_keypoints(picture: ImageArray, points: FloatArray, row: TrackRow, thickness: int) -> None:
    """White dots that shrink with the person; points (K, 3): x, y and score, NaN where there are none."""
    import cv2

    colour = identity_colour(row.id)
    _, y1, _, y2 = _corners(row)
    radius = min(max(1, (y2 - y1) // 60), 3 * thickness)
    sure = points[:, 2] >= LEAST_KEYPOINT  # false for NaN
    places = [(round(x), round(y)) for x, y in np.clip(np.nan_to_num(points[:, :2]), -20000, 20000).tolist()]
    for a, b in LIMBS if len(points) == 17 else ():
        if sure[a] and sure[b]:
            cv2.line(picture, places[a], places[b], colour, thickness, cv2.LINE_AA)
    for place in (place for place, seen in zip(places, sure, strict=True) if seen):
        cv2.circle(picture, place, radius, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)


def _draw_dots(picture: ImageArray, start: Point, end: Point, colour: Colour, thickness: int) -> None:
    """Faint dots from start to just before end. More than a pixel wide, or video compression removes them."""
    import cv2

    length = math.dist(start, end)
    for at in np.arange(0.0, length, 5 * thickness):
        place = _between(start, end, at / length)
        corner = place[0] + thickness, place[1] + thickness
        cv2.rectangle(picture, place, corner, _mixed(picture, place, colour, OCCLUDED_OPACITY), cv2.FILLED)


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
        a, b = (tuple(round(side * (1 << SUBPIXEL_BITS)) for side in point) for point in (start, end))
        cv2.line(picture, a, b, mixed, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


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
