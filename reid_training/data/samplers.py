"""Batch samplers: P people with K images each (PK), and few-shot episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reid_training.data.base import IntArray
from reid_training.errors import ConfigError, DataError

Range = tuple[int, int]


def pk_batches(
    pids: IntArray, n_ids: int, n_per_id: int, rng: np.random.Generator, camids: IntArray | None = None
) -> Iterator[IntArray]:
    """Batches of `n_ids` different people with `n_per_id` images each; one epoch is about one pass over the images.

    Every person comes up equally often (to one), whatever the number of their images: the batches are balanced over
    people. Images of people with few are repeated; within a person no image comes again before the others came. With
    fewer people than `n_ids` all of them are used. camids (N,): the images of a person in a batch are from as many
    cameras as possible, see `across_cameras`; images of a camera with few then come again earlier. Yields rows
    (P * K,), grouped by person.
    """
    if camids is not None and len(np.unique(camids[camids >= 0])) < 2:
        raise ConfigError("data.sampler = camera needs images of two known cameras or more; pk needs none")
    people = np.unique(pids)
    rows_of = {int(pid): np.flatnonzero(pids == pid) for pid in people}
    n_ids = min(n_ids, len(people))
    n_batches = max(1, len(pids) // (n_ids * n_per_id))

    waiting: list[int] = []
    left: dict[int, list[int]] = {pid: [] for pid in rows_of}
    n_used = np.zeros(len(pids), np.int64)
    for _ in range(n_batches):
        if len(waiting) < n_ids:
            fresh = [int(pid) for pid in rng.permutation(people)]
            # People left over from the last round come first; none is twice in one batch.
            waiting += [pid for pid in fresh if pid not in waiting] + [pid for pid in fresh if pid in waiting]
        chosen, waiting = waiting[:n_ids], waiting[n_ids:]
        rows: list[int] = []
        for pid in chosen:
            if camids is not None:
                picked = across_cameras(rows_of[pid], camids, n_used, n_per_id, rng)
                np.add.at(n_used, picked, 1)
                rows += picked.tolist()
                continue
            while len(left[pid]) < n_per_id:
                left[pid] += [int(row) for row in rng.permutation(rows_of[pid])]
            rows += left[pid][:n_per_id]
            left[pid] = left[pid][n_per_id:]
        yield np.array(rows, dtype=np.int64)


def across_cameras(rows: IntArray, camids: IntArray, n_used: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    """n of one person's rows, from as many cameras as possible, and no image twice while there are others.

    camids, n_used (N,) of the whole set: n_used is how often each image came before. Cameras and images that came least
    often go first, in a random order among equals.
    """
    order = rng.permutation(rows)
    order = order[np.argsort(n_used[order], kind="stable")]
    same = camids[order, None] == camids[order]
    turn = np.tril(same, -1).sum(1)  # 0: the first choice of its camera; every camera has one turn before any has two
    camera_used = same @ n_used[order]
    return np.resize(order[np.lexsort((camera_used, turn))], n)


@dataclass(frozen=True, slots=True)
class Episode:
    """Rows of one few-shot task: N classes, each with K support images and Q queries."""

    support: IntArray  # (N, K); -1 fills the rows of classes with fewer shots, where they may have fewer
    queries: IntArray  # (N, Q); row i is of the same class as row i of `support`, and no image is in both


def episodes(
    labels: IntArray,
    n: int,
    way: int | Range,
    shots: int | Range,
    queries: int,
    rng: np.random.Generator,
    *,
    unbalanced: bool = False,
) -> Iterator[Episode]:
    """`n` tasks of `way` different classes with `shots` + `queries` different images each, drawn afresh for each task.

    labels (B,). A range (lowest, highest) is drawn from for each task, both ends included; of shots with `unbalanced`
    for each class. Classes with too few images for the largest task are left out.

    References: Matching Networks for One Shot Learning. Vinyals et al. NIPS 2016, https://arxiv.org/abs/1606.04080,
        section 2.2. Ranges: Triantafillou et al., Meta-Dataset, ICLR 2020, https://arxiv.org/abs/1903.03096.
    """
    ways, shot_range = as_range(way, "way", 2), as_range(shots, "shots", 1)
    if queries < 1:
        raise ConfigError(f"an episode needs at least 1 query of each class, got {queries}")
    in_order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[in_order], return_index=True, return_counts=True)
    needed = shot_range[1] + queries
    fit = np.flatnonzero(counts >= needed)
    if len(fit) < ways[1]:
        raise DataError(f"episodes need {ways[1]} classes with at least {needed} images each, there are {len(fit)}")
    for _ in range(n):
        chosen = rng.choice(fit, rng.integers(*ways, endpoint=True), replace=False)
        n_shots = shot_range[1] if unbalanced else int(rng.integers(*shot_range, endpoint=True))
        places = [first[c] + rng.choice(counts[c], n_shots + queries, replace=False) for c in chosen]
        rows = in_order[np.stack(places)]
        support, queries_of = rows[:, :n_shots], rows[:, n_shots:]
        if unbalanced:
            of_class = rng.integers(*shot_range, len(chosen), endpoint=True)
            support = np.where(np.arange(n_shots) < of_class[:, None], support, -1)
        yield Episode(support, queries_of)


def as_range(value: int | Range, name: str, least: int) -> Range:
    low, high = (value, value) if isinstance(value, int) else value
    if not least <= low <= high:
        raise ConfigError(f"{name} must be a number >= {least}, or two with the smaller first, got {value}")
    return low, high
