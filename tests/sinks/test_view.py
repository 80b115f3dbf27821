"""The state of the live window without a display: keys and clicks change it, and it is drawn."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tracker.sinks.drawing import annotate
from tracker.sinks.window_view import (
    KEYS_HELP,
    View,
    clicked,
    compose,
    cost_text,
    draw_debug,
    free_place,
    identity_at,
    pressed,
    screenshot_path,
)
from tracker.types import StepTrace, Tracks

SWITCHES = {"t": "trails", "i": "ids", "d": "debug", "h": "help", "?": "help", " ": "paused"}


def tracks_of(ids, boxes) -> Tracks:
    n = len(ids)
    zeros = np.zeros(n, np.int64)
    return Tracks(np.array(boxes, float).reshape(n, 4), np.array(ids), np.ones(n), zeros, zeros, zeros.astype(np.uint8))


# ------------------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize(("key", "name"), SWITCHES.items())
def test_view_key_toggles_one_switch(key, name):
    view = View()
    once = pressed(view, ord(key))
    changed = [field.name for field in fields(View) if getattr(once, field.name) != getattr(view, field.name)]
    assert changed == [name]
    assert pressed(once, ord(key)) == view
    assert pressed(view, ord(key.upper())) == once


@pytest.mark.parametrize("key", [ord("q"), ord("Q"), 27])
def test_keys_that_quit(key):
    assert pressed(View(), key) == View(quit=True)


# Of waitKeyEx: nothing, arrows and F1 (X11, Windows, macOS), shift alone, others.
@pytest.mark.parametrize("key", [-1, 0, 0xFF51, 0xFFBE, 0x250000, 63234, 0xFFE1, ord("x"), ord("7"), 13, 9])
def test_other_keys_do_nothing(key):
    assert pressed(View(), key) == View()


def test_modifiers_beside_a_letter_do_not_matter():
    """GTK puts Num Lock and the like into the upper bits."""
    assert pressed(View(), 0x100000 | ord("d")) == View(debug=True)


def test_help_names_every_active_key():
    named = {part.strip() for keys, _ in KEYS_HELP for part in keys.split(",")}
    works = {chr(key) for key in range(32, 127) if pressed(View(), key) != View()}
    assert {name for name in named if len(name) == 1} | {" "} == {key for key in works if not key.isupper()}
    assert {"Esc", "space", "click"} <= named


# ---------------------------------------------------------------------------------------------------------- clicks

PEOPLE = tracks_of([3, 8, 5], [[10, 10, 50, 90], [40, 10, 80, 90], [60, 40, 70, 60]])


@pytest.mark.parametrize(
    ("x", "y", "identity"),
    [
        (20, 50, 3),
        (47, 50, 3),  # in two boxes: nearer the middle of 8's? |47 - 30| = 17, |47 - 60| = 13
        (65, 50, 5),  # the small one inside the large one
        (78, 12, 8),
        (90, 50, None),
        (5, 5, None),
    ],
)
def test_click_picks_the_nearest_box_centre(x, y, identity):
    inside = [row.id for row in PEOPLE if row.xyxy[0] <= x <= row.xyxy[2] and row.xyxy[1] <= y <= row.xyxy[3]]
    found = identity_at(x, y, PEOPLE)
    assert found in (inside or [None])
    assert found == (8 if (x, y) == (47, 50) else identity)


def test_click_follows_and_unfollows():
    view = clicked(View(), 20, 50, PEOPLE)
    assert view.followed == 3
    assert clicked(view, 78, 12, PEOPLE).followed == 8
    assert clicked(view, 20, 50, PEOPLE).followed is None
    assert clicked(view, 200, 200, PEOPLE).followed is None
    assert clicked(View(), 20, 50, tracks_of([], [])) == View()


# ----------------------------------------------------------------------------------------------------- screenshots


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("vtest.avi", "vtest_frame000012.png"),
        ("webcam 0", "webcam_0_frame000012.png"),
        ("rtsp://me:***@10.0.0.7:554/cam?x=1", "me_10_0_0_7_554_cam_x_1_frame000012.png"),
        ("", "screenshot_frame000012.png"),
        ("../..", "screenshot_frame000012.png"),
        ("a" * 300, "a" * 80 + "_frame000012.png"),
    ],
)
def test_screenshots_are_named_by_source_and_frame(tmp_path, source, name):
    assert screenshot_path(tmp_path, source, 11) == tmp_path / name


def test_no_screenshot_replaces_another(tmp_path):
    made = []
    for _ in range(3):
        made.append(screenshot_path(tmp_path, "video.mp4", 0))
        made[-1].touch()
    assert [path.name for path in made] == [f"video_frame000001{end}.png" for end in ("", "-2", "-3")]
    assert screenshot_path(Path(), "video.mp4", 0).parent == Path()


# --------------------------------------------------------------------------------------------------------- drawing


def image() -> np.ndarray:
    return np.full((240, 320, 3), 60, np.uint8)


ONE = tracks_of([4], [[100, 80, 140, 180]])
TRAILS = {4: [(60.0, 180.0), (90.0, 182.0), (120.0, 180.0)]}


def drawn(view: View, **how) -> np.ndarray:
    return compose(view, image(), ONE, TRAILS, **how)


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) where two pictures differ."""
    return (a != b).any(axis=2)


