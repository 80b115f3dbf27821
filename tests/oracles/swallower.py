"""What loses an interruption, as Python's own libraries do."""

from __future__ import annotations

import signal


class Swallower:
    """Python prints what is raised in a destructor, and goes on: `Swallower()` alone on a line is a lost signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
