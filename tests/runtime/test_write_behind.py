"""A producer that waits for its writer can be interrupted, and what was put is still written."""

from __future__ import annotations

import signal
import threading

import pytest

from tracker.runtime.signals import INTERRUPTED, Interruption, command
from tracker.runtime.write_behind import WriteBehind


def test_interrupted_wait_keeps_what_was_put():
    go, written = threading.Event(), []

    def write(item):
        assert go.wait(20)
        written.append(item)

    def run(_: Interruption) -> int:
        behind = WriteBehind(write, 2, "test")
        try:
            threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
            for item in range(10):  # three find room: one is being written
                behind.put(item)
        finally:
            go.set()
            behind.close()
        return 0

    assert command("x", run) == INTERRUPTED
    assert written == [0, 1, 2]


def test_depth_is_checked():
    with pytest.raises(ValueError, match="depth"):
        WriteBehind(print, 0, "test")
