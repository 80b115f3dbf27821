"""Peers on replicas: what they get, where their boxes end up, and the margin in standard errors."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tools.benchmarks import tracking_peers
from tools.benchmarks.peers import NotInstalledError, Peer

N_FRAMES = 24


def nearest_box_tracker():
    """Outputs every detection; its identity is that of the nearest box of the frame before, from 0."""
    before = []  # (identity, centre)
    ids = itertools.count()

    def step(detections):
        assert detections.features.shape == (len(detections), 128)
        found = []
        for box in detections.boxes:
            centre = (box[:2] + box[2:]) / 2
            distance = [np.linalg.norm(centre - other) for _, other in before]
            known = bool(distance) and min(distance) < 20
            found.append((before.pop(int(np.argmin(distance)))[0] if known else next(ids), centre))
        before[:] = found
        return np.column_stack([detections.boxes, [identity for identity, _ in found]]) if found else np.zeros((0, 5))

    return Peer(lambda detections, image: detections, step, lambda result: result)


def silent():
    return Peer(lambda detections, image: None, lambda given: None, lambda result: np.array([[0.0, 0, 9, 9, -1]]))


def missing():
    raise NotInstalledError("no-such-tracker")


def test_peers_are_scored_on_the_same_replicas(tmp_path, capsys, monkeypatch):
    scene = make_scene(1, n_people=2, n_frames=N_FRAMES, width=160, height=120, burst_start=0)
    write_sequence(scene, tmp_path / "one")
    peers = {"nearest box": nearest_box_tracker, "silent": silent, "absent": missing}
    monkeypatch.setattr(tracking_peers, "PEERS", peers)
    out = tmp_path / "out"
    command = [str(tmp_path / "one"), "--replicas", "2", "--jobs", "1", "--out", str(out)]
    assert tracking_peers.main([*command, "--markdown", str(tmp_path / "t.md")]) == 0
    printed = capsys.readouterr()
    assert "absent: not installed (pip install no-such-tracker)" in printed.err
    head, *lines = printed.out.splitlines()
    assert head.split()[:3] == ["sequence", "tracker", "replicas"]
    scores = {cells[1]: cells[2:] for cells in (re.split(r" {2,}", line) for line in lines)}
    assert list(scores) == ["Tracklet", "nearest box", "silent"]
    assert float(scores["nearest box"][2].split()[0]) > 60  # MOTA, also of the mirrored replica
    assert scores["silent"][1:4] == ["0.0 ± 0.0"] * 3
    assert (out / "nearest-box" / "1" / "one.txt").stat().st_size > 100
    assert (out / "silent" / "1" / "one.txt").read_bytes() == b""
    assert (tmp_path / "t.md").read_text().count("\n") == 2 + 3


def test_margin_is_the_mean_lead_in_standard_errors(monkeypatch):
    class Line:
        def __init__(self, tracker, score):
            self.score, self.tracker = score, tracker

        def values(self):
            return {"sequence": "one", "tracker": self.tracker} | dict.fromkeys(tracking_peers.MEASURES, self.score)

    ours, theirs = [50.0, 52.0, 57.0], [40.0, 46.0, 44.0]
    tables = [[Line("Tracklet", a), Line("other", b)] for a, b in zip(ours, theirs, strict=True)]
    of_ours, of_theirs = (row.values() for row in tracking_peers.margins(tables))
    lead = np.subtract(ours, theirs)
    assert of_theirs["HOTA_margin"] == pytest.approx(lead.mean() / (lead.std(ddof=1) / np.sqrt(3)))
    assert of_theirs["IDF1"].mean == pytest.approx(np.mean(theirs))
    assert of_ours["HOTA_margin"] is None


def test_boxes_without_identity_or_size_are_left_out():
    found = np.array([[0.0, 0, 9, 9, 0], [0, 0, 9, 9, -1], [9, 0, 0, 9, 3], [0, 0, 9, 0, 4], [1, 2, 3, 4, 7]])
    tracks = tracking_peers.as_tracks(found)
    assert tracks.id.tolist() == [1, 8]
    assert tracks.xyxy.tolist() == [[0, 0, 9, 9], [1, 2, 3, 4]]
