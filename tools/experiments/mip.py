"""Experiment of the mixed-integer metric: nearest neighbours against Euclid, and labels saved by active learning.

Active Metric Learning for Supervised Classification. Kumaran et al. 2018, arXiv 1803.10647. The sets are those of the
UCI repository that scikit-learn ships (extra dev), and two moons with strong noise, generated here.

Metric: few labelled points, tested on the others; both sides have the same points, standardised, the first 32 principal
components where there are more features. The solver's status is given beside the name of the data.
Active: the same metric learner on both sides; one picks the points that `recommend` names, the other picks at random.
Accuracy over the number of labels is plotted in OUT/curves.png, and its mean over the curve is a row of the table.
People: Market-1501's queries, one image for each person and camera, embedded by
weights/reid_fast.onnx, which was trained on none of them. The metric is fitted to half of the people; every image of
the other half is a query among all others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from scipy.spatial.distance import cdist

from reid_training.data import market1501
from reid_training.data.base import unpack
from reid_training.embedders import OnnxEmbedder, embed_samples
from reid_training.errors import DataError
from reid_training.methods.mip_mahalanobis import FloatArray, IntArray, MIPMahalanobis
from reid_training.runs import replace_file
from tools.experiments import results
from tools.experiments.protocols import write_whole
from tools.experiments.table import Comparison

NAME = "mip_mahalanobis"
TITLE = "Mixed-integer Mahalanobis metric against Euclid"
ACTIVE_TITLE = "Mixed-integer metric: points asked for against random ones"
CLAIM = "not available (toy examples, image and medical data)"
PEOPLE_TITLE = "Mixed-integer metric behind reid_fast, people it has never seen"
PEOPLE_CLAIM = "none: not the paper's"
MOONS, PEOPLE = "moons and noise", "Market-1501 queries"
MAX_COMPONENTS = 32
MODEL = Path(__file__).resolve().parents[2] / "weights" / "reid_fast.onnx"


@dataclass(frozen=True, slots=True)
class Setting:
    """Of both experiments."""

    n_labelled: tuple[tuple[str, int], ...] = (
        (MOONS, 45),
        ("iris", 45),
        ("wine", 45),
        ("breast_cancer", 60),
        ("digits", 200),
    )
    k: int = 3  # of all fits but those of the curves, which begin with two points of a class and have the default, 1
    time_limit_s: float = 10.0  # likewise: the default; the curves have the heuristic alone
    active: tuple[str, ...] = (MOONS, "iris", "wine", "breast_cancer")
    first_per_class: int = 2
    n_asked: int = 4  # at a time
    n_rounds: int = 10
    n_neighbours: tuple[int, ...] = (1, 3)
    people: bool = True  # where they are


FULL = Setting()
# Drawn: needs no data and no scikit-learn.
REDUCED = Setting(((MOONS, 16),), time_limit_s=0.5, active=(MOONS,), n_rounds=2, people=False)


@dataclass(frozen=True, slots=True)
class Points:
    values: FloatArray  # (N, p)
    labels: IntArray  # (N,)

    def take(self, rows: IntArray) -> Points:
        return Points(self.values[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Result:
    """Of one set and seed."""

    baseline: tuple[float, ...]  # shares of right answers: by number of neighbours, or along the curve
    method: tuple[float, ...]
    labels: tuple[int, ...] = ()  # of the curve
    baseline_seconds: float = 0.0  # processor time of fitting
    method_seconds: float = 0.0
    status: str = ""
    value: float = 0.0  # of the objective, in points given up
    gap: float = 0.0


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int, setting: Setting = FULL) -> list[Comparison]:
    """Rows of the table; one file for each set and seed in `out`, and existing ones are not repeated."""
    asked = [("metric", name) for name, _ in setting.n_labelled] + [("active", name) for name in setting.active]
    people = embedded_people(data, out) if setting.people else None
    if people is not None:
        asked.append(("people", PEOPLE))
    files = {(kind, name, seed): _file(out, kind, name, seed, setting) for kind, name in asked for seed in seeds}
    tasks = [(*task, setting, file, people) for task, file in files.items() if not file.is_file()]
    results.run_all(run_one, tasks, jobs)
    by_set = {(kind, name): [results.read(Result, files[kind, name, seed]) for seed in seeds] for kind, name in asked}
    curves = {name: by_set["active", name] for name in setting.active}
    draw(curves, out / "curves.png")
    rows = []
    for name, n in setting.n_labelled:
        rows += metric_rows(f"{name}, {n} labels", by_set["metric", name], setting)
    rows += [active_row(name, found) for name, found in curves.items()]
    return rows + (people_rows(by_set["people", PEOPLE]) if people is not None else [])


def run_reduced(out: Path, seeds: Sequence[int], jobs: int = 1) -> list[Comparison]:
    """Takes seconds, on generated data only."""
    return run(Path(), out, seeds, jobs, REDUCED)


def metric_rows(data: str, found: Sequence[Result], setting: Setting) -> list[Comparison]:
    return [
        _row(NAME, TITLE, CLAIM, f"{data}; {proven(found)}", f"{k}-NN", found, place)
        for place, k in enumerate(setting.n_neighbours)
    ]


def people_rows(found: Sequence[Result]) -> list[Comparison]:
    measures = ("rank-1, against the same 32 components", "rank-1, against the cosine of all 128")
    return [
        _row(f"{NAME}_people", PEOPLE_TITLE, PEOPLE_CLAIM, f"{PEOPLE}; {proven(found)}", measure, found, place)
        for place, measure in enumerate(measures)
    ]


def _row(name: str, title: str, claim: str, data: str, measure: str, found: Sequence[Result], place: int) -> Comparison:
    scores = [tuple(getattr(result, role)[place] for result in found) for role in ("baseline", "method")]
    seconds = [tuple(getattr(result, f"{role}_seconds") for result in found) for role in ("baseline", "method")]
    return Comparison(name, title, claim, data, measure, scores[0], scores[1], seconds[0], seconds[1])


def active_row(name: str, found: Sequence[Result]) -> Comparison:
    means = [dataclasses.replace(one, baseline=_mean(one.baseline), method=_mean(one.method)) for one in found]
    return _row(f"{NAME}_active", ACTIVE_TITLE, CLAIM, name, "1-NN, mean over the curve", means, 0)


def _mean(shares: Sequence[float]) -> tuple[float]:
    return (statistics.fmean(shares),)


def proven(found: Sequence[Result]) -> str:
    """Status of the fits, and the mean gap between value and bound over the seeds."""
    ends = ", ".join(f"{n} {status}" for status, n in Counter(result.status for result in found).most_common())
    value, gap = (statistics.fmean(getattr(result, name) for result in found) for name in ("value", "gap"))
    return f"{ends}, gap {gap:.1f} of {value:.1f}"


def _file(out: Path, kind: str, name: str, seed: int, setting: Setting) -> Path:
    """Named by everything that decides its content, except the code."""
    facts: list[object] = [kind, name, setting.n_neighbours]
    if kind == "metric":
        facts += [dict(setting.n_labelled)[name], setting.time_limit_s, setting.k]
    elif kind == "active":
        facts += [setting.first_per_class, setting.n_asked, setting.n_rounds]
    else:
        facts += [setting.time_limit_s, setting.k, model_digest()]
    return out / f"{kind}-{name.replace(' ', '_')}-{results.digest(*facts)}-{seed}.json"


def run_one(kind: str, name: str, seed: int, setting: Setting, file: Path, people: Points | None = None) -> None:
    if people is not None and kind == "people":
        result = compare_people(people, seed, setting)
    elif kind == "metric":
        result = compare_metrics(read(name, seed), dict(setting.n_labelled)[name], seed, setting)
    else:
        result = compare_questions(read(name, seed), seed, setting)
    results.write(file, result)


# ---------------------------------------------------------------- metric


def compare_metrics(points: Points, n_labelled: int, seed: int, setting: Setting) -> Result:
    """`n_labelled` points are known; all others are tested."""
    known, unseen = split(points, n_labelled, np.random.default_rng([seed, 1]))
    known, unseen = prepared(known, known), prepared(unseen, known)
    started = time.process_time()
    model = MIPMahalanobis(k=setting.k, time_limit_s=setting.time_limit_s, seed=seed).fit(known.values, known.labels)
    seconds = time.process_time() - started
    euclid = tuple(accuracy(known, unseen, k) for k in setting.n_neighbours)
    ours = tuple(accuracy(bent(model, known), bent(model, unseen), k) for k in setting.n_neighbours)
    return Result(euclid, ours, method_seconds=seconds, status=model.status_, value=model.value_, gap=model.gap_)


def split(points: Points, n: int, rng: np.random.Generator) -> tuple[Points, Points]:
    """About n points, each class by its share and at least two of it, and the others."""
    chosen = []
    for one in np.unique(points.labels):
        rows = rng.permutation(np.flatnonzero(points.labels == one))
        chosen.append(rows[: max(round(n * len(rows) / len(points.labels)), 2)])
    known = np.sort(np.concatenate(chosen))
    return points.take(known), points.take(np.setdiff1d(np.arange(len(points.labels)), known))


def prepared(points: Points, like: Points) -> Points:
    """Standardised and projected on the principal components of `like`; labels are not used."""
    mean, deviation = like.values.mean(0), like.values.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    values = (points.values - mean) / deviation
    if values.shape[1] > MAX_COMPONENTS:
        _, _, directions = np.linalg.svd((like.values - mean) / deviation, full_matrices=False)
        values = values @ directions[:MAX_COMPONENTS].T
    return Points(values, points.labels)


def bent(model: MIPMahalanobis, points: Points) -> Points:
    return Points(model.transform(points.values), points.labels)


def accuracy(known: Points, asked: Points, k: int) -> float:
    """Share of right answers of the k nearest neighbours; of classes with as many votes the nearest one's wins."""
    nearest = np.argsort(cdist(asked.values, known.values), axis=1, kind="stable")[:, :k]
    votes = known.labels[nearest]  # (Q, k)
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)
    answers = votes[np.arange(len(votes)), counts.argmax(1)]
    return float((answers == asked.labels).mean())


