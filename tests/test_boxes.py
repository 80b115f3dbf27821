"""Boxes against loops over single pairs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import iou_of, nms_rows
from tracker import boxes as bx


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    corner = rng.uniform(-20, 80, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 60, (n, 2))], axis=1)


def test_conversions_there_and_back(rng):
    boxes = random_boxes(rng, 50)
    np.testing.assert_allclose(bx.cxcyah_to_xyxy(bx.xyxy_to_cxcyah(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(bx.ltwh_to_xyxy(bx.xyxy_to_ltwh(boxes)), boxes, atol=1e-9)


def test_conversions_of_one_box():
    box = np.array([[10.0, 20, 50, 120]])
    assert bx.xyxy_to_cxcyah(box).tolist() == [[30, 70, 0.4, 100]]
    assert bx.xyxy_to_ltwh(box).tolist() == [[10, 20, 40, 100]]
    assert bx.area(box).tolist() == [4000]


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (1, 1), (20, 30)])
def test_iou_and_cover_against_loops(rng, n, m):
    a, b = random_boxes(rng, n), random_boxes(rng, m)
    iou, cover = bx.iou(a, b), bx.cover(a, b)
    assert iou.shape == cover.shape == (n, m)
    for i in range(n):
        for j in range(m):
            assert iou[i, j] == pytest.approx(iou_of(a[i], b[j]))
            common = max(min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0]), 0) * max(
                min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1]), 0
            )
            assert cover[i, j] == pytest.approx(common / ((a[i, 2] - a[i, 0]) * (a[i, 3] - a[i, 1])))


def test_empty_boxes_overlap_nothing():
    boxes = np.array([[5.0, 5, 5, 5], [9.0, 9, 3, 3], [0.0, 0, 10, 10]])
    assert bx.area(boxes).tolist() == [0, 0, 100]
    assert bx.iou(boxes[:2], boxes[:2]).tolist() == [[0, 0], [0, 0]]
    assert bx.cover(boxes, boxes)[:, 2].tolist() == [0, 0, 1]


def test_clip_limits_boxes_to_the_image():
    boxes = np.array([[-5.0, -6, 7, 8], [90.0, 40, 120, 70], [200.0, 200, 300, 300]])
    assert bx.clip(boxes, 100, 50).tolist() == [[0, 0, 7, 8], [90, 40, 100, 50], [100, 50, 100, 50]]


def test_valid_needs_finite_numbers_and_positive_sides():
    nan, inf = np.nan, np.inf
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [2, 0, 1, 1], [nan, 0, 1, 1], [0, 0, inf, 1], [0, 0, 1, nan]])
    assert bx.valid(boxes).tolist() == [True, False, False, False, False, False]


@pytest.mark.parametrize("max_iou", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("n", [0, 1, 2, 60])
def test_nms_against_the_textbook(rng, n, max_iou):
    boxes = random_boxes(rng, n)
    scores = rng.random(n).round(1)  # many ties
    assert bx.nms(boxes, scores, max_iou).tolist() == nms_rows(boxes, scores, max_iou)


def test_nms_does_not_depend_on_the_order_of_rows(rng):
    boxes, scores = random_boxes(rng, 40), rng.random(40).round(1)
    order = rng.permutation(40)
    assert order[bx.nms(boxes[order], scores[order], 0.4)].tolist() == bx.nms(boxes, scores, 0.4).tolist()


def test_nms_a_removed_box_removes_nothing():
    """b goes because of a; c overlaps b alone and stays."""
    boxes = np.array([[0.0, 0, 10, 10], [5.0, 0, 15, 10], [10.0, 0, 20, 10]])
    assert bx.nms(boxes, np.array([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


def boxes_on_a_grid(rng, n: int, side: int) -> np.ndarray:
    """(n, 4) on a coarse grid, so that edges often lie on each other."""
    corner, size = rng.integers(0, side, (n, 2)), rng.integers(1, 40, (n, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(float)


@pytest.mark.parametrize("side", [20, 200, 2000])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0), (1, 1), (30, 50)])
def test_boxes_that_meet_are_those_with_a_common_area(rng, n, m, side):
    a, b = boxes_on_a_grid(rng, n, side), boxes_on_a_grid(rng, m, side)
    i, j, overlap = bx.overlapping(a, b)
    assert list(zip(i, j, strict=True)) == [
        (p, q) for p in range(n) for q in range(m) if bx.intersection(a[p : p + 1], b[q : q + 1])[0, 0] > 0
    ]
    assert np.array_equal(overlap, bx.iou(a, b)[i, j])
    assert np.array_equal(bx.paired_iou(a[i], b[j]), overlap)
    assert np.array_equal(bx.paired_intersection(a[i], b[j]), bx.intersection(a, b)[i, j])

    first, second, overlap = bx.overlapping_within(b)
    assert np.array_equal(overlap, bx.iou(b, b)[first, second])
    assert sorted(zip(first, second, strict=True)) == [
        (p, q) for p in range(m) for q in range(p + 1, m) if bx.intersection(b[p : p + 1], b[q : q + 1])[0, 0] > 0
    ]
