"""The picture of a study: HOTA, MOTA and IDF1 of every row as bars, a panel for each sequence.

Drawn with OpenCV, which tracking needs anyway: matplotlib belongs to training.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracker.types import ImageArray

BARS = ("HOTA", "MOTA", "IDF1")  # per cent
# BGR; blue, orange and green that people with a colour-vision deficiency tell apart (Okabe & Ito, 2008).
_COLOURS = {"HOTA": (178, 114, 0), "MOTA": (0, 159, 230), "IDF1": (115, 158, 0)}
_INK, _GREY, _FAINT, _SHADE = (40, 40, 40), (120, 120, 120), (225, 225, 225), (242, 242, 242)

# Pixels. The picture is drawn large, so that it stays sharp on a dense screen and in print.
_LABEL, _PLOT, _VALUE, _MARGIN = 330, 620, 190, 40  # widths: names, bars, numbers behind them, space around
_BAR, _GAP, _TITLE, _AXIS, _HEAD, _LINE = (
    22,
    18,
    60,
    56,
    130,
    28,
)  # heights: bar, between rows, title, axis, legend, note
_MAX_COLUMNS = 3
_FONT, _SMALL = 0.72, 0.58  # of OpenCV's letters: about 16 and 13 pixels high
_LETTER = 11  # width of a small one
_CHANGE = 0.05  # a difference that rounds to nothing is not shown


@dataclass(frozen=True, slots=True)
class Panel:
    """One sequence: row of the study -> measure -> per cent; None or missing where there is no number."""

    title: str
    rows: Mapping[str, Mapping[str, float | None]]


def draw(panels: Sequence[Panel], rows: Sequence[str], baseline: str, title: str, note: str) -> ImageArray:
    """The picture, (H, W, 3) BGR: panels side by side, each with all `rows` in order, differences to `baseline`."""
    import cv2

    n_columns = min(_MAX_COLUMNS, len(panels))
    n_lines = math.ceil(len(panels) / n_columns)
    panel_w = _LABEL + _PLOT + _VALUE + _MARGIN
    panel_h = _TITLE + len(rows) * (len(BARS) * _BAR + _GAP) + _AXIS
    width = n_columns * panel_w + _MARGIN
    notes = textwrap.wrap(note, (width - 2 * _MARGIN) // _LETTER)
    head = _HEAD + len(notes) * _LINE
    height = head + n_lines * panel_h + _MARGIN
    image = np.full((height, width, 3), 255, np.uint8)

    _text(cv2, image, title, (_MARGIN, 52), scale=1.25 * _FONT, thick=2)
    x = _MARGIN
    for name in BARS:
        cv2.rectangle(image, (x, 78), (x + 28, 100), _COLOURS[name], cv2.FILLED)
        x = _text(cv2, image, f"{name} [%]", (x + 38, 98)) + 36
    _text(cv2, image, f"grey: difference to {baseline} (dashed)", (x, 98), colour=_GREY)
    for number, line in enumerate(notes):
        _text(cv2, image, line, (_MARGIN, 138 + number * _LINE), colour=_GREY, scale=_SMALL)

    values = [v for panel in panels for row in panel.rows.values() for v in (row.get(name) for name in BARS) if v]
    top = max(10, 10 * math.ceil(max(values, default=100.0) / 10))
    for number, panel in enumerate(panels):
        left = _MARGIN + number % n_columns * panel_w
        _panel(cv2, image, panel, rows, baseline, (left, head + number // n_columns * panel_h), top)
    return image


def as_png(image: ImageArray) -> bytes:
    import cv2

    _, data = cv2.imencode(".png", image)
    return bytes(data)


def _panel(
    cv2: Any, image: ImageArray, panel: Panel, rows: Sequence[str], baseline: str, at: tuple[int, int], top: int
) -> None:
    """One panel; bars begin at 0 and the axis ends at `top` per cent, the same in all panels."""
    left, y = at
    x0, per_point = left + _LABEL, _PLOT / top
    _text(cv2, image, panel.title, (x0, y + 34), thick=2)
    y += _TITLE
    row_h = len(BARS) * _BAR + _GAP
    end = y + len(rows) * row_h
    reference = panel.rows.get(baseline, {})
    if baseline in rows:
        first = y + list(rows).index(baseline) * row_h
        cv2.rectangle(image, (left, first), (x0 + _PLOT + _VALUE, first + row_h - 1), _SHADE, cv2.FILLED)
    for tick in range(0, top + 1, 10 if top <= 60 else 20):
        x = round(x0 + tick * per_point)
        cv2.line(image, (x, y), (x, end), _FAINT if tick else _GREY, 1)
        _text(cv2, image, str(tick), (x, end + 30), colour=_GREY, align="middle")
    for measure in BARS:  # where the baseline ends, so that a gain shows as what lies beyond
        before = reference.get(measure)
        if before is not None and before > 0:
            x = round(x0 + before * per_point)
            for start in range(y, end, 12):
                cv2.line(image, (x, start), (x, min(start + 5, end)), _COLOURS[measure], 1)
    for row, name in enumerate(rows):
        middle = y + row * row_h + row_h // 2
        label = f"{name} (baseline)" if name == baseline else name
        _text(cv2, image, label, (x0 - 14, middle + 8), align="right")
        scores = panel.rows.get(name)
        if scores is None:
            _text(cv2, image, "no result", (x0 + 10, middle + 8), colour=_GREY)
            continue
        for i, measure in enumerate(BARS):
            value, before = scores.get(measure), reference.get(measure)
            if value is None:
                continue
            bar_y = y + row * row_h + _GAP // 2 + i * _BAR
            x = round(x0 + max(value, 0.0) * per_point)  # MOTA below 0 has no bar, but its number
            cv2.rectangle(image, (x0, bar_y + 1), (x, bar_y + _BAR - 2), _COLOURS[measure], cv2.FILLED)
            paper = _SHADE if name == baseline else (255, 255, 255)
            cv2.rectangle(image, (x + 2, bar_y + 1), (x + 124, bar_y + _BAR - 2), paper, cv2.FILLED)
            behind = _text(cv2, image, f"{value:.1f}", (x + 8, bar_y + _BAR - 5), scale=_SMALL)
            if name != baseline and before is not None and abs(value - before) >= _CHANGE:
                change = f"{value - before:+.1f}"
                _text(cv2, image, change, (behind + 12, bar_y + _BAR - 5), colour=_GREY, scale=_SMALL)


def _text(
    cv2: Any, image: ImageArray, text: str, at: tuple[int, int], *, colour: tuple[int, int, int] = _INK,
    scale: float = _FONT, thick: int = 1, align: str = "left",
) -> int:  # fmt: skip
    """Write at the baseline point `at`; returns where the text ends."""
    width = int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)[0][0])
    x = at[0] - {"left": 0, "middle": width // 2, "right": width}[align]
    cv2.putText(image, text, (x, at[1]), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
    return x + width
