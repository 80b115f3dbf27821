"""Fixtures of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folders below tests/ and the marker that each of their tests gets.
MARKERS = {"faults": "robustness", "fuzz": "robustness", "docs": "pages", "tools/experiments": "experiments"}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(ROOT / "tests").as_posix()
        for folder, marker in MARKERS.items():
            if place.startswith(f"{folder}/"):
                item.add_marker(marker)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data beside the checkout; no test may need it."""
    path = Path(os.environ.get("TRACKLET_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set TRACKLET_DATA")
    return path


@pytest.fixture
def registers() -> Iterator[None]:
    """Networks and methods that a test registers are gone after it."""
    from reid_training.config import REGISTERED_NETS
    from reid_training.methods import METHODS

    registered = (REGISTERED_NETS, METHODS)
    before = [dict(register) for register in registered]
    yield
    for register, old in zip(registered, before, strict=True):
        register.clear()
        register.update(old)
