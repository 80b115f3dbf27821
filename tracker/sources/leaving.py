"""The end of a program while one of its threads waits inside a camera's driver.

Up to Python 3.13 a thread that comes back from a driver while the interpreter is taken down is ended by force; in the
middle of C++ code that aborts the program ("terminate called", "exception not rethrown"), and the driver decides when
it comes back. Such a thread is stopped before, where it stands, so that the program ends with its own status and does
not wait.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterable
from threading import Thread


def at_exit(last_words: Callable[[], None]) -> None:
    """Have it called before the interpreter is taken down; once, however often it is asked for."""
    atexit.unregister(last_words)
    atexit.register(last_words)


def stop_for_good(threads: Iterable[Thread]) -> None:
    """Let none of these threads, all of which wait in foreign code, run any more. For the end of the program only."""
    left = [thread.ident for thread in threads if thread.ident is not None]
    if not left or os.name != "posix" or sys.version_info >= (3, 14):  # others leave such threads alone
        return
    import ctypes

    libc = ctypes.CDLL(None)
    # A handler in C, for one in Python runs in the main thread: whoever gets the signal sleeps in it.
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGUSR2, ctypes.cast(libc.pause, ctypes.c_void_p))
    for ident in left:
        signal.pthread_kill(ident, signal.SIGUSR2)
