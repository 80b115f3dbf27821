"""What the container of a video file says of its size and duration, and OpenCV does not: MP4/MOV, AVI, Matroska."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_ISO = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof")  # what such a file begins with
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # of Matroska
_LONGEST = 1 << 26  # bytes of a table of contents


@dataclass(frozen=True, slots=True)
class Container:
    """ends_early: the file is shorter than its parts say, so that its end is missing.

    shown: the share of its frames that are to be shown; an edit list hides the others.
    """

    ends_early: bool = False
    shown: float = 1.0


def read_container(path: Path) -> Container:
    """Reads a few headers. What is damaged or not understood counts as whole. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[4:8] in _ISO:
            parts = list(_iso_boxes(file, 0, size))
            movie = next(((start, end) for kind, start, end in parts if kind == b"moov" and end <= size), None)
            shown = _shown(file, *movie) if movie and movie[1] - movie[0] <= _LONGEST else 1.0
            return Container(bool(parts) and parts[-1][2] > size, shown)
        if head[:4] == b"RIFF":
            return Container(_riff_end(file, size) > size)
        return Container(_matroska_end(file) > size)


def _iso_boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the content of each box between two places (ISO 14496-12, 4.2)."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        length, begin = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, begin = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:  # up to the end
            length = end - start
        if length < begin or not head[4:8].isascii():
            return
        yield head[4:8], start + begin, start + length
        start += length


def _shown(file: BinaryIO, start: int, end: int) -> float:
    """Duration of the video track as it is to be shown, as a share of the duration of its samples; at most 1."""
    boxes = {kind: (begin, stop) for kind, begin, stop in _iso_boxes(file, start, end) if kind != b"trak"}
    scale = _numbers(file, boxes, b"mvhd")[0]
    for kind, begin, stop in _iso_boxes(file, start, end):
        if kind != b"trak":
            continue
        track = {name: (a, b) for name, a, b in _iso_boxes(file, begin, stop)}
        media = {name: (a, b) for name, a, b in _iso_boxes(file, *track.get(b"mdia", (0, 0)))}
        file.seek(media.get(b"hdlr", (0, 0))[0] + 8)
        if file.read(4) == b"vide":
            (_, shown), (rate, all_of_it) = _numbers(file, track, b"tkhd"), _numbers(file, media, b"mdhd")
            return min(1.0, shown * rate / (all_of_it * scale)) if shown and all_of_it and scale else 1.0
    return 1.0


def _numbers(file: BinaryIO, boxes: dict[bytes, tuple[int, int]], kind: bytes) -> tuple[int, int]:
    """Time scale (of a track header: its number) and duration in a header box; 0, 0 if it is not there."""
    if kind not in boxes:
        return 0, 0
    file.seek(boxes[kind][0])
    head = file.read(40)
    at, width = (20, 8) if head[:1] == b"\1" else (12, 4)  # behind version, flags and the times of creation and change
    duration = at + 4 + (4 if kind == b"tkhd" else 0)
    return int.from_bytes(head[at : at + 4], "big"), int.from_bytes(head[duration : duration + width], "big")


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last list of an AVI file ends; a long one has several."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF" or head[4:8] in (b"", b"\0\0\0\0", b"\xff\xff\xff\xff"):  # not finished, or no list
            break
        end += 8 + int.from_bytes(head[4:8], "little")
        end += end % 2
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska file ends; 0 if it does not say, or is no such file."""
    place = 0
    for kind in (_EBML, _SEGMENT):
        file.seek(place)
        head = file.read(12)
        if int.from_bytes(head[:4], "big") != kind or len(head) < 12 or not head[4]:
            return 0
        n_bytes = 9 - head[4].bit_length()  # EBML: the first bit that is set says how many
        length = int.from_bytes(head[4 : 4 + n_bytes], "big") - (1 << 7 * n_bytes)
        if length == (1 << 7 * n_bytes) - 1:  # unknown
            return 0
        place += 4 + n_bytes + length
    return place
