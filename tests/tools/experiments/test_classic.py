"""The batch metric learners of other libraries: which are there, and that what is fitted is a metric that helps."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tools.experiments import classic


def test_learners_that_are_absent_are_named_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "metric_learn", None)
    pytest.importorskip("sklearn")
    assert classic.available() == ("NCA",)
    said = capsys.readouterr().err
    assert "the rows of LMNN, ITML are left out" in said
    assert said.count("\n") == 1
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert classic.available() == ()


def test_each_learner_makes_noise_count_less(capsys):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = np.eye(4)[labels] + 0.1 * rng.normal(size=(90, 4))
    rows[:, 3] = 3.0 * rng.normal(size=90)
    for name in classic.available():
        transform = classic.fitted(name, rows, labels, 0)
        assert transform.shape == (4, 4)
        lengths = np.linalg.norm(transform, axis=0)
        assert lengths[:3].mean() > 2.0 * lengths[3], name
