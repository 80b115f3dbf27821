"""Occluders, detections that an occluded track may take, and cut boxes: one box at a time as the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import hidden_share, iou_of
from tracker import boxes as bx
from tracker.config import OcclusionConfig
from tracker.tracks import occlusion

CONFIG = OcclusionConfig()
NONE = np.zeros((0, 4))


def crowd(rng: np.random.Generator, n: int, width: float = 300.0) -> np.ndarray:
    """(n, 4) people who stand close together, a few of them partly outside an image of that width."""
    tall = rng.uniform(60, 140, n)
    wide = tall * rng.uniform(0.3, 0.5, n)
    x, y = rng.uniform(-10, width + 10, n), rng.uniform(50, 120, n)
    return np.stack([x - wide / 2, y, x + wide / 2, y + tall], axis=1)


# --------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 4), (4, 0), (1, 1), (9, 7)])
def test_covered_is_the_largest_share_of_one_occluder(rng, n, m):
    boxes, front = crowd(rng, n), crowd(rng, m)
    shares = [max((hidden_share(box, other) for other in front), default=0.0) for box in boxes]
    assert occlusion.largest_covered_share(boxes, front).shape == (n,)
    np.testing.assert_allclose(occlusion.largest_covered_share(boxes, front), shares, rtol=1e-12)


def test_two_half_covers_are_no_full_cover():
    box = np.array([[0.0, 0, 40, 100]])
    halves = np.array([[-20.0, 0, 20, 110], [20.0, 0, 60, 110]])
    assert occlusion.largest_covered_share(box, halves).tolist() == pytest.approx([0.5])


def test_box_with_feet_not_lower_covers_nothing():
    box = np.array([[0.0, 0, 40, 100]])
    for feet, share in ((99.0, 0.0), (100.0, 0.0), (100.5, 1.0)):
        assert occlusion.largest_covered_share(box, np.array([[-5.0, -5, 45, feet]])).tolist() == [share]


def occluder(boxes, visible, config=CONFIG):
    """Of all unseen tracks behind all visible ones."""
    i, j, _ = bx.overlapping_within(boxes)
    return occlusion.occluder(boxes, ~visible, visible, i, j, config)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_cover", [0.1, 0.3, 0.8])
def test_occluder_is_the_visible_track_that_covers_most(seed, min_cover):
    rng = np.random.default_rng(seed)
    config = OcclusionConfig(min_cover=min_cover)
    boxes, visible = crowd(rng, 14), rng.random(14) < 0.5
    expected = []
    for i, box in enumerate(boxes):
        shares = [hidden_share(box, other) if visible[j] else 0.0 for j, other in enumerate(boxes)]
        best = max(range(len(boxes)), key=lambda j: shares[j])
        expected.append(best if not visible[i] and shares[best] >= min_cover else -1)
    assert occluder(boxes, visible, config).tolist() == expected
    assert not {i for i, j in enumerate(expected) if j >= 0} & set(np.flatnonzero(visible))


def test_empty_boxes_are_not_covered():
    assert occluder(NONE, np.zeros(0, bool)).shape == (0,)
    alone = np.array([[0.0, 0, 40, 100]])
    for visible in (True, False):
        assert occluder(alone, np.array([visible])).tolist() == [-1]
    # Without a visible track there is no occluder.
    crowded = crowd(np.random.default_rng(3), 10)
    assert (occluder(crowded, np.zeros(10, bool)) == -1).all()


def test_occluder_is_in_front_and_first_of_equal_ones(rng):
    behind, near = np.array([[0.0, 0, 40, 100]]), np.array([[0.0, 20, 40, 120]])
    boxes = np.concatenate([near, behind, near, near])
    unseen = np.array([False, True, False, False])
    i, j, _ = bx.overlapping_within(boxes)
    for front, row in (([0, 2, 3], 0), ([3, 2], 2), ([3], 3), ([], -1)):
        may = np.isin(np.arange(4), front)
        for first, second in ((i, j), (np.flip(i), np.flip(j))):
            assert occlusion.occluder(boxes, unseen, may, first, second, CONFIG).tolist() == [-1, row, -1, -1]


@pytest.mark.parametrize("seed", range(4))
def test_stolen_detection_fits_the_occluder_better(seed):
    rng = np.random.default_rng(seed)
    tracks, visible = crowd(rng, 8), rng.random(8) < 0.5
    seen = tracks[rng.integers(0, 8, 11)] + rng.normal(0, 5, (11, 4))
    behind = occluder(tracks, visible)
    i, j = (each.ravel() for each in np.indices((8, 11)))
    stolen = occlusion.stolen(i, bx.iou(tracks, seen)[i, j], seen[j], tracks, behind).reshape(8, 11)
    for i, track in enumerate(tracks):
        for j, box in enumerate(seen):
            taken = behind[i] >= 0 and iou_of(tracks[behind[i]], box) > iou_of(track, box)
            assert stolen[i, j] == taken


def test_empty_inputs_have_no_stolen_detection():
    none = np.zeros(0, np.int64)
    for tracks in (NONE, crowd(np.random.default_rng(1), 3)):
        assert occlusion.stolen(none, np.zeros(0), NONE, tracks, np.full(len(tracks), -1)).shape == (0,)


# ------------------------------------------------------------------------------------------------- boxes that are cut


def strip_taken(x1: float, x2: float, box, front, width: int) -> float:
    """Share of the strip between x1 and x2 beside a box that one nearer person takes, or that is outside the image."""
    outside = 0.0
    if width > 0 and x2 > x1:
        outside = 1 - max(0.0, min(x2, width) - max(x1, 0.0)) / (x2 - x1)
    return max([outside] + [hidden_share((x1, box[1], x2, box[3]), other) for other in front])


def widened_one(box, predicted, front, width: int, config: OcclusionConfig) -> list[float]:
    """`widened` by its docstring, for one box."""
    x1, y1, x2, y2 = box
    usual_aspect = (predicted[2] - predicted[0]) / (predicted[3] - predicted[1])
    usual = min(predicted[2] - predicted[0], usual_aspect * (y2 - y1))
    if x2 - x1 >= occlusion.CUT_WIDTH * usual:
        return [x1, y1, x2, y2]
    missing = config.complete * (usual - (x2 - x1))
    left = strip_taken(x1 - missing, x1, box, front, width) >= occlusion.CUT_COVER
    right = strip_taken(x2, x2 + missing, box, front, width) >= occlusion.CUT_COVER
    if left and right:
        new_width = x2 - x1 + missing
        start = (predicted[0] + predicted[2]) / 2 - new_width / 2
        start = min(max(start, x2 - new_width), x1)
        return [start, y1, start + new_width, y2]
    if left:
        return [x1 - missing, y1, x2, y2]
    if right:
        return [x1, y1, x2 + missing, y2]
    return [x1, y1, x2, y2]


def cut_people(rng: np.random.Generator, n: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and the part of each that was detected, cut at both sides; every third is hardly cut."""
    predicted = crowd(rng, n, width)
    wide = predicted[:, 2] - predicted[:, 0]
    cut = rng.uniform(0, 0.45, (n, 2)) * wide[:, None]
    cut[::3] *= 0.05
    found = predicted + rng.normal(0, 2, (n, 4))
    found[:, 0], found[:, 2] = predicted[:, 0] + cut[:, 0], predicted[:, 2] - cut[:, 1]
    return predicted, found


