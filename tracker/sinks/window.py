"""A live window with keys and mouse; `window_view.py` has what it shows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tracker.errors import OutputError
from tracker.sinks.base import ClosedByWith, LiveFeed, Overlay
from tracker.sinks.drawing import TRAIL_S, ClassNames, Point, Trails, caption
from tracker.sinks.window_view import View, clicked, compose, pressed, screenshot_path
from tracker.types import Frame, ImageArray, StepTrace, Tracks

log = logging.getLogger(__name__)

FIRST_KEYS, FIRST_KEYS_S = "q: quit   space: pause   h: all keys", 3.0  # shown when the window opens
NOTICE_S = 2.0  # how long a message stays in the picture
PROBE_S = 60.0  # a loaded machine may take long to start a process
PAUSE_MS = 50  # between two polls of the keyboard while paused
LOST = "connection lost, trying again"
_DISPLAY_NAMES = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"


class ShownRun(Protocol):
    """What the window asks of the run whose frames it shows; `Pipeline` has it."""

    trace: StepTrace | None  # of the current frame

    def trace_steps(self, on: bool) -> None:
        """Whether frames leave a trace: on while the debug overlay is shown."""
        ...

    @property
    def stopped(self) -> bool:
        """True once the run is to end, as after Ctrl-C: a pause must not hold it up."""


class WindowSink(ClosedByWith):
    """Shows every frame as it is written. The loop that feeds it asks `quit_asked` and stops; nothing is raised.

    source: its name, for screenshots, which go to `folder`. run: for the debug overlay, and to end a pause when the run
    ends. feed: a live source, whose latency and losses are shown. overlay: draws on each picture after the tracks.
    class_names: by class number, for the labels once there are several classes.
    While a pause lasts, `write` does not return.
    """

    def __init__(
        self,
        title: str = "tracklet",
        trail_s: float = TRAIL_S,
        *,
        source: str = "",
        run: ShownRun | None = None,
        feed: LiveFeed | None = None,
        overlay: Overlay | None = None,
        folder: Path | None = None,
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        import cv2

        check_display()
        self.title = title
        self.view = View()
        self._source, self._folder = source, folder or Path()
        self._run, self._feed = run, feed
        self._trails = Trails(trail_s)
        self._class_names = ClassNames(class_names)
        self._overlay = overlay
        self._shown: tuple[Frame, Tracks] | None = None
        self._caption = ""
        self._names: Mapping[int, str] = {}
        self._trace: StepTrace | None = None
        self._last: Point | None = None  # foot point of the followed person
        self._click: Point | None = None
        self._notice, self._notice_until_s = "", 0.0
        self._drawn: tuple[View, str] | None = None  # what the picture on the screen shows
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise OutputError("no window can be opened: this OpenCV was built without windows") from error
        cv2.setMouseCallback(title, self._on_mouse)

    @property
    def quit_asked(self) -> bool:
        return self.view.quit

    def write(self, frame: Frame, tracks: Tracks) -> None:
        import cv2

        if frame.image is None:
            raise OutputError("the source has no pictures, so there is nothing to show in a window")
        if self._shown is None:
            cv2.resizeWindow(self.title, frame.width, frame.height)
            self._notice, self._notice_until_s = FIRST_KEYS, time.monotonic() + FIRST_KEYS_S
        self._shown = frame, tracks
        self._trace = None if self._run is None else self._run.trace
        self._trails.update(frame.time_s, tracks)
        self._names = self._class_names.shown(tracks)
        self._caption = caption(frame, tracks, bool(self._names)) + latency_text(self._feed, frame)
        self._keep_place(tracks)
        self._drawn = None
        self._draw()
        self._listen(1)
        while self.view.paused and not self.view.quit and not (self._run is not None and self._run.stopped):
            self._listen(PAUSE_MS)

    def idle(self) -> bool:
        """Listen to keys while no frame comes; False once the viewer wants to quit."""
        self._listen(1)
        return not self.view.quit

    def close(self) -> None:
        import cv2

        try:
            cv2.destroyWindow(self.title)
        except cv2.error:  # closed by the user already
            return

    def _listen(self, wait_ms: int) -> None:
        """Poll keyboard and mouse once, and do what they ask for."""
        import cv2

        # Not waitKey: it cuts the arrow keys down to letters, and "left" would be a Q.
        view = pressed(self.view, cv2.waitKeyEx(wait_ms))
        if self._click is not None and self._shown is not None:
            view = clicked(view, *self._click, self._shown[1])
            self._click = None
        # The user may close the window by its frame, too.
        if cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            view = replace(view, quit=True)
        if view.snap:
            self._save_picture()
            view = replace(view, snap=False)
        if view.followed != self.view.followed:
            self._last = None
        self.view = view
        if self._run is not None:
            self._run.trace_steps(view.debug)
        if not view.quit:
            self._draw()

    def _draw(self) -> None:
        """Bring the screen up to date, if what it should show has changed."""
        import cv2

        wanted = self.view, self._notice_now()
        if self._shown is None or wanted == self._drawn:
            return
        cv2.imshow(self.title, self._picture(*self._shown, notice=wanted[1]))
        self._drawn = wanted

    def _picture(self, frame: Frame, tracks: Tracks, notice: str = "") -> ImageArray:
        assert frame.image is not None
        self._keep_place(tracks)
        return compose(
            self.view, frame.image, tracks, self._trails.of(tracks),
            caption=self._caption, notice=notice, trace=self._trace, last=self._last, overlay=self._overlay,
            names=self._names,
        )  # fmt: skip

    def _keep_place(self, tracks: Tracks) -> None:
        for row in tracks[tracks.id == self.view.followed]:
            self._last = float(row.xyxy[0] + row.xyxy[2]) / 2, float(row.xyxy[3])

    def _notice_now(self) -> str:
        if self._feed is not None and self._feed.lost:
            return LOST
        if time.monotonic() < self._notice_until_s:
            return self._notice
        return "paused" if self.view.paused else ""

    def _save_picture(self) -> None:
        """Save what the screen shows, without notices; a failure is a warning and does not end the run."""
        import cv2

        if self._shown is None:
            return
        path = screenshot_path(self._folder, self._source, self._shown[0].index)
        try:
            with path.open("xb") as file:
                file.write(cv2.imencode(".png", self._picture(*self._shown))[1].tobytes())
        except OSError as error:
            self._say(f"no screenshot: {path}: {error.strerror}", logging.WARNING)
        else:
            self._say(f"screenshot {path}", logging.INFO)

    def _say(self, text: str, level: int) -> None:
        log.log(level, "%s", text)
        self._notice, self._notice_until_s = text, time.monotonic() + NOTICE_S

    def _on_mouse(self, event: int, x: int, y: int, flags: int, data: Any) -> None:
        import cv2

        if event == cv2.EVENT_LBUTTONDOWN:
            self._click = float(x), float(y)


def latency_text(feed: LiveFeed | None, frame: Frame) -> str:
    """For the caption: how old the frame of a live source is, and how many were dropped so far."""
    if feed is None:
        return ""
    return f"  {1000 * feed.age_s(frame.time_s):.0f} ms old, {feed.dropped} dropped"


def check_display() -> None:
    """Raise OutputError where no window can open.

    Another process tries first, because without a display Qt aborts the process it runs in.
    """
    try:
        if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in _DISPLAY_NAMES):
            raise OSError("no display server is named")
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=PROBE_S, check=False)
        ok = probe.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ok = False
    if not ok:
        raise OutputError("no display is available for a live window; give --out tracks.txt or --video t.mp4 instead")
