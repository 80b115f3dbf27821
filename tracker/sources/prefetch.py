"""Decoding ahead in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition, Thread

from tracker.sources.base import ClosedByWith, FrameSource
from tracker.sources.leaving import watch
from tracker.types import Frame

_JOIN_S = 0.5  # a frame of a file takes milliseconds


class Prefetch(ClosedByWith):
    """The frames of `source`, read up to `depth` frames ahead; a live source, which has its own thread, passes through.

    No frame is lost or reordered. What the source raises is raised here, after the frames before it. Leaving the loop
    early, or `close()`, ends the thread as soon as the frame it is decoding is done; if that takes long, as over a
    network, nobody waits for it, and the thread closes the source itself.
    """

    def __init__(self, source: FrameSource, depth: int = 8) -> None:
        if depth < 1:
            raise ValueError(f"depth must be >= 1, got {depth}")
        self.source = source
        self.depth = depth
        self.name, self.fps = source.name, source.fps
        self.width, self.height = source.width, source.height
        self.n_frames, self.live = source.n_frames, source.live
        self._changed = Condition()
        self._ready: deque[Frame | BaseException | None] = deque()  # None: the end
        self._stopped = False
        self._decoded = False  # the thread no longer reads
        self._left_alone = False  # the thread has to close the source
        self._thread: Thread | None = None

    def __iter__(self) -> Iterator[Frame]:
        if self.live:
            yield from self.source
            return
        if self._thread is not None:
            raise RuntimeError("a Prefetch is read once")
        self._thread = Thread(target=self._decode, name=f"prefetch {self.name}", daemon=True)
        self._thread.start()
        watch(self._thread, self._tell)
        try:
            while (item := self._take()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop()

    def close(self) -> None:
        self._stop()
        if not self._left_alone:
            self.source.close()

    def _decode(self) -> None:
        try:
            for frame in self.source:
                if not self._put(frame):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            with self._changed:
                self._decoded = True
                left_alone = self._left_alone
            if left_alone:
                self.source.close()

    def _put(self, item: Frame | BaseException | None) -> bool:
        """Wait for room, add; False if nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._ready) < self.depth)
            if self._stopped:
                return False
            self._ready.append(item)
            self._changed.notify_all()
            return True

    def _take(self) -> Frame | BaseException | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._ready))
            if self._stopped:
                return None
            item = self._ready.popleft()
            self._changed.notify_all()
            return item

    def _tell(self) -> None:
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()

    def _stop(self) -> None:
        self._tell()
        if self._thread is None or self._left_alone:
            return
        self._thread.join(_JOIN_S)
        with self._changed:
            self._left_alone = not self._decoded
