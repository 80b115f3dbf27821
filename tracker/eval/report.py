"""Tables of scores as text, CSV, JSON and Markdown, always with the same columns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from tracker.errors import OutputError
from tracker.eval.clear_identity import Scores
from tracker.eval.hota import HotaScores

Value: TypeAlias = str | int | float | None

RATES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1")  # per cent
COLUMNS = ("sequence", *RATES, "IDs", "Frag", "MT", "ML", "FP", "FN", "verify", "fps")


class TableRow(Protocol):
    """A line of a table; all lines of a table have the same columns."""

    def values(self) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: one sequence, or several combined."""

    name: str
    clear: Scores | None = None  # None: there was no ground truth
    hota: HotaScores | None = None
    fps: float | None = None  # frames per second; None: nothing was tracked
    verify: str | None = None  # what verified boxes: "off", "appearance" or "detector"; None: unknown, or several

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
        found |= {"verify": self.verify, "fps": self.fps}
        return found


def as_text(rows: Sequence[TableRow]) -> str:
    """Aligned lines; rates in per cent with one decimal, "-" where there is no number."""
    cells = [_columns(rows), *_cells(rows)]
    names = [isinstance(value, str) for value in rows[0].values().values()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = []
    for line in cells:
        aligned = (
            cell.ljust(width) if name else cell.rjust(width)
            for cell, width, name in zip(line, widths, names, strict=True)
        )
        lines.append("  ".join(aligned))
    return "\n".join(lines) + "\n"


def as_markdown(rows: Sequence[TableRow]) -> str:
    """A table as GitHub shows it, rounded like the text."""
    rule = ["---" if isinstance(value, str) else "---:" for value in rows[0].values().values()]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in _cells(rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in (_columns(rows), rule, *escaped))


def as_csv(rows: Sequence[TableRow]) -> str:
    """A header and one line a row, nothing rounded, empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values() for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[TableRow]) -> str:
    """A list of objects, one a row, nothing rounded, null where there is no number."""
    return json.dumps([row.values() for row in rows], indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a whole file atomically. Raises OutputError."""
    unfinished = path.with_name(path.name + ".part")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_bytes(data)
            return
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _columns(rows: Sequence[TableRow]) -> tuple[str, ...]:
    return tuple(rows[0].values())


def _cells(rows: Sequence[TableRow]) -> list[tuple[str, ...]]:
    return [tuple(_cell(value) for value in row.values().values()) for row in rows]


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
