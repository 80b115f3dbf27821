"""Ctrl-C and SIGTERM: held back where foreign code would swallow them, and alike for a command."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tracker.interrupt import held_back, terminated_like_interrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")


def test_what_came_meanwhile_acts_at_the_end_and_once():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_too_in_a_command():
    before = signal.getsignal(signal.SIGTERM)
    done = []
    with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            done.append("held")
        done.append("not reached")
    assert done == ["held"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_fails_in_there_is_told_first():
    with pytest.raises(ImportError, match="no such thing"), held_back():
        raise ImportError("no such thing")


def test_another_thread_changes_nothing():
    seen = []

    def work():
        with held_back(), terminated_like_interrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
