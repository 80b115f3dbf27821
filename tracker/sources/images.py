"""A folder or a glob of images as a video."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tracker.errors import SourceError
from tracker.sources.base import DEFAULT_FPS, Recorded, SourceKind, SourceRequest, quiet_opencv
from tracker.sources.span import WHOLE, Picker, Span
from tracker.sources.video import VIDEO_SUFFIXES
from tracker.types import Frame, ImageArray

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 28  # of one image; OpenCV itself refuses more than 2^30 pixels
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
# To choose what becomes black and white in images of 16 bits: pixels of so many images and rows of each, spread evenly,
# and the percentages of their values below and above which nothing is told apart.
SAMPLED_IMAGES, SAMPLED_ROWS = 16, 256
OUTLIERS = (0.1, 99.9)
WHITE = (1 << 16) - 1


class ImageFolder(Recorded):
    """Images in natural order of their names (img2 before img10), all of one size.

    spec: a folder, one image, or a glob such as `shots/*.png`. fps: their frame rate; None: unknown, then `fps` is 0
    and the times of frames follow from `default_fps`. span: which frames to read. Images that cannot be read are
    skipped, as long as one can.
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
        self._read = ImageReader(self.paths)
        self._example, image = self._read.first()
        self.height, self.width = image.shape[:2]

    @property
    def files(self) -> Sequence[Path]:
        return self.paths

    def __iter__(self) -> Iterator[Frame]:
        picker = Picker(self.span)
        for index, path in enumerate(self.paths):
            if not self._chosen(picker, index, index * self._frame_s):
                continue
            try:
                image = self._read(path)
            except SourceError as error:
                self._skip_damaged(index, why=f"cannot be read ({error})")
                continue
            check_size(image, path, self.width, self.height, f"{self._example.name} is")
            yield Frame(index, index * self._frame_s, image, self.width, self.height)
        self._report_damaged(len(self.paths))
        self._check_found(picker, len(self.paths), len(self.paths) * self._frame_s)


class ImageReader:
    """Reads the images of one source as (H, W, 3) uint8 BGR.

    Images of 16 bits often use a small part of that range, such as the 10 to 14 bits of a sensor, and would be black.
    The values that are in a sample of all images become 0 to 255, the same in each, so that the brightness does not
    flicker.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._table: ImageArray | None = None  # of every value of 16 bits; None: no image of 16 bits was read yet

    def __call__(self, path: Path) -> ImageArray:
        """One image. Raises SourceError if it is missing, too large, truncated or no image."""
        image = read_image(path)
        if image.dtype == np.uint8:
            return cast(ImageArray, image)
        if self._table is None:
            black, white = self._levels()
            log.info("%s: 16 bits a pixel; the values %d to %d become black to white", path, black, white)
            values = (np.arange(1 << 16) - black) * (255 / (white - black))
            self._table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return self._table[image]

    def first(self) -> tuple[Path, ImageArray]:
        """The first image that can be read, and its path. Raises the SourceError of the first one if none can."""
        errors: list[SourceError] = []
        for path in self._paths:
            try:
                return path, self(path)
            except SourceError as error:
                errors.append(error)
        raise errors[0]

    def _levels(self) -> tuple[int, int]:
        """The values that become black and white: nearly all lie between, unless they use most of 16 bits anyway."""
        samples = []
        for place in np.unique(np.linspace(0, len(self._paths) - 1, SAMPLED_IMAGES).astype(int)):
            with suppress(SourceError):
                image = read_image(self._paths[place])
                if image.dtype == np.uint16:
                    step = max(1, min(image.shape[:2]) // SAMPLED_ROWS)
                    samples.append(image[::step, ::step].ravel())
        black, white = np.percentile(np.concatenate(samples), OUTLIERS) if samples else (0, WHITE)
        return (int(black), max(int(white), int(black) + 1)) if white - black < WHITE / 2 else (0, WHITE)


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
        n_videos = sum(path.suffix.lower() in VIDEO_SUFFIXES for path in found)
        if n_videos:
            videos = "1 video" if n_videos == 1 else f"{n_videos} videos"
            raise SourceError(f"{spec}: {videos} and no images; to track videos: track-many {spec} --out FOLDER")
        what = "the folder holds no images" if folder.is_dir() else "no image matches"
        raise SourceError(f"{spec}: {what} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(images, key=lambda path: natural_key(str(path)))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key in which numbers inside a name count as numbers: img2 < img10."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def read_image(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One image as (H, W, 3) BGR, uint8 or, of more than 8 bits, uint16.

    Raises SourceError if it is missing, too large, truncated or no image.
    """
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
            how = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
            image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
        except (cv2.error, MemoryError):
            image = None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise SourceError(f"{path}: not an image of 8 or 16 bits that OpenCV can read ({len(data)} bytes)")
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
