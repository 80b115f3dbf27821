"""Banks of tracks with the columns that a test is about."""

from __future__ import annotations

import numpy as np

from tracker.tracks.bank import TrackBank


def bank_of(n: int, **columns) -> TrackBank:
    """n tentative tracks at the origin, except for the columns given."""
    whole = {
        "key": np.arange(n), "id": np.zeros(n, np.int64), "mean": np.zeros((n, 8)), "cov": np.zeros((n, 3, 4)),
        "hits": np.ones(n, np.int64), "seen_s": np.zeros(n), "seen_xy": np.zeros((n, 2)),
        "shown_index": np.full(n, -1), "score": np.ones(n),
        "group": np.zeros(n, np.int64),
        "class_id": np.zeros(n, np.int64), "class_lead": np.ones(n), "slot": np.arange(n),
    }  # fmt: skip
    return TrackBank(**{**whole, **{name: np.asarray(value) for name, value in columns.items()}})
