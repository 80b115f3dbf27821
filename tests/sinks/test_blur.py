"""People hidden in pictures: nothing of the pixels is left but means, and frames before and after a box count."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.errors import SourceError
from tracker.sinks.blur import MARGIN_S, PARTS, blurred, blurred_frames, with_people_around
from tracker.types import Frame, Tracks

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (240, 320, 3), np.uint8)
BOX = np.array([[100.0, 60, 140, 160]])
NO_BOX = np.zeros((0, 4))


def changed(picture, image=IMAGE):
    return (picture != image).any(axis=2)


def test_person_is_hidden_and_the_rest_stays():
    picture = blurred(IMAGE, BOX, "people")
    mask = changed(picture)
    assert mask[60:160, 100:140].mean() > 0.99  # a pixel may have the mean colour by chance
    assert not mask[:40].any()
    assert not mask[180:].any()
    assert not mask[:, :85].any()
    assert not mask[:, 155:].any()


def test_head_is_hidden_and_legs_are_not():
    mask = changed(blurred(IMAGE, BOX, "heads"))
    assert mask[60:85, 100:140].mean() > 0.99
    assert not mask[105:].any()


def test_face_of_a_person_cut_off_below_is_hidden():
    """A box as wide as high shows head and shoulders."""
    mask = changed(blurred(IMAGE, np.array([[100.0, 60, 200, 160]]), "heads"))
    assert mask[60:130, 100:200].mean() > 0.99


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("box", [[-50.0, -50, 20, 30], [300.0, 200, 900, 900], [-1e9, 0, 1e9, 100], [50, 50, 50, 50]])
def test_box_beyond_the_picture_is_clipped(part, box):
    assert blurred(IMAGE, np.array([box]), part).shape == IMAGE.shape
    assert np.array_equal(blurred(IMAGE, NO_BOX, part), IMAGE)


def test_hidden_area_depends_on_means_of_blocks_alone():
    """What cannot be told apart cannot be brought back: detail that leaves the means gives the same picture."""
    detail = np.zeros((256, 256), np.int16)
    detail[::2, ::2], detail[1::2, ::2] = 40, -40  # means of any two rows are 0
    plain = np.full((256, 256, 3), 128, np.uint8)
    drawn = (plain + detail[..., None]).astype(np.uint8)
    box = np.array([[64.0, 32, 160, 224]])
    inside = (slice(32, 224), slice(64, 160))
    assert changed(drawn, plain)[inside].mean() > 0.4
    assert np.array_equal(blurred(drawn, box, "people")[inside], blurred(plain, box, "people")[inside])


def test_head_is_about_one_block():
    """The picture inside can be made again from the colours of few points: 16 px blocks in a head of 14 px."""
    picture = blurred(IMAGE, BOX, "heads")[60:76, 112:128]
    few = cv2.resize(picture, (3, 3), interpolation=cv2.INTER_AREA)
    again = cv2.resize(few, (16, 16), interpolation=cv2.INTER_LINEAR)
    assert np.abs(again.astype(int) - picture).max() < 25
    assert picture.std(axis=(0, 1)).max() < IMAGE.std() / 4


def test_overlap_takes_the_larger_blocks():
    large, small = np.array([[20.0, 10, 180, 230]]), np.array([[90.0, 100, 100, 125]])
    both = blurred(IMAGE, np.concatenate([small, large]), "people")
    assert np.array_equal(both, blurred(IMAGE, large, "people"))


def stream(times, boxes):
    """Frames at these times, and what `boxes_of` needs."""
    frames = [Frame(k, time_s, np.full((8, 8, 3), k, np.uint8), 8, 8) for k, time_s in enumerate(times)]
    return ((frame, Tracks()) for frame in frames), lambda frame, _: boxes[frame.index]


@pytest.mark.parametrize("live", [False, True])
def test_boxes_of_frames_around_count(live):
    times = np.arange(60) * 0.1
    boxes = [np.full((1, 4), float(k)) for k in range(60)]
    frames, boxes_of = stream(times, boxes)
    n = 0
    for k, (frame, _, near) in enumerate(with_people_around(frames, boxes_of, live)):
        wanted = [j for j in range(60) if abs(times[j] - times[k]) <= MARGIN_S and not (live and j > k)]
        assert frame.index == k
        assert frame.image is not None
        assert near[:, 0].tolist() == wanted
        n += 1
    assert n == 60


def test_neighbouring_frames_count_however_far_apart():
    frames, boxes_of = stream([0.0, 5.0, 10.0, 15.0], [np.full((1, 4), float(k)) for k in range(4)])
    near = [sorted(boxes[:, 0].tolist()) for *_, boxes in with_people_around(frames, boxes_of)]
    assert near == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]


def test_live_frame_comes_at_once():
    frames, boxes_of = stream(np.arange(5) * 0.1, [NO_BOX] * 5)
    taken = []
    passed = with_people_around((taken.append(pair[0].index) or pair for pair in frames), boxes_of, live=True)
    assert [(frame.index, len(taken)) for frame, *_ in passed] == [(k, k + 1) for k in range(5)]


def test_error_comes_after_all_frames_before_it():
    frames, boxes_of = stream(np.arange(5) * 0.1, [BOX] * 5)

    def broken():
        yield from frames
        raise SourceError("video.avi: is truncated")

    got = []
    with pytest.raises(SourceError, match="truncated"):
        for frame, _ in blurred_frames(broken(), boxes_of, "people"):
            got.append(frame.index)
    assert got == [0, 1, 2, 3, 4]


def test_frame_without_picture_passes():
    frame = Frame(0, 0.0, None, 8, 8)
    assert next(blurred_frames(iter([(frame, Tracks())]), lambda *_: BOX, "heads"))[0].image is None
