"""Candidates of use C: the grid, low-score detections, implausible boxes, the background beside."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles.plain_tracker import iou_of
from tracker import boxes as bx
from tracker.config import ProposalConfig
from tracker.proposals import prior

CONFIG = ProposalConfig()
MEAN = np.array([[100.0, 200, 0.4, 100, 0, 0, 0, 0], [300.0, 200, 0.5, 80, 0, 0, 0, 0]])
VARIANCE = np.array([[16.0, 25, 0.01, 25], [9.0, 4, 0.02, 16]])
NO_BOXES = np.zeros((0, 4))


def test_predicted_box_is_the_first_and_likeliest_candidate():
    places = prior.candidates(np.array([4, 7]), MEAN, VARIANCE, NO_BOXES, CONFIG)
    for track, mean in ((4, MEAN[:1]), (7, MEAN[1:])):
        own = places.take(places.track == track)
        np.testing.assert_allclose(own.boxes[:1], bx.cxcyah_to_xyxy(mean[:, :4]))
        assert own.log_prior[0] == 0
        assert (own.log_prior[1:] < 0).all()
        assert len(own) == 11


def test_log_prior_is_the_gaussian_of_every_box():
    weak = np.array([[82.0, 155, 121, 248]])
    places = prior.candidates(np.arange(2), MEAN, VARIANCE, weak, CONFIG)
    state = bx.xyxy_to_cxcyah(places.boxes)
    for k in range(len(places)):
        residual = state[k] - MEAN[places.track[k], :4]
        wanted = -0.5 * residual @ np.linalg.inv(np.diag(VARIANCE[places.track[k]])) @ residual
        assert places.log_prior[k] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0])
def test_grid_spans_the_uncertainty_of_the_centre(sigma):
    places = prior.candidates(np.arange(1), MEAN[:1], VARIANCE[:1], NO_BOXES, ProposalConfig(grid_sigma=sigma))
    centre = bx.xyxy_to_cxcyah(places.boxes)[:9, :2] - MEAN[0, :2]
    wanted = {(round(sigma * 4.0 * x, 6), round(sigma * 5.0 * y, 6)) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert {(round(x, 6) + 0.0, round(y, 6) + 0.0) for x, y in centre} == wanted


def test_two_best_overlapping_weak_detections_join():
    predicted = bx.cxcyah_to_xyxy(MEAN[:1, :4])[0]
    weak = np.array([predicted + shift for shift in (20, 1, 3, 2, 500)])
    assert iou_of(weak[0], predicted) < 0.3
    places = prior.candidates(np.arange(1), MEAN[:1], VARIANCE[:1], weak, CONFIG)
    assert sorted(map(tuple, places.boxes[11:])) == sorted(map(tuple, weak[[1, 3]]))


def test_no_tracks_give_no_candidates():
    places = prior.candidates(np.zeros(0, np.int64), np.zeros((0, 8)), np.zeros((0, 4)), NO_BOXES, CONFIG)
    assert len(places) == 0
    assert len(prior.plausible(places, NO_BOXES, 640, 480, CONFIG)) == 0


def test_plausible_against_a_loop(rng):
    corner = rng.uniform(-150, 650, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (300, 2))], axis=1)
    taken = boxes[rng.integers(0, 300, 8)] + rng.normal(0, 15, (8, 4))
    places = prior.Candidates(np.zeros(300, np.int64), boxes, np.zeros(300))
    config = ProposalConfig(max_outside=0.3, max_overlap=0.4)
    found = prior.plausible(places, taken, 640, 480, config)
    for box, kept in zip(boxes, found, strict=True):
        x1, y1, x2, y2 = box
        inside = max(min(x2, 640) - max(x1, 0), 0) * max(min(y2, 480) - max(y1, 0), 0)
        wanted = inside >= 0.7 * (x2 - x1) * (y2 - y1) and all(iou_of(box, t) <= 0.4 for t in taken)
        assert kept == wanted
    assert 0 < found.sum() < 300


def test_background_boxes_lie_beside_the_person(rng):
    corner = rng.uniform(0, 500, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 100, (50, 2))], axis=1)
    controls, inside = prior.background(boxes, 640, 480)
    assert controls.shape == (50, prior.N_CONTROLS, 4)
    for box, beside, known in zip(boxes, controls, inside, strict=True):
        for control, visible in zip(beside, known, strict=True):
            assert iou_of(box, control) == pytest.approx(0, abs=1e-9)
            np.testing.assert_allclose(control[2:] - control[:2], box[2:] - box[:2])
            x1, y1, x2, y2 = control
            area = max(min(x2, 640) - max(x1, 0), 0) * max(min(y2, 480) - max(y1, 0), 0)
            assert visible == (area >= 0.7 * (x2 - x1) * (y2 - y1))