def test_plain_view_equals_annotated_video():
    assert np.array_equal(drawn(View(), caption="frame 1"), annotate(image(), ONE, TRAILS, caption="frame 1"))
    assert np.array_equal(image(), np.full((240, 320, 3), 60, np.uint8))


def test_trails_and_numbers_vanish_and_nothing_else():
    without_trails = changed(drawn(View()), drawn(View(trails=False)))
    assert without_trails[175:190, 55:121].any()
    without_trails[175:190, 55:125] = False
    assert not without_trails.any()
    without_ids = changed(drawn(View()), drawn(View(ids=False)))
    assert without_ids[55:81, 98:140].any()
    without_ids[50:82, 90:150] = False
    assert not without_ids.any()


def test_followed_person_keeps_a_marker_out_of_view():
    marked = changed(drawn(View()), drawn(View(followed=4)))
    assert marked[:80, 100:140].any()  # above the head
    assert not marked[:, :80].any()
    assert not marked[:, 160:].any()
    gone = changed(drawn(View()), drawn(View(followed=9), last=(250.0, 200.0)))
    assert gone[190:210, 240:260].any()
    gone[180:220, 230:270] = False
    assert not gone.any()
    assert not changed(drawn(View()), drawn(View(followed=9))).any()


def test_marker_at_the_upper_edge_is_in_the_picture():
    tall = tracks_of([4], [[100, 0, 140, 180]])
    marked = changed(compose(View(), image(), tall, {}), compose(View(followed=4), image(), tall, {}))
    assert marked[2:30, 115:125].any()


def test_help_and_notices_lie_on_top():
    assert changed(drawn(View()), drawn(View(help=True))).mean() > 0.2
    told = changed(drawn(View()), drawn(View(), notice="paused"))
    assert told[:40].any()
    assert not told[60:].any()
    for shape in ((20, 20, 3), (60, 30, 3)):  # a plate larger than the picture
        compose(View(help=True, debug=True), np.zeros(shape, np.uint8), ONE, {}, notice="a long line", trace=TRACE)


TRACE = StepTrace(
    id=np.array([4, 0]),
    predicted=np.array([[102.0, 82, 142, 182], [200, 50, 240, 150]]),
    gate_px=np.array([[30.0, 15.0], [10, 10]]),
    pair_id=np.array([4]),
    pair_boxes=np.array([[100.0, 80, 140, 180]]),
    pair_cost=np.array([[0.123, 0.05, 0.2]]),
    tried=np.array([[20.0, 20, 50, 90]]),
    accepted=np.array([[260.0, 20, 290, 90]]),
)


def test_debug_overlay_draws_the_trace():
    picture = image()
    draw_debug(picture, TRACE)
    drawn_at = changed(picture, image())
    assert drawn_at[82, 102:142].all()  # predicted box
    assert drawn_at[132, [92, 152]].all()  # ends of the gate's ellipse
    assert drawn_at[50, 200:240].all()  # the tentative track's box
    assert drawn_at[20, 20:50].all()
    assert (picture[20, 260:290] == (0, 255, 0)).all()
    assert drawn_at[181:200, 100:180].any()  # the cost below the detection
    assert not drawn_at[210:].any()


@pytest.mark.parametrize("wild", [1e9, -1e9, np.nan])
def test_predictions_far_away_are_no_error(wild):
    far = np.full((1, 4), wild)
    draw_debug(image(), replace(TRACE, predicted=np.full((2, 4), wild), gate_px=np.full((2, 2), 1e9), tried=far))


def test_debug_without_a_trace_is_the_plain_picture():
    assert np.array_equal(drawn(View(debug=True)), drawn(View()))
    assert changed(drawn(View(debug=True), trace=TRACE), drawn(View())).any()
    assert np.array_equal(drawn(View(), trace=TRACE), drawn(View()))


@pytest.mark.parametrize(
    ("cost", "text"),
    [([0.123, 0.05, 0.2], "0.12 = app 0.05 & mot 0.20"), ([0.2, np.nan, 0.2], "0.20 = app - & mot 0.20")],
)
def test_costs_as_text(cost, text):
    assert cost_text(np.array(cost)) == text


@pytest.mark.parametrize("seed", range(5))
def test_plates_never_cover_each_other(seed):
    rng = np.random.default_rng(seed)
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(40):
        wanted = (int(rng.integers(0, 200)), int(rng.integers(0, 100)), int(rng.integers(10, 80)), 12)
        placed = free_place(wanted, taken)
        assert (placed[0], placed[2], placed[3]) == (wanted[0], wanted[2], wanted[3])
        assert placed[1] >= wanted[1]
        picture = np.zeros((2000, 300), bool)
        for left, top, width, height in taken:
            picture[top : top + height, left : left + width] = True
        assert not picture[placed[1] : placed[1] + 12, placed[0] : placed[0] + placed[2]].any()
        taken.append(placed)
