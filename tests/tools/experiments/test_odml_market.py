"""One online layer after the re-ID network: people of training and scoring, sources of the images."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from reid_training.data.synthetic import write_market_folder
from reid_training.errors import DataError, ModelError
from reid_training.evaluate import rank
from tools.experiments import odml, odml_market
from tools.experiments.odml_market import ARCHIVES, FOLDERS, Features, Setting, compared, features, run_one


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return write_market_folder(tmp_path_factory.mktemp("market") / "drawn", n_train=0, n_test=8, n_distractors=3)


def crowd(n_people=12, noise=0.3, dim=16) -> Features:
    """Three cameras, two images per person and camera, the first a query; five distractors, two junk images."""
    rng = np.random.default_rng(0)
    pids = np.concatenate([np.repeat(np.arange(1, n_people + 1), 6), np.zeros(5, int), np.full(2, -1)])
    camids = np.arange(len(pids)) // 2 % 3
    asks = (np.arange(len(pids)) % 2 == 0) & (pids > 0)
    rows = rng.normal(size=(n_people + 2, dim))[pids] + noise * rng.normal(size=(len(pids), dim))
    return Features((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), pids, camids, asks)


def test_training_people_are_never_scored(monkeypatch):
    streams, scored = [], []

    def learned(stream, order, setting, gamma):
        assert sorted(order.tolist()) == list(range(len(stream.pids)))
        streams.append(set(stream.pids.tolist()))
        return odml_market.ODML(gamma=gamma).fit(stream.rows[order], stream.pids[order])

    def ranking(table, metric):
        scored.append((table, metric))
        return original(table, metric)

    original = odml_market.ranking
    monkeypatch.setattr(odml_market, "learned", learned)
    monkeypatch.setattr(odml_market, "ranking", ranking)
    people = crowd()
    result = run_one(people, Setting(gammas=(0.001, 0.01)), 0)
    *choosing, (before, no_metric), (after, metric) = scored
    assert len(streams) == len(choosing) + 1 == 3
    assert (no_metric is None, metric is None) == (True, False)
    assert after is before
    assert streams[0] == streams[1] < streams[2], "the choice is made inside the stream"
    for table, _ in choosing:
        asked = set(table.pids.tolist())
        assert len(asked) == 3
        assert not asked & streams[0]
        assert asked | streams[0] == streams[2]
    assert set(before.pids.tolist()) == {*range(1, 13), 0, -1} - streams[2]
    assert (before.pids == 0).sum() == 5
    assert result.n_scored == len(streams[2]) == 6


def test_scores_by_cosine_follow_the_protocol_gamma_zero_changes_none(monkeypatch):
    people = crowd(noise=1.5)
    tables = []
    original = odml_market.ranking
    monkeypatch.setattr(odml_market, "ranking", lambda table, metric: tables.append(table) or original(table, metric))
    result = run_one(people, Setting(gammas=(0.0,)), 3)
    assert result.method == result.baseline
    query, gallery = (tables[-1].asks, ~tables[-1].asks)
    rows, pids, camids = tables[-1].rows, tables[-1].pids, tables[-1].camids
    found = rank(rows[query], pids[query], camids[query], rows[gallery], pids[gallery], camids[gallery])
    assert result.baseline == pytest.approx((found.rank1, found.mean_ap))
    assert 0 < found.mean_ap < 1


def test_same_seed_gives_the_same_split_and_order():
    first, again, other = (run_one(crowd(noise=1.5), Setting(), seed) for seed in (1, 1, 2))
    assert (first.baseline, first.method, first.gamma) == (again.baseline, again.method, again.gamma)
    assert (first.baseline, first.method) != (other.baseline, other.method)


def test_features_folder_and_archive_are_equal_and_read_once(market, tmp_path, monkeypatch):
    data = tmp_path / "packed"
    data.mkdir()
    official = tmp_path / "official" / "Market-1501-v15.09.15"
    for folder, archive in zip(FOLDERS, ARCHIVES, strict=True):
        shutil.copytree(market / folder, official / folder)
        with zipfile.ZipFile(data / archive, "w") as packed:
            for file in sorted((market / folder).iterdir()):
                packed.write(file, f"{folder}/{file.name}")
    sources = {"a": market, "b": data, "c": official.parent}
    table, *others = [odml_market._load(features(source, tmp_path / name)) for name, source in sources.items()]
    for name in ("rows", "pids", "camids", "asks"):
        for other in others:
            np.testing.assert_array_equal(getattr(table, name), getattr(other, name))
    np.testing.assert_allclose(np.linalg.norm(table.rows, axis=1), 1, atol=1e-5)
    assert table.asks.sum() == 24  # 8 people, 3 cameras
    assert {-1, 0, *range(1, 9)} == set(table.pids.tolist())
    assert [file.name for file in (tmp_path / "b").iterdir()] == [features(data, tmp_path / "b").name], "no pictures"
    monkeypatch.setattr(odml_market, "_embedded", None)
    features(market, tmp_path / "a")


def test_finished_runs_are_not_repeated(market, tmp_path, monkeypatch, capsys):
    setting = Setting(gammas=(0.01,))
    found = compared(market, tmp_path, [0, 1], 1, setting)
    assert len(found) == 2
    rows = odml._market_rows(found)
    assert [(row.data, row.measure) for row in rows] == [
        ("Market-1501, 4 people", "R@1, 1 layer"), ("Market-1501, 4 people", "mAP, 1 layer"),
    ]  # fmt: skip
    assert rows[1].method == tuple(result.method[1] for result in found)
    monkeypatch.setattr(odml_market, "run_one", None)
    assert compared(market, tmp_path, [0, 1], 1, setting) == found
    assert capsys.readouterr().err == ""
    file = next(tmp_path.glob("market-*-0.json"))
    file.write_text("{}")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        compared(market, tmp_path, [0], 1, setting)
    next(tmp_path.glob("market-features-*.npz")).write_text("no")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        odml_market._load(features(market, tmp_path))


def test_missing_data_gives_one_line(tmp_path, capsys):
    assert compared(tmp_path, tmp_path / "out", [0], 1) == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"no Market-1501 in {tmp_path}" in said
    assert "left out" in said
    assert not (tmp_path / "out").exists()


def test_corrupt_archive_is_named(tmp_path):
    for archive in ARCHIVES:
        (tmp_path / archive).write_text("no zip")
    with pytest.raises(DataError, match=rf"{ARCHIVES[0]} is damaged"):
        compared(tmp_path, tmp_path / "out", [0], 1)
