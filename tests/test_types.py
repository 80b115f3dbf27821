"""`Tracks` and `Detections` as columns, rows and tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracker.types import Detections, Mask, Source, TrackRow, Tracks, pack_masks, unpack_masks


def three() -> Tracks:
    return Tracks(
        xyxy=np.arange(12.0).reshape(3, 4),
        id=np.array([2, 5, 9]),
        score=np.array([0.9, 0.8, 0.7]),
        class_id=np.array([0, 1, 0]),
        det_index=np.array([4, -1, 0]),
        source=np.array([0, 1, 0], np.uint8),
    )


def test_no_tracks_keep_their_rank():
    none = Tracks()
    assert len(none) == 0
    assert list(none) == []
    assert np.asarray(none).shape == (0, 8)
    assert none.xyxy.shape == (0, 4)
    assert none.proposed.shape == (0,)
    assert not none


def test_two_empty_tracks_share_no_array():
    assert Tracks().xyxy is not Tracks().xyxy


def test_iteration_gives_plain_rows():
    row = list(three())[1]
    assert isinstance(row, TrackRow)
    assert (row.id, row.score, row.class_id, row.det_index, row.source) == (5, 0.8, 1, -1, Source.PROPOSED)
    assert type(row.id) is int
    assert row.xyxy.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (np.array([True, False, True]), [2, 9]),
        ([2, 0], [9, 2]),
        (slice(1, None), [5, 9]),
        (1, [5]),
        (-1, [9]),
        (np.int64(0), [2]),
        ([], []),
        (np.zeros(3, bool), []),
    ],
)
def test_choosing_rows(rows, ids):
    if isinstance(rows, list):
        rows = np.array(rows, int)
    chosen = three()[rows]
    assert chosen.id.tolist() == ids
    assert chosen.xyxy.shape == (len(ids), 4)
    assert len(chosen.source) == len(ids)


@pytest.mark.parametrize("row", [3, -4])
def test_row_out_of_range_is_an_index_error(row):
    with pytest.raises(IndexError):
        three()[row]


def test_as_an_array():
    table = np.asarray(three())
    assert table.dtype == np.float64
    assert table[1].tolist() == [4, 5, 6, 7, 5, 0.8, 1, -1]
    assert np.asarray(three(), dtype=np.float32).dtype == np.float32
    assert np.array(three(), copy=True).shape == (3, 8)


def test_proposed_marks_what_the_detector_missed():
    assert three().proposed.tolist() == [False, True, False]
    assert three().proposed.dtype == bool


def test_detections_take_and_features():
    dets = Detections(np.arange(8.0).reshape(2, 4), np.array([0.5, 0.6]), np.array([0, 3]))
    assert dets.take(np.array([1])).classes.tolist() == [3]
    assert dets.take(np.array([1])).features is None
    with_looks = dets.with_features(np.eye(2, dtype=np.float32))
    assert with_looks.take(np.array([False, True])).features.tolist() == [[0, 1]]
    assert dets.features is None
    assert len(Detections.empty()) == 0
    assert Detections.empty().boxes.shape == (0, 4)


def test_masks_are_packed_and_unpacked(rng):
    masks = np.full(4, None, object)
    for row in (0, 2):
        masks[row] = Mask(row, 7, rng.random((5 + row, 3)) < 0.5)
    for chosen in (masks, masks[:0], masks[1:2], masks[[2, 0, 0]]):
        again = unpack_masks(pack_masks(chosen))
        assert len(again) == len(chosen)
        for mask, wanted in zip(again, chosen, strict=True):
            if wanted is None:
                assert mask is None
            else:
                assert (mask.x, mask.y) == (wanted.x, wanted.y)
                np.testing.assert_array_equal(mask.bits, wanted.bits)


def test_rows_take_their_keypoints_and_masks_along():
    masks = np.array([Mask(number, 0, np.ones((1, 1), bool)) for number in range(3)], object)
    points = np.arange(3.0)[:, None, None] * np.ones((1, 2, 3))
    tracks = replace(three(), keypoints=points, masks=masks)[[2, 0]]
    assert (tracks.keypoints[:, 0, 0].tolist(), [mask.x for mask in tracks.masks]) == ([2, 0], [2, 0])
    found = Detections(np.zeros((3, 4)), np.zeros(3), np.zeros(3, int), None, points, masks).take(np.array([1]))
    assert (found.keypoints[0, 0, 0], found.masks[0].x, found.features) == (1, 1, None)
    again = Tracks.restored(tracks.state())
    assert [mask.x for mask in again.masks] == [2, 0]
