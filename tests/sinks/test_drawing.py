"""What is drawn: trails without jitter, and names of classes where there are several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic.tracks import tracks_of
from tracker.sinks.drawing import ClassNames, Trails, annotate, identity_colour
from tracker.sinks.window_view import View, compose
from tracker.types import Mask


def trail_of(times, feet) -> np.ndarray:
    """The drawn points (N, 2) of a person whose foot points are those."""
    trails = Trails(keep_s=100.0)
    for time_s, (x, y) in zip(times, feet, strict=True):
        tracks = tracks_of([1], [[x - 10, y - 50, x + 10, y]])
        trails.update(time_s, tracks)
    return np.array(trails.of(tracks)[1])


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_trail_of_steady_motion_is_unchanged(n, rng):
    """Neither behind the person nor shorter, at uneven times too."""
    times = np.cumsum(rng.uniform(0.02, 0.4, n))
    feet = np.column_stack([100 + 60 * times, 300 - 20 * times])
    assert trail_of(times, feet) == pytest.approx(feet, abs=1e-6)


def test_trail_is_smoother_than_boxes_and_close_to_the_way(rng):
    times = np.arange(60) / 30
    way = np.column_stack([200 + 80 * times, 300 + 30 * np.sin(2 * times)])
    drawn = trail_of(times, way + rng.normal(0, 3, way.shape))
    jitter = np.abs(np.diff(drawn, n=2, axis=0)).mean()
    assert jitter < 0.6  # of the boxes: 6
    assert np.abs(drawn - way)[5:-5].mean() < 1.2  # of the boxes: 2.4


def test_trail_bridges_a_gap_without_bending(rng):
    """Out of sight for two seconds: neither end is drawn towards the other."""
    times = np.array([0.0, 0.1, 0.2, 0.3, 2.3, 2.4, 2.5])
    feet = np.array([[10, 50], [12, 50], [14, 50], [16, 50], [90, 80], [92, 80], [94, 80]], float)
    assert trail_of(times, feet) == pytest.approx(feet, abs=1e-6)


def test_trail_between_two_rows_of_pixels_is_in_both():
    """A slow walk is a slope, not steps."""
    image = np.zeros((60, 200, 3), np.uint8)
    far = tracks_of([1], [[500, 500, 510, 510]])
    column = annotate(image, far, {1: [(10.0, 30.5), (190.0, 30.5)]}, ids=False).max(axis=2)[:, 100].astype(int)
    assert column[30:32].min() > 50


def test_names_of_classes_come_with_the_second_class():
    names = ClassNames({0: "person", 2: "car"})
    people, mixed = tracks_of([1], [[0, 0, 9, 9]]), tracks_of([1, 2], [[0, 0, 9, 9]] * 2, classes=[0, 2])
    assert names.shown(people) == {}
    assert names.shown(mixed) == {0: "person", 2: "car"}
    assert names.shown(people) == {0: "person", 2: "car"}  # no flicker
    assert ClassNames().shown(tracks_of([1, 2], [[0, 0, 9, 9]] * 2, classes=[0, 7])) == {0: "person", 7: "class 7"}


def labelled(names, ids=True) -> np.ndarray:
    tracks = tracks_of([4], [[50, 60, 90, 150]], classes=[2])
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = annotate(image, tracks, ids=ids, names=names)
    assert np.array_equal(drawn, compose(View(ids=ids), image, tracks, {}, names=names))
    return drawn


def test_name_stands_beside_number():
    plain, named, other = labelled(None), labelled({2: "car"}), labelled({2: "a longer name"})
    widths = [np.flatnonzero(picture[50].any(axis=1)).max() for picture in (plain, named, other)]
    assert widths[0] < widths[1] < widths[2]
    assert np.array_equal(labelled({5: "dog"}), plain)
    assert np.array_equal(labelled({2: "car"}, ids=False), labelled(None, ids=False))
    labelled({2: "Fußgänger"})  # OpenCV has no such letters


def test_masks_are_filled_and_let_the_picture_through():
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :, 1] = 100
    masks = np.array([Mask(20, 30, np.tri(40, dtype=bool)), None], object)
    tracks = replace(tracks_of([1, 2], [[20, 30, 60, 70], [90, 30, 130, 70]]), masks=masks)
    drawn, plain = annotate(image, tracks, ids=False), annotate(image, replace(tracks, masks=None), ids=False)
    changed = (drawn != plain).any(axis=2)
    inside = np.zeros((120, 160), bool)
    inside[30:70, 20:60] = np.tri(40)
    assert not (changed & ~inside).any()
    np.testing.assert_array_equal(changed[32:68, 22:58], inside[32:68, 22:58])  # without the lines of the box
    np.testing.assert_allclose(drawn[60, 25], 0.6 * image[60, 25] + 0.4 * np.array(identity_colour(1)), atol=1)


def test_keypoints_are_dots_and_those_of_coco_have_limbs():
    image = np.zeros((120, 160, 3), np.uint8)
    points = np.full((2, 17, 3), np.nan)
    points[0] = [[30.0, 20.0, 0.9]] * 17
    points[0, 5], points[0, 6], points[0, 16] = (10, 60, 0.9), (50, 60, 0.9), (90, 110, 0.1)  # shoulders; a weak ankle
    far = tracks_of([1, 2], [[500, 500, 510, 510]] * 2)
    drawn = annotate(image, replace(far, keypoints=points), ids=False)
    assert drawn[60, 10].min() == 255
    assert drawn[60, 30].max() > 100  # the line between the shoulders
    assert not drawn[100:, 80:].any()
    few = annotate(image, replace(far, keypoints=points[:, 5:7]), ids=False)
    assert few[60, 10].min() == 255
    assert not few[60, 30].any()
