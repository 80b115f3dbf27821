"""The table of scores: for reading, as CSV, as JSON and as Markdown, always the same columns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tracker.eval.clear_identity import Scores
from tracker.eval.hota import HotaScores

Value: TypeAlias = str | int | float | None

RATES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1")  # per cent
COLUMNS = ("sequence", *RATES, "IDs", "Frag", "MT", "ML", "FP", "FN", "fps")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: one sequence, or several combined."""

    name: str
    clear: Scores | None = None  # None: there was no ground truth
    hota: HotaScores | None = None
    fps: float | None = None  # frames per second; None: nothing was tracked

    def values(self) -> dict[str, Value]:
        """Column -> number, not rounded, rates in per cent; None where there is none."""
        found: dict[str, Value] = dict.fromkeys(COLUMNS)
        found["sequence"] = self.name
        if self.hota is not None:
            found |= {"HOTA": 100 * self.hota.hota, "DetA": 100 * self.hota.deta, "AssA": 100 * self.hota.assa}
        if self.clear is not None:
            s = self.clear
            found |= {"MOTA": _percent(s.mota), "IDF1": _percent(s.idf1), "IDs": s.switches, "Frag": s.fragmentations}
            found |= {"MT": s.mostly_tracked, "ML": s.mostly_lost, "FP": s.false_positives, "FN": s.misses}
        found["fps"] = self.fps
        return found


def as_text(rows: Sequence[Row]) -> str:
    """Aligned lines; rates in per cent with one decimal, "-" where there is no number."""
    cells = [COLUMNS, *_cells(rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = []
    for line in cells:
        right = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append("  ".join([line[0].ljust(widths[0]), *right]))
    return "\n".join(lines) + "\n"


def as_markdown(rows: Sequence[Row]) -> str:
    """A table as GitHub shows it, rounded like the text."""
    rule = ("---", *["---:"] * (len(COLUMNS) - 1))
    names = ([line[0].replace("|", "\\|"), *line[1:]] for line in _cells(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (COLUMNS, rule, *names))


def as_csv(rows: Sequence[Row]) -> str:
    """A header and one line a row, nothing rounded, empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects, one a row, nothing rounded, null where there is no number."""
    return json.dumps([row.values() for row in rows], indent=2) + "\n"


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {"csv": as_csv, "json": as_json, "markdown": as_markdown}


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [tuple(_cell(value) for value in row.values().values()) for row in rows]


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
