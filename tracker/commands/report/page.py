"""Fill the template page.html: one file with its pictures, style and script inside, which loads nothing else."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tracker.commands.report.facts import Person
from tracker.commands.report.pictures import Pictures
from tracker.sinks.drawing import identity_colour
from tracker.types import FloatArray, IntArray, Source

if TYPE_CHECKING:
    from jinja2 import Template

MAX_CARDS = 1000  # people with a card and a row of the timeline; a browser shows more, but too many to read
MAX_STEPS = 8  # of an axis: labels do not touch on a narrow window
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
    trails: Mapping[int, str]  # identity -> `d` of its SVG path; empty without pictures
    counts: Mapping[tuple[str, str, str], Sequence[float]]  # (kind, name, direction) -> times of the events, sorted


def page(contents: Contents) -> str:
    """The HTML text."""
    end_s = float(contents.edges_s[-1])
    template = open_template(__package__, "page.html")
    shown = contents.people[:MAX_CARDS]
    return template.render(
        {name: getattr(contents, name) for name in Contents.__slots__},
        shown=shown,
        kinds=[kind for kind in KINDS if any(kind in person.n_of_kind for person in shown)],
        top=max(int(contents.most.max(initial=0)), 1),
        summary=_summary(contents),
        end_s=end_s,
        ticks=ticks(end_s),
        grid=tick_step_s(end_s) / end_s,
        counted=_counted(contents.counts),
    )


def open_template(package: str, name: str) -> Template:
    """The template of a page, with the filters that pages use."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": clock, "colour": _colour, "data_uri": data_uri}
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))


def clock(seconds: float) -> str:
    """A time as people write it: 7.4 s, 1:05, 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return _minutes(seconds)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def tick_step_s(end_s: float) -> float:
    """Seconds between the ticks of an axis from 0 to `end_s` > 0: round, and at most `MAX_STEPS` of them.

    1, 2 or 5 times a power of ten of seconds or hours; between these, 10, 20 and 30 too, of seconds and of minutes.
    """
    least_s = end_s / MAX_STEPS
    if 1 < least_s <= 1800:
        return next(step for step in (2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800) if step >= least_s)
    unit = 1.0 if least_s <= 1 else 3600.0
    unit *= 10.0 ** math.floor(math.log10(least_s / unit))
    return next((n * unit for n in (1, 2, 5) if n * unit >= least_s), 10 * unit)


def ticks(end_s: float) -> list[tuple[float, str]]:
    """(seconds, label) of each tick: 0.5 s, or 0:30 on an axis of a minute and more."""
    step_s = tick_step_s(end_s)
    times_s = [n * step_s for n in range(math.floor(end_s / step_s + 1e-6) + 1)]  # 0.7 / 0.1 rounds to less than 7
    return [(time_s, f"{time_s:g} s" if end_s < 60 else _minutes(time_s)) for time_s in times_s]


def _counted(
    counts: Mapping[tuple[str, str, str], Sequence[float]],
) -> dict[tuple[str, str], dict[str, Sequence[float]]]:
    """(kind, name) of each line and zone -> direction -> times of its events."""
    counted: dict[tuple[str, str], dict[str, Sequence[float]]] = {}
    for (kind, name, direction), times_s in counts.items():
        counted.setdefault((kind, name), {})[direction] = times_s
    return counted


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


def data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
