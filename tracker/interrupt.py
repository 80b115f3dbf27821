"""How a program hears that it is to end: SIGTERM like Ctrl-C, so that both leave in order, with all it started."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in here, as Ctrl-C does."""

    def handle(number: int, stack_frame: object) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), handle):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM act once this is left: foreign code in here would take what they raise for its own failure."""
    came: list[int] = []
    with _handled(_NUMBERS, lambda number, stack_frame: came.append(number)):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def _handled(numbers: tuple[int, ...], handle: Callable[[int, object], None]) -> Iterator[None]:
    before = {}
    for number in numbers:
        try:
            before[number] = signal.signal(number, handle)
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: one that is not Python's
