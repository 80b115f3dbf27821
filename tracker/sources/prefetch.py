"""Decode frames ahead in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from tracker.runtime.read_ahead import OrderedPrefetch
from tracker.sources.base import FrameSource
from tracker.types import Frame


class Prefetch:
    """The frames of `source`, read up to `depth` frames ahead; a live source has its own thread and passes through.

    No frame is lost or reordered. An error of the source is raised after the frames before it. Leaving the loop early,
    or `close()`, ends the thread after the frame that it is decoding. If that takes long, as over a network, `close()`
    does not wait, and the thread closes the source.
    """

    def __init__(self, source: FrameSource, depth: int = 8) -> None:
        self.source = source
        self._ahead = OrderedPrefetch(source, lambda frame: frame, depth, f"prefetch {source.name}")

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.source if self.source.live else self._ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stop(self) -> None:
        """End the iteration, see `OrderedPrefetch.stop`; a live source asks its `idle` whether to end."""
        self._ahead.stop()

    @property
    def busy_s(self) -> float:
        """Seconds that the thread has spent decoding."""
        return self._ahead.busy_s

    def close(self) -> None:
        self._ahead.close(self.source.close)
