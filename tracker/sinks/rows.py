"""Tracks of one frame as plain rows, rounded: what the text formats share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tracker.types import Source, Tracks

SOURCE_WORDS = {int(source): source.name.lower() for source in Source}  # 0: "detected", 1: "proposed", ...


class PlainRow(NamedTuple):
    """One box. Pixels count from 0 at the left and top edge of the picture, x right, y down."""

    id: int
    xyxy: list[float]  # hundredths of a pixel
    score: float  # four digits
    class_id: int
    source: str  # a word of SOURCE_WORDS


def plain_rows(tracks: Tracks) -> Iterator[PlainRow]:
    """The rows of one frame, ids ascending."""
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    boxes = (np.round(tracks.xyxy, 2) + 0.0).tolist()
    scores = (np.round(tracks.score, 4) + 0.0).tolist()
    for row in np.argsort(tracks.id, kind="stable").tolist():
        word = SOURCE_WORDS[int(tracks.source[row])]
        yield PlainRow(int(tracks.id[row]), boxes[row], scores[row], int(tracks.class_id[row]), word)
