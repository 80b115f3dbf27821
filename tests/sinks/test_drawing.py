"""What is drawn: trails without jitter, and names of classes where there are several."""

from __future__ import annotations

import numpy as np
import pytest

from tests.synthetic.tracks import tracks_of
from tracker.sinks.drawing import ClassNames, Trails, annotate
from tracker.sinks.window_view import View, compose


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
