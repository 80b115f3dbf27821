"""Experiment of the online metric layers: k-NN on small UCI sets, one to three layers against Euclid; re-ID features.

Online Deep Metric Learning. Wenbin Li, Jing Huo, Yinghuan Shi, Yang Gao, Lei Wang, Jiebo Luo. 2018,
https://arxiv.org/abs/1805.05510; its third version: half of the rows for training, half for testing, 5-NN, 20 scans.

A seed is a split. The baseline is the Euclidean distance between the same unit rows that the layers see; the distance
between rows of any length is reported too, because scaling to unit length can lose information. gamma is chosen for
each split and depth on the training half. Columns with a common unit are not scaled; others are scaled by the training
half: to [0, 1], which suits a stack with ReLU, or to mean 0 and deviation 1, where the first ReLU deletes half. The
sets are those shipped with scikit-learn (extra `dev`). If Market-1501 is there, `odml_market` adds one layer behind
the bundled network.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray
from reid_training.errors import DataError
from reid_training.methods.odml import ODML
from tools.experiments import odml_market, results
from tools.experiments.table import Comparison

NAME = "odml"
TITLE = "Online metric layers against Euclid"
# A readme that copies the paper's table says so of Euclid, one layer and the stack.
CLAIM = "5-NN accuracy with Euclid, one layer, the stack: iris 96.2, 97.2, 97.4; wine 78.2, 77.4, 78.1 (second-hand)"
DEPTHS = (1, 2, 3)
N_NEIGHBOURS = 5  # the paper's
DRAWN = "drawn"  # no UCI set: three classes for the reduced form
SETS = ("iris", "wine", "breast_cancer", "digits", DRAWN)
SCALINGS = ("as they are", "unit interval", "standardised")
FloatArray = npt.NDArray[np.float64]
Rows = tuple[FloatArray, IntArray]  # (N, d) and labels (N,)


@dataclass(frozen=True, slots=True)
class Task:
    data: str  # of SETS
    scaling: str  # of SCALINGS
    n_scans: int = 20  # the paper's for these sets
    gammas: tuple[float, ...] = (0.002, 0.01, 0.05)  # the paper cross-validates around 0.01

    @property
    def title(self) -> str:
        return f"{self.data} ({self.scaling})"


# Centimetres and grey values need no scaling: of iris in [0, 1], unit length alone takes 17 points (two splits). digits
# has ten times as many rows, so that fewer scans show as many triplets.
TASKS = (
    Task("iris", "as they are"),
    *(Task(data, scaling) for data in ("wine", "breast_cancer") for scaling in ("unit interval", "standardised")),
    Task("digits", "as they are", n_scans=3),
)
REDUCED = (Task(DRAWN, "unit interval", n_scans=1, gammas=(0.01, 0.05)),)


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracies on the test half."""

    euclid: float  # between unit rows
    any_length: float  # Euclid between the scaled rows themselves
    layers: tuple[float, ...]  # of DEPTHS
    gammas: tuple[float, ...]  # that were chosen for them
    seconds: float  # processor time of all learning, the choice of gamma included


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Rows of the table; without Market-1501 in `data` those of the UCI sets alone, and one message."""
    rows = compared(out, seeds, jobs, TASKS)
    found = odml_market.compared(data, out, seeds, jobs)
    return rows + (_market_rows(found) if found else [])


def compared(out: Path, seeds: Sequence[int], jobs: int, tasks: Sequence[Task]) -> list[Comparison]:
    """Rows of the UCI sets; one file for each task and seed in `out`, and existing ones are not repeated."""
    todo = [(task, seed, _file(out, task, seed)) for task in tasks for seed in seeds]
    todo = [one for one in todo if not one[2].is_file()]
    for name in {task.data for task, _, _ in todo}:
        load(name)  # bad data is an error before any process starts
    results.run_all(_run, todo, jobs)
    found = {task: [results.read(Result, _file(out, task, seed)) for seed in seeds] for task in tasks}
    return [row for task in tasks for row in _rows(task, found[task])]


def run_reduced(out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """The same in a second, on drawn rows, without scikit-learn."""
    return compared(out, seeds, jobs, REDUCED)


def _run(task: Task, seed: int, file: Path) -> None:
    results.write(file, run_one(load(task.data), task, seed))


def _file(out: Path, task: Task, seed: int) -> Path:
    """Named by everything that decides its content, except the code."""
    return out / f"{task.data}-{results.digest(dataclasses.asdict(task))}-{seed}.json"


def _rows(task: Task, found: Sequence[Result]) -> list[Comparison]:
    euclid = tuple(result.euclid for result in found)
    plain = tuple(result.any_length for result in found)
    seconds = tuple(result.seconds for result in found)
    compared = [(f"{depth} layers" if depth > 1 else "1 layer", euclid, depth) for depth in DEPTHS]
    compared.append(("1 layer, against rows of any length", plain, 1))
    return [
        Comparison(
            NAME, TITLE, CLAIM, task.title, f"{N_NEIGHBOURS}-NN accuracy, {words}", baseline,
            tuple(result.layers[DEPTHS.index(depth)] for result in found), method_seconds=seconds,
        )
        for words, baseline, depth in compared
    ]  # fmt: skip


def _market_rows(found: Sequence[odml_market.Result]) -> list[Comparison]:
    return [
        Comparison(
            NAME, TITLE, CLAIM, f"Market-1501, {found[0].n_scored} people", f"{measure}, 1 layer",
            tuple(result.baseline[i] for result in found), tuple(result.method[i] for result in found),
            method_seconds=tuple(result.seconds for result in found),
        )
        for i, measure in enumerate(("R@1", "mAP"))
    ]  # fmt: skip


def run_one(rows: Rows, task: Task, seed: int) -> Result:
    """One split: choose gamma, train, test."""
    rng = np.random.default_rng(seed)
    known, unseen = halves(rows, rng)
    inner, held_out = halves(known, rng)
    started = time.process_time()
    tried = [_accuracies(inner, held_out, task, gamma, seed) for gamma in task.gammas]  # of each gamma: all depths
    # Of equals the first, which is the smallest gamma.
    best = [task.gammas[int(np.argmax([scores[i] for scores in tried]))] for i in range(len(DEPTHS))]
    scores = {gamma: _accuracies(known, unseen, task, gamma, seed) for gamma in set(best)}
    seconds = time.process_time() - started
    layers = tuple(scores[gamma][i] for i, gamma in enumerate(best))
    (learned, asked), (labels, answers) = scaled(known[0], unseen[0], task.scaling), (known[1], unseen[1])
    unit = ODML(gamma=0.0).fit(learned, labels)
    euclid = knn_accuracy(unit.transform(learned), labels, unit.transform(asked), answers)
    return Result(euclid, knn_accuracy(learned, labels, asked, answers), layers, tuple(best), seconds)


def _accuracies(known: Rows, unseen: Rows, task: Task, gamma: float, seed: int) -> tuple[float, ...]:
    """For each of DEPTHS. A layer does not depend on later ones: the deepest stack contains all others."""
    learned, asked = scaled(known[0], unseen[0], task.scaling)
    stack = ODML(n_layers=max(DEPTHS), gamma=gamma, n_scans=task.n_scans, random_state=seed).fit(learned, known[1])
    found = []
    for depth in DEPTHS:
        part = copy.copy(stack)
        part.layers_ = stack.layers_[:depth]
        found.append(knn_accuracy(part.transform(learned), known[1], part.transform(asked), unseen[1]))
    return tuple(found)


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
    if scaling == "as they are":
        return known, unseen
    if scaling == "unit interval":
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


def load(name: str) -> Rows:
    """One of SETS."""
    if name == DRAWN:
        return _drawn()
    try:
        from sklearn import datasets
    except ImportError:
        raise DataError("odml: the UCI sets come with scikit-learn; pip install scikit-learn") from None
    read: Callable[..., Rows] = getattr(datasets, f"load_{name}")
    points, labels = read(return_X_y=True)
    return np.asarray(points, np.float64), np.asarray(labels, np.int64)


def _drawn() -> Rows:
    """Three classes that differ in three of five columns; the other two are noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    points = 0.4 * rng.normal(size=(90, 5))
    points[:, :3] += np.eye(3)[labels]
    return points, labels
