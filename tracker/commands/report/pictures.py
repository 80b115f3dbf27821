"""Pictures of a result: the best crop of each identity, and the paths of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tracker.commands.report.table import TrackTable
from tracker.errors import OutputError, SourceError
from tracker.runtime.signals import check
from tracker.sinks.crops import CropSink
from tracker.sinks.drawing import identity_colour
from tracker.sources.open import open_source
from tracker.sources.prefetch import Prefetch
from tracker.types import ImageArray

CROP_HEIGHT_PX = 160
TRAILS_WIDTH_PX = 1280
JPEG_QUALITY = 85
DIMMED = 0.55  # of the picture under the trails
MAX_STEP = 0.25  # of the picture's width; after a longer step (a lost person found again) a new line starts


@dataclass(slots=True)
class Pictures:
    """JPEG files, as bytes."""

    crops: dict[int, bytes] = field(default_factory=dict)  # identity -> its best crop
    trails: bytes | None = None
    fps: float = 0.0
    n_frames: int = 0  # frames read: up to the last one that has tracks
    size: tuple[int, int] = (0, 0)  # width, height


def take_pictures(video: str, table: TrackTable, fps: float | None = None) -> Pictures:
    """Read the video once. Raises SourceError, also if the result has frames after the end of the video.

    Raises OutputError where there is no folder for temporary files.
    """
    pictures = Pictures()
    tracks_of = table.of_frames()
    last = int(table.frame.max(initial=-1))
    middle: ImageArray | None = None
    with _scratch() as folder, open_source(video, fps=fps) as source:
        pictures.fps, pictures.size = source.fps, (source.width, source.height)
        with CropSink(Path(folder) / "crops", per_identity=1) as crops, Prefetch(source) as frames:
            for frame in frames:
                pictures.n_frames = frame.index + 1
                if frame.image is not None and (middle is None or frame.index == last // 2):
                    middle = frame.image
                if frame.image is not None and frame.index in tracks_of:
                    crops.write(frame, tracks_of[frame.index])
                if frame.index >= last:
                    break
        if pictures.n_frames <= last:
            raise SourceError(
                f"{video}: has {pictures.n_frames} frames, the tracks reach frame {last + 1}; do they belong together?"
            )
        for path in sorted((Path(folder) / "crops").glob("*.jpg")):
            check()
            pictures.crops[int(path.name.split("_")[0])] = _thumbnail(path)
    if middle is not None:
        pictures.trails = _encoded(trails(middle, table))
    return pictures


def _scratch() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise OutputError(
            f"the pictures of a report need a folder for temporary files: {error.strerror}; set TMPDIR to one"
        ) from error


def trails(image: ImageArray, table: TrackTable) -> ImageArray:
    """The picture (H, W, 3) BGR, dimmed, with a line through the foot points of each identity, in its colour."""
    import cv2

    scale = min(1.0, TRAILS_WIDTH_PX / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = (grey * DIMMED).astype(np.uint8)
    thickness = max(2, round(size[1] / 400))
    feet = np.column_stack([table.boxes[:, [0, 2]].mean(axis=1), table.boxes[:, 3]]) * scale
    for identity in np.unique(table.id).tolist():
        points = np.clip(np.nan_to_num(feet[table.id == identity]), -20000, 20000)
        far = np.flatnonzero(np.abs(np.diff(points, axis=0)).max(axis=1, initial=0.0) > MAX_STEP * size[0]) + 1
        for piece in np.split(points, far):
            line = np.round(piece).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(picture, [line], False, identity_colour(identity), thickness, cv2.LINE_AA)
    return np.asarray(picture)


def _thumbnail(path: Path) -> bytes:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None  # written a moment ago
    scale = min(1.0, CROP_HEIGHT_PX / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return _encoded(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))


def _encoded(image: ImageArray) -> bytes:
    import cv2

    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data.tobytes())
