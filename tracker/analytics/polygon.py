"""A polygon, and which pieces of a straight path are clearly inside or outside of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tracker.errors import ConfigError
from tracker.types import BoolArray, FloatArray

Point: TypeAlias = tuple[float, float]

MIN_SHARE = 1e-9  # of a path: shorter pieces are rounding errors


class Spot(NamedTuple):
    """Position of a person: pixels of the source, x right, y down."""

    x: float
    y: float
    margin: float  # pixels from an edge within which the side is undecided


class Polygon:
    """A simple polygon. corners: (K, 2) points in order, K >= 3; the last one is joined to the first.

    name: for messages. Raises ConfigError for fewer than three corners, corners that coincide, and edges that cross or
    touch.
    """

    def __init__(self, corners: Sequence[Point] | FloatArray, name: str = "polygon") -> None:
        self.corners = np.array(_ring(as_points(corners, name), name))  # (K, 2)
        self._edges = np.roll(self.corners, -1, axis=0) - self.corners
        self._low, self._high = self.corners.min(axis=0), self.corners.max(axis=0)

    def settled(self, a: Spot, b: Spot) -> list[tuple[float, bool]]:
        """The pieces of the straight path from a to b that are farther from every edge than the margin.

        Along the path the margin changes linearly from that of a to that of b. Returns (share of the path at which the
        piece begins, whether it is inside), in order.
        """
        reach = max(a.margin, b.margin)
        low, high = np.minimum(a[:2], b[:2]) - reach, np.maximum(a[:2], b[:2]) + reach
        if (low > self._high).any() or (high < self._low).any():
            return [(0.0, False)]
        ends = np.array([a, b])  # (2, 3) x, y, margin
        # Most people are far from every edge: nothing can change on such a path.
        if self.distance(ends[:1, :2])[0] - math.dist(a[:2], b[:2]) > reach:
            return [(0.0, bool(self.contains(ends[:1, :2])[0]))]
        cuts = self._cuts(a, b)
        pieces = np.array([piece for piece in pairwise(cuts.tolist()) if piece[1] - piece[0] > MIN_SHARE])
        middle = ends[0] + pieces.mean(axis=1)[:, None] * (ends[1] - ends[0])  # (P, 3)
        apart = self.distance(middle[:, :2]) > middle[:, 2]
        inside = self.contains(middle[:, :2])
        return [(float(pieces[i, 0]), bool(inside[i])) for i in np.flatnonzero(apart)]

    def distance(self, points: FloatArray) -> FloatArray:
        """(P, 2) -> (P,) pixels to the nearest edge."""
        to = points[:, None] - self.corners[None]  # (P, K, 2)
        along = np.clip((to * self._edges).sum(axis=2) / (self._edges * self._edges).sum(axis=1), 0.0, 1.0)
        nearest: FloatArray = np.linalg.norm(to - along[..., None] * self._edges, axis=2).min(axis=1)
        return nearest

    def contains(self, points: FloatArray) -> BoolArray:
        """(P, 2) -> (P,) True inside: a ray to the right meets the edges an odd number of times."""
        (x1, y1), (x2, y2) = self.corners.T, np.roll(self.corners, -1, axis=0).T
        x, y = points[:, :1], points[:, 1:]
        spans = (y1 > y) != (y2 > y)  # (P, K)
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
        odd: BoolArray = (spans & meets).sum(axis=1) % 2 == 1
        return odd

    def _cuts(self, a: Spot, b: Spot) -> FloatArray:
        """Shares of the path, ascending from 0 to 1, between which it stays within the margin or outside of it.

        At each of them the distance from the line through an edge, or from a corner, equals the margin.
        """
        start, step = np.array(a[:2]), np.array([b.x - a.x, b.y - a.y])
        margin, growth = a.margin, b.margin - a.margin
        normal = (
            np.stack([-self._edges[:, 1], self._edges[:, 0]], axis=1) / np.linalg.norm(self._edges, axis=1)[:, None]
        )
        to = start - self.corners
        off, slope = (to * normal).sum(axis=1), normal @ step
        shares = [_linear_roots(off - side * margin, slope - side * growth) for side in (1, -1)]
        second, first = float(step @ step) - growth**2, 2 * (to @ step - margin * growth)
        shares += _quadratic_roots(second, first, (to * to).sum(axis=1) - margin**2)
        cut = np.concatenate([[0.0, 1.0], *shares])
        return np.unique(cut[(cut >= 0) & (cut <= 1)])


def as_points(points: Any, name: str) -> list[Point]:
    """Pairs x, y of finite numbers. Raises ConfigError for anything else."""
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ConfigError(f"{name}: points must be pairs x, y of finite numbers, got {points!r}")
    return [(x, y) for x, y in array.tolist()]


def _linear_roots(offset: FloatArray, slope: FloatArray) -> FloatArray:
    """t with offset + slope t = 0; not finite if there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        roots: FloatArray = -offset / slope
    return roots


def _quadratic_roots(second: float, first: FloatArray, constant: FloatArray) -> list[FloatArray]:
    """Both t with second t^2 + first t + constant = 0; not finite if there is none. Also where second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # Avoids the cancellation of the textbook formula if first^2 is much larger than the rest.
        root = np.sqrt(first**2 - 4 * second * constant)
        q = -(first + np.copysign(root, first)) / 2
        return [q / np.float64(second), constant / q]


def _ring(points: list[Point], name: str) -> list[Point]:
    """The corners of a simple polygon, the first not repeated at the end. Raises ConfigError if it is not simple."""
    corners = points[:-1] if len(points) > 1 and points[0] == points[-1] else points
    if len(corners) < 3:
        raise ConfigError(f"{name}: a zone needs three corners or more, got {len(corners)}")
    for at, corner in enumerate(corners):
        if corner in corners[:at]:
            raise ConfigError(f"{name}: the corner {corner} comes twice; a zone must not touch itself")
    edges = list(pairwise([*corners, corners[0]]))
    for at, edge in enumerate(edges):
        for other in edges[at + 1 :]:
            if _clash(edge, other):
                raise ConfigError(
                    f"{name}: the edges {edge[0]} to {edge[1]} and {other[0]} to {other[1]} cross or touch; "
                    "give the corners in the order in which they lie around the zone"
                )
    return corners


def _clash(edge: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    """Whether two edges of a polygon have more in common than the corner between neighbours."""
    (a, b), (c, d) = edge, other
    if b == c or d == a:
        before, corner, after = (a, b, d) if b == c else (c, d, b)
        back = (before[0] - corner[0]) * (after[0] - corner[0]) + (before[1] - corner[1]) * (after[1] - corner[1])
        return _turn(before, corner, after) == 0 and back > 0
    for i in (0, 1):
        if max(a[i], b[i]) < min(c[i], d[i]) or max(c[i], d[i]) < min(a[i], b[i]):
            return False
    return not (_same_side(_turn(a, b, c), _turn(a, b, d)) or _same_side(_turn(c, d, a), _turn(c, d, b)))


def _same_side(one: float, other: float) -> bool:
    return (one > 0 and other > 0) or (one < 0 and other < 0)


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the area of the triangle a, b, c; its sign is the side to which the path a, b, c turns."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
