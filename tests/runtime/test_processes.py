"""Worker processes: the same outcomes as in one process; failures and crashes stay with their item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.oracles.swallower import Swallower
from tracker.errors import SourceError
from tracker.runtime.processes import Done, Failure, WorkerPool, n_cores, run_all, share_of_cores
from tracker.runtime.signals import command

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def double(item, advanced):
    """Fails in the way its item asks for."""
    advanced(1)
    if item == "user":
        raise SourceError("frame 7 is missing")
    if item == "bug":
        raise ValueError("never thought of")
    if item == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    advanced(2)
    return item * 2


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_run_all_failing_item_does_not_stop_the_others(n_jobs, capfd):
    steps: list[int] = []
    outcomes = dict(run_all(double, ["a", "user", "b", "bug", "c"], n_jobs, steps.append))
    assert outcomes == {
        0: Done("aa"),
        1: Failure("frame 7 is missing", 2),
        2: Done("bb"),
        3: Failure("ValueError: never thought of", 1),
        4: Done("cc"),
    }
    assert sum(steps) == 3 * 3 + 2 * 1
    err = capfd.readouterr().err
    assert "never thought of" in err  # the traceback of a bug is shown
    assert "frame 7" not in err


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_run_all_crashing_worker_is_a_failure():
    outcomes = dict(run_all(double, ["death", "a"], 2, lambda _: None))
    assert outcomes == {0: Failure("its process ended with status -9", 1), 1: Done("aa")}


def n_threads(item, advanced):
    import cv2

    return cv2.getNumThreads()


@pytest.mark.slow
def test_workers_share_the_cores():
    assert share_of_cores(1) is None  # alone: whatever the libraries take
    for n_jobs in range(2, 2 * n_cores()):
        share = share_of_cores(n_jobs)
        assert share * n_jobs <= max(n_cores(), n_jobs)
        assert share >= 1
    n_jobs = max(2, n_cores())
    assert dict(run_all(n_threads, "ab", n_jobs, lambda _: None)) == {0: Done(1), 1: Done(1)}
    with WorkerPool(n_threads, n_jobs) as pool:
        assert dict(pool.outcomes([(0, "a"), (1, "b")])) == {0: Done(1), 1: Done(1)}


def remember(item, advanced):
    """How many items this process had before, and those of `double`."""
    remember.count = getattr(remember, "count", -1) + 1
    return remember.count, double(item, advanced)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_pool_keeps_its_workers_between_calls(n_jobs):
    remember.__dict__.clear()
    with WorkerPool(remember, n_jobs) as pool:
        home = [at % n_jobs for at in range(4)]
        first = dict(pool.outcomes(list(zip(home, ["a", "user", "b", "c"], strict=True))))
        second = dict(pool.outcomes(list(zip(home, "wxyz", strict=True))))
    assert first[1] == Failure("frame 7 is missing", 2)
    assert [first[at].result[1] for at in (0, 2, 3)] == ["aa", "bb", "cc"]
    counts = [second[at].result[0] for at in range(4)]
    assert counts == ([4, 5, 6, 7] if n_jobs == 1 else [2, 2, 3, 3])


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_pool_crashing_worker_is_replaced():
    with WorkerPool(double, 2) as pool:
        outcomes = dict(pool.outcomes([(0, "death"), (1, "a"), (0, "b"), (1, "c")]))
    died = Failure("its process ended with status -9", 1)
    assert outcomes == {0: died, 1: Done("aa"), 2: Done("bb"), 3: Done("cc")}


def wait_long(item, advanced):
    """Reports its start; its file shows whether it could clean up."""
    path = Path(item)
    try:
        path.touch()
        advanced(1)
        time.sleep(300)
    finally:
        path.unlink()


INTERRUPTED = """
import sys
import tracker.runtime.processes
from tracker.runtime.processes import run_all
tracker.runtime.processes.END_S = 200  # enough for a busy machine
sys.path.insert(0, ".")
from tests.runtime.test_processes import wait_long
if __name__ == "__main__":
    try:
        list(run_all(wait_long, sys.argv[1:], 2, lambda _: print("started", flush=True)))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def started(tmp_path) -> tuple[subprocess.Popen, list[str]]:
    """A process with two workers that wait, and the files that they remove when they clean up."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    items = [str(tmp_path / name) for name in ("one", "two", "three")]
    process = subprocess.Popen(
        [sys.executable, str(script), *items], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )  # fmt: skip
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["started\n", "started\n"]
    return process, items


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
def test_ctrl_c_ends_all_workers_silently(tmp_path):
    process, items = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (130, "")
    assert not [name for name in items if Path(name).exists()]


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_killed_parent_leaves_no_workers(tmp_path):
    process, _ = started(tmp_path)
    process.kill()
    process.communicate(timeout=60)  # ends when the last process has closed stdout


def lose_an_interruption(item, advanced):
    """An interruption that a library turns into another error."""
    Swallower()
    raise ValueError("Cannot compare structured arrays")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["run_all", "pool"])
def test_lost_interruption_is_not_a_failure_of_an_item(how, capsys):
    found = []

    def run(interruption):
        if how == "run_all":
            found.extend(run_all(lose_an_interruption, [1, 2], 1, lambda _: None))
        else:
            with WorkerPool(lose_an_interruption, 1) as pool:
                found.extend(pool.outcomes([(0, 1), (0, 2)]))
        return 0

    assert command("track-eval", run) == 130
    assert not found
    assert capsys.readouterr().err == "track-eval: interrupted\n"
