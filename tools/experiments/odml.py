"""Experiment of the online metric layers: 5-NN on small sets, 1, 3 and 5 layers against Euclid; re-ID features.

Online Deep Metric Learning. Wenbin Li, Jing Huo, Yinghuan Shi, Yang Gao, Lei Wang, Jiebo Luo. 2018,
https://arxiv.org/abs/1805.05510; its third version: half of the rows for training, half for testing, 5-NN, 20 scans.

A seed is a split, the same one for all. The baseline is the Euclidean distance between the same unit rows that the
layers see; that between rows of any length is reported too, because scaling to unit length can lose information. The
layer is MOML or OPML: the paper's point is that it can be any online metric learner. NCA, LMNN and ITML see the same
unit rows. gamma is chosen for each split, learner and depth on the training half. So is the scaling of columns with
different units: to [0, 1], which suits a stack with ReLU, or to mean 0 and deviation 1, where the first ReLU deletes
half; Euclid and the batch learners choose theirs in the same way. The sets are those of mlbench (`mlbench`). If
Market-1501 is there, `odml_market` adds one layer behind the bundled network.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray
from reid_training.methods.odml import ODML
from tools.experiments import classic, mlbench, odml_market, results
from tools.experiments.table import Comparison

NAME = "odml"
TITLE = "Online metric layers against Euclid"
# A readme that copies the paper's table says so of Euclid, one layer and the stack.
CLAIM = (
    "5-NN accuracy on Ionosphere with Euclid, one layer, the stack: 82.0, 89.2, 91.9 (second-hand); rises with depth"
)
DEPTHS = (1, 3, 5)
LAYERS = {"moml": "MOML", "opml": "OPML"}
EUCLID, ANY_LENGTH = "Euclid", "Euclid, rows of any length"
N_NEIGHBOURS = 5  # the paper's
DRAWN = "drawn"  # three classes for the reduced form
AS_THEY_ARE, UNIT_INTERVAL, STANDARDISED = "as they are", "unit interval", "standardised"
FloatArray = npt.NDArray[np.float64]
Rows = tuple[FloatArray, IntArray]  # (N, d) and labels (N,)


@dataclass(frozen=True, slots=True)
class Task:
    data: str  # of mlbench.SETS, or DRAWN
    scalings: tuple[str, ...]  # to choose from
    n_scans: int = 20  # the paper's for these sets
    gammas: tuple[float, ...] = (0.002, 0.01, 0.05)  # the paper cross-validates around 0.01
    most_rows: int = 2000  # more are drawn by each seed

    @property
    def title(self) -> str:
        return f"{self.data} ({' or '.join(self.scalings)})"


# Echoes in [-1, 1], energies in [0, 1] and grey values have a common unit. Satellite has three times as many rows as
# the next set, so that fewer scans show as many triplets.
TASKS = (
    Task("Ionosphere", (AS_THEY_ARE,)),
    Task("Sonar", (AS_THEY_ARE,)),
    *(Task(data, (UNIT_INTERVAL, STANDARDISED)) for data in ("Vehicle", "Vowel", "PimaIndiansDiabetes", "Glass")),
    Task("Satellite", (AS_THEY_ARE,), n_scans=5),
)
REDUCED = (Task(DRAWN, (UNIT_INTERVAL, STANDARDISED), n_scans=1, gammas=(0.01, 0.05)),)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one fit needs to know."""

    learner: str  # EUCLID, ANY_LENGTH, of LAYERS or of `classic`
    scaling: str
    gamma: float = 0.0  # of LAYERS alone


