"""The benchmark of the tracker core: its table, missing peers, and the plot of growth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tools.benchmarks import peers as tracker_peers
from tools.benchmarks import tracker as bench_tracker

STAGES = ["predict", "select", "camera", "embed", "associate", "re-associate", "propose", "occlude", "update"]


def test_table_lists_step_and_stages_for_each_crowd(capsys):
    bench_tracker.main(["--people", "3", "7", "--frames", "4", "--dim", "8"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == ["p50", "ms", "p95", "ms"]
    assert [line.split()[:-2] for line in rows] == [[str(n), what] for n in (3, 7) for what in ("Tracklet", *STAGES)]
    for line in rows:
        p50, p95 = map(float, line.split()[-2:])
        assert 0 <= p50 <= p95


def test_peer_gets_every_frame_as_prepared(capsys, monkeypatch):
    taken = []

    def counting():
        return tracker_peers.Peer(lambda detections, image: len(detections), taken.append, lambda result: result)

    def missing():
        raise tracker_peers.NotInstalledError("no-such-tracker")

    monkeypatch.setattr(bench_tracker, "PEERS", {"counting": counting, "absent": missing})
    bench_tracker.main(["--people", "5", "9", "--frames", "3", "--dim", "8", "--repeat", "2", "--peers"])
    out = capsys.readouterr().out
    assert taken == [
        len(detections) for n in (5, 5, 9, 9) for detections in bench_tracker.crowd(n, 3 + bench_tracker.WARM_UP, 8, 0)
    ]
    assert out.count("counting") == 2
    assert out.splitlines()[-1] == "absent: not installed (pip install no-such-tracker)"


def test_missing_peer_package_is_named(monkeypatch):
    def no_module(name):
        raise ImportError(name)

    monkeypatch.setattr(tracker_peers, "import_module", no_module)
    packages = set()
    for open_peer in tracker_peers.PEERS.values():
        with pytest.raises(tracker_peers.NotInstalledError) as error:
            open_peer()
        packages.add(str(error.value))
    assert packages == {"trackforge", "deep-sort-realtime", "pyxtrackers", "trackers", "norfair"}


def test_least_takes_the_minimum_of_each_frame():
    runs = iter([{"step": np.array([3.0, 1.0])}, {"step": np.array([2.0, 5.0])}])
    assert bench_tracker.least(lambda: next(runs), 2)["step"].tolist() == [2.0, 1.0]


def test_growth_is_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_tracker, "GROWTH", (2, 4))
    bench_tracker.main(["--growth", str(tmp_path / "growth.png"), "--frames", "3", "--dim", "8"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["people", "2", "4"]
    picture = cv2.imread(str(tmp_path / "growth.png"))
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_crowd_follows_from_the_seed_and_lies_in_the_image():
    first, second = (bench_tracker.crowd(20, 5, 16, seed=3) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.boxes, b.boxes)
        np.testing.assert_allclose(np.linalg.norm(a.features, axis=1), 1, atol=1e-6)
        centre = (a.boxes[:, :2] + a.boxes[:, 2:]) / 2
        assert (centre > -20).all()
        assert (centre < bench_tracker.side_of(20) + 20).all()
