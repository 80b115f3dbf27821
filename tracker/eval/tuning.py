"""Leave one out: settings searched on all videos but one are scored on that one, and every run is made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker.config import TrackerConfig
from tracker.errors import TrackletError
from tracker.eval.report import RATES, Row, Value
from tracker.eval.search import Found, Space, TrialsSpentError, changes, descend
from tracker.eval.sequence_run import SequenceRun, Trial
from tracker.eval.sequences import length_of
from tracker.runtime.processes import Advanced, Done, WorkerPool

EVERYTHING = "all videos"


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A line of the report: a video held out, its scores with the settings before and with those found without it."""

    held_out: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    def values(self) -> dict[str, Value]:
        found: dict[str, Value] = {"held out": self.held_out}
        for name in ("HOTA", "MOTA", "IDF1"):
            found |= {name: self.before[name], f"{name} tuned": self.after[name]}
        return found


class TuningError(TrackletError):
    """A unit that cannot be tracked or scored."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Scorer:
    """Scores of units under configurations, each run once, `crew.n_jobs` at a time.

    Nothing is run before it is asked for: a search that leaves a video out never sees it.
    """

    def __init__(
        self, units: Sequence[SequenceRun], crew: WorkerPool[Trial, Row], max_trials: int | None, advanced: Advanced
    ) -> None:
        self.units = units
        self.n_trials = 0  # configurations that needed a run
        self._crew = crew
        self._advanced = advanced
        self._max_trials = max_trials
        self._known: dict[tuple[int, TrackerConfig], dict[str, float]] = {}
        self._member = _shared_out(units, crew.n_jobs)

    def scores(self, config: TrackerConfig, among: Iterable[int]) -> dict[str, float]:
        """Means over these units, in per cent."""
        among = list(among)
        self.run([config], among)
        rows = [self._known[at, self.units[at].relevant(config)] for at in among]
        return {name: math.fsum(row[name] for row in rows) / len(rows) for name in RATES}

    def run(self, configs: Sequence[TrackerConfig], among: Sequence[int], *, counted: bool = False) -> None:
        """Make the scores known. Raises TrialsSpentError, and MotFileError or another mistake of a unit."""
        missing: dict[tuple[int, TrackerConfig], None] = {}
        for config in configs:
            new = [key for at in among if (key := (at, self.units[at].relevant(config))) not in self._known]
            if counted and new and not set(new) <= missing.keys():
                if self._max_trials is not None and self.n_trials >= self._max_trials:
                    raise TrialsSpentError
                self.n_trials += 1
            missing |= dict.fromkeys(new)
        keys = list(missing)
        items = [(self._member[at], Trial(self.units[at], config)) for at, config in keys]
        for index, outcome in self._crew.outcomes(items):
            self._advanced(1)
            at, config = keys[index]
            if not isinstance(outcome, Done):
                raise TuningError(f"{self.units[at].name}: {outcome.text}", outcome.exit_code)
            values = outcome.result.values()
            self._known[at, config] = {name: float(values[name] or 0.0) for name in RATES}


class Tuning:
    """The search on all videos, then without each of them; what was found so far is always there to be written."""

    def __init__(
        self,
        videos: Mapping[str, Sequence[int]],
        scorer: Scorer,
        base: TrackerConfig,
        objective: Sequence[str],
        say: Callable[[str], Any],
    ) -> None:
        self.videos = videos  # name -> its units
        self.base = base
        self.found: dict[str, Found] = {}  # EVERYTHING or the video held out -> the best so far
        self.rows: list[FoldRow] = []  # of the folds that are done
        self.start = math.nan  # the objective on all videos before
        self.finished = False
        self._scorer = scorer
        self._say = say
        self._objective = objective

    def run(self, space: Space, min_gain: float, seed: int) -> None:
        """Raises what stops it; `found` and `rows` stay."""
        self._search(EVERYTHING, space, min_gain, seed)
        for video, held_out in self.videos.items():
            config = self._search(video, space, min_gain, seed)
            before, after = (self._scorer.scores(c, held_out) for c in (self.base, config))
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

    def _search(self, held_out: str, space: Space, min_gain: float, seed: int) -> TrackerConfig:
        among = [at for video, units in self.videos.items() if video != held_out for at in units]

        def objective(configs: Sequence[TrackerConfig]) -> list[float]:
            self._scorer.run(configs, among, counted=True)
            scores = (self._scorer.scores(config, among) for config in configs)
            return [math.fsum(one[name] for name in self._objective) / len(self._objective) for one in scores]

        title = EVERYTHING if held_out == EVERYTHING else f"without {held_out}"
        for point in descend(self.base, space, objective, min_gain, seed):
            if not self.found:
                self.start = point.score
            self.found[held_out] = point
            value = changes(point.config, TrackerConfig()).get(point.change, "the default") if point.change else ""
            step = f"{point.change} = {value}" if point.change else "start"
            self._say(f"{title}: {point.score:.2f} {step} ({self._scorer.n_trials} trials)")
        return self.found[held_out].config


def _shared_out(units: Sequence[SequenceRun], n_members: int) -> list[int]:
    """The member of the crew that each unit belongs to, so that all have about as much to do."""
    work = [0.0] * n_members
    home = [0] * len(units)
    cost = [(length_of(unit.sequence) or 1) * (3 if unit.reid else 1) for unit in units]  # networks take their time
    for at in sorted(range(len(units)), key=lambda at: -cost[at]):
        home[at] = work.index(min(work))
        work[home[at]] += cost[at]
    return home
