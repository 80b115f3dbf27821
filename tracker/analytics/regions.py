"""Parse lines and zones of the command line: `door=100,400,700,400`, `0.1,0.2,0.9,0.2,0.5,0.9`.

Numbers are pixels of the source, x right, y down, from its upper left corner; if all are in [0, 1], they are shares of
its width and height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracker.analytics.counting import LineCounter, ZoneCounter
from tracker.errors import ConfigError

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Region:
    """A line or a zone before the size of the frames is known."""

    option: str  # --line, --zone; for messages
    name: str
    points: tuple[Point, ...]  # as written

    def in_pixels(self, width: int, height: int) -> list[Point]:
        """The points in a frame of this size. Raises ConfigError for one that is outside."""
        if all(0 <= value <= 1 for point in self.points for value in point):
            return [(x * width, y * height) for x, y in self.points]
        for x, y in self.points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise ConfigError(
                    f"{self.name}: the point ({x:g}, {y:g}) lies outside the picture, which has {width}x{height} pixels"
                )
        return list(self.points)


def parse_regions(lines: Sequence[str], zones: Sequence[str]) -> tuple[list[Region], list[Region]]:
    """Lines and zones in the order given; without a name they are called line 1, zone 1, ... by their number.

    Raises ConfigError for values that are not numbers, too few or an odd number of them, and repeated names.
    """
    parsed = (
        [_parse("--line", f"line {number}", text) for number, text in enumerate(lines, start=1)],
        [_parse("--zone", f"zone {number}", text) for number, text in enumerate(zones, start=1)],
    )
    names = [region.name for regions in parsed for region in regions]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two lines or zones are called {name!r}; give each its own name, NAME=...")
    return parsed


def open_counters(
    lines: Sequence[Region], zones: Sequence[Region], width: int, height: int, patience_s: float
) -> tuple[list[LineCounter], list[ZoneCounter]]:
    """Counters for frames of this size; patience_s: see `ZoneCounter`. Raises ConfigError with option and name."""
    line_counters, zone_counters = [], []
    for region in (*lines, *zones):
        try:
            points = region.in_pixels(width, height)
            if region.option == "--line":
                line_counters.append(LineCounter(points[0], points[1], name=region.name))
            else:
                zone_counters.append(ZoneCounter(points, name=region.name, patience_s=patience_s))
        except ConfigError as error:
            raise ConfigError(f"{region.option} {error}") from error
    return line_counters, zone_counters


def _parse(option: str, name: str, text: str) -> Region:
    given, equals, numbers = text.rpartition("=")
    name = given.strip() if equals else name
    right = "x1,y1,x2,y2" if option == "--line" else "x1,y1,x2,y2,x3,y3,..."
    if not name:
        raise ConfigError(f"{option} takes {right} or NAME={right}, got {text!r}")
    try:
        values = [float(value) for value in numbers.split(",")]
    except ValueError:
        values = []
    wrong_count = len(values) != 4 if option == "--line" else len(values) < 6 or len(values) % 2
    if wrong_count or not all(math.isfinite(value) for value in values):
        raise ConfigError(f"{option} takes {right} or NAME={right}, got {text!r}")
    return Region(option, name, tuple(zip(values[::2], values[1::2], strict=True)))
