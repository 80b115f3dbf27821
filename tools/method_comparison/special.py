"""Experiments of another kind than training for retrieval: name -> module, whose `run` gives rows of the same table.

    def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]

`data` holds the user's data sets, `out` is the experiment's own folder: what is finished there is not done again, and
what was cut goes on. A module is imported when it runs. It may also have a form of seconds, without any data:

    def run_reduced(out: Path, seeds: Sequence[int]) -> list[Comparison]
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from method_comparison.table import Comparison

SPECIAL: dict[str, str] = {
    "triplet_vae": "method_comparison.mnist",
    "odml": "method_comparison.odml",
}


def run(name: str, data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    rows: list[Comparison] = importlib.import_module(SPECIAL[name]).run(data, out / name, seeds, jobs)
    return rows


def run_reduced(name: str, out: Path, seeds: Sequence[int]) -> list[Comparison] | None:
    """None: there is no such form."""
    reduced = getattr(importlib.import_module(SPECIAL[name]), "run_reduced", None)
    return None if reduced is None else reduced(out / name, seeds)
