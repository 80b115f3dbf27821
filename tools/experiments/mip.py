"""Experiment of the mixed-integer metric: nearest neighbours against Euclid, and labels saved by active learning.

Active Metric Learning for Supervised Classification. Kumaran et al. 2018, arXiv 1803.10647. Pima, Wisconsin and
Ionosphere are read from files of mlbench (`mlbench`), the threes and eights from MNIST; two moons with strong noise are
generated. A seed draws the halves: one is the pool that labels are asked of, the other is scored by 1-NN. All columns
are prepared by the pool, whose labels are not used: standardised (pixels: only centred), and the first 16 principal
components where there are more.

Metric: 30 labels. The program itself with a diagonal and a full M, its heuristic alone, and NCA, LMNN and ITML, all
against Euclid. How each program ended is in the column of the data: proven optimal or not, and the gap to its bound.
Active: from 4 to 28 labels, four at a time. Each rule asks by its own; all are then classified by the metric that the
program, not the heuristic, fits to the labels (again with status and gap), and by Euclid. The controls tell what a
saving is due to: `recommend` under Euclid instead of the learned metric, the smallest margin alone, greedy k-centre
(the farthest point from all labels), random choice. Accuracy over labels is plotted in OUT/curves.png, and its mean
over the curve is a row of the table.
People: Market-1501's queries, one image for each person and camera, embedded by
weights/reid_fast.onnx, which was trained on none of them. The metric is fitted to half of the people; every image of
the other half is a query among all others. More than 60 images are solved by subsamples, without a bound.
"""

from __future__ import annotations

import hashlib
import math
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
from reid_training.methods.mip_mahalanobis.questions import doubt_of
from reid_training.runs import replace_file
from tools.experiments import classic, mlbench, mnist, results
from tools.experiments.protocols import write_whole
from tools.experiments.table import Comparison

NAME = "mip_mahalanobis"
TITLE = "Mixed-integer Mahalanobis metric, solved within a time limit"
ACTIVE_TITLE = "Mixed-integer metric: rules that choose what to label"
CLAIM = "not available (toy examples, image and medical data)"
PEOPLE_TITLE = "Mixed-integer metric, solved on subsamples, behind reid_fast: people it has never seen"
PEOPLE_CLAIM = "none: not the paper's"
MOONS, PEOPLE, DIGITS = "moons and noise", "Market-1501 queries", "MNIST, 3 against 8"
OF_MLBENCH = {"Pima": "PimaIndiansDiabetes", "Wisconsin": "BreastCancer", "Ionosphere": "Ionosphere"}
MAX_COMPONENTS = 16
N_DIGITS = 500  # images of each class, drawn by the seed
MODEL = Path(__file__).resolve().parents[2] / "weights" / "reid_fast.onnx"

EUCLID, ALONE, DIAGONAL, FULL_FORM = "Euclid", "heuristic alone, diagonal", "program, diagonal", "program, full"
RANDOM, LEARNED, BY_EUCLID = "random", "recommended by the learned metric", "recommended by Euclid"
MARGIN, CENTRES = "smallest margin alone", "k-centre"
RULES = (RANDOM, LEARNED, BY_EUCLID, MARGIN, CENTRES)


