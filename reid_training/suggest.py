"""Active labelling: pairs of crops that the metric cannot decide, and crops far from all others.

Active Metric Learning for Supervised Classification. Kumaran et al. 2018, arXiv 1803.10647: boundary and outlier points
as the metric defines them (`methods.mip_mahalanobis`). Here a point is a pair, and the boundary is the calibrated
distance below which the tracker takes two crops for the same person.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from reid_training.data.base import ByteArray, IntArray, Samples, read_image
from reid_training.data.csv_table import read_rows
from reid_training.data.mot_crops import SUFFIXES, TABLE
from reid_training.embedders import Embedder, FloatArray, OnnxEmbedder
from reid_training.errors import DataError, ModelError
from reid_training.methods.mip_mahalanobis import OUTLIER_QUANTILE
from reid_training.runs import replace_file

BOUNDARY, OUTLIER = "boundary", "outlier"
OUTLIER_SHARE = 0.25  # a guess, as in MIPMahalanobis.recommend
CANDIDATES = 60  # pairs considered for each one requested: enough to skip similar ones
DOUBTFUL_PER_CROP = 3
COLUMNS = ("image_a", "image_b", "distance", "threshold", "reason", "table_says", "same")
CROP_PX, GAP_PX, CAPTION_PX, SHEET_COLUMNS = (128, 64), 8, 18, 5


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops and what the table says about them."""

    samples: Samples
    people: tuple[str, ...]  # (N,) "" = unknown
    moments: IntArray  # (N,) camera and frame as one number: two crops of one are two people; negative = unknown


@dataclass(frozen=True, slots=True)
class Pair:
    a: int  # row of the crops
    b: int
    dist: float  # cosine distance
    reason: str


def read_crops(path: Path) -> Crops:
    """A table, the folder of `reid crops` with its table, or any folder of images, without labels."""
    table = path / TABLE if path.is_dir() else path
    if table.is_file():
        rows = list({row.image: row for row in read_rows(table)}.values())
        images, people = [row.image for row in rows], [row.person for row in rows]
        moments = [f"{row.camera}\n{row.frame}" if row.camera and row.frame else "" for row in rows]
    elif path.is_dir():
        images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        people = moments = [""] * len(images)
    else:
        raise DataError(f"no file or folder {path}; --crops takes a table, or a folder of crops")
    if len(images) < 2:
        raise DataError(f"{path}: {len(images)} crops; a pair needs two ({', '.join(sorted(SUFFIXES))})")
    _, numbers = np.unique(np.array(moments, dtype=object), return_inverse=True)
    known = np.where([moment == "" for moment in moments], -1 - np.arange(len(images)), numbers.astype(np.int64))
    nothing = np.full(len(images), -1, dtype=np.int64)
    return Crops(Samples(tuple(images), nothing, nothing), tuple(people), known)


def threshold_of(embedder: Embedder, model: Path) -> float:
    """The threshold calibrated by `reid export`; other models have none."""
    if not isinstance(embedder, OnnxEmbedder):
        raise ModelError(f"{model} has no calibrated threshold; export it (`reid export`), or give --threshold")
    try:
        return float(embedder.metadata["tau_same"])
    except (KeyError, ValueError):
        raise ModelError(f"{model} has no threshold tau_same in its metadata; give --threshold") from None


def suggest_pairs(embeddings: FloatArray, crops: Crops, n: int, threshold: float) -> list[Pair]:
    """At most n pairs, the most useful first; embeddings (N, D), unit rows.

    Pairs with a crop that was taken already, or where both crops are alike to those of a pair taken already, come last.
    """
    if not np.isfinite(embeddings).all():
        row = int(np.argwhere(~np.isfinite(embeddings))[0, 0])
        raise DataError(f"the embedding of {crops.samples.paths[row]} is not finite; is the model damaged?")
    pairs, nearest = _candidates(embeddings, crops.moments, CANDIDATES * n, threshold)
    strange = _outliers(nearest)
    order = {pair: place for place, pair in enumerate(dict.fromkeys([*pairs, *strange]))}
    if not order:
        raise DataError(
            "no pair to ask about: every pair is from one frame of one camera, or its distance differs from "
            f"{threshold:g} by more than half of it"
        )
    found = np.array(list(order))  # (M, 2)
    ranks = _interleaved(np.arange(len(pairs)), np.array([order[pair] for pair in strange], np.int64), OUTLIER_SHARE)
    chosen = _spread_out(ranks, _between(embeddings, found), np.full(len(found), threshold / 2), n)
    dist = 1.0 - np.einsum("md,md->m", embeddings[found[:, 0]], embeddings[found[:, 1]])
    is_strange = np.isin(np.arange(len(found)), [order[pair] for pair in strange])
    reasons = np.where(is_strange, OUTLIER, BOUNDARY)
    return [Pair(int(found[i, 0]), int(found[i, 1]), float(dist[i]), str(reasons[i])) for i in chosen]


