"""Cameras and streams: newest frame, real time, and reconnection, over real connections on loopback."""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time

import cv2
import numpy as np
import pytest

from tests.oracles.cameras import MjpegCamera, RtspCamera, walker
from tracker.api import track_video
from tracker.config import TrackerConfig
from tracker.errors import SourceError
from tracker.sources import webcam
from tracker.sources.open import open_source
from tracker.sources.webcam import LiveSource, camera_name, fitted, waits
from tracker.types import Detections

pytestmark = pytest.mark.slow

CAMERAS = [MjpegCamera, RtspCamera]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Shorten the reconnection waits for a test."""
    monkeypatch.setattr(webcam, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(webcam, "LONGEST_WAIT_S", 0.4)


class FakeCapture:
    """Stands in for cv2.VideoCapture: gives its pictures, then fails."""

    def __init__(self, pictures, period_s: float = 0.005) -> None:
        self.pictures, self.period_s, self.released = list(pictures), period_s, False

    def get(self, _: int) -> float:
        return 30.0

    def read(self):
        time.sleep(self.period_s)
        return (True, self.pictures.pop(0)) if self.pictures else (False, None)

    def release(self) -> None:
        self.released = True


def grey(level: int, width: int = 8, height: int = 6) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def reopening(*attempts, after=lambda: True):
    """A `reopen` that goes through its attempts, a SourceError or a capture; the first waits for `after`."""
    left = list(attempts)

    def reopen():
        wait_until(after)
        found = left.pop(0) if left else SourceError("cannot be opened")
        if isinstance(found, Exception):
            raise found
        return found

    return reopen


def wait_until(met, limit_s: float = 120.0) -> None:
    """Wait for the condition, however slow the machine is."""
    until_s = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def ends_when(source: LiveSource, met) -> None:
    """End the source once the condition holds and no frame comes, as a key in its window does."""
    source.on_idle(lambda: not met())


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# ------------------------------------------------------------------------------------------------------ no network


def test_waits_double_up_to_a_limit(monkeypatch):
    monkeypatch.undo()
    assert list(itertools.islice(waits(), 7)) == [0.5, 1, 2, 4, 8, 10, 10]


def test_reconnected_camera_logs_lost_retry_and_back(caplog):
    gone = SourceError("cannot be opened")
    first, dead, second = FakeCapture([grey(1)] * 3), FakeCapture([]), FakeCapture([grey(2)] * 3)
    levels, times = [], []
    reopen = reopening(gone, dead, second, after=lambda: levels)
    with LiveSource("0", capture=first, reopen=reopen) as source, caplog.at_level(logging.INFO):
        ends_when(source, lambda: source.losses == 2)
        for frame in source:
            levels.append(int(frame.image[0, 0, 0]))
            times.append(frame.time_s)
        assert source.losses == 2
    assert levels == sorted(levels)
    assert set(levels) == {1, 2}
    assert (np.diff(times) > 0).all()
    # The clock went on: two attempts failed, after 0.05 and 0.1 s.
    assert times[levels.index(2)] - times[levels.index(2) - 1] > 0.3
    lines = said(caplog)
    assert lines[0] == "webcam 0: connection lost (5 reads in a row failed); trying again for 60 s"
    assert lines[1:3] == ["webcam 0: no answer, trying again in 0.1 s", "webcam 0: no answer, trying again in 0.2 s"]
    assert re.fullmatch(r"webcam 0: back after \d+\.\d s", lines[3])
    assert lines[4].startswith("webcam 0: connection lost")
    assert all("\n" not in line for line in lines)
    assert all(capture.released for capture in (first, dead, second))


def test_lost_camera_is_an_error_after_reconnect_s(caplog):
    with (
        LiveSource("0", capture=FakeCapture([grey(1)]), reopen=reopening(), reconnect_s=0.3) as source,
        pytest.raises(SourceError, match=r"ended after frame 1 and did not come back within 0\.3 s"),
    ):
        list(source)
    assert said(caplog)[0] == "webcam 0: connection lost (5 reads in a row failed); trying again for 0.3 s"


def test_reconnect_s_zero_ends_at_the_first_loss(caplog):
    with (
        LiveSource("0", capture=FakeCapture([grey(1)]), reopen=reopening(), reconnect_s=0) as source,
        pytest.raises(SourceError, match="the stream ended after frame 1"),
    ):
        list(source)
    assert said(caplog) == []


def test_retries_at_the_longest_wait_are_not_logged(caplog):
    """A camera that is disconnected all night does not fill the log."""
    tried = []

    def reopen():
        tried.append("again")
        raise SourceError("cannot be opened")

    with LiveSource("0", capture=FakeCapture([grey(1)]), reopen=reopen) as source:
        ends_when(source, lambda: len(tried) == 6)
        assert len(list(source)) == 1
    assert [line.split(", ")[-1] for line in said(caplog)[1:]] == [f"trying again in {s:g} s" for s in (0.1, 0.2, 0.4)]


@pytest.mark.parametrize("reconnect_s", [0.0, 60.0])
def test_camera_without_a_first_frame_is_an_error(reconnect_s):
    capture = FakeCapture([])
    with pytest.raises(SourceError, match="webcam 0: opened, but gave no frame"):
        LiveSource("0", capture=capture, reopen=reopening(), reconnect_s=reconnect_s)
    assert capture.released


def test_frames_of_another_size_are_scaled_and_logged_once(caplog):
    second = FakeCapture([grey(9, 16, 12)] * 4, 0.05)
    with LiveSource("0", capture=FakeCapture([grey(1)] * 2), reopen=reopening(second)) as source:
        sizes, levels = set(), []
        ends_when(source, lambda: source.losses == 2)
        for frame in source:
            sizes.add((frame.image.shape, frame.width, frame.height))
            levels.append(int(frame.image.min()))
    assert sizes == {((6, 8, 3), 8, 6)}
    assert 9 in levels
    assert [line for line in said(caplog) if "16x12" in line] == [
        "webcam 0: frames are 16x12 now; they are scaled to the 8x6 of the first"
    ]


@pytest.mark.parametrize(
    ("width", "height", "inner"), [(16, 12, (8, 6)), (4, 3, (8, 6)), (16, 6, (8, 3)), (4, 6, (4, 6))]
)
def test_scaled_frames_keep_their_shape(width, height, inner):
    out = fitted(grey(200, width, height), 8, 6)
    assert out.shape == (6, 8, 3)
    rows, columns = np.nonzero(out[..., 0])
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == inner
    assert set(np.unique(out)) <= {0, 200}
    assert abs((columns.min() + columns.max()) - 7) <= 1  # in the middle


@pytest.mark.parametrize("lost", [False, True])
def test_close_ends_the_wait_for_a_frame(lost):
    """Also while the camera is being opened again. Another thread closes, as a signal would."""
    silent = threading.Event()

    class Silent(FakeCapture):
        def read(self):
            if self.pictures:
                return super().read()
            silent.wait(120)
            return False, None

    kind = FakeCapture if lost else Silent
    with LiveSource("0", capture=kind([grey(1)]), reopen=reopening(), reconnect_s=60) as source:
        frames = iter(source)
        next(frames)
        threading.Timer(0.3, source.close).start()
        start = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - start < 50  # of a minute of patience
        silent.set()


def test_idle_is_called_while_waiting_and_can_end_the_source():
    calls = []
    with LiveSource("0", capture=FakeCapture([grey(1)]), reopen=reopening(), reconnect_s=60) as source:
        source.on_idle(lambda: calls.append(source.lost) or len(calls) < 5 or not calls[-1])
        assert len(list(source)) == 1
    assert len(calls) >= 5
    assert calls[-1]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("webcam", "webcam 0"),
        ("007", "webcam 7"),
        ("rtsp://host/cam", "rtsp://host/cam"),
        ("rtsp://me:se:cret@host:554/cam?a=b@c", "rtsp://me:***@host:554/cam?a=b@c"),
        ("http://host:8080/x", "http://host:8080/x"),
    ],
)
def test_names_hide_passwords(spec, name):
    assert camera_name(spec) == name


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_invalid_reconnect_s_is_an_error(wrong):
    with pytest.raises(SourceError, match="reconnecting must be 0 s or more"):
        open_source("rtsp://nowhere", reconnect_s=wrong)


# ------------------------------------------------------------------------------------------- real connections


@pytest.mark.parametrize("kind", CAMERAS)
def test_stream_gives_the_frames_of_the_camera(kind):
    slow = lambda time_s: walker(time_s, speed=5.0)  # noqa: E731  a minute from edge to edge
    with kind(slow) as camera, open_source(camera.address) as source:
        assert (source.live, source.width, source.height, source.n_frames) == (True, 320, 240, None)
        assert source.name == camera.address
        places, times = [], []
        for frame in itertools.islice(source, 12):
            places.append(int(np.nonzero(frame.image[120, :, 0] > 128)[0].min()))
            times.append(frame.time_s)
            assert 0 <= source.age_s(frame.time_s) < 30
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    assert places[-1] > places[0]
    assert np.ptp(np.nonzero(walker(0.0)[120, :, 0])[0]) == 39


@pytest.mark.slow
@pytest.mark.parametrize("kind", CAMERAS)
def test_slow_reader_gets_the_newest_frame(kind):
    with kind(fps=40.0) as camera, open_source(camera.address) as source:
        behind = lambda: camera.n_sent - source.dropped - source._given  # noqa: E731
        at_first = behind()
        for _ in itertools.islice(source, 8):
            slow = camera.n_sent + 8
            wait_until(lambda slow=slow: camera.n_sent >= slow)
            wait_until(lambda: behind() < at_first + 20)  # whatever the connection holds, it does not grow
        wait_until(lambda: source.dropped > 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CAMERAS)
def test_dropped_stream_reconnects(kind, caplog):
    with kind() as camera, open_source(camera.address, reconnect_s=30) as source:
        frames = iter(source)
        before = [next(frames) for _ in range(5)][-1]
        camera.go_down()
        threading.Timer(0.6, camera.come_back).start()
        while source.losses == 0 or source.lost:
            after = next(frames)
        after = next(frames)
        assert camera.n_connections >= 2
    assert after.index > before.index
    assert after.time_s - before.time_s > 0.5  # time is the clock's, not the number of frames
    lines = said(caplog)
    assert lines[0].startswith(f"{camera.address}: connection lost (")
    assert any(" back after " in line for line in lines)


class Bright:
    """A detector that finds what is white."""

    name = "bright"

    def detect(self, frame):
        rows, columns = np.nonzero(frame.image[..., 0] > 128)
        if len(rows) == 0:
            return Detections.empty()
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
        return Detections(box, np.array([0.9]), np.zeros(1, np.int64))


def runner(time_s: float) -> np.ndarray:
    """A white person, 40 px wide, running to the right at 32 px/s for 38 s."""
    picture = np.zeros((96, 1280, 3), np.uint8)
    left = round(20 + 32 * time_s)
    picture[8:88, left : left + 40] = 255
    return picture


class SlowBright(Bright):
    """Takes as long as six frames of its camera."""

    def __init__(self):
        self.asked = []

    def detect(self, frame):
        self.asked.append(frame.index)
        time.sleep(0.15)
        return super().detect(frame)


@pytest.mark.parametrize(("every", "predicts"), [("none", True), (1, False)])
def test_slow_detector_on_a_camera_predicts_late_frames_with_auto_alone(every, predicts):
    config = TrackerConfig().override({"detection.every": every, "motion.camera": False})
    detector, late, predicted = SlowBright(), [], []
    with MjpegCamera(runner, fps=40.0) as camera:
        for frame, tracks in track_video(camera.address, detector=detector, reid=None, config=config):
            if frame.late:
                late.append(frame.index)
            predicted += [frame.index] * bool(tracks.predicted.any())
            if frame.index == 40 or (not predicts and frame.index == 6):
                break
    assert bool(late) == bool(predicted) == predicts
    assert set(predicted) <= set(late)
    assert sorted(detector.asked + late) == list(range(frame.index + 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CAMERAS)
def test_identity_survives_a_lost_connection(kind):
    """While the camera is disconnected the person runs more than a body's width: only true time predicts the place."""
    config = TrackerConfig().override({"lifecycle.coast_s": 20, "motion.camera": False})
    seen, place, gap_px, after = set(), 0.0, 0.0, 0
    with kind(runner) as camera:
        for frame, tracks in track_video(camera.address, detector=Bright(), reid=None, config=config, reconnect_s=30):
            seen.update(tracks.id.tolist())
            for row in tracks:
                gap_px, place = max(gap_px, row.xyxy[0] - place if place else 0), row.xyxy[0]
            if frame.index == 25:
                camera.go_down()
                threading.Timer(1.4, camera.come_back).start()
            after += gap_px > 40
            if after == 8 or frame.time_s > 30:
                break
    assert after == 8
    assert seen == {1}


