"""Fill the template page.html: one file with its pictures, style and script inside, which loads nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tracker.commands.report.facts import Person
from tracker.commands.report.pictures import Pictures
from tracker.sinks.drawing import identity_colour
from tracker.types import FloatArray, IntArray, Source

MAX_CARDS = 1000  # people with a card and a row of the timeline; a browser shows more, but too many to read
KINDS = [source.name.lower() for source in Source]


@dataclass(frozen=True, slots=True)
class Contents:
    """What the page shows; the fields are names of the template."""

    title: str
    source: str  # of the tracks and of the pictures
    people: Sequence[Person]  # in the order of appearance
    has_sources: bool  # False: the format does not say how boxes were found
    edges_s: FloatArray  # (B + 1,) edges of the bins of the curve
    most: IntArray  # (B,) most people in one frame of each bin
    pictures: Pictures
    counts: Sequence[tuple[str, str, str, int]]  # kind, name, direction, number of events


def page(contents: Contents) -> str:
    """The HTML text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": clock, "colour": _colour, "data_uri": _data_uri}
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    shown = contents.people[:MAX_CARDS]
    return template.render(
        {name: getattr(contents, name) for name in Contents.__slots__},
        shown=shown,
        kinds=[kind for kind in KINDS if any(kind in person.n_of_kind for person in shown)],
        top=max(int(contents.most.max(initial=0)), 1),
        summary=_summary(contents),
    )


def clock(seconds: float) -> str:
    """A time as people write it: 7.4 s, 1:05, 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _summary(contents: Contents) -> list[tuple[str, Any]]:
    """Names and values of the boxes at the top."""
    gaps = [gap for person in contents.people for gap in person.gaps_s]
    totals: Counter[str] = Counter()
    for person in contents.people:
        totals.update(person.n_of_kind)
    facts = [
        ("people", len(contents.people)),
        ("most at once", contents.most.max(initial=0)),
        ("length", clock(contents.edges_s[-1])),
        ("boxes", totals.total()),
        ("gaps", len(gaps)),
        ("longest gap", clock(max(gaps, default=0.0))),
    ]
    return facts + [(kind, totals[kind]) for kind in KINDS if contents.has_sources and totals[kind]]


def _colour(identity: int) -> str:
    blue, green, red = identity_colour(identity)
    return f"rgb({red},{green},{blue})"


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
