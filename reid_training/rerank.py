"""Re-ranking by k-reciprocal neighbours: two images are close if they share neighbours.

Re-ranking Person Re-identification with k-reciprocal Encoding. Zhun Zhong, Liang Zheng, Donglin Cao, Shaozi Li.
CVPR 2017, https://arxiv.org/abs/1701.03717

What we take, for images i, j, q of query and gallery together (numbers are the paper's sections):
(3.2)  N(i, k): i and its k nearest others.       R(i, k) = {j in N(i, k): i in N(j, k)}
       R*(i) = R(i, k1) and every R(q, k1/2), q in R(i, k1), of which at least 2/3 lie in R(i, k1)
(3.3)  V_i(j) = exp(-d(i, j)) for j in R*(i), else 0
       d_J(i, j) = 1 - sum min(V_i, V_j) / sum max(V_i, V_j)
(3.4)  before that, V_i becomes the mean of V over the k2 images nearest to i, i itself the first of them
(3.5)  d* = (1 - lambda) d_J + lambda d
Where we differ: d is the cosine distance, as everywhere here, without a normalisation that depends on the data. All
rows are sparse, so that memory grows with k1 * k2 * (Q + G), not with (Q + G)^2. Cameras play no part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from reid_training.errors import DataError
from tracker.settings import Count, Settings, Share

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RerankConfig(Settings):
    """Defaults: the paper's for Market-1501."""

    k1: Count = 20
    k2: Count = 6
    lambda_: Share = 0.3


def reranked_rows(
    query: FloatArray, gallery: FloatArray, config: RerankConfig | None = None, chunk: int = 256
) -> Callable[[int, int], FloatArray]:
    """query (Q, D), gallery (G, D), rows of unit length; junk must be out of the gallery, it would be a neighbour.

    Returns rows(start, stop) -> (stop - start, G): the distances of those queries, computed when asked for.
    """
    config = config or RerankConfig()
    emb = np.concatenate([query, gallery])
    if not np.isfinite(emb).all():
        raise DataError("the network gives embeddings that are not finite; there is nothing to rank")
    near = nearest(emb, max(config.k1, config.k2 - 1), chunk)
    code = expand(encode(emb, reciprocal_sets(near, config.k1)), near, config.k2)
    n_query = len(query)
    of_gallery = code[n_query:].tocsc()  # column j: the gallery images that have image j among their neighbours
    mass = np.asarray(code.sum(axis=1), dtype=np.float32).ravel()

    def rows(start: int, stop: int) -> FloatArray:
        dist = 1.0 - query[start:stop] @ gallery.T
        for row, i in enumerate(range(start, stop)):
            shared = _shared_mass(code, i, of_gallery)
            jaccard = 1.0 - shared / (mass[i] + mass[n_query:] - shared)  # sum max = both masses - sum min
            dist[row] = (1.0 - config.lambda_) * jaccard + config.lambda_ * dist[row]
        return dist

    return rows


def nearest(emb: FloatArray, k: int, chunk: int = 256) -> IntArray:
    """emb (N, D), unit rows. Returns (N, 1 + min(k, N - 1)): the image itself, then its nearest, nearest first."""
    n = len(emb)
    k = min(k, n - 1)
    near = np.empty((n, k + 1), np.int64)
    for start in range(0, n, chunk):
        sim = emb[start : start + chunk] @ emb.T  # (q, N)
        local = np.arange(len(sim))
        near[start : start + chunk, 0] = start + local
        if k == 0:
            continue
        sim[local, start + local] = -np.inf  # an image and its copies: it is its own first neighbour, not they
        found = np.argpartition(sim, n - k, axis=1)[:, n - k :]
        order = np.argsort(-np.take_along_axis(sim, found, axis=1), axis=1, kind="stable")
        near[start : start + chunk, 1:] = np.take_along_axis(found, order, axis=1)
    return near


def reciprocal_sets(near: IntArray, k1: int) -> sparse.csr_array:
    """R* of section 3.2: near (N, >= 1 + k1) or all there are. Returns (N, N), non-zero where j is in R*(i)."""
    wide, narrow = _reciprocal(near, k1), _reciprocal(near, (k1 + 1) // 2)
    n_narrow = np.asarray(narrow.sum(axis=1)).ravel()
    # |R(i, k1) and R(q, k1/2)| for the q in R(i, k1) alone; never zero there, q itself may be the only one.
    overlap = (wide * (wide @ narrow.T)).tocoo()
    joins = 3 * overlap.data >= 2 * n_narrow[overlap.col]
    joined = sparse.csr_array((overlap.data[joins] > 0, (overlap.row[joins], overlap.col[joins])), shape=wide.shape)
    return (wide + joined.astype(np.int32) @ narrow).tocsr()


def _reciprocal(near: IntArray, k: int) -> sparse.csr_array:
    """R(i, k) of section 3.2 in row i of a matrix of 0 and 1."""
    n, k = len(near), min(k, near.shape[1] - 1)
    ends = np.arange(n + 1) * (k + 1)
    neighbours = sparse.csr_array((np.ones(n * (k + 1), np.int32), near[:, : k + 1].ravel(), ends), shape=(n, n))
    return (neighbours * neighbours.T).tocsr()


def encode(emb: FloatArray, sets: sparse.csr_array, chunk: int = 16384) -> sparse.csr_array:
    """V of section 3.3. Same shape and places as `sets`."""
    pairs = sets.tocoo()
    weights = np.empty(pairs.nnz, np.float32)
    for start in range(0, pairs.nnz, chunk):
        part = slice(start, start + chunk)
        dist = 1.0 - np.einsum("nd,nd->n", emb[pairs.row[part]], emb[pairs.col[part]])
        weights[part] = np.exp(-dist)
    return sparse.csr_array((weights, (pairs.row, pairs.col)), shape=sets.shape)


def expand(code: sparse.csr_array, near: IntArray, k2: int) -> sparse.csr_array:
    """Local query expansion, section 3.4."""
    n, k2 = len(near), min(k2, near.shape[1])
    share = np.full(n * k2, 1.0 / k2, np.float32)
    mean_of = sparse.csr_array((share, near[:, :k2].ravel(), np.arange(n + 1) * k2), shape=(n, n))
    return (mean_of @ code).tocsr()


def _shared_mass(code: sparse.csr_array, i: int, of_gallery: sparse.csc_array) -> FloatArray:
    """Sum over j of min(V_i(j), V_g(j)) for every gallery image g: (G,). Touches the shared neighbours alone."""
    row = slice(code.indptr[i], code.indptr[i + 1])
    columns, weights = code.indices[row], code.data[row]
    starts, stops = of_gallery.indptr[columns], of_gallery.indptr[columns + 1]
    counts = stops - starts
    # Places of all entries of those columns: each column's start, counted up.
    places = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    smaller = np.minimum(of_gallery.data[places], np.repeat(weights, counts))
    return np.bincount(of_gallery.indices[places], smaller, minlength=of_gallery.shape[0]).astype(np.float32)
