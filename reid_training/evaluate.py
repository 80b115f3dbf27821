"""Retrieval scores (rank-k, mAP, MAP@R) and distance thresholds for a tracker, from embeddings and labels.

NumPy only, but for `nmi`, which takes scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray, Samples, ranking_cameras
from reid_training.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
JUNK = -1
# Where the papers look: 1, 2, 4 and 8 for birds and cars, 1 to 1000 for products, 1, 5 and 10 for people.
RANKS = (1, 2, 4, 5, 8, 10, 20, 100, 1000)
SAME_FPR = 0.01  # the false positive rate that defines tau_same


# Distances of the queries start .. stop - 1 to the whole gallery: (start, stop) -> (stop - start, G).
DistanceRows = Callable[[int, int], FloatArray]
# Which gallery images are right and which are wrong for these queries, each (stop - start, G); the others are ignored.
AnswerRows = Callable[[int, int], tuple[BoolArray, BoolArray]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Shares in [0, 1]. Those of ranks and precision: over the queries that have a right answer in the gallery."""

    # Recall at k: whether one of the k nearest images is right. It is 1 where the gallery has no more than k images.
    rank1: float
    rank2: float
    rank4: float
    rank5: float
    rank8: float
    rank10: float
    rank20: float
    rank100: float
    rank1000: float
    mean_ap: float
    # Of the R nearest images, where R are right: share of right ones, and its mean precision at the right ones, which
    # counts a right image that is missing as 0.
    r_precision: float
    map_at_r: float
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
    The pairs that remain are also scored one by one (verification). Where every image is by a camera of its own
    (unknown cameras), each query asks for all images of its person but itself.
    """
    answers = by_other_cameras(query_pids, query_camids, gallery_pids, gallery_camids)
    is_person = gallery_pids != JUNK
    n_diff = len(query_pids) * np.count_nonzero(is_person) - _equal(query_pids, gallery_pids[is_person]).sum()
    nothing = "no query has an image of the same person by another camera in the gallery"
    return _score(distance_rows, answers, len(query_pids), int(n_diff), chunk, nothing)


def by_other_cameras(
    query_pids: IntArray, query_camids: IntArray, gallery_pids: IntArray, gallery_camids: IntArray
) -> AnswerRows:
    """Right: the same person by another camera; wrong: all other people, by any camera. See `rank_by`."""
    is_junk = gallery_pids == JUNK

    def answers(start: int, stop: int) -> tuple[BoolArray, BoolArray]:
        is_same = query_pids[start:stop, None] == gallery_pids
        same_camera = query_camids[start:stop, None] == gallery_camids
        return is_same & ~same_camera & ~is_junk, ~is_same & ~is_junk

    return answers


def rank_in_cameras(distance_rows: DistanceRows, query: Samples, gallery: Samples, chunk: int = 256) -> Ranking | None:
    """As `rank_by`, inside each camera: another image of the same person, among the images of the query's camera.

    Junk is left out, and so is the query's own image. None where no person has two images by one camera.
    """
    is_junk = gallery.pids == JUNK
    files = {path: number for number, path in enumerate(dict.fromkeys((*query.paths, *gallery.paths)))}
    query_files, gallery_files = (np.array([files[path] for path in one.paths]) for one in (query, gallery))

    def answers(start: int, stop: int) -> tuple[BoolArray, BoolArray]:
        block = slice(start, stop)
        is_same = query.pids[block, None] == gallery.pids
        among = (query.camids[block, None] == gallery.camids) & ~is_junk
        return is_same & among & (query_files[block, None] != gallery_files), ~is_same & among

    keys = [(one.camids, one.pids, numbers) for one, numbers in ((query, query_files), (gallery, gallery_files))]
    people = tuple(column[~is_junk] for column in keys[1])
    here, alike, itself = (_equal(np.stack(keys[0][:n], 1), np.stack(people[:n], 1)) for n in (1, 2, 3))
    if not (alike > itself).any():
        return None
    return _score(distance_rows, answers, len(query), int((here - alike).sum()), chunk, "no answer in any camera")


def _score(
    distance_rows: DistanceRows, answer_rows: AnswerRows, n_rows: int, n_diff: int, chunk: int, nothing: str
) -> Ranking:
    """Ranks and verification of n_rows queries with n_diff wrong pairs in all; `nothing` says why none has an answer.

    References: MAP@R and R-precision: A Metric Learning Reality Check. Musgrave, Belongie, Lim. ECCV 2020,
        https://arxiv.org/abs/2003.08505.
    Memory: about 8 * chunk * G bytes, and the one per cent of the different-person pairs that lies nearest.
    """
    allowed = [n_diff // 100, n_diff // 1000]  # false accepts at FPR 1e-2 and 1e-3, exact in integers
    nearest_diff = _Lowest(allowed[0] + 1)
    same: list[FloatArray] = []
    hits_at = np.zeros(len(RANKS))
    precisions = np.zeros(3)  # sums over queries: average precision, R-precision, average precision at R
    n_queries = 0
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
            hits_at += places[0] < np.array(RANKS)
            precision = np.arange(1, len(places) + 1) / (places + 1)  # at each right image
            in_r = places < len(places)
            precisions += np.array([precision.mean(), in_r.mean(), (precision * in_r).mean()])
    if n_queries == 0:
        raise DataError(nothing)
    same_dist = np.concatenate(same)
    ranks = {f"rank{k}": float(share) for k, share in zip(RANKS, hits_at / n_queries, strict=True)}
    mean_ap, r_precision, map_at_r = (float(share) for share in precisions / n_queries)
    # The first different-person pair that may no longer be accepted; what lies before it is.
    tpr_1e2, tpr_1e3 = (float(np.mean(same_dist < nearest_diff.value(n))) if n_diff else float("nan") for n in allowed)
    return Ranking(
        **ranks,
        mean_ap=mean_ap,
        r_precision=r_precision,
        map_at_r=map_at_r,
        tpr_at_fpr_1e2=tpr_1e2,
        tpr_at_fpr_1e3=tpr_1e3,
        n_queries=n_queries,
        n_same_pairs=len(same_dist),
        n_diff_pairs=n_diff,
    )


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


def _equal(query: IntArray, gallery: IntArray) -> IntArray:
    """How many rows of the gallery are equal to each query, (Q,): both (n,) or (n, C)."""
    _, inverse = np.unique(np.concatenate([query, gallery]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse[len(query) :], minlength=int(inverse.max(initial=0)) + 1)
    return counts[inverse[: len(query)]].astype(np.int64)


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


def nmi(embeddings: FloatArray, labels: IntArray, seed: int = 0) -> float:
    """Normalised mutual information of the labels and k-means clusters, as many as there are labels; in [0, 1].

    embeddings (N, D), labels (N,). The mutual information over the mean of both entropies. One run of k-means from
    k-means++ centres: another seed gives a slightly different value.

    References: Introduction to Information Retrieval. Manning, Raghavan, Schütze. 2008, section 16.3.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ModuleNotFoundError:
        raise ConfigError("the NMI of k-means needs scikit-learn: pip install scikit-learn") from None
    _check_finite(embeddings)
    clusters = KMeans(len(np.unique(labels)), n_init=1, random_state=seed).fit_predict(embeddings)
    return float(normalized_mutual_info_score(labels, clusters))


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
