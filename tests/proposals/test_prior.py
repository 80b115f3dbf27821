"""Places of use C: not outside the image."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.proposals import prior


def test_inside_against_a_loop(rng):
    corner = rng.uniform(-150, 650, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (300, 2))], axis=1)
    found = prior.inside(boxes, 640, 480)
    for (x1, y1, x2, y2), kept in zip(boxes, found, strict=True):
        within = max(min(x2, 640) - max(x1, 0), 0) * max(min(y2, 480) - max(y1, 0), 0)
        assert kept == (within >= 0.7 * (x2 - x1) * (y2 - y1))
    assert 0 < found.sum() < 300


# box, share of it outside the image of 100 x 100, inside?
BORDER = [
    ([0, 0, 100, 100], 0.0, True),
    ([-29, 0, 71, 20], 0.29, True),
    ([-4, 0, 6, 20], 0.4, False),
    ([95, 94, 105, 104], 0.7, False),
    ([-2, -2, 8, 18], 0.28, True),
    ([120, 0, 130, 20], 1.0, False),
]


@pytest.mark.parametrize(("box", "outside", "wanted"), BORDER)
def test_share_outside_the_image_is_limited(box, outside, wanted):
    n_inside = sum(0 <= x < 100 and 0 <= y < 100 for x in range(box[0], box[2]) for y in range(box[1], box[3]))
    assert 1 - n_inside / ((box[2] - box[0]) * (box[3] - box[1])) == pytest.approx(outside)
    assert prior.inside(np.array([box], float), 100, 100).tolist() == [wanted]


@pytest.mark.parametrize("box", [[0, 0, np.nan, 9], [0, 0, np.inf, 9], [9, 0, 5, 9], [5, 5, 5, 9]])
def test_box_without_an_area_is_not_inside(box):
    assert prior.inside(np.array([box], float), 100, 100).tolist() == [False]


def test_no_places_are_no_error():
    none = prior.Candidates.none()
    assert len(none) == 0
    assert prior.inside(none.boxes, 640, 480).shape == (0,)


def test_take_keeps_columns_together():
    places = prior.Candidates(np.array([4, 7, 9]), np.arange(12.0).reshape(3, 4), np.array([-1.0, 0, -2]))
    for rows in (np.array([2, 0]), np.array([True, False, True])):
        taken = places.take(rows)
        chosen = rows if rows.dtype == int else np.array([0, 2])
        assert taken.track.tolist() == [[4, 7, 9][k] for k in chosen]
        assert taken.boxes[:, 0].tolist() == [4.0 * k for k in chosen]
        assert taken.log_prior.tolist() == [[-1.0, 0, -2][k] for k in chosen]
