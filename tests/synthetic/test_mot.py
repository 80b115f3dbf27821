"""Generated scenes follow from the seed, and their ground truth is consistent."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.synthetic.mot import draw, make_scene, write_sequence
from tracker.eval.clear_identity import evaluate
from tracker.eval.mot_files import read_ground_truth
from tracker.eval.preprocess import prepare


def test_scene_follows_from_the_seed():
    a, b, c = make_scene(3, n_frames=20), make_scene(3, n_frames=20), make_scene(4, n_frames=20)
    for left, right in zip(a.detections, b.detections, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(a.boxes[0], c.boxes[0])


def test_detector_faults_have_the_promised_rates():
    scene = make_scene(0, n_frames=400)
    truth, visible = np.concatenate(scene.boxes), np.concatenate(scene.visibility)
    owners = np.concatenate(scene.detection_ids)
    scores = np.concatenate(scene.detections)[:, 4]
    assert 0.7 < (owners > 0).sum() / len(truth) < 0.95  # bursts and occlusion miss some
    assert 0.03 < (owners < 0).sum() / 400 < 0.25  # 0.1 false positives per frame
    assert ((visible >= 0) & (visible <= 1)).all()
    assert (visible < 0.5).any()  # people do cross
    share, score = [], []
    for t in range(400):
        for i, owner in enumerate(scene.detection_ids[t]):
            if owner > 0:
                share.append(scene.visibility[t][owner - 1])
                score.append(scene.detections[t][i, 4])
    share, score = np.array(share), np.array(score)
    assert np.median(score[share < 0.5]) < 0.5 < np.median(score[share > 0.9])
    assert ((scores >= 0) & (scores <= 1)).all()


def test_detections_without_faults_equal_the_truth():
    scene = make_scene(1, n_people=2, n_frames=50, jitter=0, burst_start=0, false_positives=0, occluded_miss=0)
    for boxes, visible, found, owner in zip(
        scene.boxes, scene.visibility, scene.detections, scene.detection_ids, strict=True
    ):
        np.testing.assert_array_equal(np.sort(owner), np.flatnonzero(visible >= 0.05) + 1)
        np.testing.assert_allclose(found[:, :4], boxes[owner - 1])


def test_wall_is_drawn_in_front_of_people():
    scene = make_scene(0, n_frames=3)
    images = list(draw(scene))
    assert len(images) == 3
    assert images[0].shape == (480, 640, 3)
    assert images[0].dtype == np.uint8
    x1, y1, x2, y2 = np.rint(scene.wall).astype(int)
    assert (images[0][y1:y2, x1:x2] == (70, 80, 90)).all()


@pytest.mark.slow
def test_written_sequence_reads_back(tmp_path):
    folder = tmp_path / "scene"
    write_sequence(make_scene(2, n_people=5, n_frames=12), folder, video=tmp_path / "scene.avi")
    truth = read_ground_truth(folder / "gt" / "gt.txt")
    scores = evaluate(*prepare(truth, truth.table))
    assert (scores.mota, scores.n_people, scores.n_frames) == (1, 5, 12)
    assert len(list((folder / "img1").iterdir())) == 12
    video = cv2.VideoCapture(str(tmp_path / "scene.avi"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    video.release()
