"""One table in four formats: the same columns, and empty cells for missing numbers."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.eval.scenes import random_case
from tracker.eval import clear_identity, hota, report
from tracker.eval.report import COLUMNS, Row


@pytest.fixture
def rows():
    pair = random_case(1)
    scored = Row("with | bar", clear_identity.evaluate(*pair), hota.evaluate(*pair), 12.34, "appearance")
    return [scored, Row("tracked alone", fps=5.0), Row("files alone", scored.clear, scored.hota)]


def test_report_columns():
    assert " ".join(COLUMNS) == "sequence HOTA DetA AssA MOTA IDF1 IDs Frag MT ML FP FN verify fps"


def test_csv_and_json_are_not_rounded(rows):
    objects = json.loads(report.as_json(rows))
    lines = list(csv.DictReader(io.StringIO(report.as_csv(rows))))
    for row, found, line in zip(rows, objects, lines, strict=True):
        assert tuple(found) == tuple(line) == COLUMNS
        assert found["sequence"] == line["sequence"] == row.name
        for name in COLUMNS[1:]:
            assert line[name] == ("" if found[name] is None else str(found[name]))
    assert objects[0]["HOTA"] == 100 * rows[0].hota.hota
    assert objects[0]["MOTA"] == 100 * rows[0].clear.mota
    assert objects[0]["FN"] == rows[0].clear.misses
    assert [one["fps"] for one in objects] == [12.34, 5.0, None]
    assert set(objects[1].values()) == {"tracked alone", 5.0, None}


def test_text_is_aligned_and_markdown_is_a_table(rows):
    text = report.as_text(rows).splitlines()
    assert len({len(line) for line in text}) == 1
    assert text[1].split()[3:] == [  # the name holds two blanks
        *(f"{rows[0].values()[name]:.1f}" for name in ("HOTA", "DetA", "AssA", "MOTA", "IDF1")),
        *(str(rows[0].values()[name]) for name in ("IDs", "Frag", "MT", "ML", "FP", "FN")),
        "appearance",
        "12.3",
    ]
    assert text[2].split() == ["tracked", "alone", *["-"] * 12, "5.0"]
    header, rule, first, *_ = report.as_markdown(rows).splitlines()
    assert header == "| " + " | ".join(COLUMNS) + " |"
    assert rule.count("---") == len(COLUMNS)
    assert first.startswith("| with \\| bar | ")
