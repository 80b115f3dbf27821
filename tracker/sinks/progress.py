"""Progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

from tracker.sinks.base import ClosedByWith
from tracker.types import Frame, Tracks


class ProgressSink(ClosedByWith):
    """Frames done, frames per second, boxes in view, and the time left.

    total: frames expected, None if unknown. done: of these, by the run that this one resumes. mode: "auto" takes
    the bar on a terminal, lines elsewhere. every_s: time between two plain lines.
    """

    def __init__(
        self,
        total: int | None,
        mode: Literal["auto", "bar", "lines", "silent"] = "auto",
        *,
        stream: TextIO | None = None,
        every_s: float = 5.0,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        if mode == "auto":
            mode = "bar" if self._stream.isatty() else "lines"
        self._mode = mode
        self._total = total
        self._every_s = every_s
        self._clock = clock
        self._start_s = self._last_s = clock()
        self._n_frames = self._n_shown = self._n_before = done
        self._n_boxes = 0
        self._bar: Any = None
        if mode == "bar":
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit=" frames", file=self._stream, dynamic_ncols=True, mininterval=0.2
            )

    def write(self, frame: Frame, tracks: Tracks) -> None:
        self.show(self._n_frames + 1, len(tracks))

    def show(self, n_frames: int, n_boxes: int) -> None:
        """So many frames are done, and so many boxes in view."""
        n_more, self._n_frames, self._n_boxes = n_frames - self._n_frames, n_frames, n_boxes
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._n_boxes} in view", refresh=False)
            self._bar.update(n_more)
        elif self._mode == "lines" and self._clock() - self._last_s >= self._every_s:
            self._print_line()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._mode == "lines" and self._n_frames > self._n_shown:
            self._print_line()

    def _print_line(self) -> None:
        now_s = self._clock()
        of_total = f" of {self._total}" if self._total else ""
        fps = (self._n_frames - self._n_before) / max(now_s - self._start_s, 1e-9)
        left = ""
        if self._total and fps > 0:
            left_s = round(max(self._total - self._n_frames, 0) / fps)
            left = f", {left_s // 60}:{left_s % 60:02} left"
        # In one piece: print would write the line's end apart, and a camera's thread may have a line of its own.
        self._stream.write(f"frame {self._n_frames}{of_total}, {fps:.1f} fps, {self._n_boxes} in view{left}\n")
        self._stream.flush()
        self._last_s, self._n_shown = now_s, self._n_frames
