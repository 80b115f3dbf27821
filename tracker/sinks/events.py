"""`--events TARGET`: what happens while the video runs, one JSON record each; docs/events.md has their fields."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tracker.analytics.counting import CountEvent
from tracker.errors import OutputError
from tracker.sinks.base import (
    GROUND_COLUMNS,
    STDOUT,
    ClosedByWith,
    PlainRow,
    RunFacts,
    SinkOption,
    class_name,
    plain_rows,
)
from tracker.sinks.delivery import Outbox, channel_of, is_address
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, Tracks

VERSION = 1  # of the fields; a change that breaks a reader raises it
ENDING = ".jsonl"
Event: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class _Person:
    """An identity that has not left."""

    row: PlainRow  # of the last frame with it, as the next two
    last_s: float
    first_s: float
    embedding: list[float] | None = None  # the last known one


class Events:
    """What happened in each frame: tracks that start and end, and what the counters of the run found.

    A track ends when it had no row for `run.gone_s`, or with the source. embeddings: each event has the last known one
    of its person. Every `Events` that gets the same frames gives the same events.
    """

    def __init__(self, run: RunFacts, embeddings: bool = False) -> None:
        self._run = run
        self._embeddings = embeddings
        self._present: dict[int, _Person] = {}
        self._n = 0
        self._head: Event = {}  # fields of the current frame

    def of(self, frame: Frame, tracks: Tracks) -> list[Event]:
        """Events of this frame, in their order. Raises OutputError where embeddings are missing."""
        self._head = {"frame": frame.index + 1, "time_s": round(frame.time_s, 6), **self._wall(frame)}
        events = [self._event("start", new) for new in self._see(frame, tracks)]
        if self._run.counts is not None:
            events += [self._counted(count) for count in self._run.counts.events]
        now_s, gone_s = frame.time_s, self._run.gone_s
        return events + self._end([i for i, person in self._present.items() if now_s - person.last_s > gone_s])

    def finish(self) -> list[Event]:
        """The last events: of those who are there at the end of the source."""
        events = [] if self._run.counts is None else [self._counted(count) for count in self._run.counts.finish()]
        return events + self._end(list(self._present))

    def _see(self, frame: Frame, tracks: Tracks) -> list[int]:
        """Keep the rows of a frame; returns the identities that were not there before."""
        known = set(self._present)
        for row in plain_rows(tracks, self._run.ground):
            person = self._present.setdefault(row.id, _Person(row, frame.time_s, frame.time_s))
            person.row, person.last_s = row, frame.time_s
        if self._embeddings and len(tracks):
            if tracks.features is None:
                raise OutputError(
                    f"{EMBEDDED_EVENTS.name}: the tracks of frame {frame.index + 1} carry no embeddings; track with a "
                    "re-ID network"
                )
            for identity, feature in zip(tracks.id.tolist(), tracks.features.astype(np.float64), strict=True):
                if np.isfinite(feature).all():
                    self._present[identity].embedding = np.round(feature, 6).tolist()
        return [i for i in self._present if i not in known]

    def _end(self, identities: list[int]) -> list[Event]:
        events = []
        for identity in identities:
            person = self._present[identity]
            stay = {"stay_s": round(person.last_s - person.first_s, 6), "last_s": round(person.last_s, 6)}
            events.append(self._event("end", identity, stay))
            del self._present[identity]
        return events

    def _counted(self, count: CountEvent) -> Event:
        stay = {} if count.stay_s is None else {"stay_s": round(count.stay_s, 6)}
        return self._event(count.kind, count.id, {"name": count.name, "direction": count.direction, **stay})

    def _event(self, kind: str, identity: int, more: Event | None = None) -> Event:
        person, run = self._present[identity], self._run
        row = person.row
        self._n += 1
        event = {
            "version": VERSION, "run": run.started, "seq": self._n, "source": run.name, **self._head, "kind": kind,
            **(more or {}), "id": identity, "class": row.class_id,
            "class_name": class_name(row.class_id, run.class_names), "xyxy": row.xyxy, "score": row.score,
        }  # fmt: skip
        if run.ground is not None:
            event |= zip(GROUND_COLUMNS, row.ground, strict=True)
        return event | ({"embedding": person.embedding} if self._embeddings else {})

    def _wall(self, frame: Frame) -> Event:
        """When a live frame came."""
        if self._run.feed is None:
            return {}
        came = datetime.fromtimestamp(time.time() - self._run.feed.age_s(frame.time_s), UTC)
        return {"wall": came.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


class EventsSink(ClosedByWith):
    """Writes events as they happen: lines of a .jsonl file or standard output ("-"), or messages to a server.

    A file has each event when `write` returns; raises OutputError. A server gets them from a thread, see `Outbox`, so
    that `write` never waits for it.
    """

    def __init__(self, target: str, run: RunFacts, embeddings: bool = False) -> None:
        check_target(target)
        self._events = Events(run, embeddings)
        self._out = Outbox(*channel_of(target)) if is_address(target) else FrameFile(target, run.overwrite)
        self._line_end = "" if is_address(target) else "\n"
        self._last_index = 0

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self._last_index = frame.index
        self._append(self._events.of(frame, tracks))

    def close(self) -> None:
        """Write the ends of the tracks that are left. A server has some seconds to take what waits."""
        try:
            self._append(self._events.finish())
        finally:
            self._out.close()

    def _append(self, events: list[Event]) -> None:
        for event in events:
            text = json.dumps(event, separators=(",", ":")) + self._line_end
            self._out.append(text.encode("ascii"), self._last_index)


def check_target(target: str) -> None:
    """Raise OutputError unless events can go there."""
    if is_address(target):
        channel_of(target)
    elif target != STDOUT and Path(target).suffix.lower() != ENDING:
        raise OutputError(
            f"{target}: events go to {STDOUT} (standard output), a file that ends with {ENDING}, http://HOST/PATH or "
            "mqtt://HOST/TOPIC"
        )


def _open(target: str | None, run: RunFacts) -> EventsSink:
    assert target is not None
    return EventsSink(target, run)


def _open_embedded(target: str | None, run: RunFacts) -> EventsSink:
    assert target is not None
    return EventsSink(target, run, embeddings=True)


EVENTS = SinkOption(
    flags=("--events",),
    metavar="TARGET",
    help="JSON record of each track that starts or ends, each line and zone event: '-', FILE.jsonl, http://..., "
    "mqtt://HOST/TOPIC; may be repeated",
    check=check_target,
    open=_open,
    repeats=True,
    takes_stdout=True,
    names_file=lambda target: not is_address(target),
)
EMBEDDED_EVENTS = SinkOption(
    flags=("--embedded-events",),
    metavar="TARGET",
    help="the same with the embedding of the person",
    check=check_target,
    open=_open_embedded,
    repeats=True,
    takes_stdout=True,
    names_file=lambda target: not is_address(target),
    embeddings=True,
    resumes=False,  # the record that results are made again from has no embeddings
)
