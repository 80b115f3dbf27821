"""A folder or a glob of images as a film."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, Recorded, quiet_opencv
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame, ImageArray

MOST_PX = 1 << 28  # of a PNG or JPEG: 16384 x 16384 takes 0.8 GB, and OpenCV as much again to decode a PNG
_PNG = b"\x89PNG\r\n\x1a\n"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class ImageFolder(Recorded):
    """Images in natural order of their names (img2 before img10), all of one size.

    spec: a folder, one image, or a glob such as `shots/*.png`. fps: their frame rate; None: unknown, then `fps` is 0
    and the time of frames counts by `default_fps`. span: the frames wanted.
    """

    def __init__(
        self,
        spec: str | Path,
        *,
        fps: float | None = None,
        default_fps: float = DEFAULT_FPS,
        span: Span = WHOLE,
    ) -> None:
        super().__init__(span)
        self.paths = find_images(spec)
        self.name = Path(spec).name or str(spec)
        self.fps = span.rate(fps or 0.0)
        self._frame_s = 1 / (fps or default_fps)
        self.n_frames: int | None = span.count(len(self.paths), fps or default_fps)
        self._first: ImageArray | None = read_image(self.paths[0])
        self.height, self.width = self._first.shape[:2]

    @property
    def files(self) -> list[Path]:
        return self.paths

    def __iter__(self) -> Iterator[Frame]:
        picker = Picker(self.span)
        for index, path in enumerate(self.paths):
            first, self._first = self._first, None
            if not self._chosen(picker, index, index * self._frame_s):
                continue
            image = read_image(path) if first is None or index else first
            check_size(image, path, self.width, self.height, f"{self.paths[0].name} is")
            yield Frame(index, index * self._frame_s, image, self.width, self.height)
        self._check_found(picker, len(self.paths), len(self.paths) * self._frame_s)


def find_images(spec: str | Path) -> list[Path]:
    """Image files of a folder or glob, in natural order. Raises SourceError if there are none."""
    folder = Path(spec)
    if folder.is_dir():
        found: Sequence[Path] = list(folder.iterdir())
    elif folder.is_file():
        found = [folder]
    else:
        found = [Path(name) for name in glob.glob(str(spec))]
    # Names with a leading dot are what file managers and macOS leave behind.
    images = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()]
    if not images:
        what = "the folder holds no images" if folder.is_dir() else "no image matches"
        raise SourceError(f"{spec}: {what} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(images, key=lambda path: natural_key(str(path)))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which numbers inside a name count as numbers: img2 < img10."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def read_image(path: Path) -> ImageArray:
    """One image as (H, W, 3) uint8 BGR. Raises SourceError for what is missing, no image, or cut off."""
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    # Decoders fill the rest of a cut-off picture with grey and call it a success.
    if _cut_off(data):
        raise SourceError(f"{path}: the image is cut off (the file ends before the picture does)")
    width, height = _size_said(data)
    if width * height > MOST_PX:  # a small file may say so, and fill the memory
        raise SourceError(f"{path}: the image is {width}x{height}; at most {MOST_PX / 1e6:.0f} million pixels are read")
    with quiet_opencv():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except cv2.error:
            image = None
    if image is None:
        raise SourceError(f"{path}: not an image that OpenCV can read ({len(data)} bytes)")
    return cast(ImageArray, image)


def check_size(image: ImageArray, path: Path, width: int, height: int, because: str) -> None:
    """Raise SourceError unless the image is width x height, as `because` (who says so) demands."""
    if image.shape[:2] != (height, width):
        raise SourceError(
            f"{path}: the image is {image.shape[1]}x{image.shape[0]}, but {because} {width}x{height}; "
            "all frames must have one size"
        )


def _cut_off(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8"):  # JPEG: the end marker must follow the start of the first scan
        return data.rfind(b"\xff\xd9") < _first_scan(data)
    if data.startswith(_PNG):  # also where a part claims more than there is: OpenCV would take memory for it first
        return all(name != b"IEND" for name, _ in _png_parts(data))
    return False


def _first_scan(data: bytes) -> int:
    """Position of the first start-of-scan marker of a JPEG; an embedded thumbnail lies in a segment before it."""
    return next((position for marker, position in _segments(data) if marker == 0xDA), len(data))


def _size_said(data: bytes) -> tuple[int, int]:
    """(width, height) by the header of a PNG or a JPEG; (0, 0): of another kind, or it does not say."""
    if data.startswith(_PNG):
        heads = (data[at : at + 8] for name, at in _png_parts(data) if name == b"IHDR")
        sizes = [(int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")) for head in heads]
        return max(sizes, key=math.prod, default=(0, 0))
    if data.startswith(b"\xff\xd8"):
        for marker, at in _segments(data):
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
                return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
    return 0, 0


def _png_parts(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name of each whole part of a PNG, and where its content begins."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], at + 8
        at += 12 + length


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of the segments of a JPEG, up to the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        yield marker, position
        if marker == 0xDA:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
