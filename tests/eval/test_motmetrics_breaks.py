"""The failures of motmetrics with current NumPy and pandas that eval/clear_identity.py lists still exist."""

from __future__ import annotations

import inspect

import motmetrics
import numpy as np
import pandas as pd
import pytest

from tracker.boxes import iou
from tracker.eval import clear_identity

NUMPY = int(np.__version__.split(".")[0])
PANDAS = int(pd.__version__.split(".")[0])
OLD = motmetrics.__version__ == "1.4.0"


@pytest.mark.skipif(NUMPY < 2 or not OLD, reason="broken by NumPy 2 in motmetrics 1.4.0")
def test_iou_matrix_is_broken_by_numpy_2():
    with pytest.raises(AttributeError, match="asfarray"):
        motmetrics.distances.iou_matrix(np.zeros((1, 4)), np.zeros((1, 4)))


@pytest.mark.skipif(PANDAS < 2 or not OLD, reason="broken by pandas 2 in motmetrics 1.4.0")
def test_merging_event_tables_is_broken_by_pandas_2():
    accumulator = motmetrics.MOTAccumulator()
    accumulator.update([1], [1], [[0.0]], frameid=1)
    with pytest.raises(AttributeError, match="append"):
        motmetrics.MOTAccumulator.merge_event_dataframes([accumulator])


def test_only_working_parts_of_motmetrics_are_called():
    source = inspect.getsource(clear_identity).split('"""', 2)[2]
    used = {"motmetrics.metrics.create", "motmetrics.MOTAccumulator"}
    for name in used:
        source = source.replace(name, "")
    assert "motmetrics." not in source


def test_overlap_equals_motmetrics(rng):
    boxes = rng.uniform(0, 20, (12, 2, 4))
    a, b = boxes[:, 0], boxes[:, 1]
    theirs = motmetrics.distances.boxiou(a[:, None], b[None])  # left, top, width, height
    ours = iou(np.c_[a[:, :2], a[:, :2] + a[:, 2:]], np.c_[b[:, :2], b[:, :2] + b[:, 2:]])
    np.testing.assert_allclose(ours, theirs)
