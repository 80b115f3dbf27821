"""Ctrl-C and SIGTERM: they act alike, whatever swallows or changes what they raise; the second one acts at once."""

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
from tracker.runtime.signals import INTERRUPTED, check, command, held_back

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook
    yield
    assert ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook) == before


# ------------------------------------------------------------------------------------------------------- a command


@both
def test_a_command_says_that_it_was_interrupted(number, capsys):
    def run(interruption):
        signal.raise_signal(number)
        raise AssertionError("nothing was raised")

    assert command("track", run, "interrupted; half is there") == INTERRUPTED == 130
    assert capsys.readouterr().err == "track: interrupted; half is there\n"


@both
def test_what_was_swallowed_is_raised_at_the_next_piece_of_work(number, capsys):
    done = []

    def run(interruption):
        for piece in range(3):
            check()
            Swallower(number)
            done.append(piece)
        return 0

    assert command("track", run) == 130
    assert done == [0]
    assert capsys.readouterr().err == "track: interrupted\n"  # and nothing about an exception that was ignored


@both
def test_the_status_tells_even_where_nobody_looked(number):
    def run(interruption):
        Swallower(number)
        return 0

    assert command("track", run) == 130


@pytest.mark.parametrize("error", [RuntimeError("cannot release un-acquired lock"), WriteError("broken")])
def test_a_failure_that_follows_from_it_is_not_told(error, capsys):
    def run(interruption):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise error

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: interrupted\n"


def test_nor_one_that_took_its_place_without_a_trace(capsys):
    def run(interruption):
        Swallower(signal.SIGINT)
        raise TypeError("Cannot compare structured arrays")  # what NumPy makes of it

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: interrupted\n"


def test_another_failure_is_told_besides(capsys):
    def run(interruption):
        Swallower(signal.SIGINT)
        raise WriteError("t.txt: cannot be written: the disk is full")

    assert command("track", run) == 130
    assert capsys.readouterr().err == "track: t.txt: cannot be written: the disk is full\ntrack: interrupted\n"


def test_a_mistake_of_ours_shows():
    with pytest.raises(ZeroDivisionError):
        command("track", lambda _: 1 // 0)

    def run(interruption):
        interruption.gently(lambda: None)
        signal.raise_signal(signal.SIGINT)  # nothing is raised, so nothing can follow from it
        return 1 // 0

    with pytest.raises(ZeroDivisionError):
        command("track", run)


def test_without_signals_a_command_is_what_it_runs(capsys):
    assert [command("track", lambda _, status=status: status) for status in (0, 1, 2)] == [0, 1, 2]

    def run(interruption):
        raise WriteError("t.txt: cannot be written")

    assert command("track", run) == 1
    assert capsys.readouterr().err == "track: t.txt: cannot be written\n"


@both
def test_gently_the_first_ends_the_work_and_the_second_raises(number):
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


def test_a_second_one_that_was_swallowed_is_not_forgotten():
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


def test_one_that_was_swallowed_before_does_not_begin_the_work():
    done = []

    def run(interruption):
        Swallower(signal.SIGINT)
        interruption.gently(lambda: None)
        done.append("not reached")
        return 0

    assert command("track", run) == 130
    assert not done


def test_in_another_thread_nothing_changes():
    seen = []

    def run(interruption):
        with held_back():
            seen.append((signal.getsignal(signal.SIGINT), interruption.seen))
        return 0

    thread = threading.Thread(target=lambda: seen.append(command("track", run)))
    thread.start()
    thread.join()
    assert seen == [(signal.default_int_handler, False), 0]


def test_a_process_ends_with_the_status_wherever_it_was_interrupted(tmp_path):
    """Python notes an interruption in a text that is executed, and would end by a signal although it was caught."""
    text = "exec('import signal; signal.raise_signal(signal.SIGINT)')"
    script = f"import sys; from tracker.runtime.signals import command; sys.exit(command('track', lambda _: {text}))"
    (tmp_path / "mine.py").write_text(script)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    words = [sys.executable, "-m", "mine"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "track: interrupted\n")


# -------------------------------------------------------------------------------------------------------- held back


def test_what_came_meanwhile_acts_at_the_end_and_once():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]


def test_held_back_in_a_command_both_count():
    told, done = [], []

    def run(interruption):
        interruption.gently(lambda: told.append("stop"))
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("held")
        done.append("not reached")
        return 0

    assert command("track", run) == 130
    assert (told, done) == (["stop"], ["held"])


def test_what_fails_in_there_is_told():
    with pytest.raises(ImportError, match="no such thing"), held_back():
        raise ImportError("no such thing")


def test_what_fails_in_there_does_not_hide_the_signal():
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        raise ImportError("no such thing")


def test_interruptions_nest():
    def run(outer):
        assert command("inner", lambda _: signal.raise_signal(signal.SIGINT) or 0) == 130
        check()
        assert not outer.seen
        return 7

    assert command("outer", run) == 7
