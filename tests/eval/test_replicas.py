"""Replicas: small seeded changes of a sequence, and results in the coordinates of the sequence."""

from __future__ import annotations

import numpy as np
import pytest

from tests.eval.scenes import as_table
from tracker.detector.base import DetectorBase
from tracker.eval import replicas
from tracker.eval.mot_files import GroundTruth, MotFileError
from tracker.eval.replicas import Replica, ReplicaDetector, ReplicaSource
from tracker.sources.base import FrameSource
from tracker.types import Detections, Frame, Tracks

MIRRORED = Replica(1, 3, True, 80)
PLAIN = Replica(0, 3, False, 80)
WIDTH = 640


def boxes(n, seed=0):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 400, (n, 2)), rng.uniform([20, 60], [60, 180], (n, 2))
    return np.concatenate([corner, corner + size], axis=1)


def detections(n):
    return Detections(boxes(n), np.linspace(0.1, 0.9, n), np.arange(n))


class Images(FrameSource):
    """Ten frames with a bright left half."""

    name, width, height, fps, n_frames = "images", WIDTH, 48, 25.0, 10

    def __iter__(self):
        for index in range(10):
            image = np.zeros((48, WIDTH, 3), np.uint8)
            image[:, : WIDTH // 2] = 200
            yield Frame(index, index / 25, image, WIDTH, 48)


class Fixed(DetectorBase):
    name = "fixed"

    def detect(self, frame):
        return detections(5)


def test_replica_follows_from_its_seed():
    assert [Replica.of(k) for k in range(9)] == [Replica.of(k) for k in range(9)]
    assert [Replica.of(k).mirrored for k in range(4)] == [False, True, False, True]
    starts, qualities = zip(*((one.first_index, one.quality) for one in map(Replica.of, range(300))), strict=True)
    assert set(starts) == set(range(replicas.LATEST_START))
    assert (min(qualities), max(qualities)) == replicas.QUALITY


def test_detections_follow_from_seed_and_frame():
    first, again = (PLAIN.detections(detections(40), 7) for _ in range(2))
    assert np.array_equal(first.boxes, again.boxes)
    assert np.array_equal(first.classes, again.classes)
    for other in (PLAIN.detections(detections(40), 8), MIRRORED.detections(detections(40), 7)):
        assert not np.array_equal(other.boxes[:5], first.boxes[:5])


def test_share_of_detections_is_dropped_and_edges_jitter():
    """20,000 boxes: 2 % dropped and 1 % of the height, each within five standard errors."""
    before = detections(20_000)
    after = PLAIN.detections(before, 0)
    n = len(before)
    share = 1 - len(after) / n
    assert abs(share - 0.02) < 5 * np.sqrt(0.02 * 0.98 / n)
    kept = after.classes  # number of the detection
    assert np.array_equal(after.scores, before.scores[kept])
    height = before.boxes[kept, 3] - before.boxes[kept, 1]
    step = (after.boxes - before.boxes[kept]) / height[:, None]
    assert np.abs(step.mean(axis=0)).max() < 5 * 0.01 / np.sqrt(n)
    np.testing.assert_allclose(step.std(axis=0), 0.01, rtol=5 / np.sqrt(2 * n))
    correlation = np.corrcoef(step.T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


def test_edges_of_a_narrow_box_do_not_pass_each_other():
    narrow = np.tile([100.0, 0, 100.5, 200], (1000, 1))
    after = PLAIN.detections(Detections(narrow, np.ones(1000), np.zeros(1000, int)), 0)
    assert (after.boxes[:, 2] > after.boxes[:, 0]).all()


def test_mirrored_twice_is_the_original():
    assert np.allclose(MIRRORED.mirror(MIRRORED.mirror(boxes(9), WIDTH), WIDTH), boxes(9), atol=1e-12)
    mirrored = MIRRORED.mirror(np.array([[10.0, 20, 50, 120]]), WIDTH)
    assert mirrored.tolist() == [[590.0, 20.0, 630.0, 120.0]]
    assert np.array_equal(PLAIN.mirror(boxes(9), WIDTH), boxes(9))


@pytest.mark.parametrize("replica", [PLAIN, MIRRORED])
def test_results_are_in_coordinates_of_the_video(replica):
    """Boxes of the video through a replica's detector and back differ by the jitter alone."""
    frame = Frame(4, 0.0, None, WIDTH, 480)
    found = ReplicaDetector(Fixed(), replica, of_video=True).detect(frame)
    ids = np.arange(1, len(found) + 1)
    back = replica.results(Tracks(found.boxes, ids), WIDTH)
    assert np.array_equal(back.id, ids)
    np.testing.assert_allclose(back.xyxy, boxes(5)[found.classes], atol=0.01 * 180 * 6)
    same_side = np.allclose(found.boxes, boxes(5)[found.classes], atol=0.01 * 180 * 6)
    assert same_side != replica.mirrored


def test_detections_found_in_images_of_the_replica_are_not_mirrored():
    frame = Frame(4, 0.0, None, WIDTH, 480)
    found = ReplicaDetector(Fixed(), MIRRORED, of_video=False).detect(frame)
    np.testing.assert_allclose(found.boxes, boxes(5)[found.classes], atol=0.01 * 180 * 6)


@pytest.mark.parametrize("replica", [PLAIN, MIRRORED])
def test_source_starts_late_and_keeps_index_and_time(replica):
    frames = list(ReplicaSource(Images(), replica))
    assert [frame.index for frame in frames] == list(range(3, 10))
    assert [frame.time_s for frame in frames] == [index / 25 for index in range(3, 10)]
    image = frames[0].image
    bright = image[:, WIDTH // 2 :] if replica.mirrored else image[:, : WIDTH // 2]
    assert bright[:, 16:-16].min() > 190
    assert np.median(image[:, : WIDTH // 2]) == pytest.approx(0 if replica.mirrored else 200, abs=8)


def test_truth_is_cut_where_the_replica_starts():
    table = as_table([[frame, 1, 0, 0, 10, 20] for frame in range(1, 7)])
    truth = GroundTruth(table, np.arange(6) % 2 == 1, np.arange(6) % 2 == 0)
    cut = PLAIN.truth(truth)
    assert cut.table.frame.tolist() == [4, 5, 6]  # index 3 is frame 4
    assert cut.counts.tolist() == [True, False, True]
    assert cut.ignored.tolist() == [False, True, False]
    with pytest.raises(MotFileError, match="no box that counts after frame 6, where replica 5 starts"):
        Replica(5, 6, False, 80).truth(truth)
