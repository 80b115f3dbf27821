"""Backfilling: frames are held until no track can be added to them."""

from __future__ import annotations

import numpy as np

from tests.oracles.plain_tracker import tracks_of
from tracker.finalise import FrameBuffer, merged
from tracker.types import Frame, FrameTracks


def frame(index: int) -> Frame:
    return Frame(index, index / 25, None, 640, 480)


def tracks(*ids: int):
    return tracks_of([(i, np.array([0.0, 0, i, i]), 0.9) for i in ids])


def indices(final) -> list[int]:
    return [each.index for each, _ in final]


def test_frames_without_tentative_tracks_are_output_at_once():
    settler = FrameBuffer()
    assert indices(settler.push(frame(0), tracks(1), [], None)) == [0]
    assert settler.flush() == []


def test_frames_wait_and_are_completed():
    settler = FrameBuffer()
    assert settler.push(frame(0), tracks(), [], 0) == []
    assert settler.push(frame(1), tracks(2), [], 0) == []
    late = [FrameTracks(0, tracks(1)), FrameTracks(1, tracks(1))]
    final = settler.push(frame(2), tracks(1, 2), late, None)
    assert indices(final) == [0, 1, 2]
    assert [t.id.tolist() for _, t in final] == [[1], [1, 2], [1, 2]]


def test_only_settled_frames_are_output():
    settler = FrameBuffer()
    settler.push(frame(0), tracks(), [], 0)
    assert indices(settler.push(frame(1), tracks(), [], 1)) == [0]
    assert indices(settler.push(frame(2), tracks(), [], 2)) == [1]
    assert indices(settler.flush()) == [2]
    assert settler.flush() == []


def test_rows_for_frames_already_output_are_dropped():
    settler = FrameBuffer()
    settler.push(frame(0), tracks(1), [], None)
    final = settler.push(frame(1), tracks(1), [FrameTracks(0, tracks(2))], None)
    assert [t.id.tolist() for _, t in final] == [[1]]


def test_frame_numbers_may_have_gaps():
    settler = FrameBuffer()
    settler.push(frame(3), tracks(), [], 3)
    final = settler.push(frame(9), tracks(1), [FrameTracks(3, tracks(1))], None)
    assert [(f.index, t.id.tolist()) for f, t in final] == [(3, [1]), (9, [1])]


def test_merged_sorts_all_columns_together():
    both = merged(tracks(2, 9), tracks(5))
    assert both.id.tolist() == [2, 5, 9]
    assert both.xyxy[:, 2].tolist() == [2, 5, 9]
    assert merged(tracks(), tracks()).xyxy.shape == (0, 4)
