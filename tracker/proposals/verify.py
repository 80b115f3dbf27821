"""Use C, the likelihood: which candidate has the appearance of the track, compared with the background beside it."""

from __future__ import annotations

import numpy as np

from tracker.config import ProposalConfig
from tracker.types import BoolArray, FloatArray, IntArray


def within_budget(cost: IntArray, age_s: FloatArray, budget: int) -> BoolArray:
    """(T,) tracks whose crops fit into the frame's budget, those detected most recently first.

    cost (T,) crops each track needs, age_s (T,) time since its last detection. The first that does not fit ends the
    list: an older track never overtakes a younger one.
    """
    order = np.argsort(age_s, kind="stable")
    chosen = np.zeros(len(cost), bool)
    chosen[order] = np.cumsum(cost[order]) <= budget
    return chosen


def best_candidates(track: IntArray, log_prior: FloatArray, dist: FloatArray, sigma: float) -> IntArray:
    """For each track the candidate with the largest log p = log prior - d^2 / (2 sigma^2), docs/method.md, 4.

    track, log_prior, dist (C,); dist = cosine distance to the track's mean embedding, sigma = its root mean square for
    the same person. Returns indices into the candidates, one for each distinct track, by ascending track; of equals the
    first.
    """
    log_posterior = log_prior - dist**2 / (2 * sigma**2)
    order = np.lexsort((np.arange(len(track)), -log_posterior, track))
    _, first = np.unique(track[order], return_index=True)
    return order[first].astype(np.int64)


def mean_control(control_dist: FloatArray) -> FloatArray:
    """Mean over the last axis of distances to the background control, NaN where a control lies outside the image.

    +inf where all of them do.
    """
    known = ~np.isnan(control_dist)
    count = known.sum(axis=-1)
    total = np.where(known, control_dist, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def accepted(dist: FloatArray, control: FloatArray, tau: float, config: ProposalConfig) -> BoolArray:
    """(n,) proposals that appearance confirms: close enough, and clearly closer than the background beside them.

    dist (n,) of the chosen candidates, control (n,) from `mean_control`; without a control inside the image, appearance
    may not discriminate person and background, and the proposal is rejected.
    """
    return np.isfinite(control) & (dist < tau) & (dist + config.background_margin <= control)
