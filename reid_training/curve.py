"""Plot of a run: loss, and rank-1 and mAP on the held-out people, over epochs."""

from __future__ import annotations

import io
from pathlib import Path

from reid_training.runs import Row, replace_file


def draw(history: list[Row], out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    figure = Figure(figsize=(6.4, 3.2), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    left.plot([row["epoch"] for row in history], [row["loss"] for row in history], color="tab:grey", label="loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    right = left.twinx()
    scored = [row for row in history if "held_out_map" in row]
    for key, label, colour in (("held_out_rank1", "rank-1", "tab:blue"), ("held_out_map", "mAP", "tab:orange")):
        values = [100.0 * row[key] for row in scored]
        right.plot([row["epoch"] for row in scored], values, color=colour, marker=".", label=label)
    right.set_ylabel("held-out people, %")
    right.set_ylim(0, 100)
    figure.legend(loc="outside upper center", ncols=3)

    picture = io.BytesIO()  # Pillow reports a full disk only as "encoder error"
    figure.savefig(picture, format="png")
    replace_file(out, lambda stream: stream.write(picture.getbuffer()))
