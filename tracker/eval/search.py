"""Search for settings by coordinate descent, and leave-one-out validation of the result.

One setting after the other is tried at all its values while the rest stay; the best value is kept if it gains enough,
and passes over all settings repeat until one changes nothing. Each change can be reported in one line, and a default
stays unless the data speak against it. Leave one out: for every video, the search is repeated without it and the result
is scored on it; that gain is what to expect on an unseen video.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tracker.config import TrackerConfig
from tracker.errors import ConfigError, TrackletError
from tracker.eval.report import RATES, Row, Value
from tracker.eval.sequence_run import SequenceRun, Trial
from tracker.eval.sequences import length_of
from tracker.runtime.processes import Advanced, Done, WorkerPool

ALL_VIDEOS = "all videos"
Space: TypeAlias = Mapping[str, Sequence[Any]]  # setting -> values to try
Objective: TypeAlias = Callable[[Sequence[TrackerConfig]], Sequence[float]]  # several at once, to run in parallel


@dataclass(frozen=True, slots=True)
class Found:
    """A point of the search."""

    config: TrackerConfig
    score: float
    change: str  # the setting changed last, "" at the start


class TrialsSpentError(Exception):
    """The search may not try any more configurations."""


class TuningError(TrackletError):
    """A run that cannot be tracked or scored."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def descend(start: TrackerConfig, space: Space, objective: Objective, min_gain: float, seed: int) -> Iterator[Found]:
    """Yield the start, then every better point; the last one is the result.

    Settings come in a new random order in every pass. A change must gain more than min_gain; of equally good values
    the first in the list is taken. Combinations that the configuration forbids are skipped.
    """
    rng = np.random.default_rng(seed)
    names = list(space)
    best = Found(start, objective([start])[0], "")
    yield best
    changed = True
    while changed:
        changed = False
        for at in rng.permutation(len(names)):
            name = names[at]
            candidates = [c for c in variants(best.config, name, space[name]) if c != best.config]
            scores = objective(candidates)
            if not candidates or max(scores) <= best.score + min_gain:
                continue
            top = int(np.argmax(scores))
            best = Found(candidates[top], scores[top], name)
            changed = True
            yield best


def variants(config: TrackerConfig, name: str, values: Sequence[Any]) -> list[TrackerConfig]:
    """The configuration with each value of one setting, without the values that it forbids."""
    possible = []
    for value in values:
        try:
            possible.append(config.override({name: value}))
        except ConfigError:
            continue
    return possible


def changes(config: TrackerConfig, base: TrackerConfig) -> dict[str, Any]:
    """Settings that differ from the base, as {"section.name": value}, in the order of the configuration."""
    before = flattened(base)
    return {name: value for name, value in flattened(config).items() if value != before[name]}


