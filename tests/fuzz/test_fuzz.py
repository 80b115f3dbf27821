"""Every reader of foreign files with damaged files: it reads them, or refuses them in one line.

`python -m tests.fuzz` runs the same targets longer and guided by coverage. Here each gets the same CASES inputs every
time.
"""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as fuzz
from tracker.errors import TrackletError

pytestmark = pytest.mark.robustness
CASES = 100
# Fewer: read by C++, where a mistake may end the process; a network is made for each.
FEW = ("model", "png", "jpeg", "crop-png", "crop-jpeg", "avi", "mp4", "run")
NUMBER = re.compile(rb"[0-9.]+")


def damaged(data: bytes, steps: list[tuple[int, int, bytes]]) -> bytes:
    """Apply changes: each has a kind, a place, and bytes to put there."""
    for kind, place, more in steps:
        at = place % (len(data) + 1)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + more + data[at:]
        elif kind == 2:
            data = data[:at] + more + data[at + len(more) :]
        elif kind == 3:
            data = data[:at] + data[at + place % 7 :]
        elif kind == 4:
            data = data[:at] + data[at : at + 9] * 40 + data[at + 9 :]
        elif numbers := [match.span() for match in NUMBER.finditer(data)]:
            start, end = numbers[place % len(numbers)]
            data = data[:start] + more + data[end:]
    return data


def damages(target: fuzz.Target):
    words = [word.encode() for word in target.words]
    more = st.binary(min_size=1, max_size=6)
    more = st.sampled_from(words) | more if words else more
    steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6), more), min_size=1, max_size=6)
    return st.builds(damaged, st.sampled_from(target.seeds()), steps)


def test_targets_accept_good_files():
    """Otherwise a target could refuse everything for another reason than the damage."""
    for name, target in fuzz.TARGETS.items():
        assert any(fuzz.check(target, data) for data in target.seeds()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in fuzz.TARGETS if name not in FEW])
def test_damaged_file_is_refused_in_one_line(name):
    target = fuzz.TARGETS[name]

    @settings(
        max_examples=CASES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damages(target))
    def holds(data):
        fuzz.check(target, data)

    holds()


@pytest.mark.parametrize("name", FEW)
def test_few_damaged_files_are_refused_in_one_line(name):
    """Each may take long; a crash would end this process."""
    target, rng = fuzz.TARGETS[name], random.Random(2)
    for data in target.seeds():
        for _ in range(25):
            steps = [(rng.randrange(4), rng.randrange(len(data)), rng.randbytes(rng.randint(1, 4))) for _ in range(2)]
            fuzz.check(target, damaged(data, steps))


def test_check_finds_tracebacks_warnings_and_two_lines():
    """The check itself."""

    def target(run):
        return fuzz.Target(run, list)

    def lines(data):
        raise TrackletError()

    def warn(data):
        return np.float64(1e300) * 1e300

    with pytest.raises(ZeroDivisionError):
        fuzz.check(target(lambda data: 1 // 0), b"")
    with pytest.raises(RuntimeWarning):
        fuzz.check(target(warn), b"")
    with pytest.raises(AssertionError, match="not one line"):
        fuzz.check(target(lines), b"")


def test_error_text_escapes_control_characters():
    """A name in a file may hold what would move the cursor of a terminal, or look like a second message."""
    assert str(TrackletError("a\nb\x1b[2J\udc80c: nö")) == "a\\nb\\x1b[2J\\udc80c: nö"
