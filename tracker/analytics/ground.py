"""From the picture to metres on a flat floor, by points whose metres are known: `--ground 320,440=0,0 ...`.

The map is a homography (Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.1). A lens that bends
straight lines is not modelled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tracker.errors import ConfigError
from tracker.types import FloatArray

RIGHT = "x,y=X,Y (pixels of the picture = metres on the floor)"
Pair: TypeAlias = tuple[float, float, float, float]
LEAST_POINTS = 4
FLAT = 0.01  # a triangle that is lower than this share of its longest side is a line
MAX_M_PER_PX = 0.5  # towards the horizon a pixel covers more and more of the floor; beyond this no position is given
MAX_MISFIT = 0.05  # of more than four points, as a share of their largest distance in metres


@dataclass(frozen=True)
class GroundPlane:
    """to_metres: (3, 3) homography with a positive third coordinate on the camera's side of the horizon."""

    to_metres: FloatArray

    def locate(self, points: FloatArray) -> FloatArray:
        """(N, 2) pixels -> (N, 2) metres; NaN above the horizon, and where a pixel is more than MAX_M_PER_PX."""
        x, y, w = self.to_metres @ np.column_stack([points, np.ones(len(points))]).T
        with np.errstate(all="ignore"):
            metres = np.column_stack([x, y]) / w[:, None]
            # The derivative of the quotient; its norm is the length of the longest way on the floor of one pixel.
            slopes = (self.to_metres[:2, :2] - metres[:, :, None] * self.to_metres[2, :2]) / w[:, None, None]
            squared = np.square(slopes).sum(axis=(1, 2))
            determinant = slopes[:, 0, 0] * slopes[:, 1, 1] - slopes[:, 0, 1] * slopes[:, 1, 0]
            longest_sq = (squared + np.sqrt(np.maximum(squared**2 - 4 * determinant**2, 0))) / 2
            known = (w > 0) & (longest_sq <= MAX_M_PER_PX**2)
        return np.where(known[:, None], metres, np.nan)

    def of_feet(self, boxes: FloatArray) -> FloatArray:
        """(N, 4) xyxy boxes -> (N, 2) metres of the middle of the lower edge."""
        return self.locate(np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]]))


def walked(time_s: FloatArray, metres: FloatArray) -> tuple[float, float]:
    """Metres that a person walked, and in how many seconds.

    time_s (R,) ascending, metres (R, 2), NaN where the place is not known. Boxes tremble, so the way leads through the
    mean places of each second of the source; what lies before the first and after the last of them is not counted.
    (NaN, NaN) where fewer than two seconds have a place.
    """
    known = np.isfinite(metres).all(axis=1)
    rows = np.column_stack([time_s, metres])[known]
    _, second, count = np.unique(rows[:, 0] // 1, return_inverse=True, return_counts=True)
    if len(count) < 2:
        return math.nan, math.nan
    means = np.column_stack([np.bincount(second, weights=column) / count for column in rows.T])
    return float(np.linalg.norm(np.diff(means[:, 1:], axis=0), axis=1).sum()), float(means[-1, 0] - means[0, 0])


def parse_ground(words: Sequence[str]) -> tuple[Pair, ...]:
    """x, y in pixels and X, Y in metres of each point.

    Raises ConfigError for other words than x,y=X,Y, and for too few of them.
    """
    points: list[Pair] = []
    for word in words:
        pixels, _, metres = word.partition("=")
        try:
            values = [float(value) for side in (pixels, metres) for value in side.split(",")]
        except ValueError:
            values = []
        if len(values) != 4 or pixels.count(",") != 1 or not all(map(math.isfinite, values)):
            raise ConfigError(f"--ground takes points {RIGHT}, got {word!r}")
        points.append((values[0], values[1], values[2], values[3]))
    if len(points) < LEAST_POINTS:
        raise ConfigError(f"--ground takes at least {LEAST_POINTS} points {RIGHT}, got {len(points)}")
    return tuple(points)


def open_ground(points: Sequence[Pair], width: int, height: int) -> GroundPlane:
    """The plane of these points, see `parse_ground`, in frames of this size.

    Four points are met exactly, more by least squares. Raises ConfigError for points outside the picture, on a line,
    in an order that no camera shows, or of no common plane.
    """
    import cv2

    pixels, metres = np.hsplit(np.array(points), 2)
    for x, y in pixels:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ConfigError(
                f"--ground: the point ({x:g}, {y:g}) lies outside the picture, which has {width}x{height} pixels"
            )
    if not any(
        _spread(pixels[list(four)]) and _spread(metres[list(four)])
        for four in itertools.combinations(range(len(points)), 4)
    ):
        raise ConfigError("--ground: three of the points lie on a line; give four corners, as of a rectangle")
    homography, _ = cv2.findHomography(pixels, metres)
    if homography is None:
        raise ConfigError("--ground: no plane has these points; give four corners, as of a rectangle")
    w = homography[2] @ np.column_stack([pixels, np.ones(len(pixels))]).T
    if not (np.all(w > 0) or np.all(w < 0)):
        raise ConfigError(
            "--ground: the points are crossed: no camera sees the floor so; check which metres belong to which pixels"
        )
    plane = GroundPlane(np.asarray(homography * np.sign(w[0]), float))
    x, y, w = plane.to_metres @ np.column_stack([pixels, np.ones(len(pixels))]).T
    misfit_m = np.hypot(x / w - metres[:, 0], y / w - metres[:, 1])
    extent_m = np.linalg.norm(metres[:, None] - metres, axis=2).max()
    if misfit_m.max() > MAX_MISFIT * extent_m:
        worst = int(np.argmax(misfit_m))
        raise ConfigError(
            f"--ground: the points do not fit one plane: ({pixels[worst, 0]:g}, {pixels[worst, 1]:g}) is off by "
            f"{misfit_m[worst]:.2g} m"
        )
    return plane


def _spread(four: FloatArray) -> bool:
    """Whether no three of four points (4, 2) lie on a line."""
    for three in itertools.combinations(four, 3):
        a, b, c = three
        longest = max(np.linalg.norm(p - q) for p, q in itertools.combinations(three, 2))
        area = abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
        if area <= FLAT * longest**2:
            return False
    return True
