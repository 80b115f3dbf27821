"""Ordered prefetching: worker threads compute results up to `depth` items ahead of the consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Lock, Thread
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from tracker.runtime.signals import SLICE_S, check

JOIN_S = 0.5  # a frame of a file takes milliseconds

Item = TypeVar("Item")
Result = TypeVar("Result")


class OrderedPrefetch(Generic[Item, Result]):
    """work(item) for every item, in order, computed up to `depth` results ahead of the consumer; iterate once.

    items: read by one thread at a time. n_threads: how many work at once, each on its own item; they start with the
    iteration. Nothing is lost or reordered. An error of `items` or `work` is raised here, after the results before it.
    Leaving the loop early, or `close()`, ends each thread after its current item. If that takes longer than JOIN_S, as
    over a network, `close()` does not wait: the threads are daemons.
    """

    def __init__(
        self, items: Iterable[Item], work: Callable[[Item], Result], depth: int, name: str, n_threads: int = 1
    ) -> None:
        if depth < 1 or n_threads < 1:
            raise ValueError(f"depth and n_threads must be >= 1, got {depth} and {n_threads}")
        self.name = name
        self._items = items
        self._work = work
        self._depth = depth
        self._n_threads = n_threads
        self._reading = Lock()
        self._changed = Condition()
        self._made: dict[int, tuple[Result] | BaseException | None] = {}  # by position; None: the end
        self._n_started = self._n_taken = 0
        self._ended = self._stopped = False  # there are no more items; no more results are wanted
        self._threads: list[Thread] = []
        self._n_running = 0
        self._on_closed: Callable[[], None] | None = None  # see `close`
        self._read_s = self._worked_s = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds that reading the items and the work took so far, summed over all threads."""
        return self._read_s + self._worked_s

    @property
    def worked_s(self) -> float:
        """Seconds of the work alone."""
        return self._worked_s

    def __iter__(self) -> Iterator[Result]:
        if self._threads:
            raise RuntimeError(f"{self.name}: is read once")
        items = iter(self._items)
        self._n_running = self._n_threads
        for _ in range(self._n_threads):
            self._threads.append(Thread(target=self._run, args=(items,), name=self.name, daemon=True))
            self._threads[-1].start()
        try:
            while (made := self._take()) is not None:
                if isinstance(made, BaseException):
                    raise made
                yield made[0]
        finally:
            self.close()

    def stop(self) -> None:
        """End the iteration; callable from another thread or a signal handler, for it neither waits nor locks."""
        self._stopped = True  # `_take` sees it within SLICE_S

    def close(self, on_closed: Callable[[], None] | None = None) -> None:
        """End the threads and drop the results that are ready; may be called more than once.

        on_closed: called when no thread works any more; if one hangs, that thread calls it later.
        """
        with self._changed:
            self._stopped = True
            self._made.clear()
            self._changed.notify_all()
        until_s = monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - monotonic()))
        with self._changed:
            if self._n_running:
                self._on_closed = on_closed or self._on_closed
                return
        if on_closed is not None:
            on_closed()

    def _take(self) -> tuple[Result] | BaseException | None:
        """The next result, in the thread of the consumer; None at the end, or after `stop`."""
        with self._changed:
            while not self._stopped:
                check()
                if self._n_taken in self._made:
                    self._n_taken += 1
                    self._changed.notify_all()
                    return self._made.pop(self._n_taken - 1)
                self._changed.wait(SLICE_S)
        return None

    # -------------------------------------------------------------------------------------------- in the worker threads

    def _run(self, items: Iterator[Item]) -> None:
        while (started := self._next(items)) is not None:
            position, item = started
            start = perf_counter()
            made: tuple[Result] | BaseException
            try:
                made = (self._work(item),)
            except BaseException as error:
                made = error
            self._put(position, made, perf_counter() - start)
        with self._changed:
            self._n_running -= 1
            on_closed = self._on_closed if self._n_running == 0 else None
        if on_closed is not None:
            on_closed()

    def _next(self, items: Iterator[Item]) -> tuple[int, Item] | None:
        """The next item and its position, once there is room for its result; None at the end, or after `stop`."""
        with self._reading:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._n_started < self._n_taken + self._depth)
                if self._stopped or self._ended:
                    return None
            start = perf_counter()
            try:
                item = next(items)
            except BaseException as error:
                self._ended = True
                self._put(self._n_started, None if isinstance(error, StopIteration) else error, 0.0)
                return None
            self._read_s += perf_counter() - start
            self._n_started += 1
            return self._n_started - 1, item

    def _put(self, position: int, made: tuple[Result] | BaseException | None, took_s: float) -> None:
        with self._changed:
            self._worked_s += took_s
            if not self._stopped:
                self._made[position] = made
            self._changed.notify_all()