def flattened(config: TrackerConfig) -> dict[str, Any]:
    """All settings as {"section.name": value}."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


class Scorer:
    """Scores of runs under configurations, each computed once and only when it is needed.

    So a search that leaves a video out never sees it. max_trials: configurations to score at most; None: no limit.
    """

    def __init__(
        self, runs: Sequence[SequenceRun], pool: WorkerPool[Trial, Row], max_trials: int | None, advanced: Advanced
    ) -> None:
        self.n_trials = 0  # configurations that needed a run
        self._runs = runs
        self._pool = pool
        self._max_trials = max_trials
        self._advanced = advanced
        self._known: dict[tuple[int, TrackerConfig], dict[str, float]] = {}
        # A worker keeps what its runs have cached, so a run stays with its worker: longest first, in turn.
        longest_first = sorted(range(len(runs)), key=lambda at: -(length_of(runs[at].sequence) or 1))
        self._worker = {at: turn % pool.n_jobs for turn, at in enumerate(longest_first)}

    def scores(self, config: TrackerConfig, among: Sequence[int]) -> dict[str, float]:
        """Means over the runs with these indices, in per cent."""
        self.run([config], among)
        rows = [self._known[at, config] for at in among]
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in RATES}

    def run(self, configs: Sequence[TrackerConfig], among: Sequence[int], *, counted: bool = False) -> None:
        """Score the configurations on these runs. Raises TrialsSpentError and TuningError."""
        keys: list[tuple[int, TrackerConfig]] = []
        for config in dict.fromkeys(configs):
            new = [(at, config) for at in among if (at, config) not in self._known]
            if counted and new:
                if self._max_trials is not None and self.n_trials >= self._max_trials:
                    raise TrialsSpentError
                self.n_trials += 1
            keys += new
        items = [(self._worker[at], Trial(self._runs[at], config)) for at, config in keys]
        for index, outcome in self._pool.outcomes(items):
            self._advanced(1)
            at, config = keys[index]
            if not isinstance(outcome, Done):
                raise TuningError(f"{self._runs[at].name}: {outcome.text}", outcome.exit_code)
            values = outcome.result.values()
            self._known[at, config] = {name: float(values[name] or 0.0) for name in RATES}


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A line of the report: scores of a held-out video with the start settings and with those found without it."""

    held_out: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    def values(self) -> dict[str, Value]:
        found: dict[str, Value] = {"held out": self.held_out}
        for name in ("HOTA", "MOTA", "IDF1"):
            found |= {name: self.before[name], f"{name} tuned": self.after[name]}
        return found


class Tuning:
    """The search on all videos, then without each of them. What is found so far stays available if it stops.

    videos: name -> indices of its runs. log: receives one line for every step.
    """

    def __init__(
        self,
        videos: Mapping[str, Sequence[int]],
        scorer: Scorer,
        base: TrackerConfig,
        objective: Sequence[str],
        log: Callable[[str], Any],
    ) -> None:
        self.videos = videos
        self.found: dict[str, Found] = {}  # ALL_VIDEOS, or the held-out video -> the best so far
        self.rows: list[FoldRow] = []  # of the folds that are done
        self.start = math.nan  # the objective on all videos with the start settings
        self.finished = False
        self._base = base
        self._scorer = scorer
        self._log = log
        self._objective = objective

    def run(self, space: Space, min_gain: float, seed: int) -> None:
        """Raises TrialsSpentError and TuningError; `found` and `rows` stay."""
        self.search(ALL_VIDEOS, space, min_gain, seed)
        for video, held_out in self.videos.items():
            config = self.search(video, space, min_gain, seed)
            before, after = (self._scorer.scores(c, held_out) for c in (self._base, config))
            self.rows.append(FoldRow(video, before, after))
        self.finished = True

    @property
    def table(self) -> list[FoldRow]:
        """The rows, and their mean."""
        if len(self.rows) < 2:
            return self.rows
        means = [
            {name: math.fsum(getattr(row, side)[name] for row in self.rows) / len(self.rows) for name in RATES}
            for side in ("before", "after")
        ]
        return [*self.rows, FoldRow("mean", *means)]

    def search(self, held_out: str, space: Space, min_gain: float, seed: int) -> TrackerConfig:
        """The best settings on all videos but `held_out`."""
        among = [at for video, runs in self.videos.items() if video != held_out for at in runs]

        def objective(configs: Sequence[TrackerConfig]) -> list[float]:
            self._scorer.run(configs, among, counted=True)
            scores = (self._scorer.scores(config, among) for config in configs)
            return [math.fsum(one[name] for name in self._objective) / len(self._objective) for one in scores]

        title = held_out if held_out == ALL_VIDEOS else f"without {held_out}"
        for point in descend(self._base, space, objective, min_gain, seed):
            if not self.found:
                self.start = point.score
            self.found[held_out] = point
            step = f"{point.change} = {flattened(point.config)[point.change]}" if point.change else "start"
            self._log(f"{title}: {point.score:.2f} {step} ({self._scorer.n_trials} trials)")
        return self.found[held_out].config
