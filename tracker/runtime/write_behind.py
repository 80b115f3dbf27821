"""Ordered writing in a thread of its own, a bounded number of items behind the producer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

from tracker.runtime.signals import SLICE_S, check

Item = TypeVar("Item")


class WriteBehind(Generic[Item]):
    """write(item) for every item that was put, in order, in one thread; at most `depth` items wait.

    An error of `write` ends the work: items that wait are dropped, and the next `put`, or `close`, raises the error.
    """

    def __init__(self, write: Callable[[Item], None], depth: int, name: str) -> None:
        if depth < 1:
            raise ValueError(f"depth must be >= 1, got {depth}")
        self._write = write
        self._depth = depth
        self._changed = Condition()
        self._waiting: deque[Item] = deque()
        self._closed = False
        self._failed = False
        self._error: BaseException | None = None  # not raised yet
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether `put` would have to wait."""
        return len(self._waiting) >= self._depth

    def put(self, item: Item) -> None:
        """Hand over one item; waits while `depth` others wait. After an error this does nothing but raise it once."""
        with self._changed:
            while self.full:
                check()
                self._changed.wait(SLICE_S)
            if not self._failed:
                self._waiting.append(item)
                self._changed.notify_all()
        self._raise()

    def close(self) -> None:
        """Wait until all is written, then end the thread. May be called more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # few items wait, and the file is to be whole; a further signal leaves at once
            self._thread.join()
            raise
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        """In the thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                item = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._write(item)
            except BaseException as error:  # the producer raises it
                with self._changed:
                    self._failed, self._error = True, error
                    self._waiting.clear()
                    self._changed.notify_all()
                return
