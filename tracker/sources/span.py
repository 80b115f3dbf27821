"""Select a part of a source: start, end and stride.

Selected frames keep their numbers and times, so results of a part line up with those of the whole. A position is a
frame number, counted from 1 as in the result files (`250`), or a time since the start of the source (`12.5s`, `1:30`,
`1:02:03.5`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tracker.errors import ConfigError

SLACK_S = 1e-6  # time stamps are rounded: allow a microsecond
_PLACES = "a frame number from 1 (250) or a time (12.5s, 1:30, 1:02:03)"
_STEPS = "a number of frames from 1 (5) or a time (0.5s)"
# Limited digits keep the numbers finite.
_NUMBER = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)s")
_CLOCK = re.compile(r"(?:([0-9]{1,6}):)?([0-9]{1,9}):([0-9]{1,2}(?:\.[0-9]*)?)")  # [h:]m:s


@dataclass(frozen=True, slots=True)
class Span:
    """Frames [start_index, end_index) at times [start_s, end_s), of these every `stride`-th, or one every `stride_s`.

    Indices count from 0, times are seconds since the start of the source. `Span()` is all of it.
    """

    start_index: int = 0
    start_s: float = 0.0
    end_index: int | None = None
    end_s: float | None = None
    stride: int = 1
    stride_s: float = 0.0

    @staticmethod
    def parse(start: str | int | None = None, end: str | int | None = None, stride: str | int | None = None) -> Span:
        """What `--start`, `--end` and `--stride` say; None: not given.

        A frame number as `end` is included; a time is not, so that 0s to 10s and 10s to 20s share no frame. Raises
        ConfigError with the value and what is allowed.
        """
        start_frame, start_s = _place("--start", start, _PLACES)
        end_frame, end_s = _place("--end", end, _PLACES)
        step, step_s = _place("--stride", stride, _STEPS)
        empty_frames = start_frame is not None and end_frame is not None and end_frame < start_frame
        empty_time = end_s is not None and end_s <= (start_s or 0.0)
        if empty_frames or empty_time:
            raise ConfigError(f"no frame lies between: --end {end} is before --start {start or 0}")
        return Span((start_frame or 1) - 1, start_s or 0.0, end_frame, end_s, step or 1, step_s or 0.0)

    @property
    def whole(self) -> bool:
        """Whether every frame is selected."""
        return self == WHOLE

    def rate(self, fps: float) -> float:
        """Selected frames per second, for a source of `fps` frames per second."""
        return min(fps / self.stride, 1 / self.stride_s if self.stride_s else math.inf)

    def count(self, n_frames: int, fps: float) -> int:
        """How many of n_frames at a steady rate are selected."""
        first = max(self.start_index, math.ceil((self.start_s - SLACK_S) * fps))
        last = min(
            n_frames,
            n_frames if self.end_index is None else self.end_index,
            n_frames if self.end_s is None else math.ceil((self.end_s - SLACK_S) * fps),
        )
        return max(0, math.ceil((last - first) * self.rate(fps) / fps - SLACK_S))

    def __str__(self) -> str:
        starts = [f"frame {self.start_index + 1}"] if self.start_index else []
        starts += [f"{self.start_s:g} s"] if self.start_s else []
        ends = [] if self.end_index is None else [f"frame {self.end_index}"]
        ends += [] if self.end_s is None else [f"{self.end_s:g} s"]
        return " ".join(["from", *starts] * bool(starts) + ["to", *ends] * bool(ends)) or "all"


WHOLE = Span()


class Picker:
    """Says of each frame of a source whether it is selected. Ask about every frame, once and in order."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._first: tuple[int, float] | None = None  # index and time of the first selected frame
        self._due_s = 0.0  # of the next frame, where the stride is a time

    @property
    def found(self) -> bool:
        """Whether any frame was selected so far."""
        return self._first is not None

    def over(self, index: int, time_s: float) -> bool:
        """Whether neither this frame nor any later one is selected."""
        span = self._span
        past_index = span.end_index is not None and index >= span.end_index
        return past_index or (span.end_s is not None and time_s >= span.end_s - SLACK_S)

    def wants(self, index: int, time_s: float) -> bool:
        span = self._span
        if index < span.start_index or time_s < span.start_s - SLACK_S or self.over(index, time_s):
            return False
        if self._first is None:
            self._first, self._due_s = (index, time_s), time_s
        if not span.stride_s:
            return (index - self._first[0]) % span.stride == 0
        if time_s < self._due_s - SLACK_S:
            return False
        # Counted from the first frame: rounding does not add up, and a late frame does not shift later ones.
        n_steps = math.floor((time_s + SLACK_S - self._first[1]) / span.stride_s) + 1
        self._due_s = self._first[1] + n_steps * span.stride_s
        return True


def _place(option: str, text: str | int | None, right: str) -> tuple[int | None, float | None]:
    """(frame number or None, seconds or None) of an option's value."""
    if text is None:
        return None, None
    words = str(text).strip()
    if _NUMBER.fullmatch(words) and int(words) >= 1:
        return int(words), None
    seconds = _seconds(words)
    if seconds is None or (option == "--stride" and seconds <= 0):
        raise ConfigError(f"{option} takes {right}, got {str(text)!r}")
    return None, seconds


def _seconds(words: str) -> float | None:
    if found := _SECONDS.fullmatch(words):
        return float(found[1])
    if found := _CLOCK.fullmatch(words):
        return 3600 * int(found[1] or 0) + 60 * int(found[2]) + float(found[3])
    return None
