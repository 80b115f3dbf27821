"""Run experiments, several at a time, and collect the rows of their table."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from reid_training.errors import ConfigError, TrackletError
from tools.experiments import learners
from tools.experiments.catalogue import MEASURES, ROLES, Experiment, read, variants
from tools.experiments.protocols import Protocol
from tools.experiments.runs import Job, Result, code_of, finished, run, run_config, scores_of
from tools.experiments.table import Comparison


@dataclass(frozen=True, slots=True)
class Asked:
    """One role of an experiment with one seed."""

    experiment: Experiment
    role: str
    seed: int
    job: Job
    teacher: Asked | None = None  # to be run before

    @property
    def title(self) -> str:
        return f"{self.experiment.name} {self.role}, {self.job.protocol.name}, seed {self.seed}"


def plan(
    experiments: Sequence[Experiment], protocol: Protocol, split: str, seeds: Sequence[int], root: Path, out: Path
) -> list[Asked]:
    """Ordered by seed: an interrupted comparison has complete seeds. Every config is checked before the first run."""

    def ask(experiment: Experiment, role: str, seed: int, *, teaches: bool = False) -> Asked:
        where = f"experiment {experiment.name}, {role}"
        config = run_config(protocol, experiment.settings(role, protocol.name), seed, where)
        job = Job(protocol, config, split, root, out)
        if not config.distil.teacher:
            return Asked(experiment, role, seed, job)
        if teaches:
            raise ConfigError(f"{where} teaches another experiment: it cannot have a teacher itself")
        teacher = ask(read(config.distil.teacher), "method", seed, teaches=True)
        return Asked(experiment, role, seed, replace(job, teacher=teacher.job.folder), teacher)

    return [ask(experiment, role, seed) for seed in seeds for experiment in experiments for role in ROLES]


def choices(experiment: Experiment) -> list[Experiment]:
    """Variants that [choose] tries; their titles say what they have."""
    tried = variants(experiment, experiment.choose) if experiment.choose else []
    return [replace(one, title=f"{experiment.title} ({one.title.partition(': ')[2]}, by validation)") for one in tried]


def chosen(
    experiments: Sequence[Experiment], asked: Sequence[Asked], results: Mapping[Path, Result]
) -> list[Experiment]:
    """Each experiment, or that of its `choices` whose method has the largest mean of the first measure.

    asked: methods of choices on the validation split; of equals the first is taken. A choice that lacks a run is out.
    """
    best = {experiment.name: experiment for experiment in experiments}
    most: dict[str, float] = {}
    for variant in dict.fromkeys(one.experiment.name for one in asked):
        ours = [one for one in asked if one.experiment.name == variant]
        if any(one.job.result not in results for one in ours):
            continue
        tried = ours[0].experiment
        name = variant.partition(": ")[0]
        reached = fmean(results[one.job.result].scores[tried.measures[0]] for one in ours)
        if reached > most.get(name, -1.0):
            most[name], best[name] = reached, replace(tried, name=name)
    return list(best.values())


def forget(asked: Iterable[Asked]) -> None:
    """Delete their runs, so that they start again."""
    for one in asked:
        shutil.rmtree(one.job.folder, ignore_errors=True)


def carry_out(asked: Sequence[Asked], n_jobs: int) -> tuple[dict[Path, Result], list[str]]:
    """Results by file, and the failures: a failed run does not stop the others."""
    results: dict[Path, Result] = {}
    failures: list[str] = []
    taught = [one for one in asked if one.teacher is not None]
    asked = [*(one for one in asked if one.teacher is None), *(one.teacher for one in taught if one.teacher), *taught]
    first = {one.job.result: one for one in reversed(asked)}  # of those that share a run
    todo = []
    for one in {one.job.result: first[one.job.result] for one in asked}.values():
        found = finished(one.job)
        if found is None:
            todo.append(one)
        else:
            results[one.job.result] = found
    with tqdm(total=len(first), initial=len(results), unit="run", dynamic_ncols=True, disable=None) as bar:
        for wave in ([one for one in todo if one.teacher is None], [one for one in todo if one.teacher is not None]):
            for one, outcome in _outcomes(wave, n_jobs, bar):
                if isinstance(outcome, Result):
                    results[one.job.result] = outcome
                else:
                    failures.append(f"{one.title}: {outcome}")
                bar.update()
    return results, failures


def outdated(asked: Iterable[Asked], results: Mapping[Path, Result]) -> list[str]:
    """Methods with a file that changed after some of these results."""
    methods = {
        str(one.job.config.method["name"])
        for one in asked
        if one.job.result in results and results[one.job.result].code != code_of(one.job.config)
    }
    return sorted(methods)


def comparisons(asked: Sequence[Asked], results: Mapping[Path, Result]) -> list[Comparison]:
    """A row for each experiment and measure; experiments that lack a run are left out."""
    rows = []
    start = _untrained(asked[0].job) if results else None
    for experiment in dict.fromkeys(one.experiment.name for one in asked):
        ours = [one for one in asked if one.experiment.name == experiment]
        if all(one.job.result in results for one in ours):
            found = _rows(ours, results)
            rows += found + _untrained_rows(found, start) + _learner_rows(ours, results)
    return rows


def _untrained(job: Job) -> dict[str, float] | None:
    """Scores of the network that training starts from, by the title of the measure; None where that is random."""
    embeddings = job.protocol.untrained(job.root, job.split)
    if embeddings is None:
        return None
    scores = scores_of(embeddings, job.protocol, job.protocol.read(job.root)[job.split])
    return {MEASURES[measure]: value for measure, value in scores.items()}


def _untrained_rows(found: Sequence[Comparison], start: Mapping[str, float] | None) -> list[Comparison]:
    """The method of each row against the network that training starts from; that has no seed."""
    if start is None:
        return []
    return [
        replace(
            row,
            measure=f"{row.measure}, against the features of ImageNet alone",
            baseline=(start[row.measure],) * len(row.method),
            baseline_seconds=(),
        )
        for row in found
    ]


def _rows(ours: Sequence[Asked], results: Mapping[Path, Result]) -> list[Comparison]:
    experiment, job = ours[0].experiment, ours[0].job
    found = {role: [results[one.job.result] for one in ours if one.role == role] for role in ROLES}
    seconds = {role: tuple(r.seconds for r in found[role] if r.seconds is not None) for role in ROLES}
    data = job.protocol.name if job.split == "test" else f"{job.protocol.name} ({job.split})"
    return [
        Comparison(
            *(experiment.name, experiment.title, experiment.claim, data, MEASURES[measure]),
            *(tuple(result.scores[measure] for result in found[role]) for role in ROLES),
            *(seconds[role] for role in ROLES),
        )
        for measure in experiment.measures
    ]


def _learner_rows(ours: Sequence[Asked], results: Mapping[Path, Result]) -> list[Comparison]:
    """Where the method is an ensemble: parts of it, against those of the baseline or else against all of that."""
    experiment, job = ours[0].experiment, ours[0].job
    data = job.protocol.name if job.split == "test" else f"{job.protocol.name} ({job.split})"
    parts = {role: [learners.scores(one.job) for one in ours if one.role == role] for role in ROLES}
    whole = [results[one.job.result].scores["rank1"] for one in ours if one.role == "baseline"]
    rows = []
    for measure in parts["method"][0]:
        if measure in parts["baseline"][0]:
            baseline = [found[measure] for found in parts["baseline"]]
        elif measure != learners.INDEPENDENCE:
            baseline = whole
        else:
            continue
        method = tuple(found[measure] for found in parts["method"])
        rows.append(
            Comparison(experiment.name, experiment.title, experiment.claim, data, measure, tuple(baseline), method)
        )
    return rows


def _outcomes(todo: Sequence[Asked], n_jobs: int, bar: tqdm) -> Iterator[tuple[Asked, Result | TrackletError]]:
    """In order of completion; the bar names the running tasks."""
    if n_jobs == 1:
        for one in todo:
            bar.set_description(one.title)
            yield one, _run(one.job)
        return
    waiting = list(reversed(todo))
    running: dict[Future[Result | TrackletError], Asked] = {}
    with _pool(n_jobs) as pool:
        while waiting or running:
            # One task at a time per process: tasks not yet submitted need not be cancelled.
            while waiting and len(running) < n_jobs:
                one = waiting.pop()
                running[pool.submit(_run, one.job)] = one
            bar.set_description("; ".join(one.title for one in running.values()))
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def _run(job: Job) -> Result | TrackletError:
    try:
        return run(job)
    except TrackletError as error:
        return error


@contextlib.contextmanager
def _pool(n: int) -> Iterator[ProcessPoolExecutor]:
    """Pool that stops its processes at once if the block raises: the runs resume from their checkpoints."""
    # Not fork: torch has threads already.
    with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"), initializer=_start) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise TrackletError("a process was killed, perhaps for want of memory; the same command resumes") from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _end_with_parent() -> None:
    """End this process when its parent is killed, so that no run continues unnoticed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _start() -> None:
    """In each process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):  # takes seconds, which would count as those of the first run
        importlib.import_module("torch.utils.tensorboard")
