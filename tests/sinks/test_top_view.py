"""The floor from above: paths in metres, on the right side, dark where people stood."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.synthetic.video import motion_only, write_video
from tracker.analytics.ground import open_ground, parse_ground
from tracker.commands.track import main
from tracker.sinks.drawing import identity_colour
from tracker.sinks.top_view import EDGE_M, LONG_SIDE_PX, TopViewSink
from tracker.types import Frame, Tracks

# A floor seen straight from above, 10 px to the metre: y runs away from the camera (up) or towards it.
AWAY = open_ground(parse_ground(["0,200=0,0", "200,200=20,0", "200,0=20,20", "0,0=0,20"]), 200, 200)
TOWARDS = open_ground(parse_ground(["0,0=0,0", "200,0=20,0", "200,200=20,20", "0,200=0,20"]), 200, 200)


def tracks_of(*feet):
    """One identity after the other, from 1, with these pixels of their feet."""
    n = len(feet)
    boxes = np.array([[x - 5.0, y - 40, x + 5, y] for x, y in feet]).reshape(-1, 4)
    number = np.zeros(n, np.int64)
    return Tracks(boxes, np.arange(1, n + 1), np.ones(n), number, number, np.zeros(n, np.uint8))


def drawn(path, ground, walks, fps=10.0):
    with TopViewSink(path, ground, 1 / fps) as sink:
        for k, tracks in enumerate(walks):
            sink.write(Frame(k, k / fps, None, 200, 200), tracks)
    return cv2.imread(str(path))


def middle_of(picture, colour):
    """Mean x, y of the pixels of this colour."""
    return np.argwhere((picture == colour).all(axis=2))[:, ::-1].mean(axis=0)


@pytest.mark.parametrize("ground", [AWAY, TOWARDS])
def test_paths_lie_as_a_camera_above_sees_them(tmp_path, ground):
    """1 walks at the left, 2 at the right and farther up in the picture."""
    picture = drawn(tmp_path / "top.png", ground, [tracks_of((50 + k, 150), (120 + k, 50)) for k in range(60)])
    (x1, y1), (x2, y2) = (middle_of(picture, identity_colour(identity)) for identity in (1, 2))
    assert x2 - x1 > 200
    assert y1 - y2 > 300


def test_scale_is_that_of_metres(tmp_path):
    """Two people at rest, 8 m apart: so are their dots."""
    picture = drawn(tmp_path / "top.png", AWAY, [tracks_of((50, 100), (130, 100))] * 20)
    scale = LONG_SIDE_PX / (8 + 2 * EDGE_M)
    places = [1 * scale, 9 * scale]
    assert picture.shape == (round(2 * EDGE_M * scale), LONG_SIDE_PX, 3)
    for identity, x in zip((1, 2), places, strict=True):
        at = np.argwhere((picture == identity_colour(identity)).all(axis=2))
        dot = at[np.abs(at[:, 0] - picture.shape[0] / 2) < 3]
        assert abs(np.median(dot[:, 1]) - x) < 12


def test_place_is_darker_the_longer_people_stand(tmp_path):
    walks = [tracks_of((50, 100), (60 + k, 60)) for k in range(100)]
    picture = drawn(tmp_path / "top.png", AWAY, walks)
    x, y = np.rint(middle_of(picture, identity_colour(1))).astype(int)
    assert picture[y + 12, x].mean() < 140  # beside the dot of who stood still
    assert picture[-40:, -40:].max() == 255


def test_no_person_leaves_no_file(tmp_path):
    with TopViewSink(tmp_path / "top.png", AWAY, 0.1) as sink:
        sink.write(Frame(0, 0.0, None, 200, 200), tracks_of())
    assert not list(tmp_path.iterdir())


def test_command_writes_it_and_asks_for_the_floor(tmp_path, capsys):
    scene = write_video(tmp_path, 1, n_frames=12, width=320, height=240)
    words = [str(scene / "video.avi"), *motion_only(scene), "--top-view", str(tmp_path / "top.png")]
    assert main(words) == 2
    assert "--top-view needs the floor in metres: give --ground" in capsys.readouterr().err
    ground = ["--ground", "0,240=0,0", "320,240=6,0", "320,60=6,6", "0,60=0,6"]
    assert main([*words, *ground]) == 0
    assert cv2.imread(str(tmp_path / "top.png")) is not None
