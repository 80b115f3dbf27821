"""How a command hears that it is to end: Ctrl-C and SIGTERM alike, so that it leaves in order, with all it started.

What a signal raises comes up wherever Python happens to be, and may be lost there: in a destructor, in the end of a
generator or in a callback of a weak reference it is only printed, and others take it for a failure of their own. So it
is noted as well: `check`, between frames and pieces of work, raises it once more, and `command` gives the right exit
status whatever became of it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tracker.errors import TrackletError

INTERRUPTED = 130  # the exit status that shells expect after Ctrl-C
SLICE_S = 0.05  # of a wait that a signal may have to end

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
# What writing to stdout says where nobody takes it; writers of files raise errors of ours.
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Interruption:
    """While open, Ctrl-C and SIGTERM raise KeyboardInterrupt, but for the first one after `gently`.

    Outside of `listen` ... `settle` they are noted alone.
    """

    def __init__(self) -> None:
        self._n_heard = 0
        self._stop: Callable[[], None] | None = None
        self._quiet = True  # nothing is raised while handlers come and go
        self._before: dict[int, Any] = {}

    @property
    def seen(self) -> bool:
        """Whether the command was told to end."""
        return self._n_heard > 0

    @property
    def lost(self) -> bool:
        """Whether more came than the command has taken notice of."""
        return self._n_heard > (self._stop is not None)

    def gently(self, stop: Callable[[], None]) -> None:
        """From now on the first signal calls stop(), which tells the work to end and does not wait; a second raises.

        One that came before is raised now, if it was lost.
        """
        if self.lost:
            raise KeyboardInterrupt
        self._stop = stop

    def listen(self) -> None:
        """From now on signals are raised, also one that has come since this was opened."""
        self._quiet = False
        check()

    def settle(self) -> None:
        """From now on nothing is raised: the work is over, and only its end is to be told."""
        self._quiet = True

    def __enter__(self) -> Interruption:
        global _current
        self._before = _handled_by(self._handle)
        if not self._before:
            return self
        self._outer, _current = _current, self
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._pass_over
        return self

    def __exit__(self, *exc: object) -> None:
        global _current
        self.settle()
        if self._before:
            _current = self._outer
            sys.unraisablehook = self._unraisable
        _put_back(self._before)

    def _handle(self, number: int, stack_frame: FrameType | None) -> None:
        self._n_heard += 1
        if self._quiet:
            return
        if self.lost:
            raise KeyboardInterrupt
        if self._stop is not None:
            self._stop()

    def _pass_over(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Say nothing of what was lost: it is noted."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._unraisable(unraisable)


_current: Interruption | None = None  # of the command that runs in the main thread


def check() -> None:
    """Raise KeyboardInterrupt if the command was told to end and goes on all the same."""
    if _current is not None and _current.lost:
        raise KeyboardInterrupt


def command(name: str, run: Callable[[Interruption], int], words: str = "interrupted") -> int:
    """Run a command and say in one line why it ended early; returns its exit status.

    name: for the line. run: returns the status, INTERRUPTED if it has said itself that it was told to end. words: what
    is said where it has not. A failure that follows from the interruption is not told; any other one is.
    """
    with Interruption() as interruption:
        status = _outcome(name, run, words, interruption)
    # If it came up in a text that was being executed, as in the making of a dataclass, Python would end the process by
    # a signal, no matter who caught it since; the next text takes that back.
    exec("")
    return status


def _outcome(name: str, run: Callable[[Interruption], int], words: str, interruption: Interruption) -> int:
    try:
        interruption.listen()
        status = run(interruption)
        sys.stdout.flush()
        interruption.settle()
        if status == INTERRUPTED or not interruption.seen:
            return status
    except (KeyboardInterrupt, Exception) as error:
        interruption.settle()
        follows = _follows_interruption(error)
        if isinstance(error, TrackletError) and not follows:
            print(f"{name}: {error}", file=sys.stderr)
            if not interruption.seen:
                return error.exit_code
        elif isinstance(error, OSError) and error.errno in _UNWRITABLE and not interruption.seen:
            return _unread(name, error)
        elif not (follows or interruption.lost):  # NumPy makes other errors of what was raised, without a trace of it
            raise
    print(f"{name}: {words}", file=sys.stderr)
    return INTERRUPTED


def _unread(name: str, error: OSError) -> int:
    """The exit status of a command whose stdout takes nothing more: the pipe has closed, the disk is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # what still waits to be written goes there when Python ends
    os.close(nowhere)
    if error.errno != errno.EPIPE:  # `| head` is no mistake
        print(f"{name}: standard output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


def _follows_interruption(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM act once this is left: code in here would take what they raise for its own failure, or leave
    its locks locked."""
    came: list[int] = []
    before = _handled_by(lambda number, stack_frame: came.append(number))
    try:
        yield
    finally:
        _put_back(before)
        for number in came:
            signal.raise_signal(number)


def _handled_by(handle: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install a handler; returns those before it, which none are in another thread: who runs us there handles signals.

    A handler that is not Python's stays, for it could not be put back.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for number in _NUMBERS if signal.getsignal(number) is not None]
    return {number: signal.signal(number, handle) for number in numbers}


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
