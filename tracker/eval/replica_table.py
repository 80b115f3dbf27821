"""The tables of several replicas as one table: means, standard errors, and paired differences to a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tracker.eval.report import Difference, Estimate, TableRow, Value

Labels: TypeAlias = tuple[str, ...]  # the cells of a row that are text: which row it is

NOT_AVERAGED = "fps"  # time of a replica is also that of changing its images


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """A line of the table: the same row of several replicas."""

    columns: Mapping[str, Value | Estimate]

    def values(self) -> Mapping[str, Value | Estimate]:
        return self.columns


def mean_rows(tables: Sequence[Sequence[TableRow]]) -> list[ReplicaRow]:
    """Each row with the mean and standard error of every number. tables: one for each replica, with the same columns.

    The column "replicas" is the number of tables that have the row.
    """
    return [
        ReplicaRow(_head(of) | {name: Estimate.of(list(_column(of, name).values())) for name in _names(of)})
        for of in _by_labels(tables).values()
    ]


def paired_rows(
    tables: Sequence[Sequence[TableRow]], measures: Sequence[str], baseline: Callable[[Labels], Labels]
) -> list[ReplicaRow]:
    """Each row with the mean of every number and, for the measures, the difference to another row of the same replica.

    The replicas of both rows share their perturbations, so the difference scatters less than either row.
    baseline: labels of a row -> labels of the row that it is compared with.
    """
    rows = _by_labels(tables)
    found = []
    for labels, of in rows.items():
        other = rows.get(baseline(labels), {})
        columns = _head(of)
        for name in _names(of):
            values = _column(of, name)
            columns[name] = Estimate.of(list(values.values())).mean
            if name in measures:
                before = _column(other, name)
                columns[f"{name}_diff"] = Difference.of([values[k] - before[k] for k in values if k in before])
        found.append(ReplicaRow(columns))
    return found


_Replicas: TypeAlias = dict[int, Mapping[str, Value | Estimate]]  # number of the table -> the row in it


def _by_labels(tables: Sequence[Sequence[TableRow]]) -> dict[Labels, _Replicas]:
    rows: dict[Labels, _Replicas] = {}
    for k, table in enumerate(tables):
        for row in table:
            values = row.values()
            labels = tuple(value for value in values.values() if isinstance(value, str))
            rows.setdefault(labels, {})[k] = values
    return rows


def _head(replicas: _Replicas) -> dict[str, Value | Estimate]:
    some = next(iter(replicas.values()))
    return {name: value for name, value in some.items() if isinstance(value, str)} | {"replicas": len(replicas)}


def _names(replicas: _Replicas) -> list[str]:
    """The columns with numbers."""
    some = next(iter(replicas.values()))
    return [name for name, value in some.items() if not isinstance(value, str) and name != NOT_AVERAGED]


def _column(replicas: _Replicas, name: str) -> dict[int, float]:
    """Number of the table -> the number in it, where there is one."""
    found = {k: values[name] for k, values in replicas.items()}
    return {k: float(value) for k, value in found.items() if isinstance(value, (int, float))}
