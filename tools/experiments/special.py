"""Experiments other than retrieval training: name -> module; its `run` returns rows of the same table.

    def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]

    def run_reduced(out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]     # optional: seconds, no data

`data` holds the user's data sets, `out` is the experiment's folder: finished runs are not repeated and interrupted ones
resume. A module is imported when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from tools.experiments.table import Comparison

SPECIAL: dict[str, str] = {
    "triplet_vae": "tools.experiments.mnist",
    "large_margin_few_shot": "tools.experiments.few_shot",
    "meta_metric": "tools.experiments.meta",
    "odml": "tools.experiments.odml",
    "mip_mahalanobis": "tools.experiments.mip",
}


def run(name: str, data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    rows: list[Comparison] = importlib.import_module(SPECIAL[name]).run(data, out / name, seeds, jobs)
    return rows


def run_reduced(name: str, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison] | None:
    """None where the experiment has no such form."""
    module = importlib.import_module(SPECIAL[name])
    if not hasattr(module, "run_reduced"):
        return None
    rows: list[Comparison] = module.run_reduced(out / f"{name}-reduced", seeds, jobs)
    return rows
