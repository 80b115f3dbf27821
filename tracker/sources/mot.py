"""A MOTChallenge sequence folder: seqinfo.ini, img1/, det/det.txt."""

from __future__ import annotations

import configparser
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tracker.errors import SourceError
from tracker.runtime.safe_paths import leaves_folder
from tracker.sources.base import Recorded, SourceKind, SourceRequest
from tracker.sources.images import IMAGE_SUFFIXES, ImageReader, check_size
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame

log = logging.getLogger(__name__)
_Number = TypeVar("_Number", int, float)
# Allowed values; anything else is a mistake that would fill the memory or never end.
RANGES = {"frameRate": (1e-3, 1e4), "seqLength": (1, 10_000_000), "imWidth": (1, 65_535), "imHeight": (1, 65_535)}
INFO_NAME = "seqinfo.ini"
_NO_IMAGES = "there are no images to tell it"
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class SequenceInfo:
    """The table [Sequence] of seqinfo.ini; None for numbers that it leaves out."""

    name: str
    image_dir: str
    fps: float | None
    n_frames: int | None
    width: int | None
    height: int | None
    image_suffix: str  # lower case, with its dot


class MotSequence(Recorded):
    """Frames of a sequence folder. Frame.index is the MOT frame number minus 1.

    Without the image folder `image` is None: enough to track given detections by motion alone. What seqinfo.ini leaves
    out, the images tell; where it contradicts them, they are right, and a warning says so. Frames whose image is
    missing or cannot be read are skipped. fps: instead of frameRate; None: frameRate. span: which frames to read.
    """

    def __init__(self, folder: str | Path, *, fps: float | None = None, span: Span = WHOLE) -> None:
        super().__init__(span)
        self.folder = Path(folder)
        self.info = read_seqinfo(self.folder / INFO_NAME)
        self.name = self.sequence_name = self.info.name
        self._images = self._find_images()
        self.has_images = bool(self._images)
        self._read = ImageReader(list(self._images.values()))
        self._fps = fps or self._known("frameRate", self.info.fps, "give --fps")
        n_frames = max(self._images, default=0) or self._known("seqLength", self.info.n_frames, _NO_IMAGES)
        self._n_frames = n_frames
        self.fps = span.rate(self._fps)
        n_missing = n_frames - len(self._images) if self._images and span.whole else 0
        self.n_frames: int | None = span.count(n_frames, self._fps) - n_missing
        width, height = self.info.width, self.info.height
        if self._images and not (width and height):
            height, width = self._read.first()[1].shape[:2]
        self.width = self._known("imWidth", width, _NO_IMAGES)
        self.height = self._known("imHeight", height, _NO_IMAGES)
        detections = self.folder / "det" / "det.txt"
        self.detections_path = detections if detections.is_file() else None

    @property
    def files(self) -> Sequence[Path]:
        return [self.folder / INFO_NAME, *self._images.values()]

    def __iter__(self) -> Iterator[Frame]:
        picker = Picker(self.span)
        for index in range(self._n_frames):
            path = self._images.get(index + 1)
            if not self._chosen(picker, index, index / self._fps) or (self._images and path is None):
                continue
            image = None
            if path is not None:
                try:
                    image = self._read(path)
                except SourceError as error:
                    self._skip_damaged(index, why=f"cannot be read ({error})")
                    continue
                check_size(image, path, self.width, self.height, "seqinfo.ini says")
            yield Frame(index, index / self._fps, image, self.width, self.height)
        if self._images and self.n_damaged == len(self._images):
            raise SourceError(f"{self.folder / self.info.image_dir}: none of the {self.n_damaged} images can be read")
        self._report_damaged(self._n_frames)
        self._check_found(picker, self._n_frames, self._n_frames / self._fps)

    def _known(self, key: str, value: _Number | None, otherwise: str) -> _Number:
        if value is None:
            raise SourceError(f"{self.folder / INFO_NAME}: the key {key} is missing in [Sequence]; {otherwise}")
        return value

    def _find_images(self) -> dict[int, Path]:
        """Frame number -> image, ascending; {} if there is no image folder. Warns where seqinfo.ini says otherwise."""
        folder, suffix = self.folder / self.info.image_dir, self.info.image_suffix
        try:
            if not folder.is_dir():
                return {}
            numbered = [p for p in sorted(folder.iterdir()) if _NUMBER.fullmatch(p.stem)]
        except OSError as error:
            raise SourceError(f"{folder}: cannot be read: {error.strerror}") from error
        named = [p for p in numbered if p.suffix.lower() == suffix]
        named = named or [p for p in numbered if p.suffix.lower() in IMAGE_SUFFIXES]
        found = {int(path.stem): path for path in sorted(named, key=lambda path: int(path.stem))}
        if not found:
            raise SourceError(f"{folder}: no images with a number as name, such as 000001{suffix}")
        first, last, said = min(found), max(found), self.info.n_frames
        if last > RANGES["seqLength"][1]:
            raise SourceError(f"{found[last]}: the numbers of images are those of frames, {last} is too large")
        if first == 0 or (first > 1 and said == len(found) == last - first + 1):
            log.warning("%s: the images count from %d, so frame 1 is %s", self.folder, first, found[first].name)
            found = {number - first + 1: path for number, path in found.items()}
            last = max(found)
        if said not in (None, last):
            log.warning(
                "%s says seqLength = %d, but the images go up to frame %d; all %d images are used",
                self.folder / INFO_NAME, said, last, len(found),
            )  # fmt: skip
        if len(found) < last:
            missing = next(number for number in range(1, last + 1) if number not in found)
            log.warning(
                "%s: %d of %d images are missing, the first is that of frame %d; these frames are skipped",
                folder, last - len(found), last, missing,
            )  # fmt: skip
        return found


