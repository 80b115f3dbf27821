"""An object whose destructor swallows a signal, as some of Python's libraries do."""

from __future__ import annotations

import signal


class Swallower:
    """Python prints an exception in a destructor and continues: a line `Swallower()` loses the signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
