"""Which rows make a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reid_training.data.base import IntArray


def pk_batches(pids: IntArray, n_ids: int, n_per_id: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Batches of `n_ids` different people with `n_per_id` images each; one epoch is about one pass over the images.

    Every person comes up equally often (to one), whoever has few images repeats them; within a person no image comes
    again before the others came. With fewer people than `n_ids` all of them are used. Yields rows (P * K,), grouped
    by person.
    """
    people = np.unique(pids)
    rows_of = {int(pid): np.flatnonzero(pids == pid) for pid in people}
    n_ids = min(n_ids, len(people))
    n_batches = max(1, len(pids) // (n_ids * n_per_id))

    waiting: list[int] = []
    left: dict[int, list[int]] = {pid: [] for pid in rows_of}
    for _ in range(n_batches):
        if len(waiting) < n_ids:
            fresh = [int(pid) for pid in rng.permutation(people)]
            # Whoever still waits comes first; nobody twice in one batch.
            waiting += [pid for pid in fresh if pid not in waiting] + [pid for pid in fresh if pid in waiting]
        chosen, waiting = waiting[:n_ids], waiting[n_ids:]
        rows: list[int] = []
        for pid in chosen:
            while len(left[pid]) < n_per_id:
                left[pid] += [int(row) for row in rng.permutation(rows_of[pid])]
            rows += left[pid][:n_per_id]
            left[pid] = left[pid][n_per_id:]
        yield np.array(rows, dtype=np.int64)