def test_stream_of_another_size_after_a_loss_is_scaled(caplog):
    scale = [1]
    scene = lambda time_s: cv2.resize(walker(time_s), None, fx=scale[0], fy=scale[0])  # noqa: E731
    with MjpegCamera(scene) as camera, open_source(camera.address, reconnect_s=30) as source:
        frames = iter(source)
        next(frames)
        camera.go_down()
        scale[0] = 2
        threading.Timer(0.2, camera.come_back).start()
        while not any("640x480" in line for line in said(caplog)):
            frame = next(frames)
            assert frame.image.shape == (240, 320, 3)
    rows, columns = np.nonzero(frame.image[..., 0] > 128)
    assert abs(np.ptp(columns) + 1 - 40) <= 2
    assert abs(np.ptp(rows) + 1 - 100) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("own", [None, "rtsp_transport;tcp"])
def test_environment_is_restored_after_a_loss(own, monkeypatch):
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(name, own)
    with RtspCamera() as camera, open_source(camera.address, reconnect_s=30) as source:
        frames = iter(source)
        next(frames)
        camera.go_down()
        threading.Timer(0.1, camera.come_back).start()
        while source.losses == 0 or source.lost:
            next(frames)
        assert os.environ.get(name) == own


def test_address_without_answer_is_one_line():
    with pytest.raises(SourceError, match=r"^http://127\.0\.0\.1:9/x: cannot be opened: the address does not answer"):
        open_source("http://127.0.0.1:9/x")
