"""What `track_video` returns: an iterator that shows itself in a notebook."""

from __future__ import annotations

import numpy as np
import pytest

from tests.synthetic.video import write_video
from tracker.api import track_video
from tracker.tracked_video import SHOWN_ROWS, TrackedVideo
from tracker.types import Frame, Tracks


def tracks_of(*ids: int) -> Tracks:
    n = len(ids)
    boxes, number = np.tile([10.0, 10, 30, 60], (n, 1)), np.zeros(n, np.int64)
    return Tracks(boxes, np.array(ids), np.ones(n), number, number, np.zeros(n, np.uint8))


def test_counts_and_times_of_each_identity_are_shown():
    image = np.zeros((80, 1280, 3), np.uint8)
    pairs = [
        (Frame(k, k / 4, image, 1280, 80), tracks_of(*ids)) for k, ids in enumerate([(1,), (1, 2), (1, 2), (2,), ()])
    ]
    video = TrackedVideo("<b>.mp4", (pair for pair in pairs))
    assert "not tracked yet" in video._repr_html_()
    assert list(video) == pairs
    html = video._repr_html_()
    assert "&lt;b&gt;.mp4: 2 identities in 5 frames" in html
    assert "<tr><td>1</td><td>0.00</td><td>0.50</td><td>3</td></tr>" in html
    assert "<tr><td>2</td><td>0.25</td><td>0.75</td><td>3</td></tr>" in html
    assert 'alt="frame 4"' in html


def test_long_table_is_cut_and_no_picture_is_needed():
    pairs = [(Frame(0, 0.0, None, 10, 10), tracks_of(*range(1, SHOWN_ROWS + 4)))]
    video = TrackedVideo("sequence", (pair for pair in pairs))
    next(video)
    html = video._repr_html_()
    assert html.count("<tr>") == SHOWN_ROWS + 1
    assert "and 3 more" in html
    assert "<img" not in html


def test_password_of_a_camera_is_not_shown():
    assert "secret" not in track_video("rtsp://me:secret@camera/stream")._repr_html_()


def test_close_ends_the_run(tmp_path):
    scene = write_video(tmp_path, n_frames=8)
    video = track_video(scene / "video.avi", detections=scene / "SYN-01" / "det" / "det.txt", reid=None)
    next(video)
    video.close()
    with pytest.raises(StopIteration):
        next(video)
