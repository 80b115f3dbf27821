"""Times of frames from their time stamps; stamps that repeat, run backward, jump or are missing are repaired."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracker.types import ImageArray

HELD = 8  # frames that are looked at together to see which stamps are wrong
PLAUSIBLE_S, PLAUSIBLE_STEPS = 1.0, 10.0  # a stamp that is later than both after the one before it is looked at twice
_REMEMBERED, _ENOUGH = 15, 5  # intervals between frames, for the usual one
_REGULAR = 0.25  # a video is regular if no interval differs by this share from the usual one


@dataclass(slots=True)
class Decoded:
    """A decoded frame. Its picture can be taken until the next frame is decoded, or later after `keep`."""

    stamp_s: float  # NaN: missing
    n_failed: int  # attempts to decode that failed since the frame before
    _take: Callable[[], ImageArray | None]
    _image: ImageArray | None = None
    _kept: bool = False

    def keep(self) -> None:
        if not self._kept:
            self._image, self._kept = self._take(), True

    def picture(self) -> ImageArray | None:
        """The picture (H, W, 3) BGR; None if it cannot be made."""
        return self._image if self._kept else self._take()


class Clock:
    """Strictly increasing times, in seconds: the stamp plus an offset where the stamps of a video are in order.

    A wrong stamp gets a time between its neighbours and leaves theirs as they are. Where stamps begin anew, as in
    recordings put together, the offset changes; where there are none, frames follow each other at the usual interval.

    time_s, stamp_s: of the first frame, which is not given again. step_s: the interval to assume until one is known.
    """

    def __init__(self, time_s: float, stamp_s: float, step_s: float) -> None:
        self.time_s = time_s  # of the frame given last
        self._offset_s = time_s - (stamp_s if math.isfinite(stamp_s) else 0.0)
        self._former_s = self._offset_s  # the offset before stamps began anew: they may go back to it
        self.step_s = step_s  # the usual interval between frames
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._good = True  # the stamp of the frame given last

    @property
    def regular(self) -> bool:
        """Whether the latest frames followed each other at the usual interval."""
        spread_s = max(self.step_s - min(self._steps), max(self._steps) - self.step_s) if self._steps else 0.0
        return self._good and spread_s <= _REGULAR * self.step_s

    def timed(self, frames: Iterable[Decoded]) -> Iterator[tuple[Decoded, float, bool]]:
        """(frame, time, whether its own stamp says so) of every frame, in order.

        Up to HELD frames are decoded before the first of them is given, but only where stamps are in disorder.
        """
        source = iter(frames)
        held: list[Decoded] = []
        while True:
            while len(held) < HELD and not self._in_order(held):
                if held:
                    held[-1].keep()
                frame = next(source, None)
                if frame is None:
                    break
                held.append(frame)
            if not held:
                return
            for time_s, good in self._decided([each.stamp_s for each in held]):
                if good and self._good:
                    self._learn(time_s - self.time_s)
                self.time_s, self._good = time_s, good
                yield held.pop(0), time_s, good

    def _learn(self, step_s: float) -> None:
        self._steps.append(step_s)
        if len(self._steps) >= _ENOUGH:
            self.step_s = sorted(self._steps)[len(self._steps) // 2]

    @property
    def _limit_s(self) -> float:
        return max(PLAUSIBLE_S, PLAUSIBLE_STEPS * self.step_s)

    def _in_order(self, held: Sequence[Decoded]) -> bool:
        """Whether the first stamp comes soon after the frame before, and before the next one."""
        if not held or (len(held) > 1 and not held[0].stamp_s < held[1].stamp_s):
            return False
        if not self._is_soon(self._offset_s, held[0]) and self._is_soon(self._former_s, held[0]):
            self._offset_s, self._former_s = self._former_s, self._offset_s
        return self._is_soon(self._offset_s, held[0])

    def _is_soon(self, offset_s: float, frame: Decoded) -> bool:
        return self.time_s < frame.stamp_s + offset_s <= self.time_s + self._limit_s

    def _decided(self, stamps: Sequence[float]) -> list[tuple[float, bool]]:
        """Time, and whether the stamp is good, of one or more frames from the first one on."""
        times = [stamp_s + self._offset_s for stamp_s in stamps]
        chains = _chains(times, self.time_s)
        longest = max(chains)
        # Stamps are good that are in the longest order; up to the first of them time passes evenly. One alone among
        # many is as wrong as they are.
        if longest > (len(stamps) == HELD):
            first = chains.index(longest)
            step_s = (times[first] - self.time_s) / (first + 1)
            before = [(self.time_s + step_s * (place + 1), False) for place in range(first)]
            return [*before, (times[first], True)]
        time_s = self.time_s + self.step_s
        anew = 1 < len(stamps) < 2 * _chains(stamps, -math.inf)[0]
        if anew:
            self._former_s, self._offset_s = self._offset_s, time_s - stamps[0]
        return [(time_s, anew)]


def _chains(times: Sequence[float], above: float) -> list[int]:
    """For each time the length of the longest strictly increasing choice of times from it on; 0 if not above."""
    lengths = [0] * len(times)
    for place in reversed(range(len(times))):
        if above < times[place] < math.inf:
            later = (lengths[k] for k in range(place + 1, len(times)) if times[k] > times[place])
            lengths[place] = 1 + max(later, default=0)
    return lengths
