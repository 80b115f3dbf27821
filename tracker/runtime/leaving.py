"""The end of a program of which a thread waits inside a driver or a decoder, which may be for long.

Up to Python 3.13 a thread that comes back from there while the interpreter is taken down is ended by force; in the
middle of C++ code that aborts the program ("terminate called", "exception not rethrown"). Such a thread is stopped
before, where it stands, so that the program ends with its own status and does not wait.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread
from weakref import WeakKeyDictionary, WeakMethod

PATIENCE_S = 0.2  # with all threads together: one that only decodes a frame is done by then

_watched: WeakKeyDictionary[Thread, WeakMethod[Callable[[], None]] | None] = WeakKeyDictionary()


def watch(thread: Thread, stop: Callable[[], None] | None = None) -> None:
    """Take care of this thread at the end of the program. stop: a method that tells it to end, and does not wait."""
    _watched[thread] = None if stop is None else WeakMethod(stop)  # whose owner holds the thread: it would never go
    atexit.unregister(_end)
    atexit.register(_end)


def hanging() -> bool:
    """Whether any of the threads still runs."""
    return any(thread.is_alive() for thread in list(_watched))


def _end() -> None:
    running = [(thread, method) for thread, method in list(_watched.items()) if thread.is_alive()]
    for _, method in running:
        stop = None if method is None else method()
        if stop is not None:
            stop()
    until_s = time.monotonic() + PATIENCE_S
    for thread, _ in running:
        thread.join(max(0.0, until_s - time.monotonic()))
    _stop_for_good([thread for thread, _ in running if thread.is_alive()])


def _stop_for_good(threads: list[Thread]) -> None:
    """Let none of these threads, all of which wait in foreign code, run any more."""
    if not threads or os.name != "posix" or sys.version_info >= (3, 14):  # others leave such threads alone
        return
    import ctypes

    libc = ctypes.CDLL(None)
    # A handler in C, for one in Python runs in the main thread: whoever gets the signal sleeps in it.
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGUSR2, ctypes.cast(libc.pause, ctypes.c_void_p))
    for thread in threads:
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGUSR2)
