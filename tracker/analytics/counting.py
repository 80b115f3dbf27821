"""Count people who cross a line, or enter and leave a zone, and measure how long they stay.

The position of a person is the middle of the lower edge of the box. A side counts as reached only farther from the line
than a margin, a share of the height of the box, so that jitter of a box on the line counts nothing. Between two
observations of an identity, however far apart, the straight path between them decides; so neither a low frame rate nor
an occlusion loses a count. Boxes that were only predicted are not observations.

Each identity counts once in each direction: a person who walks to and fro is one in and one out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker.analytics.polygon import Polygon, Spot, as_points
from tracker.errors import ConfigError, DetectionError
from tracker.types import FloatArray, Source

MARGIN = 0.1  # of the height of the box: the lower edge of a standing person's box jitters by a few percent
PATIENCE_S = 3.0  # the default of `lifecycle.lost_s`: the tracker keeps lost tracks for so long
FORGET_S = 600.0  # identities are not reused: after so long a track does not come back
NOT_OBSERVED = (Source.OCCLUDED, Source.PREDICTED)


@dataclass(frozen=True, slots=True)
class CountEvent:
    """One count, at the first frame that decides it."""

    time_s: float  # seconds, as given to `update`
    frame: int  # as given to `update`, or the number of updates before
    kind: str  # line, zone
    name: str  # of the line or zone
    id: int  # identity
    # line: in, out. zone: entered, appeared (first seen inside), left, ended (not seen again, or the video ended)
    direction: str
    stay_s: float | None = None  # zone, left and ended: seconds inside so far


class LineCounter:
    """Counts people who cross a line from `start` to `end`, points (x, y) in pixels of the source.

    Seen from `start`, looking at `end`: in is from the left hand to the right hand, out the other way. A line drawn
    from left to right through an image counts people who come towards the camera as in. Only paths through the line
    itself count, not those around its ends. margin: share of the height of the box, see above. once: each identity
    counts once in each direction; False: every time. `n_in` and `n_out` are the counts so far.

    Raises ConfigError for a line of length 0, a negative margin or numbers that are not finite.
    """

    def __init__(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        name: str = "line",
        margin: float = MARGIN,
        once: bool = True,
    ) -> None:
        self.start, self.end = as_points([start, end], name)
        self.name = name
        if self.start == self.end:
            raise ConfigError(f"{name}: both ends of the line are at {self.start}; a line needs a length")
        self._margin = _checked_margin(margin, name)
        self._once = once
        self._length = math.dist(self.start, self.end)
        self._states: dict[int, _LineState] = {}
        self._n_updates = 0
        self.n_in = 0
        self.n_out = 0

    def update(self, tracks: Any, time_s: float, frame: int | None = None) -> list[CountEvent]:
        """Counts of this frame. Call it for every frame, with times in seconds that do not decrease.

        tracks: `Tracks`, or anything with `.xyxy` (N, 4) and `.id` or `.tracker_id` (N,), such as
        supervision.Detections; rows without an identity (None, below 0) are skipped. frame: for the events; None:
        the number of updates before. Raises DetectionError for boxes of another shape and different lengths.
        """
        frame = self._n_updates if frame is None else frame
        self._n_updates += 1
        events = []
        for identity, foot in feet(tracks, self._margin):
            person = self._states.setdefault(identity, _LineState(foot, time_s))
            person.net += self._passed(person.foot, foot)
            person.foot, person.seen_s = foot, time_s
            direction = self._settle(person, foot)
            if direction is not None:
                events.append(CountEvent(time_s, frame, "line", self.name, identity, direction))
        _forget(self._states, time_s)
        return events

    def _settle(self, person: _LineState, foot: Spot) -> str | None:
        """The direction to count, if this position decides one."""
        away = self._side(foot) / self._length
        side = int(away > foot.margin) - int(away < -foot.margin)
        if side == 0:
            return None
        # Walking around an end changes the side without a crossing; so does crossing twice.
        crossed = person.side == -side and person.net * side > 0
        person.side, person.net = side, 0
        direction = "in" if side > 0 else "out"
        if not crossed or (self._once and direction in person.counted):
            return None
        person.counted.add(direction)
        self.n_in += side > 0
        self.n_out += side < 0
        return direction

    def _side(self, point: Spot) -> float:
        """Twice the area of the triangle start, end, point: above 0 on the right hand, in pixels with y down."""
        (ax, ay), (bx, by) = self.start, self.end
        return (bx - ax) * (point.y - ay) - (by - ay) * (point.x - ax)

    def _passed(self, a: Spot, b: Spot) -> int:
        """+1 if the path from a to b crosses the line to its right hand, -1 to its left hand, else 0."""
        right_before, right_after = self._side(a) >= 0, self._side(b) >= 0
        if right_before == right_after:
            return 0
        # The ends of the line must lie on different sides of the path.
        one, other = ((b.x - a.x) * (y - a.y) - (b.y - a.y) * (x - a.x) for x, y in (self.start, self.end))
        if (one > 0 and other > 0) or (one < 0 and other < 0):
            return 0
        return 1 if right_after else -1


class ZoneCounter:
    """Counts people who enter and leave a polygon, and measures how long each stays.

    corners: (K, 2) points in pixels of the source, K >= 3, in order; the last one is joined to the first. patience_s:
    after so long without an observation a person is no longer inside, and the absence does not count as stay. margin
    and once: as for a line.

    `n_entered`, `n_left`: people who crossed the edge inwards and outwards. `inside`: identities that are inside now.
    `stay_s`: seconds inside so far of every identity that was ever inside; its length is the number of visitors. It
    is kept for ever; the rest is dropped ten minutes after an identity was last seen.

    Raises ConfigError for fewer than three corners, corners that coincide, and edges that cross or touch.
    """

    def __init__(
        self,
        corners: Sequence[tuple[float, float]] | FloatArray,
        *,
        name: str = "zone",
        margin: float = MARGIN,
        once: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.polygon = Polygon(corners, name)
        self.name = name
        if not patience_s > 0:
            raise ConfigError(f"{name}: patience must be above 0 seconds, got {patience_s!r}")
        self._margin = _checked_margin(margin, name)
        self._once = once
        self._patience_s = patience_s
        self._visitors: dict[int, _ZoneState] = {}
        self._n_updates = 0
        self._now_s = 0.0
        self._frame = 0
        self.n_entered = 0
        self.n_left = 0
        self.stay_s: dict[int, float] = {}

    @property
    def inside(self) -> set[int]:
        """Identities that are in the zone now."""
        return {i for i, v in self._visitors.items() if v.inside and self._now_s - v.seen_s <= self._patience_s}

    def update(self, tracks: Any, time_s: float, frame: int | None = None) -> list[CountEvent]:
        """Events of this frame: entered, appeared, left or ended. Arguments as for `LineCounter.update`."""
        self._now_s = time_s
        self._frame = self._n_updates if frame is None else frame
        self._n_updates += 1
        events: list[CountEvent] = []
        for identity, foot in feet(tracks, self._margin):
            visitor = self._visitors.setdefault(identity, _ZoneState(foot, time_s, time_s))
            visitor.missed = time_s - visitor.seen_s > self._patience_s
            for share, inside in self.polygon.settled(visitor.foot, foot):
                moment_s = visitor.seen_s + share * (time_s - visitor.seen_s)
                events += self._moved(identity, visitor, moment_s, inside)
            self._stay(identity, visitor, time_s)
            visitor.foot, visitor.seen_s = foot, time_s
            if not self._once:
                visitor.counted.discard("ended")
        for identity, visitor in self._visitors.items():
            if visitor.inside and time_s - visitor.seen_s > self._patience_s:
                events += self._event(identity, visitor, "ended")
        _forget(self._visitors, time_s)
        return events

    def finish(self) -> list[CountEvent]:
        """Events for people inside at the end of the video; call it once, after the last update."""
        return [
            event
            for identity, visitor in self._visitors.items()
            if visitor.inside
            for event in self._event(identity, visitor, "ended")
        ]

    def _moved(self, identity: int, visitor: _ZoneState, moment_s: float, inside: bool) -> list[CountEvent]:
        """The event of reaching the inside or outside at a moment, if that is a change."""
        before = visitor.inside
        if before == inside:
            return []
        self._stay(identity, visitor, moment_s)
        visitor.inside = inside
        if inside:
            self.stay_s.setdefault(identity, 0.0)
            return self._event(identity, visitor, "appeared" if before is None else "entered")
        return [] if before is None else self._event(identity, visitor, "left")

    def _stay(self, identity: int, visitor: _ZoneState, until_s: float) -> None:
        """Add the time since this was last done, if the person was inside and not missed."""
        if visitor.inside and not visitor.missed:
            self.stay_s[identity] += until_s - visitor.stayed_until_s
        visitor.stayed_until_s = until_s

    def _event(self, identity: int, visitor: _ZoneState, direction: str) -> list[CountEvent]:
        if direction in visitor.counted and (self._once or direction == "ended"):
            return []
        visitor.counted.add(direction)
        self.n_entered += direction == "entered"
        self.n_left += direction == "left"
        stay_s = self.stay_s[identity] if direction in ("left", "ended") else None
        return [CountEvent(self._now_s, self._frame, "zone", self.name, identity, direction, stay_s)]


def feet(tracks: Any, margin: float = 0.0) -> Iterator[tuple[int, Spot]]:
    """Identity and position of every observed person of a frame: the middle of the lower edge of the box.

    tracks: as for `LineCounter.update`. Boxes that were predicted, are not finite, or have
    no identity are skipped.
    """
    boxes = np.asarray(tracks.xyxy, dtype=np.float64)
    ids = tracks.id if hasattr(tracks, "id") else getattr(tracks, "tracker_id", None)
    if ids is None or boxes.size == 0:
        return
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DetectionError(f"boxes must be (N, 4), x1 y1 x2 y2, got {boxes.shape}")
    if len(ids) != len(boxes):
        raise DetectionError(f"{len(boxes)} boxes, but {len(ids)} identities")
    seen = np.isfinite(boxes).all(axis=1)
    if hasattr(tracks, "source"):
        seen &= ~np.isin(tracks.source, NOT_OBSERVED)
    for row in np.flatnonzero(seen):
        identity = int(ids[row])
        if identity >= 0:
            x1, y1, x2, y2 = boxes[row].tolist()
            yield identity, Spot((x1 + x2) / 2, y2, margin * max(y2 - y1, 0.0))


@dataclass(slots=True)
class _LineState:
    foot: Spot  # at the last observation
    seen_s: float
    side: int = 0  # reached last: 1 right hand, -1 left hand, 0 none yet
    net: int = 0  # crossings of the line since then, to the right minus to the left
    counted: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _ZoneState:
    foot: Spot  # at the last observation
    seen_s: float
    stayed_until_s: float  # up to when the stay is counted
    inside: bool | None = None  # reached last; None: neither yet
    missed: bool = False  # not observed for longer than patience_s before this observation
    counted: set[str] = field(default_factory=set)


def _forget(known: dict[int, Any], now_s: float) -> None:
    """Drop identities not seen for FORGET_S: an endless stream must not fill the memory."""
    for identity in [i for i, one in known.items() if now_s - one.seen_s > FORGET_S]:
        del known[identity]


def _checked_margin(margin: float, name: str) -> float:
    if not (math.isfinite(margin) and margin >= 0):
        raise ConfigError(f"{name}: the margin must be a share of the height from 0, got {margin!r}")
    return margin
