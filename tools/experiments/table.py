"""Scores of the same seeds, paired: means, spread, and whether the difference is more than chance."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAIN, NO_GAIN, LOSS = "gain", "no gain shown", "worse"
# Of the mean difference. With five seeds, a method that does nothing exceeds it once in 17 times.
STANDARD_ERRORS = 2.0
COLUMNS = ("experiment", "data", "claim", "measure", "baseline", "method", "difference", "verdict", "s/run")


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


@dataclass(frozen=True, slots=True)
class Summary:
    mean: float
    sd: float  # of the sample (n - 1); nan for one value
    standard_error: float  # of the mean


def summary(values: Sequence[float]) -> Summary:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Summary(mean, math.nan, math.nan)
    sd = statistics.stdev(values)
    return Summary(mean, sd, sd / math.sqrt(len(values)))


def differences(row: Comparison) -> list[float]:
    """method - baseline, seed by seed: effects of a seed on both cancel."""
    return [b - a for a, b in zip(row.baseline, row.method, strict=True)]


def verdict(row: Comparison) -> str:
    """One seed proves nothing: it has no standard error."""
    difference = summary(differences(row))
    limit = STANDARD_ERRORS * difference.standard_error
    if difference.mean > limit:
        return GAIN
    return LOSS if difference.mean < -limit else NO_GAIN


def to_markdown(rows: Iterable[Comparison]) -> str:
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    last = ""
    for row in rows:
        again = row.name == last  # its title and claim stand one line above
        last = row.name
        cells = ["" if again else row.title, row.data, "" if again else row.claim, row.measure]
        scores = [_spread(summary(row.baseline)), _spread(summary(row.method))]
        gained = _spread(summary(differences(row)), sign="+")
        times = f"{_mean_seconds(row.baseline_seconds)} / {_mean_seconds(row.method_seconds)}"
        lines.append(_line([*cells, *scores, gained, verdict(row), times]))
    return "\n".join(lines) + "\n"


def to_csv(rows: Iterable[Comparison]) -> str:
    """With every seed's value, in the order of the seeds."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    scores = ("baseline", "method", "difference")
    writer.writerow(
        ["name", "title", "claim", "data", "measure", "n_seeds"]
        + [f"{name}_{part}" for name in scores for part in ("mean", "sd", "values")]
        + ["difference_standard_error", "verdict", "baseline_seconds", "method_seconds"]
    )
    for row in rows:
        cells: list[object] = [row.name, row.title, row.claim, row.data, row.measure, len(row.baseline)]
        for values in (row.baseline, row.method, differences(row)):
            found = summary(values)
            cells += [f"{found.mean:.6g}", f"{found.sd:.6g}", " ".join(f"{value:.6g}" for value in values)]
        cells += [f"{summary(differences(row)).standard_error:.6g}", verdict(row)]
        cells += [_mean_seconds(row.baseline_seconds), _mean_seconds(row.method_seconds)]
        writer.writerow(cells)
    return stream.getvalue()


def _spread(found: Summary, sign: str = "") -> str:
    mean = f"{100 * found.mean:{sign}.1f}"
    return mean if math.isnan(found.sd) else f"{mean} ± {100 * found.sd:.1f}"


def _mean_seconds(seconds: Sequence[float]) -> str:
    return f"{statistics.fmean(seconds):.0f}" if seconds else "?"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
