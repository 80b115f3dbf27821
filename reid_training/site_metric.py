"""A linear metric on embeddings for one site, fitted to a few labelled tracks; three ways to fit it.

whitening: directions in which one person's embeddings vary count less. Within-Class Covariance Normalization for
SVM-based Speaker Recognition. Andrew O. Hatch, Sachin Kajarekar, Andreas Stolcke. Interspeech 2006. Its map, the
inverse root of the covariance within people, is shrunk towards the identity: a few tracks do not fill the covariance
of 128 numbers.
odml: one online metric layer (`methods.odml`) after one pass over the crops in random order.
mip: the mixed-integer metric (`methods.mip_mahalanobis`) on principal components, shrunk towards the identity. More
than 60 crops are fitted by subsamples, and the time limit makes the result depend on the machine.

How far each departs from the model's own metric is chosen on people that the map was not fitted to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples
from reid_training.errors import DataError
from reid_training.evaluate import Calibration, FloatArray, Ranking, rank_held_out, rank_in_videos
from reid_training.methods.mip_mahalanobis import MIPMahalanobis, root
from reid_training.methods.odml import ODML

DoubleArray = npt.NDArray[np.float64]
N_COMPONENTS = 32  # of mip: as in its experiment with Market-1501
MIP_NEIGHBOURS, MIP_TIME_S = 3, 10.0  # likewise; of the programs of one fit together
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


def whitenings(emb: FloatArray, pids: IntArray, strengths: Sequence[float], seed: int) -> list[DoubleArray]:
    return [whitening(emb, pids, 1.0 - strength) for strength in strengths]


def online_layers(emb: FloatArray, pids: IntArray, strengths: Sequence[float], seed: int) -> list[DoubleArray]:
    """L of one layer, (D, D) and symmetric; strengths: gamma."""
    order = np.random.default_rng([seed, 3]).permutation(len(pids))
    return [ODML(gamma=gamma).fit(emb[order], pids[order]).layers_[0].root for gamma in strengths]


def mixed_integer(emb: FloatArray, pids: IntArray, strengths: Sequence[float], seed: int) -> list[DoubleArray]:
    """Roots of the metric M of the first principal components, as a share: I + V (((1 - s) I + s M)^1/2 - I) V'."""
    center = emb.mean(axis=0, dtype=np.float64)
    directions = np.linalg.svd(emb - center, full_matrices=False)[2][:N_COMPONENTS]  # (c, D)
    model = MIPMahalanobis(k=MIP_NEIGHBOURS, time_limit_s=MIP_TIME_S, seed=seed)
    metric = model.fit((emb - center) @ directions.T, pids).metric_
    eye = np.eye(len(directions))
    bent = [root(eye + strength * (metric - eye)) - eye for strength in strengths]
    return [np.eye(emb.shape[1]) + directions.T @ change @ directions for change in bent]


@dataclass(frozen=True, slots=True)
class SiteMetric:
    """A way to fit maps (D, D), symmetric, to embeddings (N, D) of people (N,): one for each strength asked for."""

    words: str  # with `strength`, or the same in `percent`
    # The first is 0: the model's own metric. The second is taken where there are too few people to choose.
    strengths: tuple[float, ...]
    maps: Callable[[FloatArray, IntArray, Sequence[float], int], list[DoubleArray]]


METRICS = {
    "whitening": SiteMetric(
        "a linear metric behind the embedding, {percent:.0f} % of it from the tracks",
        (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        whitenings,
    ),
    # Those of the experiment with Market-1501 (tools/experiments/odml_market.py).
    "odml": SiteMetric(
        "an online metric layer behind the embedding, gamma {strength:g}", (0.0, 0.003, 0.01, 0.03), online_layers
    ),
    "mip": SiteMetric(
        "a mixed-integer metric behind the embedding, {percent:.0f} % of it from the tracks",
        (0.0, 0.25, 0.5, 0.75, 1.0),
        mixed_integer,
    ),
}


def choose_strength(metric: SiteMetric, emb: FloatArray, samples: Samples, seed: int) -> float:
    """The strength with the best mAP in cross-validation over people; of equals the one named first."""
    people, counts = np.unique(samples.pids, return_counts=True)
    tracks = np.random.default_rng([seed, 1]).permutation(people[counts >= 2])
    n_folds = min(N_FOLDS, len(tracks) // 2)
    if n_folds < 2:
        return metric.strengths[1]
    scores = np.zeros(len(metric.strengths))
    for fold in range(n_folds):
        left_out = np.isin(samples.pids, tracks[fold::n_folds])
        held = samples.take(np.flatnonzero(left_out))
        maps = metric.maps(emb[~left_out], samples.pids[~left_out], metric.strengths, seed)
        scores += [rank_at_place(mapped(emb[left_out], matrix), held).mean_ap for matrix in maps]
    return metric.strengths[int(scores.argmax())]


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
