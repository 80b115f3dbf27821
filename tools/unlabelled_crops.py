"""Cut people out of photographs with person boxes, as unlabelled crops for `reid train --unlabelled`.

    python -m tools.unlabelled_crops --source coco coco/images coco/labels --out crops

A source is a name, a folder of pictures and one of YOLO labels, in which class 0 is the person. OUT gets a JPEG for
each person, in one folder for each source, and sources.csv, which says where each crop is from: for the licences. Never
name pictures of a video, or of a place, on which the network will be scored.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from reid_training.data.base import decode
from reid_training.errors import DataError, TrackletError
from tools.detector_training.labels import Picture, read_yolo

MIN_SHARE = 1 / 8  # of the picture's height: smaller people are blurred, and often wrongly boxed
MIN_ASPECT = 1.3  # height / width: standing, walking, and whole
MIN_HEIGHT = 48  # pixels
MARGIN = 0.05  # of the box's sides, on each side: augmentation moves the window by about as much
MOST_HEIGHT = 320  # pixels of a crop; no network takes more than 256
QUALITY = 92  # of JPEG
TABLE = "sources.csv"


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    images: Path
    labels: Path


def photograph(path: Path) -> str:
    """What all versions of a photograph share: COCO's number, or the name before what an export has added."""
    name = path.name.split(".rf.")[0].removesuffix("_jpg")
    number = re.search(r"0\d{11}", name)
    return number.group() if number else name.removesuffix(path.suffix)


def choose(pictures: Sequence[tuple[str, Picture]], versions: int) -> list[tuple[str, Picture]]:
    """(source, picture) of at most `versions` pictures of each photograph, whichever sources it is in."""
    # Any order that does not depend on the folders: versions differ by crop, shear and colour.
    order = sorted(pictures, key=lambda item: hashlib.sha256(item[1].path.name.encode()).hexdigest())
    seen: dict[str, int] = {}
    chosen = []
    for source, picture in order:
        key = photograph(picture.path)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= versions:
            chosen.append((source, picture))
    return sorted(chosen, key=lambda item: (item[0], item[1].path))


def windows(boxes: NDArray[np.float64], height: int, width: int) -> Iterator[NDArray[np.int64]]:
    """boxes (N, 4) xyxy of a picture. Yields those that are large and upright, with their margin, in whole pixels."""
    for box in boxes:
        sides = box[2:] - box[:2]
        if sides[1] < max(MIN_HEIGHT, MIN_SHARE * height) or sides[1] < MIN_ASPECT * sides[0]:
            continue
        grown = np.concatenate([box[:2] - MARGIN * sides, box[2:] + MARGIN * sides])
        yield np.rint(np.clip(grown, 0, [width, height, width, height])).astype(np.int64)


def cut(sources: Sequence[Source], out: Path, versions: int, skip: str) -> dict[str, int]:
    """Writes the crops and the table. Returns how many crops each source has. Raises DataError if `out` has files."""
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} has files already; give another --out")
    pictures = [(source.name, picture) for source in sources for picture in read_yolo(source.images, source.labels)]
    if skip:
        pictures = [item for item in pictures if not re.match(skip, item[1].path.name)]
    counts = dict.fromkeys((source.name for source in sources), 0)
    out.mkdir(parents=True, exist_ok=True)
    with (out / TABLE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["crop", "source", "picture", "x1", "y1", "x2", "y2"])
        for source, picture in choose(pictures, versions):
            image = decode(picture.path)
            for x1, y1, x2, y2 in windows(picture.boxes, *image.shape[:2]):
                name = f"{source}/{counts[source]:06d}.jpg"
                _write(out / name, image[y1:y2, x1:x2])
                table.writerow([name, source, picture.path.name, x1, y1, x2, y2])
                counts[source] += 1
    return counts


def _write(path: Path, crop: NDArray[np.uint8]) -> None:
    if crop.shape[0] > MOST_HEIGHT:
        width = max(1, round(crop.shape[1] * MOST_HEIGHT / crop.shape[0]))
        crop = np.asarray(cv2.resize(crop, (width, MOST_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
    path.parent.mkdir(exist_ok=True)
    if not cv2.imwrite(str(path), crop, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
        raise DataError(f"{path} cannot be written")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.unlabelled_crops", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", nargs=3, action="append", required=True, metavar=("NAME", "IMAGES", "LABELS"), help="repeatable"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--versions", type=int, default=2, metavar="N", help="pictures of one photograph (default %(default)s)"
    )
    parser.add_argument("--skip", default="", metavar="REGEX", help="pictures whose names begin so")
    arguments = parser.parse_args()
    sources = [Source(name, Path(images), Path(labels)) for name, images, labels in arguments.source]
    try:
        counts = cut(sources, arguments.out, arguments.versions, arguments.skip)
    except TrackletError as error:
        print(f"unlabelled_crops: {error}", file=sys.stderr)
        return error.exit_code
    for name, n in counts.items():
        print(f"{name}: {n} crops")
    print(f"{arguments.out / TABLE}: {sum(counts.values())} crops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
