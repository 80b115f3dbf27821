"""Decoding ahead in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator

from tracker.runtime.read_ahead import OrderedPrefetch
from tracker.sources.base import ClosedByWith, FrameSource
from tracker.types import Frame


class Prefetch(ClosedByWith):
    """The frames of `source`, read up to `depth` frames ahead; a live source, which has its own thread, passes through.

    No frame is lost or reordered. What the source raises is raised here, after the frames before it. Leaving the loop
    early, or `close()`, ends the thread as soon as the frame it is decoding is done; if that takes long, as over a
    network, nobody waits for it, and the thread closes the source itself.
    """

    def __init__(self, source: FrameSource, depth: int = 8) -> None:
        self.source = source
        self.name, self.fps = source.name, source.fps
        self.width, self.height = source.width, source.height
        self.n_frames, self.live = source.n_frames, source.live
        self._ahead = OrderedPrefetch(source, lambda frame: frame, depth, f"prefetch {source.name}")

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.source if self.live else self._ahead)

    def stop(self) -> None:
        """End the iteration where it is, see `OrderedPrefetch.stop`; a live source asks its `idle` whether to end."""
        self._ahead.stop()

    @property
    def busy_s(self) -> float:
        """Seconds that the thread spent decoding so far."""
        return self._ahead.busy_s

    def close(self) -> None:
        self._ahead.close(self.source.close)
