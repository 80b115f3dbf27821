"""Pairs of tracks and detections against loops over both."""

from __future__ import annotations

import numpy as np
import pytest

from tracker import boxes as bx
from tracker.association.pairs import find_overlaps


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_chosen_by_masks_and_overlap_and_renumbered(seed):
    rng = np.random.default_rng(seed)
    predicted, detected = (
        np.concatenate([corner, corner + rng.uniform(20, 60, (len(corner), 2))], axis=1)
        for corner in (rng.uniform(0, 150, (12, 2)), rng.uniform(0, 150, (15, 2)))
    )
    pairs = find_overlaps(predicted, detected).detections
    tracks, detections = rng.random(12) < 0.6, rng.random(15) < 0.6
    iou = bx.iou(predicted, detected)
    wanted = [(i, j) for i in range(12) for j in range(15) if tracks[i] and detections[j] and iou[i, j] >= 0.1]
    chosen = pairs.among(tracks, detections, 0.1)
    assert list(zip(chosen.track, chosen.detection, strict=True)) == wanted
    assert chosen.iou.tolist() == [iou[i, j] for i, j in wanted]

    inside = pairs.within(tracks, detections)
    within = bx.iou(predicted[tracks], detected[detections])
    assert list(zip(inside.track, inside.detection, strict=True)) == list(zip(*within.nonzero(), strict=True))
    assert np.array_equal(inside.iou, within[inside.track, inside.detection])
