"""Annotated videos: every frame at its time, encoded beside the loop that tracks."""

from __future__ import annotations

import builtins
import hashlib
import logging
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.synthetic.tracks import frame_of, tracks_of
from tracker.errors import OutputError, WriteError
from tracker.sinks import annotated_video
from tracker.sinks.annotated_video import LONGEST_STILL_S, QUEUE, AnnotatedVideoSink
from tracker.sinks.drawing import identity_colour
from tracker.sinks.video_writer import ConstantRateWriter
from tracker.types import Frame, Tracks

LEVELS = (30, 210, 90, 150, 60, 180)  # of grey, by frame; neighbours differ more than a codec changes them
SIZE = 160, 120


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is an optional dependency")


@pytest.fixture
def without_av(monkeypatch):
    real = builtins.__import__

    def no_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError("no av")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_av)


def write(path: Path, times: list[float], *, fps: float = 10.0, live: bool = False) -> None:
    """A video whose frame i is all of LEVELS[i % 6]."""
    with AnnotatedVideoSink(path, fps, SIZE, live=live) as sink:
        for index, time_s in enumerate(times):
            image = np.full((120, 160, 3), LEVELS[index % 6], np.uint8)
            sink.write(Frame(index, time_s, image, *SIZE), tracks_of([], []))
            if live:
                drain(sink)


def drain(sink: AnnotatedVideoSink) -> None:
    """Wait until the encoder has room, as it has between the frames of a slow camera."""
    while sink._behind.full:
        threading.Event().wait(0.001)


def stamps_and_levels(av, path: Path) -> tuple[list[float], list[int]]:
    """Time and nearest of LEVELS of each picture."""
    with av.open(str(path)) as video:
        pictures = [(float(p.pts * p.time_base), np.median(p.to_ndarray(format="gray"))) for p in video.decode(video=0)]
    return [t for t, _ in pictures], [min(LEVELS, key=lambda level: abs(level - grey)) for _, grey in pictures]


def shown(path: Path) -> list[int]:
    """Index in LEVELS of each picture of a video of constant rate."""
    video, found = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        found.append(int(np.argmin(np.abs(np.array(LEVELS) - np.median(read[1])))))
    return found


# ------------------------------------------------------------------------------------------------------ H.264


@pytest.mark.parametrize("ending", [".mp4", ".m4v", ".mov", ".mkv"])
def test_frames_are_shown_at_their_times(av, tmp_path, ending):
    """A part of a variable-rate video: the first frame is at 90 s, and two frames have one time."""
    times = [90.0, 90.04, 90.5, 90.5, 92.1, 92.15]
    path = tmp_path / f"video{ending}"
    write(path, times)
    found, levels = stamps_and_levels(av, path)
    assert levels == list(LEVELS)
    assert np.diff(found).min() > 0
    assert np.abs(np.subtract(found, np.subtract(times, 90.0))).max() < 0.002


