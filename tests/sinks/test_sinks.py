"""Sinks: written results read back, and impossible ones are one clear line."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.errors import OutputError
from tracker.sinks.annotated_video import LONGEST_STILL_S, AnnotatedVideoSink, Pace
from tracker.sinks.drawing import Trails, annotate, caption, identity_colour
from tracker.sinks.mot_txt import MotTextSink
from tracker.sinks.progress import ProgressSink
from tracker.sinks.summary import SummarySink
from tracker.types import Frame, Source, Tracks


def tracks_of(ids, boxes, sources=None) -> Tracks:
    n = len(ids)
    sources = np.zeros(n, np.uint8) if sources is None else np.array(sources, np.uint8)
    return Tracks(
        np.array(boxes, float).reshape(n, 4), np.array(ids, np.int64), np.full(n, 0.5), np.zeros(n, np.int64),
        np.arange(n), sources,
    )  # fmt: skip


def frame_of(index: int, image: bool = True) -> Frame:
    return Frame(index, index / 10, np.full((120, 160, 3), 90, np.uint8) if image else None, 160, 120)


def test_mot_text_round_trip(tmp_path):
    path = tmp_path / "out.txt"
    with MotTextSink(path) as sink:
        sink.write(frame_of(0), tracks_of([7, 2], [[10, 20, 30, 60], [-1.001, -1.001, 5, 5]]))
        sink.write(frame_of(1), tracks_of([], []))
        assert len(path.read_text().splitlines()) == 2  # on disk before the file is closed
        sink.write(frame_of(2), tracks_of([2], [[0.25, 0.5, 4, 5]]))
    assert path.read_text() == (
        "1,2,0.00,0.00,6.00,6.00,0.5000,-1,-1,-1\n"
        "1,7,11.00,21.00,20.00,40.00,0.5000,-1,-1,-1\n"
        "3,2,1.25,1.50,3.75,4.50,0.5000,-1,-1,-1\n"
    )


@pytest.mark.parametrize("make", [MotTextSink, lambda p, **k: AnnotatedVideoSink(p, 10, (160, 120), **k)])
def test_outputs_that_cannot_be(tmp_path, make):
    taken = tmp_path / "taken.avi"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        make(taken)
    assert taken.read_text() == "mine"
    make(taken, overwrite=True).close()
    (tmp_path / "folder.avi").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        make(tmp_path / "folder.avi")
    with pytest.raises(OutputError, match="does not exist"):
        make(tmp_path / "missing" / "x.avi")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_is_one_line():
    with MotTextSink("/dev/full") as sink, pytest.raises(OutputError, match="frame 1: No space left"):
        sink.write(frame_of(0), tracks_of([1], [[0, 0, 9, 9]]))


@pytest.mark.parametrize("name", ["video.mp4", "video.avi"])
def test_video_reads_back(tmp_path, name):
    with AnnotatedVideoSink(tmp_path / name, 10, (160, 120)) as sink:
        for index in range(6):
            sink.write(frame_of(index), tracks_of([3], [[40, 40, 90, 100]]))
    video = cv2.VideoCapture(str(tmp_path / name))
    pictures = []
    while (read := video.read())[0]:
        pictures.append(read[1])
    assert len(pictures) == 6
    assert pictures[0].shape == (120, 160, 3)
    # The plate of the label is a filled area, which compression keeps.
    distance = np.abs(pictures[3].astype(int) - identity_colour(3)).max(axis=2)
    assert (distance < 60).sum() > 30


def test_video_needs_pictures(tmp_path):
    with (
        AnnotatedVideoSink(tmp_path / "video.mp4", 10, (160, 120)) as sink,
        pytest.raises(OutputError, match="no pictures"),
    ):
        sink.write(frame_of(0, image=False), tracks_of([], []))


def shown_at(times: list[float], fps: float) -> list[int]:
    """Index of the frame in each picture of a live video: the newest at k / fps, the last once at least."""
    n = max(1, int(np.ceil(times[-1] * fps - 1e-9)) + 1)
    return [max(i for i, time_s in enumerate(times) if time_s <= k / fps + 1e-9) for k in range(n)]


@pytest.mark.parametrize("fps", [10.0, 25.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_live_video_plays_at_real_speed(fps, seed):
    """A camera slower or faster than the video, or both in turn."""
    steps = np.random.default_rng(seed).choice([0.01, 1 / fps, 0.07, 0.4], 60)
    times = np.concatenate([[0.0], np.cumsum(steps)]).tolist()
    pace = Pace(fps)
    pictures: list[int] = []
    for index, time_s in enumerate(times[1:]):
        pictures += [index] * pace.due(time_s)
    assert [*pictures, len(times) - 1] == shown_at(times, fps)


def test_live_video_shortens_long_gaps():
    """The camera was disconnected for an hour, and later for exactly the longest gap."""
    pace = Pace(10.0)
    assert [pace.due(t) for t in (1.0, 3601.0, 3602.0, 3602.0 + LONGEST_STILL_S)] == [10, 10 * LONGEST_STILL_S, 10, 50]


@pytest.mark.parametrize("live", [False, True])
def test_live_video_repeats_and_skips_frames(tmp_path, live):
    path = tmp_path / "video.avi"
    with AnnotatedVideoSink(path, 10, (160, 120), live=live) as sink:
        for index, (time_s, level) in enumerate([(0.0, 30), (0.5, 90), (0.51, 150), (0.52, 210)]):
            sink.write(Frame(index, time_s, np.full((120, 160, 3), level, np.uint8), 160, 120), tracks_of([], []))
    video, levels = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        levels.append(int(np.median(read[1])))
    wanted = [30] * 5 + [90, 210] if live else [30, 90, 150, 210]
    assert len(levels) == len(wanted)
    assert np.abs(np.subtract(levels, wanted)).max() <= 3


def test_detected_boxes_are_solid_and_proposed_ones_dashed():
    image = np.zeros((400, 400, 3), np.uint8)
    drawn = [annotate(image, tracks_of([5], [[100, 100, 200, 300]], [source])) for source in (0, 1)]
    assert not image.any()
    solid, dashed = ((picture[120:280, 100] == identity_colour(5)).all(axis=1).mean() for picture in drawn)
    assert solid == 1
    assert 0.3 < dashed < 0.7


def test_occluded_boxes_are_faint_dots():
    image = np.zeros((400, 400, 3), np.uint8)
    by_source = {s: annotate(image, tracks_of([5], [[100, 100, 200, 300]], [s])) for s in Source}
    assert not image.any()
    drawn = {s: picture.any(axis=2) for s, picture in by_source.items()}
    hidden = by_source[Source.OCCLUDED][120:280, 100]
    dotted = hidden.any(axis=1)
    assert 0.2 < dotted.mean() < 0.7
    assert np.diff(np.flatnonzero(np.diff(dotted))).max() <= 5  # many small ones, all the way down
    assert hidden.max() < max(identity_colour(5))  # faint
    for a, b in ((Source.DETECTED, Source.OCCLUDED), (Source.PROPOSED, Source.OCCLUDED)):
        assert (drawn[a] != drawn[b]).sum() > 50
    # The label is the same in all three.
    label = {s: picture[:98] for s, picture in by_source.items()}
    assert np.array_equal(label[Source.DETECTED], label[Source.OCCLUDED])


def test_dots_blend_with_the_picture():
    """Seven tenths of the colour, the rest of the picture; also for a box that reaches out of the image."""
    image = np.full((400, 400, 3), 200, np.uint8)
    picture = annotate(image, tracks_of([5], [[-30, 150, 200, 450]], [Source.OCCLUDED]))
    expected = 0.7 * np.array(identity_colour(5)) + 0.3 * 200
    column = picture[170:390, 200]
    dots = column[(column != 200).any(axis=1)]
    assert len(dots) > 20
    assert np.abs(dots - expected).max() <= 1


# sources of the tracks of a frame -> the line in the corner of frame 1
CAPTIONS = [
    ([], "frame 1  0 people"),
    ([0], "frame 1  1 person"),
    ([0, 0, 1], "frame 1  3 people, 1 proposed"),
    ([2, 2, 0], "frame 1  3 people, 2 hidden"),
    ([2, 1, 0, 1], "frame 1  4 people, 2 proposed, 1 hidden"),
    ([3, 3, 0], "frame 1  3 people, 2 predicted"),
]


@pytest.mark.parametrize(("sources", "line"), CAPTIONS)
def test_caption_counts_by_origin_and_leaves_zeros_out(sources, line):
    n = len(sources)
    assert caption(frame_of(0), tracks_of(range(1, n + 1), [[0, 0, 9, 9]] * n, sources)) == line


def test_trails_drop_identities_that_left():
    trails = Trails(keep_s=1.0)
    for index in range(1000):
        trails.update(index / 10, tracks_of([index], [[0, 0, 2, 2]]))
    assert len(trails) <= 12


def test_progress_lines_and_silence():
    now = iter(range(100))
    stream = io.StringIO()
    with ProgressSink(8, "auto", stream=stream, every_s=4, clock=lambda: float(next(now))) as progress:
        for index in range(8):
            progress.write(frame_of(index), tracks_of([1, 2], [[0, 0, 1, 1]] * 2))
    lines = stream.getvalue().splitlines()
    assert lines
    assert lines[-1].startswith("frame 8 of 8, ")
    assert lines[-1].endswith("2 in view")
    silent = io.StringIO()
    with ProgressSink(8, "silent", stream=silent) as progress:
        progress.write(frame_of(0), tracks_of([], []))
    assert silent.getvalue() == ""


def test_summary_counts_and_adds_up():
    tally = SummarySink()
    tally.write(frame_of(0), tracks_of([1, 2], [[0, 0, 1, 1]] * 2, [0, 1]))
    tally.write(frame_of(1), tracks_of([2], [[0, 0, 1, 1]]))
    text = tally.text(2.0, {"detect": 1.0, "associate": 0.5})
    assert "2.00 s (1.0 fps)" in text
    assert "3 (2 detected, 1 proposed)" in text
    assert [line.split()[1:3] for line in text.splitlines()[-4:]] == [
        ["500.00", "50.0"], ["250.00", "25.0"], ["250.00", "25.0"], ["1000.00", "100.0"],
    ]  # fmt: skip


def test_summary_names_occluded_boxes_only_if_any():
    tally = SummarySink()
    tally.write(frame_of(0), tracks_of([1, 2, 3], [[0, 0, 1, 1]] * 3, [0, 1, 0]))
    assert "3 (2 detected, 1 proposed)" in tally.text(1.0)
    tally.write(frame_of(1), tracks_of([1, 2, 3, 4], [[0, 0, 1, 1]] * 4, [0, 2, 2, 1]))
    assert "7 (3 detected, 2 proposed, 2 occluded)" in tally.text(1.0)
    assert (tally.n_detected, tally.n_proposed, tally.n_occluded, tally.n_identities) == (3, 2, 2, 4)
    tally.write(frame_of(2), tracks_of([1, 2], [[0, 0, 1, 1]] * 2, [3, 3]))
    assert "9 (3 detected, 2 proposed, 2 occluded, 2 predicted between detections)" in tally.text(1.0)


class Feed:
    lost = False

    def __init__(self, ages_s, dropped, losses):
        self.ages_s, self.dropped, self.losses = list(ages_s), dropped, losses

    def age_s(self, time_s):
        return self.ages_s.pop(0)


@pytest.mark.parametrize(("losses", "end"), [(0, ""), (1, ", connection lost once"), (3, ", connection lost 3 times")])
def test_summary_of_camera_has_latency_drops_losses(losses, end, rng):
    ages_ms = rng.integers(5, 300, 101)
    sink = SummarySink(Feed(ages_ms / 1000, 25, losses))
    for index in range(len(ages_ms)):
        sink.write(frame_of(index), tracks_of([], []))
    half, most = np.median(ages_ms), np.sort(ages_ms)[95]
    line = f"live        latency {half:.0f} ms (95 %: {most} ms), 25 of 126 frames dropped for newer ones{end}"
    assert line in sink.text(1.0).splitlines()


def test_summary_of_camera_without_frames():
    assert "0 of 0 frames dropped" in SummarySink(Feed([], 0, 0)).text(1.0)
    assert "live" not in SummarySink().text(1.0)
