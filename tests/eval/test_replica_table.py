"""Means, standard errors and paired differences of replicas, against plain loops."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from tracker.eval import report
from tracker.eval.replica_table import mean_rows, paired_rows
from tracker.eval.report import Difference, Estimate


@dataclass(frozen=True)
class Line:
    sequence: str
    uses: str
    HOTA: float | None
    IDs: int
    fps: float = 30.0

    def values(self):
        return dict(vars(self))


def tables(n_replicas=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        [
            Line(sequence, uses, float(rng.normal(50, 3)), int(rng.integers(30)))
            for sequence in ("one", "two")
            for uses in ("off", "A")
        ]
        for _ in range(n_replicas)
    ]


def slow_mean_and_error(values):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance) / math.sqrt(len(values))


def test_mean_and_standard_error_equal_textbook():
    given = tables()
    rows = mean_rows(given)
    assert [(row.values()["sequence"], row.values()["uses"]) for row in rows] == [
        ("one", "off"), ("one", "A"), ("two", "off"), ("two", "A"),
    ]  # fmt: skip
    for at, row in enumerate(rows):
        assert list(row.values()) == ["sequence", "uses", "replicas", "HOTA", "IDs"]  # no time
        assert row.values()["replicas"] == 5
        for name in ("HOTA", "IDs"):
            found = row.values()[name]
            assert (found.mean, found.se) == pytest.approx(slow_mean_and_error([getattr(t[at], name) for t in given]))


def test_differences_are_of_the_same_replica():
    given = tables()
    rows = paired_rows(given, ["HOTA"], lambda labels: (labels[0], "off"))
    for at, row in enumerate(rows):
        off = at - at % 2
        expected = slow_mean_and_error([t[at].HOTA - t[off].HOTA for t in given])
        found = row.values()["HOTA_diff"]
        assert (found.mean, found.se) == pytest.approx(expected)
        assert row.values()["HOTA"] == pytest.approx(sum(t[at].HOTA for t in given) / 5)
        assert "IDs_diff" not in row.values()


def test_missing_replica_leaves_the_pairs_that_are_there():
    given = tables()
    given[2] = given[2][1:]  # without one/off
    given[4] = []
    rows = {row.values()["sequence"] + row.values()["uses"]: row.values() for row in mean_rows(given)}
    assert {name: row["replicas"] for name, row in rows.items()} == {"oneoff": 3, "oneA": 4, "twooff": 4, "twoA": 4}
    paired = {
        row.values()["sequence"] + row.values()["uses"]: row.values()["HOTA_diff"]
        for row in paired_rows(given, ["HOTA"], lambda labels: (labels[0], "off"))
    }
    expected = slow_mean_and_error([given[k][1].HOTA - given[k][0].HOTA for k in (0, 1, 3)])
    assert (paired["oneA"].mean, paired["oneA"].se) == pytest.approx(expected)


def test_estimate_of_too_few_values_is_no_number():
    assert str(Estimate.of([])) == "-"
    assert str(Difference.of([])) == "-"
    assert Estimate.of([3.0]).mean == 3.0
    assert math.isnan(Estimate.of([3.0]).se)
    assert (str(Estimate.of([3.0])), str(Difference.of([3.0]))) == ("3.0", "+3.00")


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [
        (0.5, 0.2, "+0.50 ± 0.20 *"),
        (-0.5, 0.2, "-0.50 ± 0.20 *"),
        (0.4, 0.2, "+0.40 ± 0.20"),
        (0.0, 0.0, "+0.00 ± 0.00"),
    ],
)
def test_star_marks_more_than_two_standard_errors(mean, se, text):
    assert str(Difference(mean, se)) == text


def test_files_have_a_column_for_each_standard_error():
    given = [[Line("one", "off", None, 3)], [Line("one", "off", None, 5)]]
    (row,) = json.loads(report.as_json(mean_rows(given)))
    expected = {
        "sequence": "one",
        "uses": "off",
        "replicas": 2,
        "HOTA": None,
        "HOTA_se": None,
        "IDs": 4.0,
        "IDs_se": 1.0,
    }
    assert row == expected
    (line,) = csv.DictReader(io.StringIO(report.as_csv(mean_rows(given))))
    assert line == {name: "" if value is None else str(value) for name, value in expected.items()}
    head, _, cells = report.as_markdown(mean_rows(given)).splitlines()
    assert head == "| sequence | uses | replicas | HOTA | IDs |"
    assert cells == "| one | off | 2 | - | 4.0 ± 1.0 |"