def _candidates(
    embeddings: FloatArray, moments: IntArray, n: int, threshold: float, chunk: int = 256
) -> tuple[list[tuple[int, int]], dict[tuple[int, int], float]]:
    """Pairs of a crop with its nearest uncertain ones, and each crop's pair with its nearest other.

    The first are the n pairs nearest to the threshold, nearest first. A pair is uncertain if its distance
    differs from the threshold by at most half of it. Crops of one frame are never a pair. Memory: chunk * N.
    """
    doubtful: dict[tuple[int, int], float] = {}
    nearest: dict[tuple[int, int], float] = {}
    for start in range(0, len(embeddings), chunk):
        rows = np.arange(start, min(start + chunk, len(embeddings)))
        dist = (1.0 - embeddings[rows] @ embeddings.T).astype(np.float64)
        dist[moments[rows, None] == moments] = np.inf  # itself too
        nearest.update(_smallest(dist, rows, 1))
        doubtful.update(
            _smallest(np.where(np.abs(dist - threshold) > threshold / 2, np.inf, dist), rows, DOUBTFUL_PER_CROP)
        )
    return sorted(doubtful, key=lambda pair: (abs(doubtful[pair] - threshold), pair))[:n], nearest


def _smallest(dist: npt.NDArray[np.float64], rows: IntArray, n: int) -> dict[tuple[int, int], float]:
    """The n nearest crops of each row that may be a pair with it, dist (R, N); the smaller crop of a pair first."""
    places = np.argsort(dist, axis=1, kind="stable")[:, :n]
    found = np.take_along_axis(dist, places, axis=1)
    at, nth = np.nonzero(np.isfinite(found))
    pairs = np.sort(np.column_stack([rows[at], places[at, nth]]), axis=1).tolist()
    return {(a, b): value for (a, b), value in zip(pairs, found[at, nth].tolist(), strict=True)}


def _outliers(nearest: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Outlying crops, each paired with its nearest crop; the farthest first."""
    if not nearest:
        return []
    usual = np.quantile(list(nearest.values()), OUTLIER_QUANTILE)
    return sorted((pair for pair, dist in nearest.items() if dist > usual), key=lambda pair: -nearest[pair])


def _between(embeddings: FloatArray, pairs: IntArray) -> npt.NDArray[np.float64]:
    """Distance between pairs, (M, M): match their crops in the better order; the larger of the two distances counts.

    0 where they share a crop.
    """
    first, second = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
    straight = np.maximum(1.0 - first @ first.T, 1.0 - second @ second.T)
    across = 1.0 - first @ second.T
    shared = (pairs[:, None, :, None] == pairs[None, :, None, :]).any(axis=(2, 3))
    return np.where(shared, 0.0, np.minimum(straight, np.maximum(across, across.T)))


def _interleaved(usual: IntArray, rare: IntArray, share: float) -> IntArray:
    """Each row of both once: any prefix has about a `share` of `rare`, while it lasts, then the rest of `usual`."""
    order: list[int] = []
    taken: set[int] = set()
    queues = [list(usual[::-1]), list(rare[::-1])]
    n_rare = 0
    while any(queues):
        wants_rare = bool(queues[1]) and (not queues[0] or n_rare < round(share * (len(order) + 1)))
        row = int(queues[wants_rare].pop())
        if row not in taken:
            taken.add(row)
            order.append(row)
            n_rare += wants_rare
    return np.array(order, dtype=np.int64)


def _spread_out(order: Iterable[int], dist: npt.NDArray[np.float64], near: npt.NDArray[np.float64], n: int) -> IntArray:
    """The first n rows of `order` at a distance of at least `near` (m,) from those chosen before; then skipped rows.

    dist (m, m).
    """
    chosen: list[int] = []
    passed: list[int] = []
    for row in order:
        if len(chosen) == n:
            break
        beside = bool(chosen) and bool((dist[row, chosen] < near[row]).any())
        (passed if beside else chosen).append(int(row))
    return np.array([*chosen, *passed][:n], dtype=np.int64)


def write_table(pairs: Sequence[Pair], crops: Crops, threshold: float, path: Path) -> None:
    """One line for each pair; the column `same` is for the answer."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    for pair in pairs:
        images = (crops.samples.paths[pair.a], crops.samples.paths[pair.b])
        table.writerow([*images, f"{pair.dist:.4f}", f"{threshold:.4f}", pair.reason, said(crops, pair), ""])
    replace_file(path, lambda out: out.write(stream.getvalue().encode()))


def said(crops: Crops, pair: Pair) -> str:
    """Whether the table of the crops gives both the same identity; empty if unknown."""
    one, other = crops.people[pair.a], crops.people[pair.b]
    if not (one and other):
        return ""
    return "same" if one == other else "different"


def write_sheet(pairs: Sequence[Pair], crops: Crops, path: Path) -> None:
    """A PNG with the pairs in the order of the table, counted from 1."""
    cells = [_cell(number, pair, crops) for number, pair in enumerate(pairs, start=1)]
    columns = min(SHEET_COLUMNS, len(cells))
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    png = cv2.imencode(".png", np.concatenate(rows, axis=0)[..., ::-1])[1].tobytes()
    replace_file(path, lambda out: out.write(png))


def _cell(number: int, pair: Pair, crops: Crops) -> ByteArray:
    """Both crops side by side under a caption, on white; RGB."""
    height, width = CROP_PX
    cell = np.full((CAPTION_PX + height + GAP_PX, 2 * width + 2 * GAP_PX, 3), 255, np.uint8)
    for row, left in ((pair.a, 0), (pair.b, width)):
        cell[CAPTION_PX:-GAP_PX, left : left + width] = read_image(crops.samples.paths[row], height, width)
    caption = f"{number}: {pair.dist:.2f} {pair.reason}"
    cv2.putText(cell, caption, (1, CAPTION_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return cell
