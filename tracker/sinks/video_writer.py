"""Whether a video file is finished, by the outermost parts of its container: they must end where the file ends.

Whoever writes a film notes sizes at its start when it is finished, whether or not the disk had room for the rest, and
no library says so. AVI: RIFF chunks (AVI RIFF File Reference, Microsoft). MP4 and MOV: boxes (ISO/IEC 14496-12, 4.2).
Matroska: EBML elements (RFC 8794, 4 and 6).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MATROSKA_SIZES = 8  # bytes of the longest EBML number


def is_finished(path: Path) -> bool:
    """Raises OSError where the file cannot be read."""
    ending = path.suffix.lower()
    part_of = _riff if ending == ".avi" else _ebml if ending == ".mkv" else _box
    size, at, names = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            name, length = part_of(file, size - at)
            if length <= 0:
                return False
            names.add(name)
            at += length
    needed = {_riff: b"RIFF", _ebml: b"\x18\x53\x80\x67", _box: b"moov"}[part_of]
    return at == size and needed in names


def _riff(file: BinaryIO, left: int) -> tuple[bytes, int]:
    """Name and length in bytes of the part that begins here."""
    name, length = file.read(4), int.from_bytes(file.read(4), "little")
    return name, 8 + length + length % 2


def _box(file: BinaryIO, left: int) -> tuple[bytes, int]:
    length, name = int.from_bytes(file.read(4), "big"), file.read(4)
    if length == 1:
        return name, int.from_bytes(file.read(8), "big")
    return name, length or left


def _ebml(file: BinaryIO, left: int) -> tuple[bytes, int]:
    start = file.tell()
    name = _vint(file)
    number = _vint(file)
    if not name or not number:
        return b"", 0
    value = int.from_bytes(number, "big") & ((1 << 7 * len(number)) - 1)
    return name, file.tell() - start + value


def _vint(file: BinaryIO) -> bytes:
    """An EBML number, its marker included: leading zeros of the first byte tell how many bytes follow."""
    first = file.read(1)
    more = _MATROSKA_SIZES - first[0].bit_length() if first and first[0] else -1
    found = first + file.read(max(0, more))
    return found if more >= 0 and len(found) == more + 1 else b""
