"""Plot of a training run: the loss, and scores on the held-out pictures, over epochs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from reid_training.runs import Row, replace_file


def draw(history: list[Row], out: Path, scores: Mapping[str, str], axis: str, scale: float = 1.0) -> None:
    """Write a PNG. scores: columns of the history and their labels; epochs without one have no point.

    axis: title of the right axis, from 0 to `scale`, by which the scores, in [0, 1], are multiplied.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    figure = Figure(figsize=(6.4, 3.2), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    left.plot([row["epoch"] for row in history], [row["loss"] for row in history], color="tab:grey", label="loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    right = left.twinx()
    for number, (key, label) in enumerate(scores.items()):
        scored = [row for row in history if key in row]
        values = [scale * row[key] for row in scored]
        right.plot([row["epoch"] for row in scored], values, color=f"C{number}", marker=".", label=label)
    right.set_ylabel(axis)
    right.set_ylim(0, scale)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")

    picture = io.BytesIO()  # Pillow reports a full disk only as "encoder error"
    figure.savefig(picture, format="png")
    replace_file(out, lambda stream: stream.write(picture.getbuffer()))
