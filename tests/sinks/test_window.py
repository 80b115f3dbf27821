"""The window itself: with OpenCV's functions replaced, and on a real (virtual) display with real keys."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.oracles.cameras import MjpegCamera, walker
from tracker.errors import OutputError
from tracker.sinks.window import WindowSink, check_display
from tracker.types import Frame, Tracks

ROOT = Path(__file__).resolve().parents[2]
NONE = -1


class Screen:
    """Stands in for OpenCV's windows: keys come from a list, pictures go into one."""

    def __init__(self, monkeypatch) -> None:
        self.keys: list[int] = []
        self.shown: list[np.ndarray] = []
        self.visible, self.mouse, self.n_looks = 1.0, None, 0
        monkeypatch.setattr("tracker.sinks.window.check_display", lambda: None)
        replaced = {
            "namedWindow": lambda *a: None,
            "resizeWindow": lambda *a: None,
            "destroyWindow": lambda *a: None,
            "setMouseCallback": lambda title, call: setattr(self, "mouse", call),
            "imshow": lambda title, picture: self.shown.append(picture.copy()),
            "waitKeyEx": self.next_key,
            "getWindowProperty": lambda *a: self.visible,
        }
        for name, function in replaced.items():
            monkeypatch.setattr(cv2, name, function)

    def next_key(self, wait_ms: int) -> int:
        self.n_looks += 1
        assert self.n_looks < 1000, "the window waits for ever"
        return self.keys.pop(0) if self.keys else NONE

    def click(self, x: int, y: int) -> None:
        self.mouse(cv2.EVENT_LBUTTONDOWN, x, y, 0, None)


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


class Run:
    trace, tracing, stopped = None, False, False

    def trace_steps(self, on):
        self.tracing = on


class Feed:
    dropped, losses, lost = 7, 0, False

    def age_s(self, time_s):
        return 0.043


def frame_of(index: int) -> Frame:
    return Frame(index, index / 10, np.full((120, 160, 3), 90, np.uint8), 160, 120)


def tracks_of(*ids) -> Tracks:
    n = len(ids)
    boxes = np.array([[10.0 + 50 * k, 20, 40 + 50 * k, 80] for k in range(n)]).reshape(n, 4)
    zeros = np.zeros(n, np.int64)
    return Tracks(boxes, np.array(ids, np.int64), np.ones(n), zeros, zeros, zeros.astype(np.uint8))


def test_keys_act_on_the_current_picture(screen):
    screen.keys = [ord("t"), ord("q")]
    with WindowSink() as window:
        window.write(frame_of(0), tracks_of(1))
        assert not window.view.trails
        assert not window.quit_asked
        window.write(frame_of(1), tracks_of(1))
        assert window.quit_asked
    assert len(screen.shown) >= 2


def test_closed_window_quits(screen):
    with WindowSink() as window:
        screen.visible = 0.0
        window.write(frame_of(0), tracks_of(1))
        assert window.quit_asked


def test_pause_handles_keys_until_it_ends(screen):
    screen.keys = [ord(" "), NONE, ord("i"), NONE, ord("h"), ord(" "), ord("t")]
    with WindowSink() as window:
        window.write(frame_of(0), tracks_of(1))
        assert screen.keys == [ord("t")]  # the pause ended at the second space
        assert (window.view.ids, window.view.help, window.view.trails) == (False, True, True)
    assert len(screen.shown) == 5  # first, paused, without numbers, with help, going on: each drawn once


@pytest.mark.parametrize("how", ["quit", "stop", "close"])
def test_pause_ends_by_key_quit_or_stop(screen, how):
    run = Run()
    screen.keys = [ord(" "), ord("q") if how == "quit" else NONE]
    with WindowSink(run=run) as window:
        run.stopped = how == "stop"
        screen.visible = 0.0 if how == "close" else 1.0
        window.write(frame_of(0), tracks_of(1))
        assert window.quit_asked == (how != "stop")


def test_debug_switch_turns_tracing_on_and_off(screen):
    run = Run()
    with WindowSink(run=run) as window:
        for key, wanted in ((NONE, False), (ord("d"), True), (NONE, True), (ord("d"), False)):
            screen.keys = [key]
            window.write(frame_of(0), tracks_of(1))
            assert run.tracing == wanted


def test_click_follows_and_marker_stays_at_the_last_place(screen):
    with WindowSink() as window:
        window.write(frame_of(0), tracks_of(1, 2))
        plain = screen.shown[-1]
        screen.click(70, 50)
        assert window.idle()
        assert window.view.followed == 2
        assert (screen.shown[-1] != plain).any()
        window.write(frame_of(1), tracks_of(1))
        beside = screen.shown[-1]
        assert (beside[75:85, 70:80] != 90).any()  # a cross at the feet, (75, 80)
        screen.click(150, 5)
        assert window.idle()
        assert window.view.followed is None
        assert (screen.shown[-1][76:85, 70:80] == 90).all()


def test_screenshots_go_into_files_of_their_own(screen, tmp_path, caplog):
    screen.keys = [ord("s"), ord("s"), ord("s")]
    with WindowSink(source="video.avi", folder=tmp_path) as window, caplog.at_level(logging.INFO):
        for index in (4, 4, 5):
            window.write(frame_of(index), tracks_of(1))
            assert not window.view.snap
    names = ["video_frame000005-2.png", "video_frame000005.png", "video_frame000006.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert cv2.imread(str(tmp_path / names[1])).shape == (120, 160, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"screenshot {tmp_path / name}" for name in (names[1], names[0], names[2])
    ]


