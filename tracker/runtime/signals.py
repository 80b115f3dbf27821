"""Graceful end of a command on Ctrl-C (SIGINT) and SIGTERM: results kept, one line, exit status 130."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from tracker.errors import TrackletError

INTERRUPTED = 130  # the exit status that shells expect after Ctrl-C
PIPE_CLOSED = 141  # as of a program that SIGPIPE ended, as in `yes | head -1`
SLICE_S = 0.05  # the longest wait without a look at what a signal has changed

# Libraries that OpenCV's package needs for its windows, and containers lack; Debian's packages of them.
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file")
_PACKAGES = {"libGL": "libgl1", "libgthread-2": "libglib2.0-0", "libglib-2": "libglib2.0-0"}

# Errors of stdout where it takes nothing more; writers of files raise errors of ours.
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Interruption:
    """The signals that a command has received. They raise KeyboardInterrupt, but for the first one after `gently`."""

    def __init__(self) -> None:
        self._n_signals = 0
        self._stop: Callable[[], None] | None = None
        self.over = False  # the command has its exit status: signals raise nothing more

    @property
    def seen(self) -> bool:
        """Whether a signal has come."""
        return self._n_signals > 0

    @property
    def urgent(self) -> bool:
        """Whether a signal has come that the command does not handle gently."""
        return self._n_signals > (self._stop is not None)

    def gently(self, stop: Callable[[], None]) -> None:
        """From now on the first signal only calls stop(), which must neither wait nor lock; a second one raises."""
        if self.urgent:
            raise KeyboardInterrupt
        self._stop = stop

    def handle(self, *_: object) -> None:
        """The signal handler."""
        self._n_signals += 1
        if self.over:
            return
        if self._stop is None or self.urgent:
            raise KeyboardInterrupt
        self._stop()


_current: Interruption | None = None  # of the command that runs in the main thread


def check() -> None:
    """Raise KeyboardInterrupt if one was raised and lost, as in a destructor. Called between pieces of work."""
    if _current is not None and _current.urgent:
        raise KeyboardInterrupt


def command(name: str, run: Callable[[Interruption], int], words: str = "interrupted") -> int:
    """Run a command; returns its exit status. Errors and interruptions become one line on stderr.

    name: for the line. run: returns the status, INTERRUPTED if it has already said that it was interrupted. words: the
    line where it has not. An error that follows from the interruption is not shown. Outside the main thread signals
    stay as they are.
    """
    global _current
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        return _run(name, run, words, interruption)
    outer, before = _current, {}
    try:
        _current = interruption
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interruption.handle)
        return _run(name, run, words, interruption)
    finally:
        _current = outer
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's


def leave(status: int) -> NoReturn:
    """End the process of a command.

    All that the command started has ended, but perhaps a daemon thread that waits inside a driver or a decoder. At a
    normal exit Python (up to 3.13) would kill such a thread in the middle of C++ code, which aborts the process. It
    would also end by SIGINT, whatever the status, if KeyboardInterrupt once rose in code that `exec` ran.
    """
    if "multiprocessing.util" in sys.modules:  # releases semaphores, as a normal exit does
        sys.modules["multiprocessing.util"]._exit_function()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _run(name: str, run: Callable[[Interruption], int], words: str, interruption: Interruption) -> int:
    try:
        status = run(interruption)
        sys.stdout.flush()
        interruption.over = True
        if status == INTERRUPTED or not interruption.seen:
            return status
    except (KeyboardInterrupt, Exception) as error:
        interruption.over = True
        follows = _follows_interruption(error)
        if isinstance(error, TrackletError) and not follows:
            print(f"{name}: {error}", file=sys.stderr)
            if not interruption.seen:
                return error.exit_code
        elif isinstance(error, OSError) and error.errno in _UNWRITABLE and not interruption.seen:
            return _unwritable(name, error)
        elif isinstance(error, ImportError) and (library := _LIBRARY.search(str(error))):
            package = _PACKAGES.get(library[1].split(".")[0])
            install = f"apt-get install {package}, or" if package else "install it, or,"
            print(
                f"{name}: the system library {library[1]} is missing: {install} where no window is needed, "
                "pip uninstall opencv-python and pip install opencv-python-headless",
                file=sys.stderr,
            )
            return 1
        elif not (follows or interruption.urgent):  # libraries turn a KeyboardInterrupt into other errors
            raise
    print(f"{name}: {words}", file=sys.stderr)
    return INTERRUPTED


def _unwritable(name: str, error: OSError) -> int:
    """The exit status where an output takes nothing more: its pipe is closed, or the disk of stdout is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # takes what is still buffered
    os.close(nowhere)
    if error.errno == errno.EPIPE:  # `| head` is no mistake
        return PIPE_CLOSED
    print(f"{name}: standard output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


def _follows_interruption(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
