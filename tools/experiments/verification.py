"""Verification: are two images of the same identity? The measures of face recognition, from embeddings and labels.

Labeled Faces in the Wild. Huang, Ramesh, Berg, Learned-Miller. Technical report 07-49, UMass Amherst, 2007: ten folds
    that share no person, as many pairs of one person as of two; the threshold of each fold is chosen on the other nine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples, ranking_cameras
from reid_training.errors import DataError
from reid_training.evaluate import FloatArray

N_FOLDS = 10
PAIRS_PER_FOLD = 3000  # of each kind, at most; LFW has 300
MOST_IMAGES = 5000  # of those scored: 12 million pairs
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verification:
    """Shares in [0, 1]."""

    auc: float  # the chance that a same pair is more alike than a different one; equal ones count half
    tpr_1e2: float  # same pairs accepted at the loosest threshold that accepts at most 1 % of the different ones
    tpr_1e3: float  # at 0.1 %
    pair_accuracy: float  # of the folds' pairs, mean over the folds


def verify(embeddings: FloatArray, samples: Samples) -> Verification:
    """embeddings (N, D), unit rows, by cosine. Of more than MOST_IMAGES images: those of some identities.

    AUC and TPR are over all pairs; the same person by the same camera does not count, as in retrieval. The choice of
    identities, folds and pairs depends on the labels alone: it is the same for all methods.
    """
    rng = np.random.default_rng(0)
    people, counts = np.unique(samples.pids, return_counts=True)
    order = rng.permutation(len(people))
    kept = people[order[: max(2, int(np.searchsorted(np.cumsum(counts[order]), MOST_IMAGES, side="right")))]]
    rows = np.flatnonzero(np.isin(samples.pids, kept))
    emb, pids, camids = embeddings[rows], samples.pids[rows], ranking_cameras(samples)[rows]
    sims, is_same, first, second = pairs(emb, pids, camids)
    tpr_1e2, tpr_1e3 = (tpr_at(sims[is_same], sims[~is_same], fpr) for fpr in (0.01, 0.001))
    folds = np.array_split(kept, min(N_FOLDS, len(kept) // 2))
    fold_of = {int(pid): number for number, fold in enumerate(folds) for pid in fold}
    of_row = np.array([fold_of[int(pid)] for pid in pids])
    chosen = []
    for number in range(len(folds)):
        inside = (of_row[first] == number) & (of_row[second] == number)
        same, different = np.flatnonzero(inside & is_same), np.flatnonzero(inside & ~is_same)
        n = min(len(same), len(different), PAIRS_PER_FOLD)
        chosen.append(np.concatenate([rng.choice(kind, n, replace=False) for kind in (same, different)]))
    accuracy = fold_accuracy([sims[fold] for fold in chosen], [is_same[fold] for fold in chosen])
    return Verification(area(sims[is_same], sims[~is_same]), tpr_1e2, tpr_1e3, accuracy)


def pairs(emb: FloatArray, pids: IntArray, camids: IntArray) -> tuple[FloatArray, BoolArray, IntArray, IntArray]:
    """Cosines, whether it is one person, and the two rows, of every pair i < j but one person by one camera."""
    first, second = np.triu_indices(len(emb), 1)
    is_same = pids[first] == pids[second]
    counts = ~(is_same & (camids[first] == camids[second]))
    first, second, is_same = first[counts], second[counts], is_same[counts]
    if is_same.all() or not is_same.any():
        raise DataError("verification needs pairs of one identity by two cameras, and of two identities")
    sims: FloatArray = (emb @ emb.T)[first, second]
    return sims, is_same, first, second


def area(same: FloatArray, different: FloatArray) -> float:
    """Area under the ROC curve: same (P,), different (N,) similarities."""
    ordered = np.sort(different)
    below, not_above = (np.searchsorted(ordered, same, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(ordered)))


def tpr_at(same: FloatArray, different: FloatArray, fpr: float) -> float:
    """Share of same (P,) above the strictest of the different (N,) that may not be accepted any more."""
    place = len(different) - 1 - int(fpr * len(different))
    return float(np.mean(same > np.partition(different, place)[place]))


def fold_accuracy(sims: list[FloatArray], is_same: list[BoolArray]) -> float:
    """Mean over folds of the accuracy at the threshold that is best on the others; each fold (P,), with both kinds."""
    found = []
    for held in range(len(sims)):
        others = [number for number in range(len(sims)) if number != held] or [held]
        threshold = best_threshold(*(np.concatenate([part[i] for i in others]) for part in (sims, is_same)))
        found.append(np.mean((sims[held] > threshold) == is_same[held]))
    return float(np.mean(found))


def best_threshold(sims: FloatArray, is_same: BoolArray) -> float:
    """Where most pairs are right if those above it are taken for the same: the middle between two similarities."""
    order = np.argsort(-sims, kind="stable")
    sims, is_same = sims[order], is_same[order]
    right = np.cumsum(np.where(is_same, 1, -1))[:-1]  # gained by accepting the first 1, 2, ...
    right = np.where(sims[1:] < sims[:-1], right, np.iinfo(np.int64).min)  # equal ones are not parted
    best = int(np.argmax(right))
    return float((np.float64(sims[best]) + np.float64(sims[best + 1])) / 2)
