"""Several pieces of work side by side, each in a process of its own: one that fails, or dies, takes nobody along."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar, cast

from tracker.errors import TrackletError
from tracker.runtime.signals import SLICE_S, check

Item = TypeVar("Item")
Result = TypeVar("Result")

Advanced: TypeAlias = Callable[[int], Any]  # takes how much more is done
END_S = 5.0  # time a process has to clean up after it was told to end


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What a piece of work returned."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a piece of work has no result, in one line."""

    text: str
    exit_code: int


def run_all(
    work: Callable[[Item, Advanced], Result], items: Sequence[Item], n_jobs: int, advanced: Advanced
) -> Iterator[tuple[int, Done[Result] | Failure]]:
    """(index of the item, outcome) of every item, as they end; `n_jobs` at a time.

    work(item, advanced) -> result; it reports progress through `advanced`. With one job it runs in this process, with
    more in fresh ones (spawned: threads and GPU contexts do not survive a fork), so `work`, the items and the results
    must pickle. Each gets its share of the cores, or their threads would stand in each other's way. Whoever stops
    iterating, Ctrl-C included, ends the processes; each may clean up first.
    """
    if n_jobs == 1:
        for index, item in enumerate(items):
            check()
            yield index, _attempt(work, item, advanced)
        return
    threads = share_of_cores(n_jobs)
    waiting = list(enumerate(items))[::-1]
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                index, item = waiting.pop()
                connection, process = _spawn(_serve, work, item, threads, duplex=False)
                running[connection] = (index, process)
            check()
            for ready in wait(list(running), SLICE_S):
                connection = cast(Connection, ready)
                message = _receive(connection)
                if isinstance(message, int):
                    advanced(message)
                    continue
                index, process = running.pop(connection)
                connection.close()
                process.join()
                yield index, message or Failure(f"its process ended with status {process.exitcode}", 1)
    finally:
        _end([process for _, process in running.values()])


class WorkerPool(Generic[Item, Result]):
    """Processes that live from one piece of work to the next, so that what one has prepared serves it again.

    work(item, advanced) -> result, as for `run_all`. With one job everything runs in this process. Use `with`.
    """

    def __init__(self, work: Callable[[Item, Advanced], Result], n_jobs: int) -> None:
        self._work = work
        self.n_jobs = n_jobs
        self._members: list[tuple[Connection, BaseProcess]] = []
        if n_jobs > 1:
            self._members = [_spawn(_serve_on, work, share_of_cores(n_jobs), duplex=True) for _ in range(n_jobs)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        _end([process for _, process in self._members])
        for connection, _ in self._members:
            connection.close()

    def outcomes(self, items: Sequence[tuple[int, Item]]) -> Iterator[tuple[int, Done[Result] | Failure]]:
        """(index, outcome) of every (member, item), as they end; a member has one item at a time, in order."""
        if self.n_jobs == 1:
            for index, (_, item) in enumerate(items):
                check()
                yield index, _attempt(self._work, item, lambda _: None)
            return
        waiting: dict[int, list[int]] = {}
        for index, (member, _) in reversed(list(enumerate(items))):
            waiting.setdefault(member, []).append(index)
        busy: dict[Connection, tuple[int, int]] = {}  # -> member, index of its item

        def hand_out(member: int) -> None:
            if waiting[member]:
                index = waiting[member].pop()
                connection = self._members[member][0]
                with suppress(BrokenPipeError):  # of a process that died: reading says so
                    connection.send(items[index][1])
                busy[connection] = (member, index)

        for member in waiting:
            hand_out(member)
        while busy:
            check()
            for ready in wait(list(busy), SLICE_S):
                connection = cast(Connection, ready)
                member, index = busy.pop(connection)
                message = _receive(connection)
                process = self._members[member][1]
                if message is None:
                    process.join()
                    yield index, Failure(f"its process ended with status {process.exitcode}", 1)
                else:
                    yield index, message
                hand_out(member)


def n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_cores(n_jobs: int) -> int | None:
    """Threads for each of `n_jobs` pieces of work side by side; None, no limit, for one alone."""
    return None if n_jobs <= 1 else max(1, n_cores() // n_jobs)


def limit_threads(threads: int | None) -> None:
    """Let OpenCV use so many threads in this process; networks are told when they are opened."""
    if threads is not None:
        import cv2

        cv2.setNumThreads(threads)


def _attempt(work: Callable[[Item, Advanced], Result], item: Item, advanced: Advanced) -> Done[Result] | Failure:
    try:
        return Done(work(item, advanced))
    except TrackletError as error:
        check()
        return Failure(str(error), error.exit_code)
    except Exception as error:  # a mistake of ours: shown whole, and the other items still run
        check()
        traceback.print_exc()
        return Failure(f"{type(error).__name__}: {error}", 1)


def _spawn(life: Callable[..., None], *args: Any, duplex: bool) -> tuple[Connection, BaseProcess]:
    """A process that runs life(*args, connection), and our end of the connection."""
    context = get_context("spawn")
    here, there = context.Pipe(duplex)
    process = context.Process(target=life, args=(*args, there), daemon=True)
    with _sigint_ignored():
        process.start()
    there.close()
    return here, process


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """A process started in here never hears Ctrl-C, not even while it imports: its parent ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(work: Callable[[Item, Advanced], Result], item: Item, threads: int | None, connection: Connection) -> None:
    """The life of a process: progress and then the outcome go to the parent."""

    def tell(amount: int) -> None:
        try:
            connection.send(amount)
        except BrokenPipeError:  # the parent is gone
            _stop()

    _prepare(threads)
    outcome = _attempt(work, item, tell)
    try:
        connection.send(outcome)
    except BrokenPipeError:
        _stop()


def _serve_on(work: Callable[[Item, Advanced], Result], threads: int | None, connection: Connection) -> None:
    """The life of a process of a `WorkerPool`: one item after the other, until the parent closes the connection."""
    _prepare(threads)
    while (item := _receive(connection)) is not None:
        try:
            connection.send(_attempt(work, item, lambda _: None))
        except BrokenPipeError:
            _stop()


def _prepare(threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    limit_threads(threads)


def _stop(*_: object) -> NoReturn:
    sys.exit(1)  # an exception, so that `with` blocks close and clean up


def _receive(connection: Connection) -> Any:
    """The next message, or None where the process ended without one."""
    try:
        return connection.recv()
    except EOFError:
        return None


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(END_S)
        if process.is_alive():
            process.kill()
            process.join()
