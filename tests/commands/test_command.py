"""Common behaviour of all commands: exit status and one line for user errors, failures, Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tracker.errors import ConfigError, WriteError
from tracker.runtime.signals import command

PRINT = [sys.executable, "-m", "tracker.commands.track", "--print-config"]


def raising(error):
    def work(_):
        raise error

    return work


def test_command_returns_the_status_of_the_work(capsys):
    assert [command("x", lambda _, n=n: n) for n in (0, 1)] == [0, 1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (ConfigError("--fps must be > 0, got 0"), "x y: --fps must be > 0, got 0\n", 2),
        (WriteError("a\nb: cannot be written"), "x y: a\\nb: cannot be written\n", 1),
        (KeyboardInterrupt(), "x y: interrupted\n", 130),
    ],
)
def test_error_is_one_line_on_stderr(capsys, error, line, status):
    assert command("x y", raising(error)) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_prints_the_message_of_the_command(capsys, number):
    before = signal.getsignal(number)
    assert command("x", lambda _: signal.raise_signal(number) or 0, "interrupted; half is written") == 130
    assert capsys.readouterr() == ("", "x: interrupted; half is written\n")
    assert signal.getsignal(number) is before


def test_internal_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        command("x", lambda _: 1 // 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_for_stdout_is_one_line():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(PRINT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.stderr == "track: standard output cannot be written: No space left on device\n"
    assert ended.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(PRINT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
