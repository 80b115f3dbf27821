"""Counts of lines and zones: a table of events, drawn over the pictures, and in the closing summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from tracker.analytics.counting import CountEvent, LineCounter, ZoneCounter
from tracker.sinks.base import STDOUT, ClosedByWith, RunFacts, SinkOption
from tracker.sinks.drawing import draw_label, line_width
from tracker.sinks.frame_file import FrameFile
from tracker.types import FloatArray, Frame, ImageArray, Tracks

COLUMNS = ("time_s", "frame", "kind", "name", "id", "direction", "stay_s")
TINT = 0.15  # share of white that lies over a zone
WHITE, DARK = (255, 255, 255), (32, 32, 32)  # bright colours are for identities


class CountsSink(ClosedByWith):
    """Feeds the counters with every frame. It must come before the sinks that call `draw`, so that they are up to date.

    path: of a CSV file with a line per event (see `CountEvent`; frame counts from 1 there), on disk as soon as the
    frame is written; "-" is standard output, None no file. Raises OutputError.
    """

    def __init__(
        self,
        lines: Sequence[LineCounter],
        zones: Sequence[ZoneCounter],
        path: str | Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self._lines = lines
        self._zones = zones
        self._counters: list[LineCounter | ZoneCounter] = [*lines, *zones]
        self._file = None if path is None else FrameFile(path, overwrite)
        self._last_index = 0
        self.events: list[CountEvent] = []  # of the frame that was written last
        self._finished: list[CountEvent] | None = None
        if self._file is not None:
            self._file.begin(_rows([COLUMNS]))

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._last_index = frame.index
        self.events = []
        for counter in self._counters:
            self.events += counter.update(tracks, frame.time_s, frame.index)
        self._append(self.events)

    def finish(self) -> list[CountEvent]:
        """The events of those who are inside at the end, after the last frame."""
        if self._finished is None:
            self._finished = [event for zone in self._zones for event in zone.finish()]
        return self._finished

    def close(self) -> None:
        """Write the stays of those still inside, and close the file."""
        events = self.finish()
        if self._file is None:
            return
        try:
            self._append(events)
        finally:
            self._file.close()

    def draw(self, picture: ImageArray) -> None:
        """Draw lines, zones and counts on a picture (H, W, 3) BGR, in place."""
        thickness = line_width(picture)[0]
        for zone in self._zones:
            _tint(picture, zone.polygon.corners, thickness)
        for line in self._lines:
            _arrow(picture, line, thickness)
        for zone in self._zones:
            text = f"{zone.name}: {len(zone.inside)} inside, {zone.n_entered} entered, {zone.n_left} left"
            _label_below(picture, text, zone.polygon.corners)
        for line in self._lines:
            _label_below(picture, f"{line.name}: {line.n_in} in, {line.n_out} out", np.array([line.start, line.end]))

    def text(self) -> str:
        """Counts of every line and zone, as text without a line end."""
        width = max(11, *(len(counter.name) for counter in self._counters))
        rows = [f"{line.name:<{width}} {line.n_in} in, {line.n_out} out" for line in self._lines]
        for zone in self._zones:
            row = f"{zone.name:<{width}} {zone.n_entered} entered, {zone.n_left} left, "
            row += f"{len(zone.inside)} inside at the end"
            stays = list(zone.stay_s.values())
            if stays:
                row += f"; {len(stays)} visitors stayed {median(stays):.1f} s (median), {max(stays):.1f} s at most"
            rows.append(row)
        return "\n".join(rows)

    def _append(self, events: list[CountEvent]) -> None:
        if not events or self._file is None:
            return
        rows = [
            (f"{event.time_s:.3f}", event.frame + 1, event.kind, event.name, event.id, event.direction,
             "" if event.stay_s is None else f"{event.stay_s:.3f}")
            for event in events
        ]  # fmt: skip
        self._file.append(_rows(rows), self._last_index)


def _open(path: str | None, run: RunFacts) -> CountsSink:
    return CountsSink(run.lines, run.zones, path, run.overwrite)


COUNTS = SinkOption(
    flags=("--counts",),
    metavar="FILE.csv",
    help=f"table of the events of lines and zones; '{STDOUT}': stdout",
    open=_open,
    group="counting",
    takes_stdout=True,
    first=True,
)


def _rows(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _tint(picture: ImageArray, corners: FloatArray, thickness: int) -> None:
    """A polygon with a thin layer of white over it, and its edge."""
    import cv2

    polygon = np.round(corners).astype(np.int32)
    left, top = np.maximum(polygon.min(axis=0), 0)
    right, bottom = np.minimum(polygon.max(axis=0) + 1, picture.shape[1::-1])
    if left < right and top < bottom:
        window = picture[top:bottom, left:right]
        painted = window.copy()
        cv2.fillPoly(painted, [polygon - np.array([left, top], np.int32)], WHITE)
        window[:] = cv2.addWeighted(painted, TINT, window, 1 - TINT, 0)
    cv2.polylines(picture, [polygon], True, DARK, 3 * thickness, cv2.LINE_AA)
    cv2.polylines(picture, [polygon], True, WHITE, thickness, cv2.LINE_AA)


def _arrow(picture: ImageArray, line: LineCounter, thickness: int) -> None:
    """The line, and in its middle an arrow in the direction that counts as in."""
    import cv2

    start, end = np.array(line.start), np.array(line.end)
    along = (end - start) / np.linalg.norm(end - start)
    middle, tip = (start + end) / 2, 14 * thickness * np.array([-along[1], along[0]])
    a, b, foot, head = (tuple(int(v) for v in np.round(p)) for p in (start, end, middle, middle + tip))
    for colour, width in ((DARK, 4 * thickness), (WHITE, 2 * thickness)):
        cv2.line(picture, a, b, colour, width, cv2.LINE_AA)
        cv2.arrowedLine(picture, foot, head, colour, width, cv2.LINE_AA, tipLength=0.5)


def _label_below(picture: ImageArray, text: str, points: FloatArray) -> None:
    """A plate under the lowest point, where it covers the fewest people."""
    thickness, letter = line_width(picture)
    x, y = points[points[:, 1].argmax()]
    corner = round(float(x)), round(float(y) + 34 * letter) + 4 * thickness
    draw_label(picture, text, corner, DARK, letter, thickness)
