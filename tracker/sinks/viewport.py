"""What the live window shows, and how keys and clicks change it: plain functions on a frozen state."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tracker.types import Tracks

# Keys, and what they do.
KEYS_HELP = (
    ("q, Esc", "quit"),
    ("space", "pause, go on"),
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
    """The view after a click at (x, y), pixels of the frame: follows who is there; again, or nobody there, lets go."""
    identity = identity_at(x, y, tracks)
    return replace(view, followed=None if identity == view.followed else identity)


def identity_at(x: float, y: float, tracks: Tracks) -> int | None:
    """Whose box holds the point; of several the one whose centre is nearest, in units of the box; None: nobody's."""
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
