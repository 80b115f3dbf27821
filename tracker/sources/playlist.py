"""Films that are lists of other films: HLS playlists, and FFmpeg's concat scripts. Whoever gives one away does not
choose what else is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tracker.errors import SourceError
from tracker.runtime.safe_paths import leaves_folder

_HLS, _CONCAT = b"#EXTM3U", b"ffconcat version"  # what FFmpeg takes them by, whatever they are called
_LONGEST = 1 << 24  # bytes: a day in pieces of two seconds has less
_URI = re.compile(r'URI=(?:"([^"]*)|([^",\s]*))')  # of a key, a header, another list


def check_playlist(path: Path) -> None:
    """Raise SourceError if a list, or one that it names, names anything but files in its own folder or below.

    FFmpeg follows a playlist anywhere, to other machines, too. Raises OSError where the file cannot be read.
    """
    seen: set[str] = set()  # lists may name each other, by many names
    waiting = [path]
    while waiting:
        part = waiting.pop()
        seen.add(os.path.realpath(part))
        for name in _names(part):
            if leaves_folder(name) or ":" in name:  # with a colon it is an address
                raise SourceError(f"{part}: the list names what lies outside its folder, {name[:200]!r}")
            inner = part.parent / name
            if os.path.isfile(inner) and os.path.realpath(inner) not in seen:
                waiting.append(inner)


def _names(path: Path) -> Iterator[str]:
    """What a list names; nothing of a film."""
    with path.open("rb") as file:
        head = file.read(len(_CONCAT))
        if not head.startswith((_HLS, _CONCAT)):
            return
        data = head + file.read(_LONGEST)
    if len(data) > _LONGEST:
        raise SourceError(f"{path}: the list is longer than {_LONGEST} bytes")
    for line in re.split(r"[\r\n\0]+", os.fsdecode(data)):
        if head.startswith(_CONCAT):
            directive, _, name = line.strip().partition(" ")
            if directive == "file":
                plain = re.sub(r"[\"']", "", name).strip()
                yield from (plain, plain.replace("\\", ""))  # there a backslash quotes what follows
        elif line.startswith("#"):
            yield from ("".join(found) for found in _URI.findall(line) if any(found))
        elif line.strip():
            yield line.strip()
