"""Work that runs ahead of who needs it: threads of their own, and a bounded queue between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Lock, Thread
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from tracker.runtime.leaving import watch
from tracker.runtime.signals import SLICE_S, check, held_back

JOIN_S = 0.5  # a frame of a file takes milliseconds

Item = TypeVar("Item")
Result = TypeVar("Result")


class OrderedPrefetch(Generic[Item, Result]):
    """work(item) for every item, in order, made up to `depth` results ahead of who iterates; iterate once.

    items: read by one thread at a time. n_threads: how many work side by side, each on an item of its own; they start
    with the iteration. Nothing is lost or reordered: results do not depend on the threads. What `items` or `work`
    raises is raised here, after the results before it. Leaving the loop early, or `close()`, ends the threads as soon
    as what they are at is done; if that takes long, as over a network, nobody waits for it.
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
        self._made: dict[int, tuple[Result] | BaseException | None] = {}  # by place; None: the end
        self._n_begun = self._n_taken = 0
        self._ended = self._stopped = False  # there are no more items; nobody wants them
        self._threads: list[Thread] = []
        self._n_running = 0
        self._then: Callable[[], None] | None = None  # see `close`
        self._read_s = self._worked_s = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds that reading the items and the work took so far, of all threads together."""
        return self._read_s + self._worked_s

    @property
    def worked_s(self) -> float:
        """Seconds of the work alone."""
        return self._worked_s

    def __iter__(self) -> Iterator[Result]:
        if self._threads:
            raise RuntimeError(f"{self.name}: is read once")
        items = iter(self._items)
        self._threads = [Thread(target=self._run, args=(items,), name=self.name, daemon=True)
                         for _ in range(self._n_threads)]  # fmt: skip
        self._n_running = self._n_threads
        for thread in self._threads:
            thread.start()
            watch(thread, self._tell)
        try:
            while (made := self._take()) is not None:
                check()
                if isinstance(made, BaseException):
                    raise made
                yield made[0]
        finally:
            self.close()

    def stop(self) -> None:
        """Let the iteration end where it is, in another thread or in a signal handler; does not wait."""
        self._stopped = True  # nobody is told: whoever waits for a result looks again soon

    def close(self, then: Callable[[], None] | None = None) -> None:
        """End the threads and forget what is ready; may be called more than once.

        then: is called when no thread works any more; where one hangs, by that thread, and this returns before.
        """
        with held_back():
            self._tell()
            until_s = monotonic() + JOIN_S
            for thread in self._threads:
                thread.join(max(0.0, until_s - monotonic()))
            with self._changed:
                if self._n_running:
                    self._then = then or self._then
                    return
        if then is not None:
            then()

    def _tell(self) -> None:
        with self._changed:
            self._stopped = True
            self._made.clear()
            self._changed.notify_all()

    def _run(self, items: Iterator[Item]) -> None:
        self._work_through(items)
        with self._changed:
            self._n_running -= 1
            then = self._then if self._n_running == 0 else None
        if then is not None:
            then()

    def _work_through(self, items: Iterator[Item]) -> None:
        while (begun := self._next(items)) is not None:
            place, item = begun
            start = perf_counter()
            made: tuple[Result] | BaseException
            try:
                made = (self._work(item[0]),)
            except BaseException as error:
                made = error
            self._put(place, made, perf_counter() - start)

    def _next(self, items: Iterator[Item]) -> tuple[int, tuple[Item]] | None:
        """The next item and its place, once there is room for its result; None if there is none, or nobody wants it."""
        with self._reading:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._n_begun < self._n_taken + self._depth)
                if self._stopped or self._ended:
                    return None
            start = perf_counter()
            try:
                item = (next(items),)
            except StopIteration:
                self._end(None)
                return None
            except BaseException as error:
                self._end(error)
                return None
            self._read_s += perf_counter() - start
            self._n_begun += 1
            return self._n_begun - 1, item

    def _end(self, how: BaseException | None) -> None:
        """There are no items after those that were begun."""
        self._ended = True
        self._put(self._n_begun, how, 0.0)

    def _put(self, place: int, made: tuple[Result] | BaseException | None, took_s: float) -> None:
        with self._changed:
            self._worked_s += took_s
            if not self._stopped:
                self._made[place] = made
            self._changed.notify_all()

    def _take(self) -> tuple[Result] | BaseException | None:
        while True:
            # What Ctrl-C raises in the middle of a condition becomes an error of its own, or leaves it locked.
            with held_back(), self._changed:
                self._changed.wait_for(lambda: self._stopped or self._n_taken in self._made, SLICE_S)
                if self._stopped:
                    return None
                if self._n_taken in self._made:
                    made = self._made.pop(self._n_taken)
                    self._n_taken += 1
                    self._changed.notify_all()
                    return made
