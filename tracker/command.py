"""What every command does alike: a mistake is one line on stderr, Ctrl-C and SIGTERM another, and both a status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tracker.errors import TrackletError
from tracker.interrupt import terminated_like_interrupted

INTERRUPTED = 130  # what shells expect after Ctrl-C


def status_of(command: str, work: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """The exit status of a command whose name stands before each line: that of the work, or of what ended it.

    2 for a mistake of the user, 1 for other failures that we know, 130 after Ctrl-C, which says `interrupted`.
    """
    try:
        with terminated_like_interrupted():
            return work()
    except TrackletError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{command}: {interrupted}", file=sys.stderr)
        return INTERRUPTED
