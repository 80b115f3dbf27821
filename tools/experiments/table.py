"""Scores of the same seeds, paired: means, standard errors, and whether the difference is more than chance."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scipy import stats

GAIN, NO_GAIN, LOSS = "gain", "not shown", "worse"
LEAST_SEEDS = 3
COVERAGE = 0.95  # of the interval that must not hold 0
RULE = (
    f"±: standard error of the mean over n seeds. Difference: of method and baseline with the same seed. Verdict: "
    f'"{GAIN}" or "{LOSS}" if the {COVERAGE:.0%} interval of the mean difference (Student\'s t) lies above or below 0 '
    f'and n >= {LEAST_SEEDS}, else "{NO_GAIN}". s/run: processor seconds of training, baseline / method.'
)
COLUMNS = (
    *("experiment", "claim", "setting", "measure", "n", "baseline", "method"),
    *("difference", "verdict", "command", "s/run"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of an experiment; larger is better. The i-th value of both is of the same seed."""

    name: str  # of the experiment's file
    title: str
    claim: str  # the paper's
    data: str
    measure: str
    baseline: tuple[float, ...]  # shares in [0, 1], as all measures
    method: tuple[float, ...]
    baseline_seconds: tuple[float, ...] = ()  # processor seconds of training, of the runs that know them
    method_seconds: tuple[float, ...] = ()
    command: str = field(default="", kw_only=True)  # that gives this row


@dataclass(frozen=True, slots=True)
class Summary:
    mean: float
    standard_error: float  # of the mean; nan for one value


def summary(values: Sequence[float]) -> Summary:
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), spread)


def differences(row: Comparison) -> list[float]:
    """method - baseline, seed by seed: effects of a seed on both cancel."""
    return [b - a for a, b in zip(row.baseline, row.method, strict=True)]


def interval(values: Sequence[float]) -> float:
    """Half the width of the interval of the mean, at COVERAGE, by Student's t; nan for one value."""
    return float(stats.t.ppf(0.5 + COVERAGE / 2, len(values) - 1) * summary(values).standard_error)


def verdict(row: Comparison) -> str:
    """See RULE."""
    found = differences(row)
    if len(found) < LEAST_SEEDS:
        return NO_GAIN
    mean, limit = summary(found).mean, interval(found)
    if mean > limit:
        return GAIN
    return LOSS if mean < -limit else NO_GAIN


def to_markdown(rows: Iterable[Comparison]) -> str:
    """The table and, below it, how to read it."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    last = ""
    for row in rows:
        again = row.name == last  # its title, claim and command stand in a line above
        last = row.name
        cells = ["" if again else row.title, "" if again else row.claim, row.data, row.measure, str(len(row.method))]
        scores = [_spread(summary(row.baseline)), _spread(summary(row.method))]
        gained = _spread(summary(differences(row)), sign="+")
        command = f"`{row.command}`" if row.command and not again else ""
        times = f"{_mean_seconds(row.baseline_seconds)} / {_mean_seconds(row.method_seconds)}"
        lines.append(_line([*cells, *scores, gained, verdict(row), command, times]))
    return "\n".join([*lines, "", RULE]) + "\n"


def to_csv(rows: Iterable[Comparison]) -> str:
    """With every seed's value, in the order of the seeds."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    scores = ("baseline", "method", "difference")
    writer.writerow(
        ["name", "title", "claim", "setting", "measure", "n_seeds"]
        + [f"{name}_{part}" for name in scores for part in ("mean", "standard_error", "values")]
        + ["verdict", "command", "baseline_seconds", "method_seconds"]
    )
    for row in rows:
        cells: list[object] = [row.name, row.title, row.claim, row.data, row.measure, len(row.baseline)]
        for values in (row.baseline, row.method, differences(row)):
            found = summary(values)
            cells += [f"{found.mean:.6g}", f"{found.standard_error:.6g}", " ".join(f"{value:.6g}" for value in values)]
        cells += [verdict(row), row.command, _mean_seconds(row.baseline_seconds), _mean_seconds(row.method_seconds)]
        writer.writerow(cells)
    return stream.getvalue()


def _spread(found: Summary, sign: str = "") -> str:
    mean = f"{100 * found.mean:{sign}.1f}"
    return mean if math.isnan(found.standard_error) else f"{mean} ± {100 * found.standard_error:.1f}"


def _mean_seconds(seconds: Sequence[float]) -> str:
    return f"{statistics.fmean(seconds):.0f}" if seconds else "?"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
