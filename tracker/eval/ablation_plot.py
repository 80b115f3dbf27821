"""Bar charts of an ablation study: HOTA, MOTA and IDF1 of every row, one panel for each sequence."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tracker.errors import ConfigError

Panels: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]  # sequence -> row -> measure -> per cent; "..._diff"

# Blue, orange and green that people with a colour-vision deficiency can tell apart (Okabe & Ito, 2008).
COLOURS = {"HOTA": "#0072b2", "MOTA": "#e69f00", "IDF1": "#009e73"}
MAX_COLUMNS = 3
BAR = 0.28  # height, where the distance between two rows is 1


def check_matplotlib() -> None:
    """Raises ConfigError."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError("--ablation draws with matplotlib, which is not installed: pip install matplotlib") from error


def plot(panels: Panels, names: Sequence[str], baseline: str, note: str) -> bytes:
    """A PNG file: in each panel the rows `names` from top to bottom, with differences to the row `baseline`.

    A row of replicas has the standard error of its paired differences (column "..._diff") as an error bar.
    """
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    n_columns = min(MAX_COLUMNS, len(panels))
    n_lines = -(-len(panels) // n_columns)
    figure = Figure((7 * n_columns, n_lines * (0.45 * len(names) + 0.8) + 1), layout="constrained")
    axes = figure.subplots(n_lines, n_columns, squeeze=False, sharex=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (sequence, rows) in zip(axes.flat, panels.items(), strict=False):
        for i, (measure, colour) in enumerate(COLOURS.items()):
            before = rows.get(baseline, {}).get(measure)
            if before is not None:
                ax.axvline(before, color=colour, linestyle="--", linewidth=0.8)
            values = [rows.get(name, {}).get(measure) for name in names]
            at = [row + (i - 1) * BAR for row in range(len(names))]
            errors = [getattr(rows.get(name, {}).get(f"{measure}_diff"), "se", 0.0) for name in names]
            bars = ax.barh(at, [max(v or 0, 0) for v in values], BAR, xerr=errors, color=colour, label=f"{measure} [%]")
            labels = [_label(value, before) for value in values]
            ax.bar_label(bars, labels, padding=3, fontsize=7, bbox={"color": "white", "pad": 0.5})
        ax.set_title(sequence, fontweight="bold")
        ax.set_yticks(range(len(names)), [f"{name} (baseline)" if name == baseline else name for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.margins(x=0.18)
        ax.tick_params(labelbottom=True)
        ax.spines[["top", "right"]].set_visible(False)
    handles, measures = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, measures, loc="outside upper left", ncols=len(measures), frameon=False)
    figure.supxlabel(f"{note}. Dashed: {baseline}; behind a number: the difference to it.", fontsize=8, wrap=True)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def _label(value: float | None, before: float | None) -> str:
    if value is None:
        return "no result"
    change = "" if before is None or abs(value - before) < 0.05 else f"  {value - before:+.1f}"
    return f"{value:.1f}{change}"
