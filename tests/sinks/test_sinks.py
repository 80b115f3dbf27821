"""Sinks: written results read back, and impossible ones are one clear line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic.tracks import frame_of, tracks_of
from tracker.errors import OutputError
from tracker.sinks.annotated_video import AnnotatedVideoSink
from tracker.sinks.drawing import Trails, annotate, caption, identity_colour
from tracker.sinks.mot_txt import MotTextSink
from tracker.sinks.progress import ProgressSink
from tracker.sinks.summary import SummarySink
from tracker.types import Source


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
    ([2, 2, 0], "frame 1  3 people, 2 occluded"),
    ([2, 1, 0, 1], "frame 1  4 people, 2 proposed, 1 occluded"),
    ([3, 3, 0], "frame 1  3 people, 2 predicted"),
]


@pytest.mark.parametrize(("sources", "line"), CAPTIONS)
def test_caption_counts_by_origin_and_leaves_zeros_out(sources, line):
    n = len(sources)
    assert caption(frame_of(0), tracks_of(range(1, n + 1), [[0, 0, 9, 9]] * n, sources)) == line


def test_caption_of_several_classes_speaks_of_objects():
    several = tracks_of([1, 2], [[0, 0, 9, 9]] * 2)
    assert caption(frame_of(0), several, several_classes=True) == "frame 1  2 objects"
    assert caption(frame_of(0), several[:1], several_classes=True) == "frame 1  1 object"


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
    assert lines[-1].endswith("2 in view, 0:00 left")
    assert lines[0] == "frame 4 of 8, 0.8 fps, 2 in view, 0:05 left"
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


def test_summary_of_camera_counts_late_frames():
    sink = SummarySink(Feed([0.01] * 5, 2, 0))
    for index in range(5):
        sink.write(replace(frame_of(index), late=index in (1, 2, 4)), tracks_of([], []))
    said = "latency 10 ms (95 %: 10 ms), 3 of 7 frames predicted to keep pace, 2 of 7 frames dropped for newer ones"
    assert said in sink.text(1.0)


def test_summary_of_camera_without_frames():
    assert "0 of 0 frames dropped" in SummarySink(Feed([], 0, 0)).text(1.0)
    assert "live" not in SummarySink().text(1.0)
