"""A folder or a glob of images as a video."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, Recorded, SourceKind, SourceRequest, quiet_opencv
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame, ImageArray

MAX_FILE_BYTES = 1 << 28  # of one image; OpenCV itself refuses more than 2^30 pixels
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class ImageFolder(Recorded):
    """Images in natural order of their names (img2 before img10), all of one size.

    spec: a folder, one image, or a glob such as `shots/*.png`. fps: their frame rate; None: unknown, then `fps` is 0
    and the times of frames follow from `default_fps`. span: which frames to read.
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
    def files(self) -> Sequence[Path]:
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
    """One image as (H, W, 3) uint8 BGR. Raises SourceError if it is missing, too large, truncated or no image."""
    import cv2

    try:
        n_bytes = path.stat().st_size
        if n_bytes > MAX_FILE_BYTES:
            raise SourceError(f"{path}: the image file has {n_bytes} bytes; at most {MAX_FILE_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if _truncated(data):
        raise SourceError(f"{path}: the image is cut off (the file ends before the picture does)")
    with quiet_opencv():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except (cv2.error, MemoryError):
            image = None
    if image is None:
        raise SourceError(f"{path}: not an image that OpenCV can read ({len(data)} bytes)")
    return cast(ImageArray, image)


def _truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. Decoders fill the missing part with grey and report success."""
    if data.startswith(b"\xff\xd8"):  # JPEG: the end marker follows the last start of scan
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def check_size(image: ImageArray, path: Path, width: int, height: int, because: str) -> None:
    """Raise SourceError unless the image is width x height. because: the reason, such as "seqinfo.ini says"."""
    if image.shape[:2] != (height, width):
        raise SourceError(
            f"{path}: the image is {image.shape[1]}x{image.shape[0]}, but {because} {width}x{height}; "
            "all frames must have one size"
        )


def _accepts(request: SourceRequest) -> bool:
    if request.exists:
        return request.path.is_dir() or request.path.suffix.lower() in IMAGE_SUFFIXES
    return any(character in request.spec for character in "*?[")


def _open(request: SourceRequest) -> ImageFolder:
    return ImageFolder(request.path, fps=request.fps, default_fps=request.default_fps, span=request.span)


KIND = SourceKind("a folder or glob of images", _accepts, _open)
