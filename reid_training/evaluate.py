"""Retrieval scores and the distances that a tracker needs, from embeddings and labels. numpy alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples
from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float32]
JUNK = -1


@dataclass(frozen=True, slots=True)
class Ranking:
    """Shares in [0, 1] over the queries that have a right answer in the gallery."""

    rank1: float
    rank5: float
    rank10: float
    mean_ap: float
    n_queries: int


def rank(
    query: FloatArray,
    query_pids: IntArray,
    query_camids: IntArray,
    gallery: FloatArray,
    gallery_pids: IntArray,
    gallery_camids: IntArray,
    chunk: int = 256,
) -> Ranking:
    """The single-query protocol of Market-1501: query (Q, D), gallery (G, D), rows of unit length.

    For each query the gallery is sorted by cosine distance after taking out (1) images of the same person by the same
    camera and (2) junk (pid -1). Distractors (pid 0) stay and are wrong. Average precision is the mean of the
    precision at each right image; a query without a right image is left out. Memory: chunk * G distances.
    """
    hits_at = np.zeros(3)
    precision_sum, n_queries = 0.0, 0
    is_junk = gallery_pids == JUNK
    for start in range(0, len(query), chunk):
        stop = min(start + chunk, len(query))
        dist = 1.0 - query[start:stop] @ gallery.T  # (q, G)
        order = np.argsort(dist, axis=1, kind="stable")
        for row in range(stop - start):
            pid, camid = query_pids[start + row], query_camids[start + row]
            ordered = order[row]
            kept = ~is_junk[ordered] & ~((gallery_pids[ordered] == pid) & (gallery_camids[ordered] == camid))
            places = np.flatnonzero(gallery_pids[ordered][kept] == pid)  # 0-based places of the right images
            if len(places) == 0:
                continue
            n_queries += 1
            hits_at += places[0] < np.array([1, 5, 10])
            precision_sum += float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    if n_queries == 0:
        raise DataError("no query has an image of the same person by another camera in the gallery")
    rank1, rank5, rank10 = (float(share) for share in hits_at / n_queries)
    return Ranking(rank1, rank5, rank10, precision_sum / n_queries, n_queries)


def rank_held_out(embeddings: FloatArray, samples: Samples) -> Ranking:
    """The same protocol inside one set: the first image of each person and camera asks, all images are the gallery."""
    keys = np.stack([samples.pids, samples.camids], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    return rank(
        embeddings[first],
        samples.pids[first],
        samples.camids[first],
        embeddings,
        samples.pids,
        samples.camids,
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosine distances (1 - cos, in [0, 2]) between images of people who were not trained on."""

    tau_same: float  # at this threshold 1 % of the different-person pairs pass for the same person
    tau_diff: float  # at this threshold 99 % of the same-person pairs pass
    sigma_same: float  # root mean square distance of same-person pairs
    tpr_at_tau_same: float  # share of the same-person pairs below tau_same
    n_same: int
    n_diff: int


def calibrate(embeddings: FloatArray, pids: IntArray, camids: IntArray) -> dict[str, Calibration]:
    """embeddings (N, D), unit rows. Every unordered pair of images counts once.

    Keys: `pooled` (what the ONNX metadata carries), and its parts `same_camera` and `cross_camera`.
    """
    i, j = np.triu_indices(len(embeddings), k=1)
    dist = (1.0 - embeddings @ embeddings.T)[i, j]
    same_person, same_camera = pids[i] == pids[j], camids[i] == camids[j]
    groups = {
        "pooled": np.ones(len(dist), dtype=bool),
        "same_camera": same_camera,
        "cross_camera": ~same_camera,
    }
    return {
        name: _thresholds(dist[chosen & same_person], dist[chosen & ~same_person])
        for name, chosen in groups.items()
        if (chosen & same_person).any() and (chosen & ~same_person).any()
    }


def _thresholds(same: FloatArray, diff: FloatArray) -> Calibration:
    tau_same = float(np.quantile(diff, 0.01))
    return Calibration(
        tau_same=tau_same,
        tau_diff=float(np.quantile(same, 0.99)),
        sigma_same=float(np.sqrt(np.mean(np.square(same, dtype=np.float64)))),
        tpr_at_tau_same=float(np.mean(same <= tau_same)),
        n_same=len(same),
        n_diff=len(diff),
    )


def as_row(scores: Ranking | Calibration) -> dict[str, float]:
    return {key: float(value) for key, value in asdict(scores).items()}