@pytest.mark.parametrize("width", [0, 300])
@pytest.mark.parametrize("complete", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_widened_boxes_agree_with_one_box_at_a_time(seed, complete, width):
    rng = np.random.default_rng(seed)
    config = OcclusionConfig(complete=complete)
    predicted, found = cut_people(rng, 60, 300)
    front = np.concatenate([found, crowd(rng, 10)])
    wider = occlusion.widened(found, predicted, front, width, config)
    one_by_one = [widened_one(b, p, front, width, config) for b, p in zip(found, predicted, strict=True)]
    np.testing.assert_allclose(wider, one_by_one, rtol=1e-12, atol=1e-9)
    assert complete == 0 or 5 < (wider != found).any(axis=1).sum() < 55  # both kinds occur


@pytest.mark.parametrize("width", [0, 300])
@pytest.mark.parametrize("seed", range(5))
def test_widened_box_contains_the_detection_within_usual_width(seed, width):
    rng = np.random.default_rng(seed)
    predicted, found = cut_people(rng, 80, 300)
    front = np.concatenate([found, crowd(rng, 10)])
    usual = predicted[:, 2] - predicted[:, 0]
    before = found[:, 2] - found[:, 0]
    for complete in (0.0, 0.3, 1.0):
        wider = occlusion.widened(found, predicted, front, width, OcclusionConfig(complete=complete))
        assert np.array_equal(wider[:, [1, 3]], found[:, [1, 3]])
        assert (wider[:, 0] <= found[:, 0] + 1e-9).all()
        assert (wider[:, 2] >= found[:, 2] - 1e-9).all()
        assert (wider[:, 2] - wider[:, 0] <= np.maximum(before, usual) + 1e-9).all()
        if complete == 0:
            assert np.array_equal(wider, found)


PERSON = np.array([[100.0, 50, 140, 150]])  # as usual: 40 wide
RIGHT_HALF, LEFT_HALF, MIDDLE = ([[120.0, 50, 140, 150]], [[100.0, 50, 120, 150]], [[110.0, 50, 130, 150]])
ON_THE_LEFT, ON_THE_RIGHT = [[80.0, 60, 120, 170]], [[120.0, 60, 160, 170]]

# occluders, detected box -> with the whole usual width, with half of what is missing
SIDES = [
    (ON_THE_LEFT, RIGHT_HALF, [100, 140], [110, 140]),
    (ON_THE_RIGHT, LEFT_HALF, [100, 140], [100, 130]),
    ([[80.0, 60, 110, 170], [130.0, 60, 160, 170]], MIDDLE, [100, 140], [105, 135]),
    ([[80.0, 0, 120, 140]], RIGHT_HALF, [120, 140], [120, 140]),  # stands behind
    (NONE, RIGHT_HALF, [120, 140], [120, 140]),  # narrower for reasons of their own
]


@pytest.mark.parametrize(("front", "seen", "whole", "half"), SIDES)
def test_width_is_restored_on_the_occluded_side(front, seen, whole, half):
    for complete, expected in ((1.0, whole), (0.5, half), (0.0, [seen[0][0], seen[0][2]])):
        config = OcclusionConfig(complete=complete)
        wider = occlusion.widened(np.array(seen), PERSON, np.array(front), 640, config)
        assert wider[0].tolist() == [expected[0], 50, expected[1], 150]


@pytest.mark.parametrize(("width", "completes"), [(640, True), (0, False)])
def test_image_edge_occludes_only_if_its_size_is_known(width, completes):
    config = OcclusionConfig(complete=1.0)
    for seen, usual in (([0.0, 50, 20, 150], [-20.0, 50, 20, 150]), ([620.0, 50, 640, 150], [620.0, 50, 660, 150])):
        wider = occlusion.widened(np.array([seen]), np.array([usual]), NONE, width, config)
        assert wider[0].tolist() == (usual if completes else seen)


def test_zooming_out_shrinks_predicted_boxes():
    """Half as tall and half as wide as predicted: no width is missing."""
    seen = np.array([[120.0, 100, 140, 150]])
    front = np.array(ON_THE_LEFT)
    assert np.array_equal(occlusion.widened(seen, PERSON, front, 640, OcclusionConfig(complete=1.0)), seen)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0)])
def test_widening_with_empty_inputs(rng, n, m):
    predicted, found = cut_people(rng, n, 300)
    wider = occlusion.widened(found, predicted, crowd(rng, m), 0, CONFIG)
    assert wider.shape == (n, 4)
    assert np.array_equal(wider, found)


def test_inputs_are_not_modified(rng):
    predicted, found = cut_people(rng, 20, 300)
    before = found.copy(), predicted.copy()
    occlusion.widened(found, predicted, found, 300, CONFIG)
    assert np.array_equal(before[0], found)
    assert np.array_equal(before[1], predicted)