@pytest.mark.parametrize(
    ("fps", "times", "length_s"),
    [
        (1000.0, [n / 30 for n in range(60)], 2.0),
        (5.0, [0.62 * n for n in range(50)], 31.0),
        (25.0, [n / 25 for n in range(50)], 2.0),
        (10.0, [0.0, 0.1, 0.2, 2.0], 3.8),  # the last picture is shown as long as the one before
        (4.0, [0.0], 0.25),
        (0.00001, [0.0, 0.5], 1.0),
    ],
    ids=["millisecond time base", "nominal 5 fps", "constant", "gap at the end", "one frame", "nonsense rate"],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_video_is_as_long_as_its_source(av, tmp_path, ending, fps, times, length_s):
    path = tmp_path / f"video{ending}"
    write(path, times, fps=fps)
    assert len(stamps_and_levels(av, path)[0]) == len(times)
    with av.open(str(path)) as video:
        assert video.duration / av.time_base == pytest.approx(length_s, abs=0.002)


@pytest.mark.parametrize(
    ("fps", "times"),
    [(1000.0, [n / 30 for n in range(60)]), (5.0, [0.62 * n for n in range(50)]), (25.0, [n / 25 for n in range(50)])],
    ids=["millisecond time base", "nominal 5 fps", "constant"],
)
def test_video_of_constant_rate_is_as_long_as_its_source(without_av, tmp_path, fps, times):
    write(tmp_path / "video.mp4", times, fps=fps)
    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    length_s = video.get(cv2.CAP_PROP_FRAME_COUNT) / video.get(cv2.CAP_PROP_FPS)
    assert times[-1] < length_s < times[-1] + times[1] + 0.01


def test_mp4_is_what_browsers_play(av, tmp_path):
    """H.264, 4:2:0, the index before the pictures; an odd row and column are left out."""
    path = tmp_path / "video.mp4"
    with AnnotatedVideoSink(path, 10, (161, 121)) as sink:
        sink.write(Frame(0, 0.0, np.full((121, 161, 3), 90, np.uint8), 161, 121), tracks_of([], []))
    with av.open(str(path)) as video:
        codec = video.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 160, 120)
        assert codec.profile in ("Constrained Baseline", "Baseline", "Main", "High")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_equal_runs_give_equal_bytes(tmp_path, ending):
    """A resumed run makes its video again."""
    digests = set()
    for name in ("a", "b"):
        with AnnotatedVideoSink(tmp_path / f"{name}{ending}", 10, SIZE) as sink:
            for index in range(40):
                image = np.random.default_rng(index).integers(0, 255, (120, 160, 3), np.uint8)
                sink.write(Frame(index, index / 10, image, *SIZE), tracks_of([1], [[index, 20, index + 30, 90]]))
        digests.add(hashlib.sha256((tmp_path / f"{name}{ending}").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["video.mp4", "video.avi", "12:30:05.mp4", "12:30:05.avi"])
def test_video_reads_back(tmp_path, monkeypatch, name):
    """Relative names, too: a colon is no protocol."""
    monkeypatch.chdir(tmp_path)
    with AnnotatedVideoSink(name, 10, SIZE) as sink:
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


# ---------------------------------------------------------------------------------------- without PyAV, and in .avi


def test_without_pyav_one_line_says_why_browsers_refuse(without_av, tmp_path, caplog):
    write(tmp_path / "video.mp4", [0.0, 0.1])
    (line,) = caplog.messages
    assert "video.mp4: is written as MPEG-4 part 2, which browsers do not play" in line
    assert "pip install av" in line
    assert shown(tmp_path / "video.mp4") == [0, 1]


def test_pyav_without_h264_is_said(av, tmp_path, caplog, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("h264")

    monkeypatch.setattr("tracker.sinks.video_writer.H264Writer", refuse)
    write(tmp_path / "video.mp4", [0.0, 0.1])
    (line,) = caplog.messages
    assert "this PyAV cannot write H.264 (h264)" in line


def test_motion_jpeg_is_asked_for_and_said_nothing_about(tmp_path, caplog):
    write(tmp_path / "video.avi", [0.0, 0.1])
    assert caplog.messages == []


def shown_at(times: list[float], fps: float) -> list[int]:
    """Frame in each picture of a constant rate: the last whose time is nearer to k / fps than to the next."""
    n = int(np.rint(times[-1] * fps)) + 1
    return [max(i for i, time_s in enumerate(times) if np.rint(time_s * fps) <= k) for k in range(n)]


@pytest.mark.parametrize("fps", [10.0, 25.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_constant_rate_repeats_and_leaves_out_by_time(seed, fps, monkeypatch, tmp_path):
    """A source slower or faster than the video, or both in turn."""
    steps = np.random.default_rng(seed).choice([0.01, 1 / fps, 0.07, 0.4], 60)
    times = np.concatenate([[0.0], np.cumsum(steps)]).tolist()
    writer = ConstantRateWriter(tmp_path / "video.avi", fps, SIZE)
    pictures: list[int] = []
    writer._writer = Recorder(pictures)
    for index, time_s in enumerate(times):
        writer.write(index, time_s)
    writer.close()
    assert pictures == shown_at(times, fps)


def test_constant_rate_survives_rounded_stamps(tmp_path):
    """Matroska rounds to milliseconds: each frame of 29.97 per second is still shown once."""
    pictures: list[int] = []
    writer = ConstantRateWriter(tmp_path / "video.avi", 30000 / 1001, SIZE)
    writer._writer = Recorder(pictures)
    for index in range(500):
        writer.write(index, round(index * 1001 / 30000, 3))
    writer.close()
    assert pictures == list(range(500))


class Recorder:
    """Stands for cv2.VideoWriter."""

    def __init__(self, pictures: list[int]) -> None:
        self.write = pictures.append

    def release(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------ live, and threads


@pytest.mark.parametrize("writer", ["av", "without_av"])
def test_live_gaps_are_shortened(request, tmp_path, writer):
    """The camera was away for an hour."""
    request.getfixturevalue(writer)
    write(tmp_path / "video.mp4", [0.0, 1.0, 3601.0, 3601.5], live=True)
    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    length_s = video.get(cv2.CAP_PROP_FRAME_COUNT) / video.get(cv2.CAP_PROP_FPS)
    assert length_s == pytest.approx(1.0 + LONGEST_STILL_S + 0.5, abs=0.6)


def test_day_between_two_frames_of_a_file_is_an_hour(av, tmp_path):
    write(tmp_path / "video.mp4", [0.0, 0.1, 90_000.1, 90_000.2])
    assert stamps_and_levels(av, tmp_path / "video.mp4")[0] == pytest.approx([0, 0.1, 0.1 + 3600, 0.2 + 3600])


class SlowWriter:
    """Encodes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.written: list[tuple[int, float]] = []

    def write(self, picture, time_s):
        assert self.go.wait(20)
        self.written.append((int(np.median(picture)), time_s))

    def close(self):
        pass


@pytest.fixture
def slow(monkeypatch):
    writer = SlowWriter()
    monkeypatch.setattr(annotated_video, "open_writer", lambda *args: writer)
    monkeypatch.setattr(AnnotatedVideoSink, "_check_whole", lambda self: None)
    yield writer
    writer.go.set()


def grey(index: int) -> Frame:
    return Frame(index, index / 10, np.full((120, 160, 3), index, np.uint8), *SIZE)


def test_live_tracking_never_waits_for_encoder(slow, tmp_path, caplog):
    """What found no room is counted and said at the end; what is written keeps order and times."""
    with AnnotatedVideoSink(tmp_path / "video.avi", 10, SIZE, live=True) as sink:
        for index in range(40):  # would hang if one of them waited
            sink.write(grey(index), tracks_of([], []))
        slow.go.set()
        drain(sink)
        sink.write(grey(40), tracks_of([], []))
    levels = [level for level, _ in slow.written]
    assert levels[:QUEUE] == list(range(QUEUE))
    assert levels[-1] == 40
    assert len(levels) in (QUEUE + 1, QUEUE + 2)  # one may be in the encoder's hands
    assert all(time_s == level / 10 for level, time_s in slow.written)
    (line,) = caplog.messages
    assert f"{41 - len(levels)} of 41 frames came faster than they could be encoded, and are not in the video" in line


def test_file_waits_for_encoder_and_drops_nothing(slow, tmp_path, caplog):
    with AnnotatedVideoSink(tmp_path / "video.avi", 10, SIZE) as sink:
        threading.Timer(0.1, slow.go.set).start()
        for index in range(40):
            sink.write(grey(index), tracks_of([], []))
    assert [level for level, _ in slow.written] == list(range(40))
    assert caplog.messages == []


def test_late_repetitions_are_left_out(tmp_path, caplog):
    """Without PyAV a slow encoder falls behind no further than its queue."""
    pictures: list[int] = []
    writer = ConstantRateWriter(tmp_path / "video.avi", 10, SIZE, late=lambda: len(pictures) >= 5)
    writer._writer = Recorder(pictures)
    for index in range(4):
        writer.write(index, index * 1.0)
    writer.close()
    assert pictures == [0] * 5 + [1, 2, 3]
    assert caplog.messages[0].endswith(
        "video.avi: is 2.3 s too short: repeated pictures came faster than they could be encoded"
    )


def test_error_of_encoder_reaches_the_loop_once(slow, tmp_path, monkeypatch):
    """Of the thread, a few frames later; closing does not hide it behind another."""

    def fail(picture, time_s):
        raise WriteError("video.avi: the video cannot be written: No space left on device")

    monkeypatch.setattr(slow, "write", fail)
    monkeypatch.setattr(slow, "close", lambda: fail(None, 0))
    with (
        pytest.raises(WriteError, match="No space left"),
        AnnotatedVideoSink(tmp_path / "video.avi", 10, SIZE) as sink,
    ):
        for index in range(1000):
            sink.write(grey(index), tracks_of([], []))
    assert index < 1000
    assert not any(thread.name.startswith("encode video") for thread in threading.enumerate())


def test_error_of_last_frame_is_raised_by_close(slow, tmp_path, monkeypatch):
    def fail(picture, time_s):
        raise WriteError("at the last frame")

    monkeypatch.setattr(slow, "write", fail)
    sink = AnnotatedVideoSink(tmp_path / "video.avi", 10, SIZE)
    sink.write(grey(0), tracks_of([], []))
    with pytest.raises(WriteError, match="at the last frame"):
        sink.close()
    sink.close()


def test_video_needs_pictures(tmp_path):
    with (
        AnnotatedVideoSink(tmp_path / "video.mp4", 10, SIZE) as sink,
        pytest.raises(OutputError, match="no pictures"),
    ):
        sink.write(frame_of(0, image=False), Tracks())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_is_refused_and_a_device_takes_all(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OutputError, match="this is a pipe"):
        AnnotatedVideoSink(tmp_path / "pipe.mp4", 10, SIZE)
    for name in ("null.mp4", "null.mkv", "null.avi"):
        (tmp_path / name).symlink_to(os.devnull)
        write(tmp_path / name, [0.0, 0.1])


def test_unused_video_is_closed_without_an_error(tmp_path, caplog):
    """The source failed at its first frame."""
    caplog.set_level(logging.WARNING)
    AnnotatedVideoSink(tmp_path / "video.mp4", 10, SIZE).close()
    assert caplog.messages == []
