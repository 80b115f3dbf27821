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
    overlaps = find_overlaps(predicted, detected)
    pairs = overlaps.detections
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

    fewer, wanted_of_fewer = overlaps.keep_detections(detections), find_overlaps(predicted, detected[detections])
    for name in ("track", "detection", "iou"):
        assert np.array_equal(getattr(fewer.detections, name), getattr(wanted_of_fewer.detections, name))
    assert sorted_rows(fewer.among_detections) == sorted_rows(wanted_of_fewer.among_detections)
    i, j, _ = overlaps.among_detections
    assert {*zip(i.tolist(), j.tolist(), strict=True)} == {
        *zip(*np.triu(bx.iou(detected, detected), 1).nonzero(), strict=True)
    }
    everything = find_overlaps(predicted, detected, all_pairs=True).detections
    assert np.array_equal(everything.iou.reshape(12, 15), iou)


def sorted_rows(columns) -> list[tuple[float, ...]]:
    return sorted(zip(*(column.tolist() for column in columns), strict=True))
