"""The page: one HTML file with its pictures, style and script inside, which asks no server for anything."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from tracker.commands.report.facts import Person
from tracker.commands.report.pictures import Pictures
from tracker.sinks.drawing import identity_colour
from tracker.types import FloatArray, IntArray, Source

# Words of the page for the values of `Source`, and the style that each has in the timeline.
KINDS = {
    Source.DETECTED: "detected",
    Source.PROPOSED: "proposed",
    Source.OCCLUDED: "hidden",
    Source.PREDICTED: "predicted",
    Source.INTERPOLATED: "interpolated",
}
MAX_CARDS = 1000  # people with a card and a row of the timeline; a browser bears more, a reader does not


@dataclass(frozen=True, slots=True)
class Contents:
    """What the page shows."""

    title: str
    source: str  # of the tracks, and of the pictures
    n_boxes: int
    people: Sequence[Person]  # in the order of appearance
    has_sources: bool
    edges_s: FloatArray  # (B + 1,) of the bins of the curve
    most: IntArray  # (B,) most people in one frame of each
    pictures: Pictures
    counts: Sequence[tuple[str, str, str, int]]  # kind, name, direction, how often


def page(contents: Contents) -> str:
    """The HTML."""
    sections = [_facts(contents), _curve(contents), _counts(contents), _trails(contents), _timeline(contents)]
    sections.append(_cards(contents))
    return _PAGE.substitute(
        title=html.escape(contents.title),
        source=html.escape(contents.source),
        body="\n".join(section for section in sections if section),
    )


def clock(seconds: float) -> str:
    """As people write times: 7.4 s, 1:05, 2:03:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _facts(contents: Contents) -> str:
    people = contents.people
    totals = [sum(person.n_of_source[kind] for person in people) for kind in KINDS]
    gaps = [gap for person in people for gap in person.gaps_s]
    facts = [
        ("people", f"{len(people)}"),
        ("most at a time", f"{int(contents.most.max(initial=0))}"),
        ("length", clock(float(contents.edges_s[-1]))),
        ("boxes", f"{contents.n_boxes}"),
        ("gaps", f"{len(gaps)}"),
        ("longest gap", clock(max(gaps, default=0.0))),
    ]
    if contents.has_sources:
        facts += [(word, f"{n}") for word, n in zip(KINDS.values(), totals, strict=True) if n]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts)
    return f'<section class="facts" id="facts">{cells}</section>'


def _curve(contents: Contents) -> str:
    """People in view over time, as a filled stair."""
    top = max(int(contents.most.max(initial=0)), 1)
    n = len(contents.most)
    steps = " ".join(f"L{i} {top - m} L{i + 1} {top - m}" for i, m in enumerate(contents.most.tolist()))
    shape = f"M0 {top} {steps} L{n} {top} Z"
    return (
        '<section><h2>People in view</h2><div class="plot"><span class="y">'
        f'<i>{top}</i><i>0</i></span><svg id="curve" viewBox="0 0 {n} {top}" preserveAspectRatio="none" role="img" '
        f'aria-label="people in view over time, {top} at most"><path d="{shape}"/></svg></div>'
        f"{_axis(contents)}</section>"
    )


def _axis(contents: Contents) -> str:
    end = float(contents.edges_s[-1])
    ticks = "".join(f"<i>{clock(end * share)}</i>" for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return f'<div class="axis">{ticks}</div>'


def _counts(contents: Contents) -> str:
    if not contents.counts:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(kind)}</td><td>{html.escape(name)}</td><td>{html.escape(direction)}</td><td>{n}</td></tr>"
        for kind, name, direction, n in contents.counts
    )
    head = "<tr><th>kind</th><th>name</th><th>direction</th><th>times</th></tr>"
    return f'<section><h2>Counts</h2><table id="counts">{head}{rows}</table></section>'


def _trails(contents: Contents) -> str:
    if contents.pictures.trails is None:
        return ""
    picture = _inline(contents.pictures.trails)
    return (
        f'<section><h2>Where they went</h2><img id="trails" src="{picture}" alt="foot points of everybody"></section>'
    )


def _timeline(contents: Contents) -> str:
    shown = contents.people[:MAX_CARDS]
    used = [kind for kind in KINDS if any(person.n_of_source[kind] for person in shown)]
    legend = "".join(f'<span class="key k{int(kind)}"></span>{KINDS[kind]} ' for kind in used)
    legend = legend + '<span class="key gap"></span>gap' if contents.has_sources else "The format does not say which "
    if not contents.has_sources:
        legend += "boxes were detected and which proposed: a .csv or .jsonl does."
    end = float(contents.edges_s[-1])
    rows = "".join(_row(person, end) for person in shown)
    return (
        f'<section><h2>Who was there when</h2><p class="legend">{legend}</p>'
        f'<div class="rows" id="timeline">{rows}</div>'
        f"{_axis(contents)}{_left_out(contents)}</section>"
    )


def _row(person: Person, end_s: float) -> str:
    def place(start_s: float, stop_s: float) -> str:
        return f"left:{100 * start_s / end_s:.3f}%;width:{100 * (stop_s - start_s) / end_s:.3f}%"

    parts = "".join(
        f'<i class="k{part.source}" style="{place(part.start_s, part.end_s)}" '
        f'title="{KINDS[Source(part.source)]}, {clock(part.start_s)} to {clock(part.end_s)}"></i>'
        for part in person.stretches
    )
    whole = f'<u style="{place(person.start_s, person.end_s)}"></u>'
    return f'<a class="row" href="#p{person.id}"><b>{person.id}</b><span>{whole}{parts}</span></a>'


