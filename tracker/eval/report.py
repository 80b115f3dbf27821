"""Tables of scores as text, CSV, JSON and Markdown, always with the same columns."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeAlias

from tracker.errors import OutputError
from tracker.eval.clear_identity import Scores
from tracker.eval.hota import HotaScores

Value: TypeAlias = str | int | float | None

RATES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1")  # per cent
COLUMNS = ("sequence", *RATES, "IDs", "Frag", "MT", "ML", "FP", "FN", "verify", "fps")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error; NaN where there were too few values."""

    mean: float
    se: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The standard error is the standard deviation (of a sample) over the square root of the number of values."""
        n = len(values)
        return cls(
            statistics.fmean(values) if n else math.nan,
            statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan,
        )

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.1f}" + ("" if math.isnan(self.se) else f" ± {self.se:.1f}")


class Difference(Estimate):
    """The mean of paired differences; a star marks one that is larger than two standard errors."""

    __slots__ = ()

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        error = "" if math.isnan(self.se) else f" ± {self.se:.2f}"
        return f"{self.mean:+.2f}{error}{' *' if abs(self.mean) > 2 * self.se else ''}"


class TableRow(Protocol):
    """A line of a table; all lines of a table have the same columns."""

    def values(self) -> Mapping[str, Value | Estimate]: ...


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
    """A header and one line a row, nothing rounded, empty where there is no number; see `_numbers`."""
    lines = [_numbers(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_json(rows: Sequence[TableRow]) -> str:
    """A list of objects, one a row, nothing rounded, null where there is no number; see `_numbers`."""
    return json.dumps([_numbers(row) for row in rows], indent=2) + "\n"


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


def _numbers(row: TableRow) -> dict[str, Value]:
    """Column -> number; an estimate is two: its mean under the name of the column, its standard error with "_se"."""
    found: dict[str, Value] = {}
    for name, value in row.values().items():
        if isinstance(value, Estimate):
            pair = {name: value.mean, f"{name}_se": value.se}
            found |= {key: None if math.isnan(number) else number for key, number in pair.items()}
        else:
            found[name] = value
    return found


def _cells(rows: Sequence[TableRow]) -> list[tuple[str, ...]]:
    return [tuple(_cell(value) for value in row.values().values()) for row in rows]


def _cell(value: Value | Estimate) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
