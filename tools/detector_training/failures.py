"""What a detector gets wrong, as pictures: those held out where it misses most, for small people, crowds and the dark.

Green: found. Red: missed. Blue: no person there, or a second box on one. Pictures of incompletely labelled sources
are left out: a box on an unlabelled person would look like a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from reid_training.errors import ConfigError
from reid_training.runs import replace_file
from tools.detector_training.ap import FloatArray, match, overlaps
from tools.detector_training.config import SourceConfig
from tools.detector_training.evaluate import Detector
from tools.detector_training.labels import Picture
from tools.detector_training.scenes import ByteArray, read_image, read_sources

KINDS = ("small people", "crowds", "dark")
SMALL = 0.12  # of the picture's longer side: median height of its people
CROWD = 8  # people
DARK = 60.0  # mean grey value, of 255
ALIKE = 12.0  # mean difference of two 8x8 thumbnails, of 255
TILE_PX = (320, 240)  # width, height
GREEN, RED, BLUE = (60, 200, 60), (40, 40, 230), (230, 140, 30)  # BGR


@dataclass(frozen=True, slots=True)
class Case:
    """A picture with what was found in it at one score."""

    name: str  # of the file
    image: ByteArray
    found: FloatArray  # (A, 4) people, found
    missed: FloatArray  # (B, 4) people, not found
    false: FloatArray  # (C, 4) boxes on no person

    @property
    def wrong(self) -> float:
        """Share of people and boxes that are mistakes."""
        mistakes = len(self.missed) + len(self.false)
        return mistakes / max(1, mistakes + len(self.found))


def kinds_of(image: ByteArray, people: FloatArray) -> list[str]:
    """Which of KINDS a picture shows."""
    if len(people) == 0:
        return []
    height = float(np.median(people[:, 3] - people[:, 1]))
    tests = (height < SMALL * max(image.shape[:2]), len(people) >= CROWD, float(image.mean()) < DARK)
    return [kind for kind, holds in zip(KINDS, tests, strict=True) if holds]


def examine(detector: Detector, image: ByteArray, picture: Picture, score: float) -> Case:
    boxes, scores = detector(image)
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    boxes, scores = boxes[scores >= score], scores[scores >= score]
    what = match(boxes, scores, picture.boxes, picture.ignored)
    overlap, _ = overlaps(picture.boxes, boxes[what.right])
    is_found = overlap.max(1, initial=0.0) >= 0.5
    return Case(
        picture.path.name, image, picture.boxes[is_found], picture.boxes[~is_found], boxes[what.counts & ~what.right]
    )


def collect(
    detector: Detector, sources: Mapping[str, SourceConfig], data: Path, score: float, per_kind: int
) -> dict[str, list[Case]]:
    """The pictures with the largest share of mistakes of each kind; a picture shows once, and so do its versions."""
    cases: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for name, (_, held) in read_sources(sources, data).items():
        for picture in held if sources[name].complete else ():
            image = read_image(picture.path)
            for kind in kinds_of(image, picture.boxes)[-1:]:  # the rarest
                cases[kind].append(examine(detector, image, picture, score))
    worst = {kind: _distinct(sorted(found, key=lambda case: -case.wrong), per_kind) for kind, found in cases.items()}
    if not any(worst.values()):
        raise ConfigError(f"{data}: no held-out picture shows {', '.join(KINDS)}")
    return worst


def _distinct(cases: Sequence[Case], n: int) -> list[Case]:
    """The first `n` that do not look alike: exports hold several versions of a photograph."""
    chosen: list[Case] = []
    thumbs: list[NDArray[np.float64]] = []
    for case in cases:
        thumb = cv2.resize(case.image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64)
        if len(chosen) < n and all(np.abs(thumb - other).mean() >= ALIKE for other in thumbs):
            chosen.append(case)
            thumbs.append(thumb)
    return chosen


def draw(case: Case, size: tuple[int, int] = TILE_PX) -> ByteArray:
    """The picture with its boxes, fitted into `size` (width, height)."""
    height, width = case.image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    tile = np.full((size[1], size[0], 3), 255, np.uint8)
    small = cv2.resize(case.image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    for boxes, colour in ((case.found, GREEN), (case.false, BLUE), (case.missed, RED)):
        for left, top, right, bottom in np.rint(boxes * scale).astype(int):
            cv2.rectangle(small, (int(left), int(top)), (int(right), int(bottom)), colour, 1, cv2.LINE_AA)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile


def sheet(cases: Mapping[str, Sequence[Case]], columns: int) -> ByteArray:
    """A row of pictures for each kind, with its name."""
    rows: list[NDArray[np.uint8]] = []
    for kind, found in cases.items():
        if not found:
            continue
        title = np.full((22, columns * TILE_PX[0], 3), 255, np.uint8)
        cv2.putText(title, kind, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        blank = np.full((TILE_PX[1], TILE_PX[0], 3), 255, np.uint8)
        tiles = [draw(case) for case in found] + [blank] * (columns - len(found))
        rows += [title, np.concatenate(tiles, axis=1)]
    return np.concatenate(rows)


def write_sheet(
    detector: Detector,
    sources: Mapping[str, SourceConfig],
    data: Path,
    out: Path,
    *,
    score: float = 0.3,
    per_kind: int = 3,
) -> dict[str, list[str]]:
    """Writes a JPEG; returns the names of the pictures of each kind that it shows."""
    cases = collect(detector, sources, data, score, per_kind)
    ok, content = cv2.imencode(".jpg", sheet(cases, per_kind), [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert ok  # a plain array always encodes
    replace_file(out, lambda stream: stream.write(content.tobytes()))
    return {kind: [case.name for case in found] for kind, found in cases.items()}