def _cards(contents: Contents) -> str:
    cards = "".join(_card(person, contents) for person in contents.people[:MAX_CARDS])
    sorting = "".join(
        f'<button data-by="{key}">{word}</button>'
        for key, word in (("start", "by first sight"), ("seen", "by time in view"), ("id", "by number"))
    )
    cards = f'<div class="cards" id="people">{cards}</div>'
    return f'<section><h2>Everybody</h2><p class="legend">{sorting}</p>{cards}</section>'


def _card(person: Person, contents: Contents) -> str:
    crop = contents.pictures.crops.get(person.id)
    picture = f'<img loading="lazy" src="{_inline(crop)}" alt="person {person.id}">' if crop else "<em>no crop</em>"
    blue, green, red = identity_colour(person.id)
    facts = [f"{clock(person.start_s)} to {clock(person.end_s)}", f"{clock(person.seen_s)} in view"]
    if person.gaps_s:
        word = "gap" if len(person.gaps_s) == 1 else "gaps"
        facts.append(f"{len(person.gaps_s)} {word}, the longest {clock(max(person.gaps_s))}")
    facts += [f"{person.n_of_source[kind]} {word}" for kind, word in KINDS.items() if kind and person.n_of_source[kind]]
    lines = "".join(f"<span>{fact}</span>" for fact in facts)
    return (
        f'<figure id="p{person.id}" data-id="{person.id}" data-start="{person.start_s:.3f}" '
        f'data-seen="{person.seen_s:.3f}" style="border-color:rgb({red},{green},{blue})">{picture}'
        f"<figcaption><b>{person.id}</b>{lines}</figcaption></figure>"
    )


def _left_out(contents: Contents) -> str:
    more = len(contents.people) - MAX_CARDS
    return f"<p>{more} more people, who came later, are left out here.</p>" if more > 0 else ""


def _inline(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1d21; --dim: #6a7078; --paper: #fafafa; --card: #fff; --line: #d9dce1;
  --detected: #2f74c0; --proposed: #e08a00; --hidden: #8a93a0; --predicted: #b9a3d6; --interpolated: #7fb8a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --dim: #9aa1ab; --paper: #16181c; --card: #1f2227;
  --line: #343941; --detected: #5a9be0; --proposed: #f0a43a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 24px 20px 60px; font: 15px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 17px; margin: 34px 0 10px; }
.from, .legend, .axis, .y, figcaption span, .facts span { color: var(--dim); font-size: 13px; }
.from { overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 10px; margin-top: 18px; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.facts b { display: block; font-size: 20px; }
.plot { display: flex; gap: 8px; } .y { display: flex; flex-direction: column; justify-content: space-between;
  width: 44px; text-align: right; }
i { font-style: normal; }
#curve { flex: 1; min-width: 0; height: 110px; background: var(--card); border: 1px solid var(--line); }
#curve path { fill: var(--detected); opacity: .8; }
.axis { display: flex; justify-content: space-between; padding: 4px 0 0 52px; }
#trails { max-width: 100%; border-radius: 8px; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 4px 18px 4px 0;
  border-bottom: 1px solid var(--line); }
.rows { max-height: 70vh; overflow-y: auto; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.row { display: flex; gap: 8px; align-items: center; color: inherit; text-decoration: none; height: 18px; }
.row b { width: 44px; text-align: right; font-size: 12px; font-weight: 500; }
.row span { position: relative; flex: 1; height: 12px; }
.row:hover { background: var(--line); }
.row i { position: absolute; top: 0; height: 12px; min-width: 1px; }
.row u { position: absolute; top: 5px; height: 2px; background: repeating-linear-gradient(90deg, var(--dim) 0 3px,
  transparent 3px 6px); }
.k0 { background: var(--detected); } .k1 { background: var(--proposed); } .k2 { background: var(--hidden); }
.k3 { background: var(--predicted); } .k4 { background: var(--interpolated); }
.key { display: inline-block; width: 14px; height: 10px; margin: 0 5px 0 10px; border-radius: 2px; }
.key.gap { height: 2px; vertical-align: middle; background: repeating-linear-gradient(90deg, var(--dim) 0 3px,
  transparent 3px 6px); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-top-width: 4px; border-radius: 8px;
  padding: 10px; scroll-margin-top: 12px; }
figure:target { outline: 3px solid var(--detected); }
figure img, figure em { display: block; height: 160px; margin: 0 auto 8px; max-width: 100%; object-fit: contain; }
figcaption b { display: block; font-size: 16px; } figcaption span { display: block; }
button { font: inherit; font-size: 13px; margin-right: 8px; padding: 3px 10px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--card); color: inherit; cursor: pointer; }
</style></head>
<body><h1>$title</h1><p class="from">$source</p>
$body
<script>
const people = document.getElementById("people");
for (const button of document.querySelectorAll("button[data-by]")) button.addEventListener("click", () => {
  const key = button.dataset.by, down = key === "seen" ? -1 : 1;
  const cards = [...people.children].sort((a, b) => down * (a.dataset[key] - b.dataset[key]));
  people.append(...cards);
});
</script></body></html>
""")