# Of one fit: its status; the value of the objective, in points given up; a bound, below which no metric of the form is.
End = tuple[str, float, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """Of all three experiments. Metrics have k = 1, the default, but for people."""

    sets: tuple[str, ...] = (MOONS, *OF_MLBENCH, DIGITS)
    n_labelled: int = 30
    time_limit_s: float = 30.0
    first_per_class: int = 2
    n_asked: int = 4  # at a time
    n_rounds: int = 6
    curve_limit_s: float = 3.0  # of each of the curves' fits
    people: bool = True  # where they are
    people_k: int = 3
    people_components: int = 32
    beside: bool = True  # the learners of `classic`, as far as they are installed


FULL = Setting()
# Generated: needs no data.
REDUCED = Setting((MOONS,), n_labelled=12, time_limit_s=0.2, n_rounds=1, curve_limit_s=0.1, people=False, beside=False)


@dataclass(frozen=True, slots=True)
class Points:
    values: FloatArray  # (N, p)
    labels: IntArray  # (N,)

    def take(self, rows: IntArray) -> Points:
        return Points(self.values[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Fits:
    """Metrics of one set and seed."""

    scores: dict[str, float]  # share of right answers of EUCLID, ALONE, DIAGONAL, FULL_FORM, "NCA", ...
    seconds: dict[str, float]  # processor time of fitting
    ends: dict[str, End]


@dataclass(frozen=True, slots=True)
class Curves:
    """Questions of one set and seed: by rule, shares of right answers after 0 .. n_rounds rounds."""

    labels: tuple[int, ...]
    learned: dict[str, list[float]]  # classified by the learned metric
    euclid: dict[str, list[float]]
    seconds: dict[str, float]
    ends: tuple[End, ...]  # of all fits


@dataclass(frozen=True, slots=True)
class Result:
    """People, of one seed."""

    baseline: tuple[float, ...]  # rank-1: the components, all dimensions
    method: tuple[float, ...]
    method_seconds: float
    end: End


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int, setting: Setting = FULL) -> list[Comparison]:
    """Rows of the table; one file for each set and seed in `out`, and existing ones are not repeated."""
    for name in setting.sets:
        read(name, data, 0)  # bad data is an error before any process starts
    beside = classic.available() if setting.beside else ()
    people = embedded_people(data, out) if setting.people else None
    asked = [(kind, name) for kind in ("metric", "active") for name in setting.sets]
    asked += [("people", PEOPLE)] if people is not None else []
    files = {
        (kind, name, seed): _file(out, kind, name, seed, setting, beside) for kind, name in asked for seed in seeds
    }
    tasks = [(*task, data, setting, beside, file, people) for task, file in files.items() if not file.is_file()]
    results.run_all(run_one, tasks, jobs)
    rows: list[Comparison] = []
    for name in setting.sets:
        fits = [results.read(Fits, files["metric", name, seed]) for seed in seeds]
        rows += metric_rows(f"{name}, {setting.n_labelled} labels", fits)
    curves = {name: [results.read(Curves, files["active", name, seed]) for seed in seeds] for name in setting.sets}
    draw(curves, out / "curves.png")
    for name, found in curves.items():
        rows += active_rows(name, found)
    if people is not None:
        rows += people_rows([results.read(Result, files["people", PEOPLE, seed]) for seed in seeds])
    return rows


def run_reduced(out: Path, seeds: Sequence[int], jobs: int = 1) -> list[Comparison]:
    """Takes seconds, on generated data only."""
    return run(Path(), out, seeds, jobs, REDUCED)


def metric_rows(data: str, found: Sequence[Fits]) -> list[Comparison]:
    """Each metric against Euclid; the program against its heuristic; the full form against the diagonal one."""
    pairs = [(name, EUCLID) for name in found[0].scores if name != EUCLID]
    pairs += [(DIAGONAL, ALONE), (FULL_FORM, DIAGONAL)]
    rows = []
    for method, baseline in pairs:
        ends = [one.ends[method] for one in found if method in one.ends]
        scores, seconds = (
            [tuple(getattr(one, field)[name] for one in found) for name in (baseline, method)]
            for field in ("scores", "seconds")
        )
        words = f"{data}; {proven(ends)}" if ends and method != ALONE else data
        rows.append(Comparison(NAME, TITLE, CLAIM, words, f"1-NN, {method} against {baseline}", *scores, *seconds))
    return rows


def active_rows(name: str, found: Sequence[Curves]) -> list[Comparison]:
    """Mean over the curve: the rules against random choice and each other, and the metric against Euclid."""
    pairs = [(rule, "learned", RANDOM, "learned") for rule in RULES[1:]]
    pairs += [(LEARNED, "learned", rule, "learned") for rule in RULES[2:]]
    pairs += [(RANDOM, "learned", RANDOM, "euclid"), (LEARNED, "learned", BY_EUCLID, "euclid")]
    words = f"{name}; {proven([end for one in found for end in one.ends])}"
    rows = []
    for method, by, baseline, base_by in pairs:
        scores = [
            tuple(statistics.fmean(getattr(one, field)[rule]) for one in found)
            for rule, field in ((baseline, base_by), (method, by))
        ]
        seconds = [tuple(one.seconds[rule] for one in found) for rule in (baseline, method)]
        ends = ("", "") if by == base_by else (", classified by the learned metric", ", classified by Euclid")
        measure = f"1-NN, mean over the curve, {method}{ends[0]} against {baseline}{ends[1]}"
        rows.append(Comparison(f"{NAME}_active", ACTIVE_TITLE, CLAIM, words, measure, *scores, *seconds))
    return rows


def people_rows(found: Sequence[Result]) -> list[Comparison]:
    measures = ("rank-1, against the same 32 components", "rank-1, against the cosine of all 128")
    words = f"{PEOPLE}; {proven([result.end for result in found])}"
    return [
        Comparison(
            f"{NAME}_people", PEOPLE_TITLE, PEOPLE_CLAIM, words, measure,
            tuple(result.baseline[place] for result in found), tuple(result.method[place] for result in found),
            method_seconds=tuple(result.method_seconds for result in found),
        )
        for place, measure in enumerate(measures)
    ]  # fmt: skip


def proven(ends: Sequence[End]) -> str:
    """How the fits ended, and the mean gap between value and bound."""
    counts = ", ".join(f"{n} {status}" for status, n in Counter(status for status, *_ in ends).most_common())
    value = statistics.fmean(value for _, value, _ in ends)
    gap = value - statistics.fmean(bound for *_, bound in ends)
    return f"{counts}, gap {gap:.1f} of {value:.1f}"


def _file(out: Path, kind: str, name: str, seed: int, setting: Setting, beside: tuple[str, ...]) -> Path:
    """Named by everything that decides its content, except the code."""
    facts: list[object] = [kind, name]
    if kind == "metric":
        facts += [setting.n_labelled, setting.time_limit_s, beside]
    elif kind == "active":
        facts += [setting.first_per_class, setting.n_asked, setting.n_rounds, setting.curve_limit_s]
    else:
        facts += [setting.time_limit_s, setting.people_k, setting.people_components, model_digest()]
    return out / f"{kind}-{name.replace(' ', '_')}-{results.digest(*facts)}-{seed}.json"


def run_one(
    kind: str,
    name: str,
    seed: int,
    data: Path,
    setting: Setting,
    beside: tuple[str, ...],
    file: Path,
    people: Points | None,
) -> None:
    found: Fits | Curves | Result
    if people is not None and kind == "people":
        found = compare_people(people, seed, setting)
    elif kind == "metric":
        found = compare_metrics(*halves(read(name, data, seed), name, seed), seed, setting, beside)
    else:
        found = compare_questions(*halves(read(name, data, seed), name, seed), seed, setting)
    results.write(file, found)


def halves(points: Points, name: str, seed: int) -> tuple[Points, Points]:
    """The pool, and the points that are scored; both prepared by the pool."""
    pool, unseen = split(points, len(points.labels) // 2, np.random.default_rng([seed, 2]))
    return tuple(prepared(part, pool, standardise=name != DIGITS) for part in (pool, unseen))  # type: ignore[return-value]


def split(points: Points, n: int, rng: np.random.Generator) -> tuple[Points, Points]:
    """About n points, each class by its share and at least two of it, and the others."""
    chosen = []
    for one in np.unique(points.labels):
        rows = rng.permutation(np.flatnonzero(points.labels == one))
        chosen.append(rows[: max(round(n * len(rows) / len(points.labels)), 2)])
    known = np.sort(np.concatenate(chosen))
    return points.take(known), points.take(np.setdiff1d(np.arange(len(points.labels)), known))


def prepared(points: Points, like: Points, *, standardise: bool = True) -> Points:
    """Columns scaled, and projected on the principal components of `like`; labels are not used."""
    mean, deviation = like.values.mean(0), like.values.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0) if standardise else np.full_like(mean, deviation.max())
    values = (points.values - mean) / deviation
    if values.shape[1] > MAX_COMPONENTS:
        _, _, directions = np.linalg.svd((like.values - mean) / deviation, full_matrices=False)
        values = values @ directions[:MAX_COMPONENTS].T
    return Points(values, points.labels)


# ---------------------------------------------------------------- metric


def compare_metrics(pool: Points, unseen: Points, seed: int, setting: Setting, beside: tuple[str, ...]) -> Fits:
    """Some points of the pool are labelled; the unseen ones are classified."""
    known, _ = split(pool, setting.n_labelled, np.random.default_rng([seed, 1]))
    scores, seconds, ends = {EUCLID: accuracy(known, unseen, 1)}, {EUCLID: 0.0}, {}
    for name, form, limit in (
        (ALONE, "diagonal", 0.0),
        (DIAGONAL, "diagonal", setting.time_limit_s),
        (FULL_FORM, "full", setting.time_limit_s),
    ):
        started = time.process_time()
        model = MIPMahalanobis(form=form, time_limit_s=limit, seed=seed).fit(known.values, known.labels)
        seconds[name] = time.process_time() - started
        scores[name] = accuracy(bent(model, known), bent(model, unseen), 1)
        ends[name] = (model.status_, model.value_, model.bound_)
    for name in beside:
        started = time.process_time()
        transform = classic.fitted(name, known.values, known.labels, seed).T
        seconds[name] = time.process_time() - started
        near, far = (Points(part.values @ transform, part.labels) for part in (known, unseen))
        scores[name] = accuracy(near, far, 1)
    return Fits(scores, seconds, ends)


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


def compare_questions(pool: Points, unseen: Points, seed: int, setting: Setting) -> Curves:
    """All rules begin with the same labels."""
    rng = np.random.default_rng([seed, 3])
    per_class = [np.flatnonzero(pool.labels == one) for one in np.unique(pool.labels)]
    first = np.concatenate([rng.permutation(rows)[: setting.first_per_class] for rows in per_class])
    learned: dict[str, list[float]] = {}
    euclid: dict[str, list[float]] = {}
    seconds, ends = {}, []
    for rule in RULES:
        started = time.process_time()
        learned[rule], euclid[rule], found = curve(pool, unseen, first, seed, setting, rule)
        seconds[rule] = time.process_time() - started
        ends += found
    labels = tuple(len(first) + setting.n_asked * i for i in range(setting.n_rounds + 1))
    return Curves(labels, learned, euclid, seconds, tuple(ends))


def curve(
    pool: Points, unseen: Points, first: IntArray, seed: int, setting: Setting, rule: str
) -> tuple[list[float], list[float], list[End]]:
    """Shares of right answers by the learned metric and by Euclid after each round, and how the fits ended."""
    rng = np.random.default_rng([seed, 4])
    labelled = first
    learned, euclid, ends = [], [], []
    for _ in range(setting.n_rounds + 1):
        known = pool.take(labelled)
        model = MIPMahalanobis(time_limit_s=setting.curve_limit_s, seed=seed).fit(known.values, known.labels)
        ends.append((model.status_, model.value_, model.bound_))
        learned.append(accuracy(bent(model, known), bent(model, unseen), 1))
        euclid.append(accuracy(known, unseen, 1))
        rest = np.setdiff1d(np.arange(len(pool.labels)), labelled)
        chosen = ask(rule, model, known, pool.take(rest), setting.n_asked, rng)
        labelled = np.concatenate([labelled, rest[chosen]])
    return learned, euclid, ends


def ask(rule: str, model: MIPMahalanobis, known: Points, rest: Points, n: int, rng: np.random.Generator) -> IntArray:
    """n rows of the rest that a rule asks for; no rule sees their labels."""
    if rule == RANDOM:
        return rng.permutation(len(rest.labels))[:n]
    if rule == MARGIN:
        classes = np.unique(known.labels, return_inverse=True)[1]
        doubt = doubt_of(model.distances(rest.values, known.values), classes)
        return np.argsort(-doubt, kind="stable")[:n]
    if rule == CENTRES:
        return farthest(cdist(rest.values, known.values).min(1), rest.values, n)
    # A distortion of infinite cost is Euclid, the identity.
    judge = model if rule == LEARNED else MIPMahalanobis(mu=math.inf).fit(known.values, known.labels)
    return judge.recommend(rest.values, n)


def farthest(near: FloatArray, values: FloatArray, n: int) -> IntArray:
    """n rows of `values` (m, p), greedily, each the farthest from all labels (near, (m,)) and those before it."""
    chosen = []
    for _ in range(n):
        chosen.append(int(near.argmax()))
        near = np.minimum(near, np.linalg.norm(values - values[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)


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


def saved(found: Sequence[Curves]) -> str:
    """Labels until both first reach the final accuracy of random choice, means over the seeds."""
    labels = found[0].labels
    random, asked = (np.mean([one.learned[rule] for one in found], axis=0) for rule in (RANDOM, LEARNED))
    usual, needed = (labels_for(random[-1], labels, shares) for shares in (random, asked))
    if np.isnan(needed):
        return f"more than {labels[-1]} labels for {usual:.0f}"
    return f"{needed:.0f} labels for {usual:.0f} ({needed / usual - 1:+.0%})"


def draw(curves: dict[str, list[Curves]], path: Path) -> None:
    """Accuracy over labels by rule, means and standard errors over the seeds; the titles state the saving."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no window

    n_columns = min(len(curves), 3)
    n_rows = -(-len(curves) // n_columns)
    figure = Figure(figsize=(3.6 * n_columns, 3.0 * n_rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    colours = ("tab:grey", "tab:blue", "tab:orange", "tab:green", "tab:red")
    for panel, (name, found) in zip(panels, curves.items(), strict=False):
        for rule, colour in zip(RULES, colours, strict=True):
            shares = 100.0 * np.array([one.learned[rule] for one in found])  # (seeds, rounds + 1)
            error = shares.std(0) / np.sqrt(max(len(found) - 1, 1))
            panel.errorbar(found[0].labels, shares.mean(0), error, color=colour, marker=".", label=rule, linewidth=1)
        panel.set_title(f"{name}\n{saved(found)}", fontsize=10)
        panel.set_xlabel("labels")
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("1-NN right, %")
    panels[0].legend(loc="lower right", fontsize=7)

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
    directions = np.linalg.svd(known.values - center, full_matrices=False)[2][: setting.people_components]
    # Not standardised: the lengths of the components are the network's own metric.
    near, far = (Points((part.values - center) @ directions.T, part.labels) for part in (known, unseen))
    started = time.process_time()
    model = MIPMahalanobis(k=setting.people_k, time_limit_s=setting.time_limit_s, seed=seed).fit(
        near.values, near.labels
    )
    seconds = time.process_time() - started
    ours = rank_1(bent(model, far))
    end = (model.status_, model.value_, model.bound_)
    return Result((rank_1(far), rank_1(unseen)), (ours, ours), seconds, end)


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


def read(name: str, data: Path, seed: int) -> Points:
    if name == MOONS:
        return moons(400, np.random.default_rng([seed, 4]))
    if name != DIGITS:
        return Points(*mlbench.read(OF_MLBENCH[name], data))
    digits, _ = mnist.read(data, mnist.MNIST, "test")
    rng = np.random.default_rng([seed, 6])
    rows = np.concatenate([rng.permutation(np.flatnonzero(digits.labels == one))[:N_DIGITS] for one in (3, 8)])
    return Points(digits.pixels[rows].astype(np.float64), digits.labels[rows])


def moons(n: int, rng: np.random.Generator) -> Points:
    """Two interleaved half circles, and four coordinates of noise with the same spread."""
    labels = np.arange(n) % 2
    angle = np.pi * rng.uniform(size=n)
    x = np.where(labels == 0, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(labels == 0, np.sin(angle), 0.5 - np.sin(angle))
    shape = np.stack([x, y], axis=1) + 0.1 * rng.normal(size=(n, 2))
    return Points(np.hstack([shape, rng.normal(size=(n, 4))]), labels.astype(np.int64))
