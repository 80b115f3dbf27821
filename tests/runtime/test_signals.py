"""Ctrl-C and SIGTERM: one line, exit status 130, and after `gently` only the second one raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.oracles.swallower import Swallower
from tracker.errors import WriteError
from tracker.runtime.signals import INTERRUPTED, check, command

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals are POSIX"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # what `Swallower` loses
]
both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@both
def test_command_interrupted_prints_one_line_and_returns_130(number, capsys):
    def run(interruption):
        signal.raise_signal(number)
        raise AssertionError("nothing was raised")

    assert command("track", run, "interrupted; half is there") == INTERRUPTED == 130
    assert capsys.readouterr().err == "track: interrupted; half is there\n"


@both
def test_check_raises_an_interruption_that_was_lost(number, capsys):
    done = []

    def run(interruption):
        for piece in range(3):
            check()
            Swallower(number)
            done.append(piece)
        return 0

    assert command("track", run) == 130
    assert done == [0]
    assert capsys.readouterr().err == "track: interrupted\n"


@both
def test_command_lost_interruption_still_returns_130(number):
    def run(interruption):
        Swallower(number)
        return 0

    assert command("track", run) == 130


@pytest.mark.parametrize("error", [RuntimeError("cannot release un-acquired lock"), WriteError("broken")])
def test_command_error_caused_by_interruption_is_not_shown(error, capsys):
    def run(interruption):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise error

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: interrupted\n"


def test_command_error_in_place_of_interruption_is_not_shown(capsys):
    def run(interruption):
        Swallower(signal.SIGINT)
        raise TypeError("Cannot compare structured arrays")  # what NumPy makes of it

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: interrupted\n"


def test_command_unrelated_error_is_shown_too(capsys):
    def run(interruption):
        Swallower(signal.SIGINT)
        raise WriteError("t.txt: cannot be written: the disk is full")

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: t.txt: cannot be written: the disk is full\ntrack: interrupted\n"


def test_command_internal_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        command("track", lambda _: 1 // 0)

    def run(interruption):
        interruption.gently(lambda: None)
        signal.raise_signal(signal.SIGINT)  # nothing is raised, so nothing can follow from it
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        command("track", run)


def test_command_without_signals_returns_the_status(capsys):
    assert [command("track", lambda _, status=status: status) for status in (0, 1, 2)] == [0, 1, 2]

    def run(interruption):
        raise WriteError("t.txt: cannot be written")

    assert command("track", run) == 1
    assert capsys.readouterr().err == "track: t.txt: cannot be written\n"


@both
def test_gently_first_signal_stops_and_second_raises(number):
    told, done = [], []

    def run(interruption):
        assert not interruption.seen
        interruption.gently(lambda: told.append("stop"))
        signal.raise_signal(number)
        check()
        assert interruption.seen
        done.append("the frame at hand")
        signal.raise_signal(number)
        done.append("not reached")
        return 0

    assert command("track", run) == 130
    assert told == ["stop"]
    assert done == ["the frame at hand"]


def test_gently_lost_second_signal_is_raised_by_check():
    done = []

    def run(interruption):
        interruption.gently(lambda: None)
        signal.raise_signal(signal.SIGINT)
        Swallower(signal.SIGINT)
        check()
        done.append("not reached")
        return 0

    assert command("track", run) == 130
    assert not done


def test_gently_after_a_lost_signal_raises():
    done = []

    def run(interruption):
        Swallower(signal.SIGINT)
        interruption.gently(lambda: None)
        done.append("not reached")
        return 0

    assert command("track", run) == 130
    assert not done


def test_command_in_another_thread_installs_no_handler():
    seen = []

    def run(interruption):
        seen.append((signal.getsignal(signal.SIGINT), interruption.seen))
        return 0

    thread = threading.Thread(target=lambda: seen.append(command("track", run)))
    thread.start()
    thread.join()
    assert seen == [(signal.default_int_handler, False), 0]


@pytest.mark.parametrize("n_signals", [0, 1])
def test_process_with_a_hanging_thread_leaves_at_once(n_signals):
    code = (
        "import signal, sys, threading\n"
        "from tracker.runtime.signals import command, leave\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def run(_):\n    print('result')\n"
        f"    for _ in range({n_signals}): signal.raise_signal(signal.SIGINT)\n    return 3\n"
        "leave(command('track', run))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    expected = (130, "track: interrupted\n") if n_signals else (3, "")
    assert (done.returncode, done.stderr, done.stdout) == (*expected, "result\n")


def test_nested_command_restores_the_outer_one():
    def run(outer):
        assert command("inner", lambda _: signal.raise_signal(signal.SIGINT) or 0) == 130
        check()
        assert not outer.seen
        return 7

    assert command("outer", run) == 7


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("libGL.so.1", "apt-get install libgl1, or where no window is needed, pip uninstall opencv-python and"),
        ("libgthread-2.0.so.0", "apt-get install libglib2.0-0, or where"),
        ("libfoo++.so", "libfoo++.so is missing: install it, or, where no window is needed, pip"),
    ],
)
def test_command_names_a_missing_system_library(capsys, library, said):
    def run(interruption):
        raise ImportError(f"{library}: cannot open shared object file: No such file or directory")

    assert command("track", run) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"track: the system library {library} is missing: ")
    assert said in line
    assert line.endswith(" opencv-python-headless\n")


def test_command_shows_other_import_errors(capsys):
    def run(interruption):
        raise ImportError("cannot import name 'x'")

    with pytest.raises(ImportError):
        command("track", run)
