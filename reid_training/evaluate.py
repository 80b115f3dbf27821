"""Retrieval scores (rank-1, mAP) and distance thresholds for a tracker, from embeddings and labels; NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples, ranking_cameras
from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
JUNK = -1
SAME_FPR = 0.01  # the false positive rate that defines tau_same


# Distances of the queries start .. stop - 1 to the whole gallery: (start, stop) -> (stop - start, G).
DistanceRows = Callable[[int, int], FloatArray]
# Which gallery images are right and which are wrong for these queries, each (stop - start, G); the others are ignored.
AnswerRows = Callable[[int, int], tuple[BoolArray, BoolArray]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Shares in [0, 1]. The first four: over the queries that have a right answer in the gallery."""

    rank1: float
    rank5: float
    rank10: float
    mean_ap: float
    # Verification, over all pairs of a query and a gallery image: share of the same-person pairs accepted at the
    # loosest threshold that accepts at most that share of the different-person pairs; nan if there are none of those.
    tpr_at_fpr_1e2: float
    tpr_at_fpr_1e3: float
    n_queries: int
    n_same_pairs: int
    n_diff_pairs: int


def rank(
    query: FloatArray,
    query_pids: IntArray,
    query_camids: IntArray,
    gallery: FloatArray,
    gallery_pids: IntArray,
    gallery_camids: IntArray,
    chunk: int = 256,
) -> Ranking:
    """The single-query protocol of Market-1501 by cosine distance: query (Q, D), gallery (G, D), unit rows."""
    _check_finite(query, gallery)
    return rank_by(cosine_rows(query, gallery), query_pids, query_camids, gallery_pids, gallery_camids, chunk)


def rank_in_videos(
    embeddings: FloatArray, pids: IntArray, camids: IntArray, frames: IntArray, min_gap: int, chunk: int = 256
) -> Ranking:
    """Re-identification within a video: find the same person at least `min_gap` >= 1 frames later.

    embeddings (N, D), unit rows; pids, camids (the video) and frames (N,). Every crop asks for all other crops of its
    video. The same person nearer than `min_gap` frames, the crop itself among them, is ignored: it looks alike because
    it is almost the same picture. Other people always count, in the same frame too.
    Memory: that of `_score`, and 16 * chunk * N bytes for the frames between two crops.
    """
    _check_finite(embeddings)

    def answers(start: int, stop: int) -> tuple[BoolArray, BoolArray]:
        block = slice(start, stop)
        same_video = camids[block, None] == camids
        is_same = pids[block, None] == pids
        is_far = np.abs(frames[block, None] - frames) >= min_gap
        return same_video & is_same & is_far, same_video & ~is_same

    n_diff = 2 * (_equal_pairs(camids) - _equal_pairs(pids, camids))
    nothing = f"no person is seen twice in one video at least {min_gap} frames apart"
    return _score(cosine_rows(embeddings, embeddings), answers, len(embeddings), n_diff, chunk, nothing)


def _check_finite(*embeddings: FloatArray) -> None:
    if not all(np.isfinite(rows).all() for rows in embeddings):
        raise DataError("the network gives embeddings that are not finite; there is nothing to rank")


def cosine_rows(query: FloatArray, gallery: FloatArray) -> DistanceRows:
    """Cosine distances, a block of rows at a time: query (Q, D), gallery (G, D), unit rows."""

    def rows(start: int, stop: int) -> FloatArray:
        dist: FloatArray = query[start:stop] @ gallery.T
        return np.subtract(1.0, dist, out=dist)

    return rows


def rank_by(
    distance_rows: DistanceRows,
    query_pids: IntArray,
    query_camids: IntArray,
    gallery_pids: IntArray,
    gallery_camids: IntArray,
    chunk: int = 256,
) -> Ranking:
    """The single-query protocol of Market-1501 by any distance.

    For each query the gallery is sorted by distance after taking out (1) images of the same person by the same camera
    and (2) junk (pid -1). Distractors (pid 0) stay and are wrong. Average precision is the mean of the precision at
    each right image; a query without a right image is left out of ranks and mAP. Equal distances: gallery order.
    The pairs that remain are also scored one by one (verification).
    """
    is_junk = gallery_pids == JUNK

    def answers(start: int, stop: int) -> tuple[BoolArray, BoolArray]:
        is_same = query_pids[start:stop, None] == gallery_pids
        same_camera = query_camids[start:stop, None] == gallery_camids
        return is_same & ~same_camera & ~is_junk, ~is_same & ~is_junk

    n_diff = _different_pairs(query_pids, gallery_pids[~is_junk])
    nothing = "no query has an image of the same person by another camera in the gallery"
    return _score(distance_rows, answers, len(query_pids), n_diff, chunk, nothing)