# ---------------------------------------------------------------- active


def compare_questions(points: Points, seed: int, setting: Setting) -> Result:
    """Half of the points form the pool, with the same initial labels; the other half is scored."""
    rng = np.random.default_rng([seed, 2])
    pool, unseen = split(points, len(points.labels) // 2, rng)
    pool, unseen = prepared(pool, pool), prepared(unseen, pool)
    per_class = [np.flatnonzero(pool.labels == one) for one in np.unique(pool.labels)]
    first = np.concatenate([rng.permutation(rows)[: setting.first_per_class] for rows in per_class])
    random, random_seconds = curve(pool, unseen, first, seed, setting, active=False)
    active, seconds = curve(pool, unseen, first, seed, setting, active=True)
    labels = tuple(min(len(first) + setting.n_asked * i, len(pool.labels)) for i in range(setting.n_rounds + 1))
    return Result(random, active, labels, random_seconds, seconds)


def curve(
    pool: Points, unseen: Points, first: IntArray, seed: int, setting: Setting, *, active: bool
) -> tuple[tuple[float, ...], float]:
    """Accuracies after 0 .. n_rounds rounds of questions, and processor seconds."""
    started = time.process_time()
    rng = np.random.default_rng([seed, 3])
    labelled, shares = first, []
    for _ in range(setting.n_rounds + 1):
        known = pool.take(labelled)
        model = MIPMahalanobis(time_limit_s=0.0, seed=seed).fit(known.values, known.labels)
        shares.append(accuracy(bent(model, known), bent(model, unseen), 1))
        rest = np.setdiff1d(np.arange(len(pool.labels)), labelled)
        if len(rest) == 0:
            continue
        n = min(setting.n_asked, len(rest))
        asked = model.recommend(pool.values[rest], n) if active else rng.permutation(len(rest))[:n]
        labelled = np.concatenate([labelled, rest[asked]])
    return tuple(shares), time.process_time() - started


def labels_for(share: float, labels: Sequence[int], shares: Sequence[float]) -> float:
    """Where a curve reaches a share of right answers for the first time, linear between its points; nan: nowhere."""
    for place, found in enumerate(shares):
        if found >= share:
            if place == 0:
                return float(labels[0])
            before = shares[place - 1]
            part = (share - before) / (found - before)
            return labels[place - 1] + part * (labels[place] - labels[place - 1])
    return float("nan")


def saved(found: Sequence[Result]) -> str:
    """Labels until both first reach the final accuracy of random choice, means over the seeds."""
    labels = found[0].labels
    random, active = (np.mean([getattr(result, role) for result in found], axis=0) for role in ("baseline", "method"))
    usual, needed = (labels_for(random[-1], labels, shares) for shares in (random, active))
    if np.isnan(needed):
        return f"more than {labels[-1]} labels for {usual:.0f}"
    return f"{needed:.0f} labels for {usual:.0f} ({needed / usual - 1:+.0%})"


def draw(curves: dict[str, list[Result]], path: Path) -> None:
    """Accuracy over labels, mean and deviation over the seeds; the titles state the saving."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    figure = Figure(figsize=(3.2 * len(curves), 3.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, found) in zip(panels, curves.items(), strict=True):
        for role, title, colour in (("baseline", "at random", "tab:grey"), ("method", "asked for", "tab:blue")):
            shares = 100.0 * np.array([getattr(result, role) for result in found])  # (seeds, rounds + 1)
            mean, spread = shares.mean(0), shares.std(0)
            panel.plot(found[0].labels, mean, color=colour, marker=".", label=title)
            panel.fill_between(found[0].labels, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        panel.set_title(f"{name}\n{saved(found)}", fontsize=10)
        panel.set_xlabel("labels")
    panels[0].set_ylabel("1-NN right, %")
    panels[0].legend(loc="lower right")

    def write(stream: IO[bytes]) -> None:
        figure.savefig(stream, format="png")

    replace_file(path, write)


# ---------------------------------------------------------------- people


def compare_people(points: Points, seed: int, setting: Setting) -> Result:
    """Fitted to one half of the people; each image of the other half is a query."""
    rng = np.random.default_rng([seed, 5])
    people = rng.permutation(np.unique(points.labels))
    is_known = np.isin(points.labels, people[: len(people) // 2])
    known, unseen = (points.take(np.flatnonzero(rows)) for rows in (is_known, ~is_known))
    center = known.values.mean(0)
    directions = np.linalg.svd(known.values - center, full_matrices=False)[2][:MAX_COMPONENTS]
    # Not standardised: the lengths of the components are the network's own metric.
    near, far = (Points((part.values - center) @ directions.T, part.labels) for part in (known, unseen))
    started = time.process_time()
    model = MIPMahalanobis(k=setting.k, time_limit_s=setting.time_limit_s, seed=seed).fit(near.values, near.labels)
    seconds = time.process_time() - started
    ours = rank_1(bent(model, far))
    return Result(
        *((rank_1(far), rank_1(unseen)), (ours, ours)),
        method_seconds=seconds,
        status=model.status_,
        value=model.value_,
        gap=model.gap_,
    )


def rank_1(points: Points) -> float:
    """Rank-1: share of points with the same class as their nearest other point; classes with one point are left out."""
    dist = cdist(points.values, points.values)
    np.fill_diagonal(dist, np.inf)
    right = points.labels[dist.argmin(1)] == points.labels
    seen_again = (points.labels[:, None] == points.labels).sum(1) > 1
    return float(right[seen_again].mean())


def model_digest() -> str:
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()[:12]


def embedded_people(data: Path, out: Path) -> Points | None:
    """Unit rows of Market-1501's queries, kept in `out`. None, with a message, where the data is absent."""
    file = out / f"people-{model_digest()}.npz"
    if not file.is_file():
        archive = data / "market1501_query.zip"
        try:
            root = write_whole(out / "market", lambda draft: unpack(archive, draft)) if archive.is_file() else data
            samples = market1501.read_people(root / "query")
        except DataError as error:
            print(f"experiments: {NAME} leaves its people out: {error}", file=sys.stderr)
            return None
        embeddings = embed_samples(OnnxEmbedder(MODEL, threads=1), samples)
        replace_file(file, lambda stream: np.savez(stream, values=embeddings, labels=samples.pids))
    with np.load(file, allow_pickle=False) as arrays:
        return Points(arrays["values"].astype(np.float64), arrays["labels"])


# ---------------------------------------------------------------- data


def read(name: str, seed: int) -> Points:
    if name == MOONS:
        return moons(400, np.random.default_rng([seed, 4]))
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise DataError("the sets of this experiment come with scikit-learn; pip install scikit-learn") from None
    values, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return Points(np.asarray(values, np.float64), np.asarray(labels, np.int64))


def moons(n: int, rng: np.random.Generator) -> Points:
    """Two interleaved half circles, and four coordinates of noise with the same spread."""
    labels = np.arange(n) % 2
    angle = np.pi * rng.uniform(size=n)
    x = np.where(labels == 0, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(labels == 0, np.sin(angle), 0.5 - np.sin(angle))
    shape = np.stack([x, y], axis=1) + 0.1 * rng.normal(size=(n, 2))
    return Points(np.hstack([shape, rng.normal(size=(n, 4))]), labels.astype(np.int64))
