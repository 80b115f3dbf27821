"""Small tables of boxes for the tests of the measures, and a plain loop over them."""

from __future__ import annotations

import itertools

import numpy as np

from tracker.boxes import iou
from tracker.eval.mot_files import BoxTable


def as_table(rows) -> BoxTable:
    """Rows of frame, id, left, top, width, height."""
    values = np.array(rows, dtype=float).reshape(-1, 6)
    boxes = np.concatenate([values[:, 2:4], values[:, 2:4] + values[:, 4:]], axis=1)
    return BoxTable(values[:, 0].astype(int), values[:, 1].astype(int), boxes)


def random_case(seed: int) -> tuple[BoxTable, BoxTable]:
    """Up to 4 people and 5 identities in up to 9 frames, with gaps, misses, false boxes and swaps.

    In every second case people stand so close that a box fits two of them.
    """
    rng = np.random.default_rng(seed)
    apart = 12 if seed % 2 else 3
    truth, results = [], []
    n_people = int(rng.integers(1, 5))
    owner = np.arange(n_people) % 4 + 1
    for frame in range(1, int(rng.integers(2, 10))):
        if rng.random() < 0.3:
            rng.shuffle(owner)
        blind, empty = rng.random() < 0.15, rng.random() < 0.1  # frames without results, without people
        for person in range(n_people):
            box = np.array([person * apart + frame, 5.0, 10.0, 20.0])
            if rng.random() < 0.85 and not empty:
                truth.append([frame, person + 1, *box])
            if rng.random() < 0.7 and not blind:
                results.append([frame, owner[person], *(box + rng.normal(0, 1.5, 4) * [1, 1, 0, 0])])
        if rng.random() < 0.3:
            results.append([frame, 9, 300, 5, 10, 20])
    return as_table(truth or [[1, 1, 0, 0, 10, 20]]), as_table(results)


def one_after_the_other(first: BoxTable, second: BoxTable, later: int = 100) -> BoxTable:
    """Two sequences as one: the second comes later and shares no id with the first."""
    return BoxTable(
        np.concatenate([first.frame, second.frame + later]),
        np.concatenate([first.id, second.id + later]),
        np.concatenate([first.boxes, second.boxes]),
    )


def frames_of(truth, results):
    """Per frame: ids of the people, ids of the results, their overlap."""
    for frame in sorted(set(truth.frame.tolist()) | set(results.frame.tolist())):
        g, r = truth.frame == frame, results.frame == frame
        yield truth.id[g].tolist(), results.id[r].tolist(), iou(truth.boxes[g], results.boxes[r])


def one_to_one_maps(n_left, n_right):
    """Every way to pair some of the left with some of the right: lists of (i, j)."""
    slots = [*range(n_right), *([None] * n_left)]
    for chosen in set(itertools.permutations(slots, n_left)):
        yield [(i, j) for i, j in enumerate(chosen) if j is not None]
