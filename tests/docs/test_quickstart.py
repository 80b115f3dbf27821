"""docs/quickstart.ipynb: every cell runs from top to bottom, as a kernel runs it, and it is stored without outputs."""

from __future__ import annotations

import ast
import base64
import json
import re

import cv2
import numpy as np
import pytest

from tests.oracles.material import street, write_film
from tests.oracles.pages import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def cells(kind: str) -> list[dict]:
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    return [cell for cell in stored["cells"] if cell["cell_type"] == kind]


def run_cell(source: str, names: dict[str, object]) -> object:
    """Run a cell; the value of its last expression, None where a semicolon ends it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None or not isinstance(last, ast.Expr):
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None if source.rstrip().endswith(";") else value


def test_every_cell_runs(tmp_path, monkeypatch):
    pytest.importorskip("pandas", reason="the notebook makes a table with pandas")
    pytest.importorskip("matplotlib", reason="the notebook draws with matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "video.mp4", street()[0])
    names: dict[str, object] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells("code")]
    html = shown[0]._repr_html_()
    assert html.count("<tr>") - 1 == len(shown[1]) > 0
    picture = re.search(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert picture is not None
    assert cv2.imdecode(np.frombuffer(base64.b64decode(picture[1]), np.uint8), cv2.IMREAD_COLOR).shape[1] <= 640
    assert len(html) < 200_000
    assert shown[-1][0].tolist() == [1]


def test_notebook_is_stored_without_outputs():
    for cell in cells("code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert NOTEBOOK.stat().st_size < 20_000


def test_links_exist():
    for cell in cells("markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", "".join(cell["source"])):
            assert (NOTEBOOK.parent / target).exists(), target
