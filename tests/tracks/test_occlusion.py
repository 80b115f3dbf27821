"""Occluders, and detections that an occluded track may not take: one box at a time as the oracle."""

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
    return occlusion.occluder(boxes, ~visible, visible, *bx.overlapping_within(boxes), config)


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
    for front, row in (([0, 2, 3], 0), ([3, 2], 2), ([3], 3), ([], -1)):
        may = np.isin(np.arange(4), front)
        for i, j in (bx.overlapping_within(boxes), [np.flip(each) for each in bx.overlapping_within(boxes)]):
            assert occlusion.occluder(boxes, unseen, may, i, j, CONFIG).tolist() == [-1, row, -1, -1]


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
