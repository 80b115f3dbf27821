"""The meta metric learner's experiment on a few made-up alphabets: tasks, roles, its files, and the data's errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from method_comparison import meta, special
from reid_training.errors import DataError, ModelError

SHORT = dataclasses.replace(
    meta.SETTING, n_tasks=6, n_judged=8, ways=(2, 4), most_shots=3, n_queries=2, side_px=16, width=0.25, steps=2
)
N_DRAWERS = 6


@pytest.fixture
def data(tmp_path):
    """Eight alphabets of three to five characters, six of them to learn; every character has strokes of its own."""
    rng = np.random.default_rng(0)
    sizes = [3, 4, 5, 4, 3, 5, 4, 3]
    alphabet = np.repeat(np.arange(8, dtype=np.int16), sizes)
    strokes = rng.random((len(alphabet), 21, 21)) < 0.3
    ink = np.repeat(strokes, N_DRAWERS, axis=0) ^ (rng.random((N_DRAWERS * len(alphabet), 21, 21)) < 0.05)
    (tmp_path / "omniglot").mkdir()
    np.savez(
        tmp_path / "omniglot" / "omniglot_105.npz",
        packed=np.packbits(ink.reshape(len(ink), -1), axis=1),
        shape=np.array([21, 21]),
        char=np.repeat(np.arange(len(alphabet), dtype=np.int16), N_DRAWERS),
        alphabet=np.repeat(alphabet, N_DRAWERS),
        background=np.repeat(alphabet < 6, N_DRAWERS),
    )
    return tmp_path


@pytest.fixture
def parts(data, monkeypatch):
    monkeypatch.setattr(meta, "N_VALIDATION", 2)
    return meta.read(data / "omniglot" / "omniglot_105.npz", 16)


def test_no_alphabet_is_in_two_parts(parts):
    assert [len(part.alphabets) for part in parts.values()] == [4, 2, 2]
    characters = [set(part.characters.tolist()) for part in parts.values()]
    assert sum(len(found) for found in characters) == len(set.union(*characters)) == 31
    assert characters[2] == set(range(24, 31)), "the evaluation alphabets"


def test_a_task_is_of_one_alphabet(parts):
    domains = parts["train"]
    shots = set()
    for index in range(50):
        support, queries = meta.draw_task(domains, (1, 3), np.random.default_rng(index), SHORT)
        assert any(np.isin(np.concatenate([support, queries]), rows).all() for rows in domains.alphabets)
        assert not set(support.tolist()) & set(queries.tolist())
        shots |= set(np.unique(domains.characters[support], return_counts=True)[1].tolist())
    assert shots == {1, 2, 3}


def test_both_roles_start_from_the_same_network():
    baseline, method = (meta.new_method(role, 3, SHORT) for role in meta.ROLES)
    assert all(torch.equal(a, b) for a, b in zip(baseline.net.parameters(), method.net.parameters(), strict=True))
    assert baseline.config == dataclasses.replace(method.config, steps=0)


def test_a_rate_of_0_is_the_matching_network(parts):
    method = meta.new_method("baseline", 0, SHORT).eval()
    pooled = meta.pooled_features(method, parts["test"])
    asked = (pooled, parts["test"], "ragged", 0, SHORT)
    assert meta.accuracy(meta.with_rate(method, 0.0, SHORT), *asked) == meta.accuracy(method, *asked)


def test_the_rate_that_is_best_on_validation_is_chosen(parts, monkeypatch):
    method = meta.new_method("baseline", 0, SHORT).eval()
    scores = {0.0: 0.5, 0.01: 0.7, 0.1: 0.7}
    monkeypatch.setattr(meta, "RATES", tuple(scores))
    monkeypatch.setattr(meta, "accuracy", lambda tuned, *_: scores[tuned.config.rate if tuned.config.steps else 0.0])
    assert meta.best_rate(method, parts["validation"], SHORT) == 0.01


def test_a_seed_decides_the_result(parts):
    first, second = (meta.run_one(parts, "method", 1, "test", SHORT) for _ in range(2))
    assert first.scores == second.scores
    assert set(first.scores) == set(meta.MEASURES)


def test_what_is_finished_is_not_run_again(data, tmp_path, monkeypatch):
    tasks = []

    class Here:  # in this process
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def map(self, function, *arguments):
            tasks.extend(zip(*arguments, strict=True))
            return map(function, *arguments)

    monkeypatch.setattr(meta, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(meta, "N_VALIDATION", 2)
    rows = meta.run(data, tmp_path / "out", [0, 1], 1, setting=SHORT)
    assert len(tasks) == 4
    assert meta.run(data, tmp_path / "out", [0, 1], 1, setting=SHORT) == rows
    assert len(tasks) == 4
    assert [row.measure for row in rows[:2]] == ["accuracy, 5 shots", "accuracy, 5 shots, against plain fine-tuning"]
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    assert rows[0].method == rows[1].method
    for row in rows:
        assert all(0.0 < value <= 1.0 for value in (*row.baseline, *row.method))
    next((tmp_path / "out").glob("method-*-1.json")).write_text("{")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        meta.run(data, tmp_path / "out", [0, 1], 1, setting=SHORT)


def test_the_tool_knows_the_experiment():
    assert special.SPECIAL["meta_metric"] == "method_comparison.meta"


def test_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*omniglot_105\.npz; --data names the folder that omniglot/ lies in"):
        meta.run(tmp_path, tmp_path / "out", [0], 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        meta.run(tmp_path, tmp_path / "out", [0], 1)