def read_seqinfo(path: Path) -> SequenceInfo:
    """Parse seqinfo.ini. Raises SourceError that names the key and the file."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=path.name)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not an ini file: {' '.join(str(error).split())}") from error
    if not parser.has_section("Sequence"):
        raise SourceError(f"{path}: the section [Sequence] is missing")
    table = parser["Sequence"]
    image_dir = table.get("imDir", "img1").strip() or "img1"
    if leaves_folder(image_dir):
        raise SourceError(f"{path}: imDir must be a folder inside the sequence's, got {image_dir!r}")
    return SequenceInfo(
        name=table.get("name", "").strip() or path.resolve().parent.name,
        image_dir=image_dir,
        fps=_positive(table, "frameRate", path),
        n_frames=_whole(table, "seqLength", path),
        width=_whole(table, "imWidth", path),
        height=_whole(table, "imHeight", path),
        image_suffix="." + (table.get("imExt", "").strip().lower().lstrip(".") or "jpg"),
    )


def _whole(table: configparser.SectionProxy, key: str, path: Path) -> int | None:
    value = _positive(table, key, path, whole=True)
    return None if value is None else int(value)


def _positive(table: configparser.SectionProxy, key: str, path: Path, *, whole: bool = False) -> float | None:
    text = table.get(key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0 or (whole and value != int(value)):
        raise SourceError(f"{path}: {key} must be a positive {'whole ' if whole else ''}number, got {text!r}")
    low, high = RANGES[key]
    if not low <= value <= high:
        raise SourceError(f"{path}: {key} must lie between {low:g} and {high:g}, got {text!r}")
    return value


def _accepts(request: SourceRequest) -> bool:
    path = request.path
    return request.exists and (path.name == INFO_NAME or (path / INFO_NAME).is_file())


def _open(request: SourceRequest) -> MotSequence:
    path = request.path
    return MotSequence(path.parent if path.name == INFO_NAME else path, fps=request.fps, span=request.span)


KIND = SourceKind("a MOT sequence folder", _accepts, _open)
