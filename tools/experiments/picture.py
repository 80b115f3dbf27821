"""Picture of a table: the mean difference of each experiment, with its interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from reid_training.runs import replace_file
from tools.experiments.table import COVERAGE, GAIN, LOSS, NO_GAIN, Comparison, differences, interval, summary, verdict

COLOURS = {GAIN: "tab:green", NO_GAIN: "tab:grey", LOSS: "tab:red"}
ROW_IN, WIDTH_IN = 0.32, 9.0  # height of a row, width of the picture, inches


def main_rows(rows: Sequence[Comparison]) -> list[Comparison]:
    """The first measure of each experiment and setting."""
    return list({(row.name, row.data): row for row in reversed(rows)}.values())[::-1]


def draw(rows: Sequence[Comparison], file: Path) -> None:
    """Writes `file`, in a format that matplotlib knows by its suffix. Colours are the verdicts."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = main_rows(rows)
    with matplotlib.rc_context({"svg.hashsalt": "experiments"}):
        figure = Figure((WIDTH_IN, 1.2 + ROW_IN * len(shown)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(shown):
            found = differences(row)
            half = 100 * interval(found) if len(found) > 1 else 0.0
            axes.errorbar(100 * summary(found).mean, place, xerr=half, fmt="o", capsize=3, color=COLOURS[verdict(row)])
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [f"{row.title}\n{row.data}: {row.measure}" for row in shown], fontsize=6)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(f"method - baseline, points, with the {COVERAGE:.0%} interval of the mean over seeds")
        content = io.BytesIO()
        figure.savefig(content, format=file.suffix.lstrip(".") or "png", dpi=150)
    replace_file(file, lambda stream: stream.write(content.getvalue()))
