"""Runs with cached frames and embeddings: scores equal those of `track-eval`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.config import TrackerConfig
from tracker.eval.cli import main
from tracker.eval.mot_files import as_read, read_results
from tracker.eval.sequence_run import CachedEncoder, OpenRun, SequenceRun
from tracker.sinks.mot_txt import mot_lines
from tracker.types import Tracks

SCORES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDs", "Frag", "FP", "FN")


class Corner:
    """Embeds a box as the pixel in its corner and the box; counts the boxes."""

    name = "corner"

    def __init__(self):
        self.n_boxes = 0

    def embed(self, image, boxes):
        self.n_boxes += len(boxes)
        pixels = [image[int(box[1]), int(box[0])].astype(float) for box in boxes]
        return np.concatenate([np.reshape(pixels, (-1, 3)), boxes], axis=1).astype(np.float32)


@pytest.mark.parametrize("max_rows", [0, 7, 1000])
def test_cached_embeddings_equal_the_encoders(rng, max_rows):
    images = rng.integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
    boxes = rng.integers(0, 40, (6, 4)).astype(float)
    plain, inner = Corner(), Corner()
    cached = CachedEncoder(inner, max_rows)
    for _ in range(4):
        for index in rng.permutation(3):  # the same box in another frame is another crop
            asked = boxes[rng.permutation(6)[: rng.integers(0, 7)]]
            cached.begin_frame(int(index))
            found = cached.embed(images[index], asked)
            np.testing.assert_array_equal(found, plain.embed(images[index], asked))
            assert found.dtype == np.float32
            found[:] = 0  # does not change the cache
    if max_rows == 1000:
        assert inner.n_boxes <= 3 * 6  # each once
    assert inner.n_boxes <= plain.n_boxes


def test_as_read_equals_read_results(rng, tmp_path):
    xyxy = rng.uniform(-5, 500, (20, 2))
    tracks = Tracks(
        np.concatenate([xyxy, xyxy + rng.uniform(1, 99, (20, 2))], axis=1), np.arange(1, 21), rng.uniform(0, 1, 20),
        np.zeros(20, np.int64), np.zeros(20, np.int64), np.zeros(20, np.uint8),
    )  # fmt: skip
    (tmp_path / "r.txt").write_text(mot_lines(6, tracks))
    read = read_results(tmp_path / "r.txt")
    ours = as_read(np.full(20, 6), tracks.id, tracks.xyxy)
    np.testing.assert_array_equal(read.frame, ours.frame)
    np.testing.assert_array_equal(read.id, ours.id)
    np.testing.assert_array_equal(read.boxes, ours.boxes)


@pytest.mark.slow
@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_open_run_scores_equal_track_eval_repeatedly(tmp_path, monkeypatch, images, keep):
    scene = make_scene(0, n_people=4, n_frames=20, width=320, height=240, burst_start=0.1)
    write_sequence(scene, tmp_path / "one", images=images)
    monkeypatch.chdir(tmp_path)
    run = OpenRun(SequenceRun(tmp_path / "one", "det/det.txt", None, "default" if images else None, "cpu", 1, keep))
    for settings in ({}, {"lifecycle.confirm_hits": 1}, {"association.veto": False}, {}):
        command = ["one", "--verify", "appearance", "--jobs", "1", "--json", "s.json", "--overwrite", "--device", "cpu"]
        assert main([*command, *(f"--set={name}={value}" for name, value in settings.items())]) == 0
        expected = json.loads((tmp_path / "s.json").read_text())[0]
        found = run.evaluate(TrackerConfig().override(settings)).values()
        assert {name: found[name] for name in SCORES} == {name: expected[name] for name in SCORES}
