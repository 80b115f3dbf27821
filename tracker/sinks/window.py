"""A live window: q or Esc quits, space pauses."""

from __future__ import annotations

import subprocess
import sys

from tracker.errors import OutputError
from tracker.sinks.base import ClosedByWith, Overlay
from tracker.sinks.film import TRAIL_S, Trails, annotate, caption
from tracker.types import Frame, State, Tracks

QUIT_KEYS = (ord("q"), ord("Q"), 27)
PAUSE_KEY = ord(" ")
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"


class WindowSink(ClosedByWith):
    """Shows every frame as it is written. The loop that feeds it asks `quit_asked` and stops; nothing is raised."""

    def __init__(self, title: str = "tracklet", trail_s: float = TRAIL_S, overlay: Overlay | None = None) -> None:
        import cv2

        check_display()
        self.title = title
        self.quit_asked = False
        self._trails = Trails(trail_s)
        self._overlay = overlay
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise OutputError("no window can be opened: this OpenCV was built without windows") from error
        self._sized = False

    def write(self, frame: Frame, tracks: Tracks) -> None:
        import cv2

        if frame.image is None:
            raise OutputError("the source has no pictures, so there is nothing to show in a window")
        if not self._sized:
            cv2.resizeWindow(self.title, frame.width, frame.height)
            self._sized = True
        self._trails.update(frame.time_s, tracks)
        picture = annotate(frame.image, tracks, self._trails.of(tracks), caption=caption(frame, tracks))
        if self._overlay is not None:
            self._overlay(picture)
        cv2.imshow(self.title, picture)
        key = cv2.waitKey(1) & 0xFF
        if key == PAUSE_KEY:
            key = self._wait_for_key()
        # The user may close the window by its frame, too.
        closed = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1
        self.quit_asked = self.quit_asked or key in QUIT_KEYS or closed

    def state(self) -> State:
        """Nothing of a window outlasts it."""
        return {}

    def close(self) -> None:
        import cv2

        try:
            cv2.destroyWindow(self.title)
        except cv2.error:  # closed by the user already
            return

    def _wait_for_key(self) -> int:
        import cv2

        while True:
            key = cv2.waitKey(50) & 0xFF
            closed = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1
            if closed or key == PAUSE_KEY or key in QUIT_KEYS:
                return key


def check_display() -> None:
    """Raise OutputError where no window can open.

    A second process tries first, because without a display Qt ends the process it runs in.
    """
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=20, check=False)
        ok = probe.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ok = False
    if not ok:
        raise OutputError("no display is available for a live window; write a film with --video instead")
