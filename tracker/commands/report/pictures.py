"""Pictures of a result: the best crop of each identity, the paths of all, and where people stood."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tracker.commands.report.table import TrackTable
from tracker.config import TrackerConfig
from tracker.errors import OutputError, SourceError
from tracker.runtime.signals import check
from tracker.sinks.blur import blurred_frames
from tracker.sinks.crops import CropSink
from tracker.sinks.heatmap import HeatmapSink
from tracker.sources.open import open_source
from tracker.sources.prefetch import Prefetch
from tracker.types import Frame, ImageArray, Tracks

CROP_HEIGHT_PX = 160
TRAILS_WIDTH_PX = 1280
JPEG_QUALITY = 85
DIMMED = 0.55  # of the picture under the trails
MAX_STEP = 0.25  # of the picture's width; after a longer step (a lost person found again) a new line starts


@dataclass(slots=True)
class Pictures:
    """JPEG files, as bytes."""

    crops: dict[int, bytes] = field(default_factory=dict)  # identity -> its best crop
    still: bytes | None = None  # frame from the middle, dimmed, under the trails
    heatmap: bytes | None = None
    fps: float = 0.0
    n_frames: int = 0  # frames read: up to the last one that has tracks
    size: tuple[int, int] = (0, 0)  # width, height


def take_pictures(video: str, table: TrackTable, fps: float | None = None, blur: str | None = None) -> Pictures:
    """Read the video once. blur: hide people or heads, where the table has them, see `blurred_frames`.

    Raises SourceError, also if the result has frames after the end of the video, and OutputError where there is no
    folder for temporary files.
    """
    pictures = Pictures()
    tracks_of = table.of_frames()
    last = int(table.frame.max(initial=-1))
    steps = np.diff(np.unique(table.frame))
    step = int(np.median(steps)) if len(steps) else 1  # of `track --stride`: frames between have no tracks
    middle: ImageArray | None = None
    with _scratch() as folder, open_source(video, fps=fps) as source:
        pictures.fps, pictures.size = source.fps, (source.width, source.height)
        heatmap = Path(folder) / "heatmap.png"
        with (
            CropSink(Path(folder) / "crops", per_identity=1) as crops,
            HeatmapSink(heatmap, step / (source.fps or TrackerConfig().default_fps)) as heat,
            Prefetch(source) as frames,
        ):
            # Of boxes in a malformed table, however large, the heat map takes the height for that of a person.
            farthest = 2 * max(source.width, source.height)
            tracked: Iterator[tuple[Frame, Tracks]] = (
                (frame, tracks_of.get(frame.index, Tracks())) for frame in frames
            )
            if blur is not None:
                tracked = blurred_frames(tracked, lambda _, tracks: tracks.xyxy, blur)
            for frame, tracks in tracked:
                pictures.n_frames = frame.index + 1
                if frame.image is not None and (middle is None or frame.index == last // 2):
                    middle = frame.image
                if frame.image is not None and frame.index in tracks_of:
                    crops.write(frame, tracks)
                if frame.index in tracks_of or (frame.index - last) % step == 0:
                    heat.write(frame, replace(tracks, xyxy=np.clip(tracks.xyxy, -farthest, farthest)))
                if frame.index >= last:
                    break
        if pictures.n_frames <= last:
            raise SourceError(
                f"{video}: has {pictures.n_frames} frames, the tracks reach frame {last + 1}; do they belong together?"
            )
        for path in sorted((Path(folder) / "crops").glob("*.jpg")):
            check()
            pictures.crops[int(path.name.split("_")[0])] = _reduced(_read(path), height=CROP_HEIGHT_PX)
        if middle is not None:
            pictures.still = _reduced(_dimmed(middle), width=TRAILS_WIDTH_PX)
            pictures.heatmap = _reduced(_read(heatmap), width=TRAILS_WIDTH_PX)
    return pictures


def _scratch() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise OutputError(
            f"the pictures of a report need a folder for temporary files: {error.strerror}; set TMPDIR to one"
        ) from error


def trails(table: TrackTable, width: int) -> dict[int, str]:
    """The path through the foot points of each identity, as the `d` of an SVG path in pixels of the source.

    width: of the source, in pixels; points are left out where that moves a line by less than a pixel of the page.
    """
    import cv2

    paths: dict[int, str] = {}
    # Half a pixel: the last pass of approxPolyDP may move the line as far again.
    tolerance = 0.5 * width / TRAILS_WIDTH_PX
    feet = np.column_stack([table.boxes[:, [0, 2]].mean(axis=1), table.boxes[:, 3]])
    for identity in np.unique(table.id).tolist():
        points = feet[table.id == identity].astype(np.float32)
        far = np.flatnonzero(np.abs(np.diff(points, axis=0)).max(axis=1, initial=0.0) > MAX_STEP * width) + 1
        pieces = [cv2.approxPolyDP(piece, tolerance, False) for piece in np.split(points, far)]
        # h0: a piece of a single point is a dot.
        paths[identity] = "".join(
            "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece.reshape(-1, 2).tolist()) + "h0" for piece in pieces
        )
    return paths


def _dimmed(image: ImageArray) -> ImageArray:
    """Grey and dark, so that colours stand out: (H, W, 3) BGR."""
    import cv2

    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return (grey * DIMMED).astype(np.uint8)


def _read(path: Path) -> ImageArray:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None  # written a moment ago
    return np.asarray(image, np.uint8)


def _reduced(image: ImageArray, *, width: float = math.inf, height: float = math.inf) -> bytes:
    """JPEG of the picture, no wider and no higher than that."""
    import cv2

    scale = min(1.0, width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(data.tobytes())
