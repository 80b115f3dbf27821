"""A picture of the floor from above: the paths of people in metres, and where they stood for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracker.analytics.ground import GroundPlane
from tracker.sinks.base import RunFacts, SinkOption
from tracker.sinks.drawing import draw_label, identity_colour
from tracker.sinks.picture_file import PictureSink, check_kind
from tracker.types import FloatArray, Frame, ImageArray, IntArray, Tracks

STEP_S = 0.5  # of a path: places are averaged over it, because boxes tremble
LONGEST_STEP_S = 1.0  # across a longer gap, where a person was is unknown
LONG_SIDE_PX = 1000
FOOTPRINT_M = 0.3  # standard deviation of the spot of a person who stands still
EDGE_M = 1.0  # of floor around all paths
GRID_M = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # the first one that gives at most MOST_LINES lines
MOST_LINES = 20
PAPER, GRID, INK = (255, 255, 255), (225, 225, 225), (64, 64, 64)
SHADE = 0.6  # darkness where people stood longest


class TopViewSink(PictureSink):
    """Draws when it closes: a line for each identity with its number at the last place, on a grid in metres.

    The floor is grey where people stood: a person who stands still for 10 s makes a spot that reads 10 s in its middle;
    the corner says how long the darkest one is. x runs to the right; y runs up or down, as a camera above the floor
    sees it. frame_s: weight of the last frame, which has no next one.
    """

    def __init__(self, path: str | Path, ground: GroundPlane, frame_s: float, overwrite: bool = False) -> None:
        super().__init__(path, overwrite)
        self._ground = ground
        self._frame_s = frame_s
        # A negative determinant turns the picture's y, downwards, into a y that runs away from the camera.
        self._upwards = bool(np.linalg.det(ground.to_metres) < 0)
        self._steps: dict[tuple[int, int], FloatArray] = {}  # (identity, step): sums of x, y and of seconds, count
        self._waiting: tuple[float, list[tuple[int, int]]] | None = None  # time and steps of the frame before

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._spend(frame.time_s)
        metres = self._ground.of_feet(tracks.xyxy)
        keys = []
        for row in np.flatnonzero(np.isfinite(metres).all(axis=1)).tolist():
            key = int(tracks.id[row]), int(frame.time_s // STEP_S)
            self._steps.setdefault(key, np.zeros(4))[[0, 1, 3]] += [*metres[row], 1.0]
            keys.append(key)
        self._waiting = frame.time_s, keys

    def finished_picture(self) -> ImageArray | None:
        if not self._steps:
            return None
        self._spend(math.inf)
        table = np.array([[*key, *sums] for key, sums in sorted(self._steps.items())])
        places = table[:, 2:4] / table[:, 5:]
        return _drawn(table[:, 0].astype(int), table[:, 1].astype(int), places, table[:, 4], self._upwards)

    def _spend(self, now_s: float) -> None:
        """Give the time since the frame before to the people in it."""
        if self._waiting is None:
            return
        before_s, keys = self._waiting
        spent_s = self._frame_s if now_s == math.inf else min(now_s - before_s, LONGEST_STEP_S)
        for key in keys:
            self._steps[key][2] += spent_s


def _drawn(ids: IntArray, steps: IntArray, places: FloatArray, spent_s: FloatArray, upwards: bool) -> ImageArray:
    """ids, steps, spent_s (R,) and places (R, 2) in metres, sorted by identity and step."""
    import cv2

    low, high = places.min(axis=0) - EDGE_M, places.max(axis=0) + EDGE_M
    scale = LONG_SIDE_PX / float((high - low).max())  # pixels per metre
    width, height = (max(120, round(side)) for side in scale * (high - low))

    def pixels(points: FloatArray) -> FloatArray:
        offset = (points - low) * scale
        return np.column_stack([offset[:, 0], height - offset[:, 1] if upwards else offset[:, 1]])

    at = np.clip(np.rint(pixels(places)).astype(int), 0, (width - 1, height - 1))
    seconds = np.zeros((height, width))
    np.add.at(seconds, (at[:, 1], at[:, 0]), spent_s)
    sigma = max(1.0, FOOTPRINT_M * scale)
    seconds = cv2.GaussianBlur(seconds, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) * (2 * math.pi * sigma**2)
    most = float(seconds.max())
    picture = np.full((height, width, 3), PAPER, np.uint8)
    _draw_grid(picture, low, high, pixels)
    # The root, as in the heat map: one person on a bench must not outshine the paths.
    dark = SHADE * np.sqrt(np.clip(seconds / most, 0, 1)) if most > 0 else seconds
    picture = np.asarray(picture * (1 - dark[..., None]), np.uint8)
    for identity in np.unique(ids).tolist():
        rows = np.flatnonzero(ids == identity)
        gaps = np.flatnonzero(np.diff(steps[rows]) > 1 + LONGEST_STEP_S / STEP_S) + 1
        for piece in np.split(at[rows], gaps):
            cv2.polylines(picture, [piece.astype(np.int32)], False, identity_colour(identity), 2, cv2.LINE_AA)
        x, y = at[rows[-1]].tolist()
        cv2.circle(picture, (x, y), 4, identity_colour(identity), cv2.FILLED, cv2.LINE_AA)
        draw_label(picture, str(identity), (x + 5, y - 3), identity_colour(identity), 0.45, 0)
    draw_label(picture, f"metres; darkest: {most:.3g} s", (0, 0), INK, 0.45, 1)
    return picture


def _draw_grid(
    picture: ImageArray, low: FloatArray, high: FloatArray, pixels: Callable[[FloatArray], FloatArray]
) -> None:
    """Lines at round metres, with their numbers at the left and lower edges."""
    import cv2

    height, width = picture.shape[:2]
    step = next((each for each in GRID_M if (high - low).max() / each <= MOST_LINES), GRID_M[-1])
    for axis in (0, 1):
        for number in np.arange(math.ceil(low[axis] / step), high[axis] / step).tolist():
            point = low.copy()
            point[axis] = number * step
            x, y = np.rint(pixels(point[None])[0]).astype(int).tolist()
            start, end = ((x, 0), (x, height)) if axis == 0 else ((0, y), (width, y))
            cv2.line(picture, start, end, GRID, 1)
            place = (x + 2, height - 4) if axis == 0 else (2, y - 2)
            cv2.putText(picture, f"{number * step:g}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)


def _open(path: str | None, run: RunFacts) -> TopViewSink:
    assert path is not None
    assert run.ground is not None
    return TopViewSink(path, run.ground, 1 / run.fps, run.overwrite)


TOP_VIEW = SinkOption(
    flags=("--top-view",),
    metavar="FILE.png",
    help="picture of the floor from above, in metres: paths of people and where they stood; needs --ground",
    check=check_kind,
    open=_open,
    group="counting",
)
