"""The frames of a camera that the tracker has not taken yet: the newest one, and the late ones just before it."""

from __future__ import annotations

import math
from collections import deque

from tracker.types import ImageArray

# For how long tracks are predicted while the detector is busy: after 0.5 s three of four predicted boxes still overlap
# a person by half, after 0.2 s nine of ten (docs/detectors.md). It bounds the memory, too: 15 frames at 30 fps.
LATE_S = 0.5


class FrameQueue:
    """In the order in which they came. It knows no clock and no lock: who calls it has both.

    A frame is late if a newer one is here when it is taken. For `late_s` seconds after the last frame that was not late
    all frames are kept; of those that come after that only the newest is. With 0 each frame taken is the newest.
    """

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._keep_until_s = -math.inf
        self._frames: deque[tuple[float, ImageArray]] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def newest(self) -> ImageArray:
        """The image of the newest frame."""
        return self._frames[-1][1]

    def put(self, stamp_s: float, image: ImageArray) -> bool:
        """Add the newest frame, which came at this time; True if another was dropped for it."""
        drops = bool(self._frames) and self._frames[-1][0] > self._keep_until_s
        if drops:
            self._frames.pop()
        self._frames.append((stamp_s, image))
        return drops

    def take(self) -> tuple[float, ImageArray, bool]:
        """Remove the oldest frame: (time at which it came, image, whether it is late)."""
        stamp_s, image = self._frames.popleft()
        late = bool(self._frames)
        if not late:
            self._keep_until_s = stamp_s + self._late_s
        return stamp_s, image, late
