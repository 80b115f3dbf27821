"""What a result needs to go on with and is too large for a checkpoint: pieces in a file beside it, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from pathlib import Path

from tracker.errors import ResumeError, WriteError
from tracker.sinks.frame_file import FrameFile
from tracker.types import State

SPARE_BYTES = 1 << 20  # of pieces that nobody needs any more, before the file is written anew


class Stash:
    """heat.png.kept0 beside heat.png: only what is new is appended, so one sync makes all of it safe.

    When most of the file is no longer needed it is written anew as heat.png.kept1, and so on in turn; it is never much
    larger than twice what is kept. resume: what `keep` gave in an interrupted run. Raises ResumeError if the file is
    not as it was, WriteError where it cannot be written.
    """

    def __init__(self, result: Path, resume: State | None = None) -> None:
        self._paths = [result.with_name(f"{result.name}.kept{turn}") for turn in (0, 1)]
        self._turn = 1
        self._file: FrameFile | None = None
        self._old: FrameFile | None = None  # the last checkpoint may still refer to it
        self._places: dict[str, tuple[int, int, int]] = {}  # name -> first byte, length, CRC-32
        if resume is not None:
            self._turn = resume["turn"]
            self._file = FrameFile(self._paths[self._turn], resume=resume["file"])
            self._places = {name: (start, length, crc) for name, (start, length, crc) in resume["places"].items()}

    def keep(self, names: Collection[str], piece: Callable[[str], bytes]) -> State:
        """For `Resumable.state`: these pieces and no others. piece(name) is asked for what is not in the file yet.

        A name stands for one content, always. All of it is on disk when this returns.
        """
        self._places = {name: place for name, place in self._places.items() if name in names}
        file = self._file
        if file is None or (self._old is None and self._wasted(file)):
            file = self._begin_anew()
        for name in names:
            if name not in self._places:
                data = piece(name)
                self._places[name] = file.size, len(data), zlib.crc32(data)
                file.append(data)
        state = file.state()
        assert state is not None
        return {"turn": self._turn, "file": state, "places": dict(self._places)}

    def pieces(self) -> dict[str, bytes]:
        """What is kept, by name. Raises ResumeError for what was damaged."""
        path, found = self._paths[self._turn], {}
        with path.open("rb") as file:
            for name, (start, length, crc) in self._places.items():
                file.seek(start)
                found[name] = file.read(length)
                if zlib.crc32(found[name]) != crc:
                    raise ResumeError(f"{path}: is damaged, so the run cannot go on; --overwrite begins again")
        return found

    def noted(self) -> None:
        """What `keep` gave last is in a checkpoint: what only earlier ones refer to may go."""
        if self._old is not None:
            self._old.close()
            self._old.path.unlink(missing_ok=True)
            self._old = None

    def close(self) -> None:
        for file in (self._file, self._old):
            if file is not None:
                file.close()

    def forget(self) -> None:
        """Nobody will go on with it: take it away."""
        self.close()
        self._file = self._old = None
        self._places = {}
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _wasted(self, file: FrameFile) -> bool:
        needed = sum(length for _, length, _ in self._places.values())
        return file.size - needed > needed + SPARE_BYTES

    def _begin_anew(self) -> FrameFile:
        self._old, self._turn, self._places = self._file, 1 - self._turn, {}
        path = self._paths[self._turn]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {error.strerror}") from error
        self._file = FrameFile(path)
        return self._file
