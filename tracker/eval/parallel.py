"""Several pieces of work side by side, each in a process of its own: one that fails, or dies, takes nobody along."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, cast

from tracker.errors import TrackletError

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
    must pickle. Whoever stops iterating, Ctrl-C included, ends the processes; each may clean up first.
    """
    if n_jobs == 1:
        for index, item in enumerate(items):
            yield index, _attempt(work, item, advanced)
        return
    waiting = list(enumerate(items))[::-1]
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                index, item = waiting.pop()
                connection, process = _start(work, item)
                running[connection] = (index, process)
            for ready in wait(list(running)):
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


def _attempt(work: Callable[[Item, Advanced], Result], item: Item, advanced: Advanced) -> Done[Result] | Failure:
    try:
        return Done(work(item, advanced))
    except TrackletError as error:
        return Failure(str(error), error.exit_code)
    except Exception as error:  # a mistake of ours: shown whole, and the other items still run
        traceback.print_exc()
        return Failure(f"{type(error).__name__}: {error}", 1)


def _start(work: Callable[[Item, Advanced], Result], item: Item) -> tuple[Connection, BaseProcess]:
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, item, there), daemon=True)
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


def _serve(work: Callable[[Item, Advanced], Result], item: Item, connection: Connection) -> None:
    """The life of a process: progress and then the outcome go to the parent."""

    def stop(*_: object) -> NoReturn:
        sys.exit(1)  # an exception, so that `with` blocks close and clean up

    def tell(amount: int) -> None:
        try:
            connection.send(amount)
        except BrokenPipeError:  # the parent is gone
            stop()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    outcome = _attempt(work, item, tell)
    try:
        connection.send(outcome)
    except BrokenPipeError:
        stop()


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