def test_failed_screenshot_is_a_notice(screen, tmp_path, caplog):
    screen.keys = [ord("s")]
    with WindowSink(source="video.avi", folder=tmp_path / "missing") as window:
        window.write(frame_of(0), tracks_of(1))
        assert not window.quit_asked
    (record,) = caplog.records
    assert record.getMessage().startswith(f"no screenshot: {tmp_path / 'missing'}")


def test_lost_camera_is_shown_and_keys_still_work(screen):
    feed = Feed()
    with WindowSink(feed=feed) as window:
        window.write(frame_of(0), tracks_of(1))
        n = len(screen.shown)
        assert window.idle()
        assert len(screen.shown) == n  # nothing new, nothing drawn
        feed.lost = True
        assert window.idle()
        assert len(screen.shown) == n + 1
        screen.keys = [27]
        assert not window.idle()


def test_caption_shows_latency_and_drops(screen, monkeypatch):
    told = []
    compose = sys.modules["tracker.sinks.window"].compose
    monkeypatch.setattr("tracker.sinks.window.compose", lambda *a, **k: told.append(k["caption"]) or compose(*a, **k))
    with WindowSink(feed=Feed()) as window:
        window.write(frame_of(0), tracks_of(1))
    assert told == ["frame 1  1 person  43 ms old, 7 dropped"]


def test_frames_without_images_are_an_error(screen):
    with WindowSink() as window, pytest.raises(OutputError, match="no pictures"):
        window.write(Frame(0, 0.0, None, 160, 120), tracks_of(1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a display is always there")
def test_no_display_server_is_an_error_before_any_call(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises(OutputError, match="no display is available"):
        check_display()


# ------------------------------------------------------------------------------------------------- a real display


@pytest.fixture
def display():
    """DISPLAY of a virtual X server."""
    for tool in ("Xvfb", "xdotool"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-noreset"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as answer:
        yield f":{answer.readline().strip()}"  # all of the line: a server that cannot finish it ends
        server.terminate()
        server.wait(20)


class Hands:
    """A mouse and a keyboard on a display."""

    def __init__(self, display: str) -> None:
        self.environment = {**os.environ, "DISPLAY": display}

    def do(self, *words: object) -> str:
        command = ["xdotool", *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def window(self, name: str, process: subprocess.Popen, limit_s: float = 120.0) -> str:
        until_s = time.monotonic() + limit_s
        while not (found := self.do("search", "--onlyvisible", "--name", name).split()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until_s, "no window"
            time.sleep(0.2)
        self.do("windowfocus", "--sync", found[-1])
        return found[-1]


def screenshot(hands: Hands, folder: Path) -> np.ndarray:
    """Press s and wait for the file."""
    before = set(folder.glob("*.png"))
    hands.do("key", "s")
    until_s = time.monotonic() + 120
    while not (new := set(folder.glob("*.png")) - before) or cv2.imread(str(min(new))) is None:
        assert time.monotonic() < until_s, "no screenshot"
        time.sleep(0.1)
    return cv2.imread(str(min(new)))


def pressed(hands: Hands, key: str, folder: Path, seen: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Press the key until a screenshot shows its effect: of keys pressed between two polls OpenCV keeps the last."""
    for attempt in range(20):
        hands.do("key", key)
        time.sleep(0.5 + 0.2 * attempt)
        picture = screenshot(hands, folder)
        if seen(picture):
            return picture
    pytest.fail(f"key {key} does nothing")


def followed(hands: Hands, window: str, folder: Path) -> np.ndarray:
    """Click the person until the marker stands above the head: at first there is no identity yet. The picture then."""
    for _ in range(30):
        hands.do("mousemove", "--window", window, 40, 120, "click", 1)
        time.sleep(0.5)
        picture = screenshot(hands, folder)
        if (picture[40:69, 36:44] > 200).any():
            return picture
    pytest.fail("no one is followed")


@pytest.mark.slow
def test_camera_opens_a_window_with_keys_and_mouse(display, tmp_path):
    det = tmp_path / "det.txt"
    det.write_text("".join(f"{frame},-1,21,71,40,100,0.9,-1,-1,-1\n" for frame in range(1, 5001)))
    hands = Hands(display)
    environment = {**hands.environment, "PYTHONPATH": str(ROOT)}
    with MjpegCamera(lambda time_s: walker(0.0)) as camera:
        words = [
            sys.executable,
            "-m",
            "tracker.commands.track",
            camera.address,
            "--detections",
            str(det),
            "--reid",
            "none",
        ]
        with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                window = hands.window("tracklet: http", process)
                assert followed(hands, window, tmp_path).shape == (240, 320, 3)
                # The street is black, so pixels outside the boxes are drawn.
                pressed(hands, "h", tmp_path, lambda picture: picture[60:180, 160:].any())  # the list of keys
                pressed(hands, "h", tmp_path, lambda picture: not picture[60:180, 160:].any())
                pressed(hands, "d", tmp_path, lambda picture: picture[174:184, 70:120].any())  # the cost, at the feet
                pressed(hands, "i", tmp_path, lambda picture: not picture[58:63, 22:30].any())  # the number
                time.sleep(0.5)
                hands.do("key", "q")
                err = process.communicate(timeout=60)[1]
            finally:
                process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert err.count("track: screenshot ") == len(list(tmp_path.glob("*.png")))
