"""What the live window shows: its switches, changed by keys and clicks, and the picture drawn from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tracker.sinks.base import Overlay
from tracker.sinks.drawing import Colour, Point, annotate, draw_label, identity_colour, line_width
from tracker.types import FloatArray, ImageArray, StepTrace, Tracks

Plate: TypeAlias = tuple[int, int, int, int]  # left, top, width, height in pixels

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
PREDICTED: Colour = (255, 200, 0)
TRIED: Colour = (160, 160, 160)
ACCEPTED: Colour = (0, 255, 0)
KEY_COLOUR: Colour = (0, 220, 255)
NOTICE_COLOUR: Colour = (0, 0, 160)
FAR_PX = 20000  # beyond it OpenCV's integers overflow

# Keys, and what they do.
KEYS_HELP = (
    ("q, Esc", "quit"),
    ("space", "pause, resume"),
    ("s", "screenshot"),
    ("t", "trails"),
    ("i", "identities"),
    ("d", "debug: gates, proposals, costs"),
    ("click", "follow a person; again: let go"),
    ("h, ?", "this help"),
)
ESCAPE = 27
NO_KEY = -1


@dataclass(frozen=True, slots=True)
class View:
    """What is switched on."""

    trails: bool = True
    ids: bool = True
    debug: bool = False
    help: bool = False
    paused: bool = False
    quit: bool = False
    snap: bool = False  # a screenshot is asked for; the window takes it and switches this off
    followed: int | None = None  # the identity that is marked


_ACTIONS: dict[str, Callable[[View], View]] = {
    "q": lambda view: replace(view, quit=True),
    chr(ESCAPE): lambda view: replace(view, quit=True),
    " ": lambda view: replace(view, paused=not view.paused),
    "s": lambda view: replace(view, snap=True),
    "t": lambda view: replace(view, trails=not view.trails),
    "i": lambda view: replace(view, ids=not view.ids),
    "d": lambda view: replace(view, debug=not view.debug),
    "h": lambda view: replace(view, help=not view.help),
    "?": lambda view: replace(view, help=not view.help),
}


def pressed(view: View, key: int) -> View:
    """The view after a key, as cv2.waitKeyEx gives it: a letter's number, large or small; -1 none.

    Other keys do nothing; arrows and the like lie above the letters, and modifiers in the upper bits.
    """
    symbol = key & 0xFFFF
    action = None if key == NO_KEY or symbol > 0xFF else _ACTIONS.get(chr(symbol).lower())
    return view if action is None else action(view)


def clicked(view: View, x: float, y: float, tracks: Tracks) -> View:
    """The view after a click at (x, y), pixels of the frame: follow the person there, or stop following."""
    identity = identity_at(x, y, tracks)
    return replace(view, followed=None if identity == view.followed else identity)


def identity_at(x: float, y: float, tracks: Tracks) -> int | None:
    """Identity of the box that holds the point; of several the one with the nearest centre, in units of the box."""
    if len(tracks) == 0:
        return None
    low, high = tracks.xyxy[:, :2], tracks.xyxy[:, 2:]
    size = np.maximum(high - low, 1e-9)
    off = np.abs((np.array([x, y]) - (low + high) / 2) / size).max(axis=1)  # 0.5 is the edge
    best = int(off.argmin())
    return int(tracks.id[best]) if off[best] <= 0.5 else None


def screenshot_path(folder: Path, source: str, frame_index: int) -> Path:
    """A name that no file has yet: the source's name, made safe, and the frame's number, counted from 1."""
    name = re.sub(r"^\w+://", "", source)
    stem = Path(name).stem if "/" not in name else name
    safe = re.sub(r"[^A-Za-z0-9-]+", "_", stem).strip("_") or "screenshot"
    first = folder / f"{safe[:80]}_frame{frame_index + 1:06d}.png"
    path, number = first, 2
    while path.exists():
        path = first.with_stem(f"{first.stem}-{number}")
        number += 1
    return path


def compose(
    view: View,
    image: ImageArray,
    tracks: Tracks,
    trails: Mapping[int, Sequence[Point]],
    *,
    caption: str = "",
    notice: str = "",
    trace: StepTrace | None = None,
    last: Point | None = None,
    overlay: Overlay | None = None,
    names: Mapping[int, str] | None = None,
) -> ImageArray:
    """The picture of the window: the image (H, W, 3) BGR with what the view has switched on.

    trails, names: as for `annotate`. last: foot point where the followed person was last seen. overlay: drawn after
    the tracks.
    """
    if view.followed is not None:  # below everything else: it must cover no number
        image = image.copy()
        draw_followed(image, view.followed, tracks, last)
    picture = annotate(image, tracks, trails if view.trails else None, caption=caption, ids=view.ids, names=names)
    if overlay is not None:
        overlay(picture)
    if view.debug and trace is not None:
        draw_debug(picture, trace)
    if view.help:
        draw_help(picture)
    if notice:
        draw_notice(picture, notice)
    return picture


def draw_debug(picture: ImageArray, trace: StepTrace) -> None:
    """Draw into the picture (H, W, 3): the predicted box of each track (thin), its gate (ellipse), the proposals that
    were tried (grey) and accepted (green), and beside each detection the cost of its match.

    Predicted boxes and tentative tracks are cyan; the ellipse has the identity's colour.
    """
    import cv2

    thin, letter = line_width(picture)
    hair = max(1, thin // 2)
    letter *= 0.8
    for box in trace.tried:
        cv2.rectangle(picture, *_corners(box), TRIED, hair)
    for identity, box, gate in zip(trace.id.tolist(), trace.predicted, trace.gate_px, strict=True):
        colour = identity_colour(identity) if identity else PREDICTED
        (x1, y1), (x2, y2) = _corners(box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), PREDICTED, hair)
        axes = tuple(round(float(side)) for side in np.clip(gate, 0, FAR_PX))
        cv2.ellipse(picture, ((x1 + x2) // 2, (y1 + y2) // 2), axes, 0, 0, 360, colour, hair, cv2.LINE_AA)
    for box in trace.accepted:
        cv2.rectangle(picture, *_corners(box), ACCEPTED, thin)
    taken: list[Plate] = []
    for identity, box, cost in zip(trace.pair_id.tolist(), trace.pair_boxes, trace.pair_cost, strict=True):
        (x1, _), (_, y2) = _corners(box)
        text = cost_text(cost)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letter, 1)
        plate = free_place((min(x1, picture.shape[1] - width - 4), y2 + 2, width + 4, height + 4), taken)
        taken.append(plate)
        corner = plate[0], plate[1] + plate[3]
        draw_label(picture, text, corner, identity_colour(identity) if identity else TRIED, letter, 0)


def free_place(plate: Plate, taken: Sequence[Plate]) -> Plate:
    """The plate (left, top, width, height), moved down until it covers none of those taken."""
    left, top, width, height = plate
    beside = [other for other in taken if other[0] < left + width and left < other[0] + other[2]]
    for _, other_top, _, other_height in sorted(beside, key=lambda other: other[1]):
        if other_top < top + height and top < other_top + other_height:
            top = other_top + other_height
    return left, top, width, height


def cost_text(cost: FloatArray) -> str:
    """A row of `StepTrace.pair_cost` as short text: total, appearance, motion."""
    total, appearance, motion = (float(part) for part in cost)
    shown = "-" if np.isnan(appearance) else f"{appearance:.2f}"
    return f"{total:.2f} = app {shown} & mot {motion:.2f}"


def draw_followed(picture: ImageArray, identity: int, tracks: Tracks, last: Point | None) -> None:
    """Mark the followed person: a white frame with an arrow above; if not in view, a cross at the foot point `last`."""
    import cv2

    thin, letter = line_width(picture)
    rows = np.flatnonzero(tracks.id == identity)
    if len(rows) == 0:
        if last is not None:
            place = round(last[0]), round(last[1])
            for colour, width in ((BLACK, thin + 2), (WHITE, thin)):
                cv2.drawMarker(picture, place, colour, cv2.MARKER_TILTED_CROSS, 14 * thin, width)
        return
    (x1, y1), (x2, y2) = _corners(tracks.xyxy[rows[0]])
    out = 2 * thin
    for colour, width in ((BLACK, thin + 4), (WHITE, thin + 1)):
        cv2.rectangle(picture, (x1 - out, y1 - out), (x2 + out, y2 + out), colour, width)
    # Above the number. At the upper edge of the picture the arrow would be outside: then it is drawn inside the box.
    tip, half = max(y1 - 3 * out - round(30 * letter), 14 * thin), 8 * thin
    middle = (x1 + x2) // 2
    arrow = np.array([(middle, tip), (middle - half, tip - 12 * thin), (middle + half, tip - 12 * thin)], np.int32)
    cv2.fillConvexPoly(picture, arrow, identity_colour(identity), cv2.LINE_AA)
    cv2.polylines(picture, [arrow], True, WHITE, thin, cv2.LINE_AA)


def draw_help(picture: ImageArray) -> None:
    """The keys, on a dark plate in the middle."""
    import cv2

    font, letter = cv2.FONT_HERSHEY_SIMPLEX, line_width(picture)[1]
    stroke = max(1, round(letter * 1.8))
    step = round(40 * letter)
    column, texts = (
        max(cv2.getTextSize(text, font, letter, stroke)[0][0] for text in side) + step
        for side in zip(*KEYS_HELP, strict=True)
    )
    width, height = column + texts, step * (len(KEYS_HELP) + 1)
    left, top = max(0, (picture.shape[1] - width) // 2), max(0, (picture.shape[0] - height) // 2)
    plate = picture[top : top + height, left : left + width]
    plate[:] = plate // 5
    for number, (key, what) in enumerate(KEYS_HELP, start=1):
        y = top + number * step + step // 4
        cv2.putText(picture, key, (left + step // 2, y), font, letter, KEY_COLOUR, stroke, cv2.LINE_AA)
        cv2.putText(picture, what, (left + column, y), font, letter, WHITE, stroke, cv2.LINE_AA)


def draw_notice(picture: ImageArray, text: str) -> None:
    """One line across the upper edge."""
    thin, letter = line_width(picture)
    draw_label(picture, text, (4 * thin, round(40 * letter) + 8 * thin), NOTICE_COLOUR, letter, thin)


def _corners(box: FloatArray) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(float(value)) for value in np.clip(np.nan_to_num(box), -FAR_PX, FAR_PX))
    return (x1, y1), (x2, y2)