@dataclass(frozen=True, slots=True)
class Result:
    """Of one split; the keys of scores and chosen are EUCLID, ANY_LENGTH, "MOML 1", ..., "NCA", ..."""

    scores: dict[str, float]  # accuracies on the test half
    chosen: dict[str, str]  # scaling and gamma
    seconds: dict[str, float]  # processor time of a learner, the choice of its constants included


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Rows of the table; without Market-1501 in `data` those of mlbench alone, and one message."""
    rows = compared(data, out, seeds, jobs, TASKS, classic.available())
    found = odml_market.compared(data, out, seeds, jobs)
    return rows + (_market_rows(found) if found else [])


def run_reduced(out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """The same in a second, on drawn rows, with nothing beside the layers."""
    return compared(Path(), out, seeds, jobs, REDUCED, ())


def compared(
    data: Path, out: Path, seeds: Sequence[int], jobs: int, tasks: Sequence[Task], beside: tuple[str, ...]
) -> list[Comparison]:
    """Rows of the sets; one file for each task and seed in `out`, and existing ones are not repeated."""
    todo = [(data, task, seed, beside, _file(out, task, seed, beside)) for task in tasks for seed in seeds]
    todo = [one for one in todo if not one[-1].is_file()]
    for name in {task.data for _, task, *_ in todo}:
        load(name, data)  # bad data is an error before any process starts
    results.run_all(_run, todo, jobs)
    found = {task: [results.read(Result, _file(out, task, seed, beside)) for seed in seeds] for task in tasks}
    return [row for task in tasks for row in _rows(task, found[task], beside)]


def _run(data: Path, task: Task, seed: int, beside: tuple[str, ...], file: Path) -> None:
    results.write(file, run_one(load(task.data, data), task, seed, beside))


def _file(out: Path, task: Task, seed: int, beside: tuple[str, ...]) -> Path:
    """Named by everything that decides its content, except the code."""
    return out / f"{task.data}-{results.digest(dataclasses.asdict(task), beside)}-{seed}.json"


def _rows(task: Task, found: Sequence[Result], beside: tuple[str, ...]) -> list[Comparison]:
    """Each learner against Euclid, and each deeper stack against the next one less deep."""
    pairs = [(f"{kind} {depth}", EUCLID) for kind in LAYERS.values() for depth in DEPTHS]
    pairs += [
        (f"{kind} {deep}", f"{kind} {shallow}")
        for kind in LAYERS.values()
        for shallow, deep in itertools.pairwise(DEPTHS)
    ]
    pairs += [(name, EUCLID) for name in (*beside, ANY_LENGTH)]
    return [
        Comparison(
            NAME, TITLE, CLAIM, task.title, f"{N_NEIGHBOURS}-NN accuracy, {_words(method)} against {_words(baseline)}",
            *(tuple(result.scores[name] for result in found) for name in (baseline, method)),
            *(tuple(result.seconds[_learner(name)] for result in found) for name in (baseline, method)),
        )
        for method, baseline in pairs
    ]  # fmt: skip


def _words(name: str) -> str:
    kind, _, depth = name.partition(" ")
    return f"{depth} layer{'s' * (depth != '1')} {kind}" if kind in LAYERS.values() else name


def _learner(name: str) -> str:
    """Of a key of Result.scores."""
    kind = name.partition(" ")[0]
    return next((layer for layer, title in LAYERS.items() if title == kind), name)


def _market_rows(found: Sequence[odml_market.Result]) -> list[Comparison]:
    return [
        Comparison(
            NAME, TITLE, CLAIM, f"Market-1501, {found[0].n_scored} people", f"{measure}, 1 layer",
            tuple(result.baseline[i] for result in found), tuple(result.method[i] for result in found),
            method_seconds=tuple(result.seconds for result in found),
        )
        for i, measure in enumerate(("R@1", "mAP"))
    ]  # fmt: skip


def run_one(rows: Rows, task: Task, seed: int, beside: tuple[str, ...]) -> Result:
    """One split: each learner chooses its constants on the training half, learns from all of it, is tested."""
    rng = np.random.default_rng(seed)
    if len(rows[1]) > task.most_rows:
        kept = rng.permutation(len(rows[1]))[: task.most_rows]
        rows = (rows[0][kept], rows[1][kept])
    known, unseen = halves(rows, rng)
    inner, held_out = halves(known, rng)
    scores, chosen, seconds = {}, {}, {}
    for learner in (EUCLID, ANY_LENGTH, *LAYERS, *beside):
        gammas = task.gammas if learner in LAYERS else (0.0,)
        choices = [Choice(learner, scaling, gamma) for scaling in task.scalings for gamma in gammas]
        started = time.process_time()
        # With a single choice there is nothing to compare.
        tried = [accuracies(inner, held_out, task, choice, seed) for choice in choices] if len(choices) > 1 else [{}]
        final: dict[Choice, dict[str, float]] = {}
        for name in _names(learner):
            best = choices[int(np.argmax([one.get(name, 0.0) for one in tried]))]  # of equals the first
            if best not in final:
                final[best] = accuracies(known, unseen, task, best, seed)
            scores[name], chosen[name] = final[best][name], f"{best.scaling}, gamma {best.gamma:g}"
        seconds[learner] = time.process_time() - started
    return Result(scores, chosen, seconds)


def _names(learner: str) -> list[str]:
    return [f"{LAYERS[learner]} {depth}" for depth in DEPTHS] if learner in LAYERS else [learner]


def accuracies(known: Rows, unseen: Rows, task: Task, choice: Choice, seed: int) -> dict[str, float]:
    """Accuracy on `unseen`, for a layer at each of DEPTHS: it does not depend on later ones, so one stack has all."""
    (learned, asked), labels = scaled(known[0], unseen[0], choice.scaling), known[1]
    if choice.learner == ANY_LENGTH:
        return {ANY_LENGTH: knn_accuracy(learned, labels, asked, unseen[1])}
    if choice.learner in LAYERS:
        stack = ODML(max(DEPTHS), choice.learner, choice.gamma, n_scans=task.n_scans, random_state=seed)
        stack.fit(learned, labels)
        found = {}
        for depth, name in zip(DEPTHS, _names(choice.learner), strict=True):
            part = copy.copy(stack)
            part.layers_ = stack.layers_[:depth]
            found[name] = knn_accuracy(part.transform(learned), labels, part.transform(asked), unseen[1])
        return found
    unit = ODML(gamma=0.0).fit(learned, labels)  # rows of length 1
    learned, asked = unit.transform(learned), unit.transform(asked)
    if choice.learner != EUCLID:
        transform = classic.fitted(choice.learner, learned, labels, seed)
        learned, asked = learned @ transform.T, asked @ transform.T
    return {choice.learner: knn_accuracy(learned, labels, asked, unseen[1])}


def halves(rows: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Two halves with half of every class in each, in random order; of an odd number the first has one more."""
    points, labels = rows
    order = rng.permutation(len(labels))
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        first[own[: -(-len(own) // 2)]] = True
    one, other = order[first[order]], order[~first[order]]
    return (points[one], labels[one]), (points[other], labels[other])


def scaled(known: FloatArray, unseen: FloatArray, scaling: str) -> tuple[FloatArray, FloatArray]:
    """Both (N, d), scaled column by column with statistics of `known`; a constant column becomes 0."""
    if scaling == AS_THEY_ARE:
        return known, unseen
    if scaling == UNIT_INTERVAL:
        shift, size = known.min(axis=0), np.ptp(known, axis=0)
    else:
        shift, size = known.mean(axis=0), known.std(axis=0)
    factor = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    return (known - shift) * factor, (unseen - shift) * factor


def knn_accuracy(
    known: FloatArray, labels: IntArray, unseen: FloatArray, answers: IntArray, k: int = N_NEIGHBOURS
) -> float:
    """k-NN accuracy on `unseen` (M, d) with the neighbours from `known` (N, d); ties go to the smallest label."""
    squared = (unseen**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None] - 2.0 * unseen @ known.T
    nearest = labels[np.argsort(squared, axis=1, kind="stable")[:, :k]]  # (M, k)
    classes = np.unique(labels)
    votes = (nearest[:, :, None] == classes).sum(axis=1)  # (M, C)
    return float((classes[votes.argmax(axis=1)] == answers).mean())


def load(name: str, data: Path) -> Rows:
    """A set of mlbench, or the drawn one."""
    return _drawn() if name == DRAWN else mlbench.read(name, data)


def _drawn() -> Rows:
    """Three classes that differ in three of five columns; the other two are noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    points = 0.4 * rng.normal(size=(90, 5))
    points[:, :3] += np.eye(3)[labels]
    return points, labels
