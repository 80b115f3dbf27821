"""A MOTChallenge sequence folder: seqinfo.ini, img1/, det/det.txt."""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker.errors import SourceError
from tracker.runtime.safe_paths import leaves_folder
from tracker.sources.base import Recorded, SourceKind, SourceRequest
from tracker.sources.images import ImageReader, check_size
from tracker.sources.span import WHOLE, Picker, Span
from tracker.types import Frame

# Allowed values; anything else is a mistake that would fill the memory or never end.
RANGES = {"frameRate": (1e-3, 1e4), "seqLength": (1, 10_000_000), "imWidth": (1, 65_535), "imHeight": (1, 65_535)}
INFO_NAME = "seqinfo.ini"
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class SequenceInfo:
    """The table [Sequence] of seqinfo.ini."""

    name: str
    image_dir: str
    fps: float
    n_frames: int
    width: int
    height: int
    image_suffix: str


class MotSequence(Recorded):
    """Frames of a sequence folder. Frame.index is the MOT frame number minus 1.

    Without the image folder `image` is None: enough to track given detections by motion alone.
    fps: instead of frameRate; None: frameRate. span: which frames to read. Images that cannot be read are skipped.
    """

    def __init__(self, folder: str | Path, *, fps: float | None = None, span: Span = WHOLE) -> None:
        super().__init__(span)
        self.folder = Path(folder)
        self.info = read_seqinfo(self.folder / INFO_NAME)
        self.name = self.sequence_name = self.info.name
        self._fps = fps or self.info.fps
        self.fps = span.rate(self._fps)
        self.n_frames: int | None = span.count(self.info.n_frames, self._fps)
        self.width, self.height = self.info.width, self.info.height
        detections = self.folder / "det" / "det.txt"
        self.detections_path = detections if detections.is_file() else None
        self._images = self._find_images()
        self.has_images = bool(self._images)
        self._read = ImageReader(self._images)

    @property
    def files(self) -> Sequence[Path]:
        return [self.folder / INFO_NAME, *self._images]

    def __iter__(self) -> Iterator[Frame]:
        picker = Picker(self.span)
        for index in range(self.info.n_frames):
            if not self._chosen(picker, index, index / self._fps):
                continue
            image = None
            if self._images:
                try:
                    image = self._read(self._images[index])
                except SourceError as error:
                    self._skip_damaged(index, why=f"cannot be read ({error})")
                    continue
                check_size(image, self._images[index], self.width, self.height, "seqinfo.ini says")
            yield Frame(index, index / self._fps, image, self.width, self.height)
        if self._images and self.n_damaged == self.info.n_frames:
            raise SourceError(f"{self.folder / self.info.image_dir}: none of the {self.n_damaged} images can be read")
        self._report_damaged(self.info.n_frames)
        self._check_found(picker, self.info.n_frames, self.info.n_frames / self._fps)

    def _find_images(self) -> list[Path]:
        """The image of every frame, in order; [] if there is no image folder."""
        folder = self.folder / self.info.image_dir
        suffix = self.info.image_suffix
        try:
            if not folder.is_dir():
                return []
            numbered = {int(p.stem): p for p in folder.iterdir() if p.suffix == suffix and _NUMBER.fullmatch(p.stem)}
        except OSError as error:
            raise SourceError(f"{folder}: cannot be read: {error.strerror}") from error
        for number in range(1, self.info.n_frames + 1):
            if number not in numbered:
                raise SourceError(
                    f"{folder}: no image {number:06d}{suffix}, although seqinfo.ini says seqLength = "
                    f"{self.info.n_frames} ({len(numbered)} numbered {suffix} images are there)"
                )
        return [numbered[number] for number in range(1, self.info.n_frames + 1)]


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
        fps=_positive(table, "frameRate", path, whole=False),
        n_frames=int(_positive(table, "seqLength", path)),
        width=int(_positive(table, "imWidth", path)),
        height=int(_positive(table, "imHeight", path)),
        image_suffix=table.get("imExt", ".jpg").strip() or ".jpg",
    )


def _positive(table: configparser.SectionProxy, key: str, path: Path, *, whole: bool = True) -> float:
    text = table.get(key)
    if text is None:
        raise SourceError(f"{path}: the key {key} is missing in [Sequence]")
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
