"""Process pool with fault isolation: one failing or crashing worker does not stop the others."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar

from tracker.errors import TrackletError
from tracker.runtime.signals import SLICE_S, check

Item = TypeVar("Item")
Result = TypeVar("Result")

Advanced: TypeAlias = Callable[[int], Any]  # takes how much more is done
Work: TypeAlias = Callable[[Item, Advanced], Result]
END_S = 5.0  # time for a worker to clean up after SIGTERM


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """The result of one item."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item has no result, in one line."""

    text: str
    exit_code: int


def run_all(
    work: Work[Item, Result], items: Sequence[Item], n_jobs: int, advanced: Advanced
) -> Iterator[tuple[int, Done[Result] | Failure]]:
    """(index of the item, outcome) of every item, as they end; `n_jobs` at a time.

    work(item, advanced) -> result; it reports progress through `advanced`. With one job it runs in this process, with
    more in worker processes (spawned: threads and GPU contexts do not survive a fork), so `work`, the items and the
    results must pickle. Each worker gets its share of the cores. Leaving the iteration early, also by Ctrl-C, ends the
    workers; each may clean up first.
    """
    waiting = list(range(len(items)))[::-1]
    with WorkerPool(work, n_jobs) as pool:
        yield from pool._run(items, lambda _: waiting.pop() if waiting else None, advanced)


class WorkerPool(Generic[Item, Result]):
    """Worker processes that stay alive between calls of `outcomes`, so that they can keep what they have prepared.

    work(item, advanced) -> result, as for `run_all`. With one job everything runs in this process. Use `with`.
    """

    def __init__(self, work: Work[Item, Result], n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self._work = work
        self._workers = [_Worker(share_of_cores(n_jobs)) for _ in range(n_jobs)] if n_jobs > 1 else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()

    def outcomes(self, items: Sequence[tuple[int, Item]]) -> Iterator[tuple[int, Done[Result] | Failure]]:
        """(index, outcome) of every (worker number, item), as they end; the items of one worker run in order."""
        waiting: list[list[int]] = [[] for _ in range(self.n_jobs)]
        for index, (worker, _) in reversed(list(enumerate(items))):
            waiting[worker].append(index)
        if self.n_jobs == 1:
            waiting = [list(range(len(items)))[::-1]]
        return self._run(
            [item for _, item in items], lambda at: waiting[at].pop() if waiting[at] else None, lambda _: None
        )

    def _run(
        self, items: Sequence[Item], next_of: Callable[[int], int | None], advanced: Advanced
    ) -> Iterator[tuple[int, Done[Result] | Failure]]:
        """Outcomes, as they end. next_of: index of the next item of a worker; None: it has no more."""
        if not self._workers:
            while (index := next_of(0)) is not None:
                check()
                yield index, _attempt(self._work, items[index], advanced)
            return
        busy: dict[int, tuple[int, Future[Any]]] = {}  # by worker: index of its item, and the outcome

        def submit(at: int) -> None:
            if (index := next_of(at)) is not None:
                busy[at] = index, self._workers[at].submit(self._work, items[index])

        for at in range(self.n_jobs):
            submit(at)
        while busy:
            check()
            wait([future for _, future in busy.values()], SLICE_S, return_when=FIRST_COMPLETED)
            for at, (index, future) in list(busy.items()):
                ended = future.done()
                for amount in self._workers[at].progress():
                    advanced(amount)
                if ended:
                    del busy[at]
                    yield index, self._outcome(at, future)
                    submit(at)

    def _outcome(self, at: int, future: Future[Any]) -> Done[Result] | Failure:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):  # the worker died; another one takes its place
            status = self._workers[at].join()
            self._workers[at] = _Worker(share_of_cores(self.n_jobs))
            return Failure(f"its process ended with status {status}", 1)
        if error is not None:  # such as a result that cannot be pickled
            return Failure(f"{type(error).__name__}: {error}", 1)
        outcome: Done[Result] | Failure = future.result()
        return outcome


class _Worker:
    """One process and its progress reports. A pool of one, so that a crash breaks no other."""

    def __init__(self, threads: int | None) -> None:
        context = get_context("spawn")
        self._reports, self._reporter = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, context, _prepare, (threads, self._reporter))
        self._shutdown = Thread(target=self._pool.shutdown, kwargs={"wait": True, "cancel_futures": True})
        self._process: Any = None

    def submit(self, work: Work[Item, Result], item: Item) -> Future[Any]:
        if self._process is not None:
            return self._pool.submit(_attempt_here, work, item)
        others = set(active_children())
        # A process started now never gets Ctrl-C, not even while it imports: its parent ends it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            future = self._pool.submit(_attempt_here, work, item)
        finally:
            signal.signal(signal.SIGINT, before)
        self._process = (set(active_children()) - others).pop()
        self._reporter.close()
        return future

    def progress(self) -> Iterator[int]:
        """The reports since the last call."""
        with suppress(EOFError, OSError):
            while self._reports.poll():
                yield self._reports.recv()

    def terminate(self) -> None:
        """Ask the process to end; its work may clean up."""
        if self._process is not None:
            # In a thread, for only a shutdown that waits also joins the pool's own threads; one that still ran at the
            # end of the command would be cut off while it releases semaphores.
            self._shutdown.start()
            self._process.terminate()

    def join(self) -> int | None:
        """Wait for the end, END_S at most, and then kill; returns the exit status."""
        if self._process is None:
            return None
        self._process.join(END_S)
        self._process.kill()
        if self._shutdown.ident is None:
            self._shutdown.start()
        self._shutdown.join()
        self._reports.close()
        status: int | None = self._process.exitcode
        return status


def n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_cores(n_jobs: int) -> int | None:
    """Threads for each of `n_jobs` workers; None, no limit, for one alone."""
    return None if n_jobs <= 1 else max(1, n_cores() // n_jobs)


def limit_threads(threads: int | None) -> None:
    """Let OpenCV use so many threads in this process; networks are told when they are opened."""
    if threads is not None:
        import cv2

        cv2.setNumThreads(threads)


def _attempt(work: Work[Item, Result], item: Item, advanced: Advanced) -> Done[Result] | Failure:
    try:
        return Done(work(item, advanced))
    except TrackletError as error:
        check()
        return Failure(str(error), error.exit_code)
    except Exception as error:  # a bug: shown whole, and the other items still run
        check()
        traceback.print_exc()
        return Failure(f"{type(error).__name__}: {error}", 1)


# ------------------------------------------------------------------------------------------------ in the worker process

_reporter: Connection


def _prepare(threads: int | None, reporter: Connection) -> None:
    global _reporter
    _reporter = reporter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)


def _attempt_here(work: Work[Item, Result], item: Item) -> Done[Result] | Failure:
    # Only meanwhile: before and after there is nothing to clean up, and the pool, or Python at its end, would print a
    # traceback of the exception.
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _attempt(work, item, _reporter.send)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(*_: object) -> NoReturn:
    sys.exit(1)  # an exception, so that `with` blocks close and clean up


def _end_with_parent() -> None:
    """A pool's process does not notice by itself that its parent was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