def _score(
    distance_rows: DistanceRows, answer_rows: AnswerRows, n_rows: int, n_diff: int, chunk: int, nothing: str
) -> Ranking:
    """Ranks and verification of n_rows queries with n_diff wrong pairs in all; `nothing` says why none has an answer.

    Memory: about 8 * chunk * G bytes, and the one per cent of the different-person pairs that lies nearest.
    """
    allowed = [n_diff // 100, n_diff // 1000]  # false accepts at FPR 1e-2 and 1e-3, exact in integers
    nearest_diff = _Lowest(allowed[0] + 1)
    same: list[FloatArray] = []
    hits_at = np.zeros(3)
    precision_sum, n_queries = 0.0, 0
    for start in range(0, n_rows, chunk):
        stop = min(start + chunk, n_rows)
        dist = distance_rows(start, stop)  # (q, G)
        is_right, is_wrong = answer_rows(start, stop)
        kept = is_right | is_wrong
        nearest_diff.add(dist[is_wrong & (dist <= nearest_diff.bound)])
        same.append(dist[is_right])
        for row in np.flatnonzero(is_right.any(axis=1)):
            places = _places(dist[row], is_right[row], kept[row])
            n_queries += 1
            hits_at += places[0] < np.array([1, 5, 10])
            precision_sum += float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    if n_queries == 0:
        raise DataError(nothing)
    same_dist = np.concatenate(same)
    rank1, rank5, rank10 = (float(share) for share in hits_at / n_queries)
    mean_ap = precision_sum / n_queries
    # The first different-person pair that may no longer be accepted; what lies before it is.
    tpr_1e2, tpr_1e3 = (float(np.mean(same_dist < nearest_diff.value(n))) if n_diff else float("nan") for n in allowed)
    return Ranking(rank1, rank5, rank10, mean_ap, tpr_1e2, tpr_1e3, n_queries, len(same_dist), n_diff)


def _places(dist: FloatArray, is_right: BoolArray, kept: BoolArray) -> IntArray:
    """0-based places of the right images among the kept ones, ascending: dist, is_right and kept (G,).

    Sorting values and looking up a few of them is several times as fast as an argsort of the gallery.
    """
    in_order = np.sort(dist[kept])
    rows = np.flatnonzero(is_right)
    places = np.searchsorted(in_order, dist[rows], side="left").astype(np.int64)
    n_equal = np.searchsorted(in_order, dist[rows], side="right") - places
    for i in np.flatnonzero(n_equal > 1):
        before = slice(0, rows[i])
        places[i] += np.count_nonzero(kept[before] & (dist[before] == dist[rows[i]]))
    return np.sort(places)


def _different_pairs(query_pids: IntArray, gallery_pids: IntArray) -> int:
    people, counts = np.unique(gallery_pids, return_counts=True)
    count_of = dict(zip(people.tolist(), counts.tolist(), strict=True))
    n_same = sum(count_of.get(pid, 0) for pid in query_pids.tolist())
    return int(len(query_pids) * len(gallery_pids) - n_same)


class _Lowest:
    """The `count` smallest values of a stream, exactly. Holds 2 * count of them and one chunk."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: FloatArray = np.empty(0, np.float32)
        self.bound = np.inf  # larger values need not be added

    def add(self, values: FloatArray) -> None:
        self.kept = np.concatenate([self.kept, values])
        if len(self.kept) > 2 * self.count:
            self.kept = np.partition(self.kept, self.count - 1)[: self.count]
            self.bound = float(self.kept[-1])

    def value(self, place: int) -> float:
        """The value at a 0-based place below `count`."""
        return float(np.partition(self.kept, place)[place])


def rank_held_out(embeddings: FloatArray, samples: Samples) -> Ranking:
    """The same protocol inside one set: the first image of each person and camera is a query, all are the gallery."""
    camids = ranking_cameras(samples)
    _, first = np.unique(np.stack([samples.pids, camids], axis=1), axis=0, return_index=True)
    return rank(embeddings[first], samples.pids[first], camids[first], embeddings, samples.pids, camids)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosine distances (1 - cos, in [0, 2]) between images of held-out people."""

    tau_same: float  # at this threshold 1 % of the different-person pairs pass for the same person
    tau_diff: float  # at this threshold 99 % of the same-person pairs pass
    sigma_same: float  # root mean square distance of same-person pairs
    tpr_at_tau_same: float  # share of the same-person pairs below tau_same
    n_same: int
    n_diff: int


def calibrate(embeddings: FloatArray, pids: IntArray, camids: IntArray, chunk: int = 256) -> dict[str, Calibration]:
    """embeddings (N, D), unit rows. Every unordered pair of images counts once.

    Keys: `pooled` (what the ONNX metadata carries), and its parts `same_camera` and `cross_camera`; a part without
    pairs of both kinds is left out. Memory: the same-person pairs, two per cent of the others, and chunk * N.
    """
    alike, alike_here = _equal_pairs(pids), _equal_pairs(pids, camids)
    all_pairs, here = len(pids) * (len(pids) - 1) // 2, _equal_pairs(camids)
    n_diff = {
        "pooled": all_pairs - alike,
        "same_camera": here - alike_here,
        "cross_camera": all_pairs - alike - here + alike_here,
    }
    same: dict[str, list[FloatArray]] = {name: [] for name in n_diff}
    # A quantile between two pairs needs both of them.
    diff = {name: _Lowest(min(n, int(SAME_FPR * (n - 1)) + 2)) for name, n in n_diff.items() if n > 0}
    for start in range(0, len(embeddings), chunk):
        block = slice(start, start + chunk)
        dist: FloatArray = 1.0 - embeddings[block] @ embeddings[start:].T  # (q, N - start)
        once = np.triu(np.ones(dist.shape, dtype=bool), k=1)
        same_person = pids[block, None] == pids[start:]
        same_camera = camids[block, None] == camids[start:]
        parts = {"pooled": once, "same_camera": once & same_camera, "cross_camera": once & ~same_camera}
        for name, chosen in parts.items():
            same[name].append(dist[chosen & same_person])
            if name in diff:
                diff[name].add(dist[chosen & ~same_person & (dist <= diff[name].bound)])
    found = {name: np.concatenate(same[name]) for name in diff}
    return {name: _thresholds(found[name], diff[name], n_diff[name]) for name in diff if len(found[name])}


def _equal_pairs(*labels: IntArray) -> int:
    """Unordered pairs of rows that are equal in all labels."""
    _, counts = np.unique(np.stack(labels, axis=1), axis=0, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def _thresholds(same: FloatArray, diff: _Lowest, n_diff: int) -> Calibration:
    place = SAME_FPR * (n_diff - 1)
    around = [diff.value(int(place)), diff.value(min(int(place) + 1, n_diff - 1))]
    tau_same = float(np.interp(place % 1.0, [0.0, 1.0], around))
    return Calibration(
        tau_same=tau_same,
        tau_diff=float(np.quantile(same, 0.99)),
        sigma_same=float(np.sqrt(np.mean(np.square(same, dtype=np.float64)))),
        tpr_at_tau_same=float(np.mean(same <= tau_same)),
        n_same=len(same),
        n_diff=n_diff,
    )


def as_row(scores: Ranking | Calibration) -> dict[str, float]:
    """The fields by name, as a row of a table."""
    return asdict(scores)


def mean_and_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Mean of the values, and half the width of its 95 % confidence interval: of few-shot accuracy over episodes.

    Normal approximation, 1.96 standard errors: for hundreds of values. At least two, all finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        raise DataError(f"an interval needs at least 2 finite values, got {np.isfinite(found).sum()} of {len(found)}")
    return float(found.mean()), float(1.96 * found.std(ddof=1) / np.sqrt(len(found)))


def class_distance_ratio(embeddings: FloatArray, labels: IntArray) -> float:
    """How far apart classes are for their size: mean distance to the nearest other centre / mean distance to the own.

    embeddings (N, D), labels (N,) of at least two classes. Euclidean; both means are over classes, so that each counts
    alike. It does not change with the scale of the embeddings.
    """
    _check_finite(embeddings)
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"a distance between classes needs at least 2 classes, got {len(classes)}")
    centres = np.zeros((len(classes), embeddings.shape[1]))
    np.add.at(centres, index, embeddings)
    centres /= counts[:, None]
    own = np.linalg.norm(embeddings - centres[index], axis=1)  # (N,)
    spread = np.bincount(index, own) / counts
    squares = np.square(centres).sum(1)
    between = squares[:, None] + squares - 2.0 * centres @ centres.T
    np.fill_diagonal(between, np.inf)
    nearest = np.sqrt(np.maximum(between.min(1), 0.0))
    if not spread.any():
        raise DataError("the images of every class have the same embedding: there is no spread to compare with")
    return float(nearest.mean() / spread.mean())
