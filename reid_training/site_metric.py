"""A linear metric on embeddings for one site: directions in which one person's embeddings vary count less.

Within-Class Covariance Normalization for SVM-based Speaker Recognition. Andrew O. Hatch, Sachin Kajarekar, Andreas
Stolcke. Interspeech 2006. Its map, the inverse root of the covariance within people, is shrunk towards the identity:
a few tracks do not fill the covariance of 128 numbers. How far is chosen on people that the map was not fitted to.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples
from reid_training.errors import DataError
from reid_training.evaluate import Calibration, FloatArray, Ranking, rank_held_out, rank_in_videos

DoubleArray = npt.NDArray[np.float64]
# Of the identity in the covariance, from the model's own metric to little of it.
SHARES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)
CAREFUL = 0.9  # where there are too few people to choose
N_FOLDS = 3
TRACK = 300  # the length that every track is stretched to
APART = TRACK // 3  # ours, not tuned


def rank_at_place(emb: FloatArray, samples: Samples) -> Ranking:
    """Retrieval scores of one site: across its cameras, or across time if no person is seen by two cameras.

    A crop's neighbours on its track are almost the same picture, which every metric finds: in one camera the right
    answers are a third of the track away. emb (N, D), unit rows; the rows of a person are in their order in time.
    """
    cameras = np.maximum(samples.camids, -1)  # those that are not known are together one
    people, counts = np.unique(samples.pids, return_counts=True)
    if len(np.unique(np.stack([samples.pids, cameras], axis=1), axis=0)) > len(people):
        return rank_held_out(emb, samples)
    times = np.empty(len(samples), dtype=np.int64)
    for person, count in zip(people, counts, strict=True):
        times[samples.pids == person] = np.linspace(0, TRACK, count).round()
    return rank_in_videos(emb, samples.pids, np.zeros_like(times), times, APART)


def mapped(emb: FloatArray, matrix: DoubleArray) -> FloatArray:
    """emb (N, D), matrix (D, D), symmetric. Returns unit rows (N, D)."""
    rows = emb.astype(np.float64) @ matrix
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def within_people(emb: FloatArray, pids: IntArray) -> DoubleArray:
    """Covariance (D, D) of embeddings (N, D) around the means of their people, scaled to a mean variance of 1."""
    _, places, counts = np.unique(pids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), emb.shape[1]))
    np.add.at(sums, places, emb)
    apart = emb - (sums / counts[:, None])[places]
    n_free = len(emb) - len(counts)
    covariance: DoubleArray = apart.T @ apart / max(1, n_free)
    variance = float(np.trace(covariance)) / emb.shape[1]
    if n_free == 0 or not variance > 1e-12:
        raise DataError("no person has two different crops; the variation of a person's embeddings cannot be measured")
    scaled: DoubleArray = covariance / variance
    return scaled


def whitening(emb: FloatArray, pids: IntArray, share: float) -> DoubleArray:
    """((1 - share) C + share I)^-1/2, C the covariance within people: (D, D). With share 1 the identity, exactly."""
    size = emb.shape[1]
    if share == 1.0:
        return np.eye(size)
    values, vectors = np.linalg.eigh((1.0 - share) * within_people(emb, pids) + share * np.eye(size))
    matrix: DoubleArray = (vectors / np.sqrt(values)) @ vectors.T
    return matrix


def choose_share(emb: FloatArray, samples: Samples, seed: int) -> float:
    """The share of the identity matrix with the best mAP in cross-validation over people; the largest of equals."""
    people, counts = np.unique(samples.pids, return_counts=True)
    tracks = np.random.default_rng([seed, 1]).permutation(people[counts >= 2])
    n_folds = min(N_FOLDS, len(tracks) // 2)
    if n_folds < 2:
        return CAREFUL
    scores = dict.fromkeys(SHARES, 0.0)
    for fold in range(n_folds):
        left_out = np.isin(samples.pids, tracks[fold::n_folds])
        held = samples.take(np.flatnonzero(left_out))
        for share in SHARES:
            matrix = whitening(emb[~left_out], samples.pids[~left_out], share)
            scores[share] += rank_at_place(mapped(emb[left_out], matrix), held).mean_ap
    return max(SHARES, key=lambda share: scores[share])  # the first of equals


def carried_over(old: Calibration, before: FloatArray, after: FloatArray, pids: IntArray) -> Calibration:
    """Thresholds of the new metric that accept the same share of pairs as the old: before and after (N, D).

    For a site with too few people to measure them. sigma_same scales with the distances between crops of a person.
    """
    pairs = np.triu_indices(len(pids), k=1)
    old_dist, new_dist = ((1.0 - emb @ emb.T)[pairs].astype(np.float64) for emb in (before, after))
    same = (pids[:, None] == pids)[pairs]

    def moved(threshold: float) -> float:
        return float(np.clip(np.quantile(new_dist, np.mean(old_dist <= threshold)), 0.0, 2.0))

    spread = [float(np.sqrt(np.mean(np.square(dist[same])))) for dist in (old_dist, new_dist)]
    sigma = old.sigma_same * spread[1] / max(spread[0], 1e-12)
    return dataclasses.replace(
        old, tau_same=moved(old.tau_same), tau_diff=moved(old.tau_diff), sigma_same=float(np.clip(sigma, 1e-6, 2.0))
    )
