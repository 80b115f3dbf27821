"""Pictures to train on."""

from __future__ import annotations

import pytest

from tests.synthetic.drawn_people import write_yolo


@pytest.fixture
def data(tmp_path):
    write_yolo(tmp_path / "data" / "drawn", 12)
    return tmp_path / "data"
