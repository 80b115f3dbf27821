"""The table of scores as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tracker.eval.clear_identity import Scores

HEADER = ("sequence", "MOTA", "IDF1", "IDs", "Frag", "MT", "ML", "FP", "FN", "Prec", "Rec", "fps")


def table(rows: Sequence[tuple[str, Scores, float | None]]) -> str:
    """rows of name, scores, frames per second or None -> aligned lines; rates in per cent."""
    cells = [HEADER, *(_cells(name, scores, fps) for name, scores, fps in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))]
    lines = []
    for row in cells:
        right = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *right]))
    return "\n".join(lines) + "\n"


def _cells(name: str, s: Scores, fps: float | None) -> tuple[str, ...]:
    counts = (s.switches, s.fragmentations, s.mostly_tracked, s.mostly_lost, s.false_positives, s.misses)
    return (
        name,
        _percent(s.mota),
        _percent(s.idf1),
        *(str(count) for count in counts),
        _percent(s.precision),
        _percent(s.recall),
        "-" if fps is None else f"{fps:.1f}",
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
