"""Reject HLS playlists and FFmpeg concat scripts that name files outside their own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tracker.errors import SourceError
from tracker.runtime.safe_paths import leaves_folder

_HLS, _CONCAT = b"#EXTM3U", b"ffconcat version"  # FFmpeg recognises them by this, whatever their name
_LONGEST = 1 << 24  # bytes; a day in segments of two seconds has fewer
_URI = re.compile(r'URI=(?:"([^"]*)|([^",\s]*))')  # of a key, a header, another list


def check_playlist(path: Path) -> None:
    """Raise SourceError if a list, or a list named in it, names anything but files in its own folder or below.

    FFmpeg would follow it anywhere, also to other machines. Other files pass. Raises OSError if the file is unreadable.
    """
    seen: set[str] = set()  # lists may name each other
    waiting = [path]
    while waiting:
        part = waiting.pop()
        seen.add(os.path.realpath(part))
        for name in _names(part):
            if leaves_folder(name) or ":" in name:  # a colon: an address
                raise SourceError(f"{part}: the list names what lies outside its folder, {name[:200]!r}")
            inner = part.parent / name
            if os.path.isfile(inner) and os.path.realpath(inner) not in seen:
                waiting.append(inner)


def _names(path: Path) -> Iterator[str]:
    """The names in a list; none if the file is no list."""
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
                yield from (plain, plain.replace("\\", ""))  # a backslash quotes the next character
        elif line.startswith("#"):
            yield from ("".join(found) for found in _URI.findall(line) if any(found))
        elif line.strip():
            yield line.strip()
