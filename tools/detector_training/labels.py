"""Readers of person labels: COCO, YOLO, Pascal VOC, Penn-Fudan, MOTChallenge, and pictures without people.

All give `Picture`s: boxes that count, and regions in which nothing can be said (crowds, people that are hardly to be
seen, whatever the format marks as difficult). A line that cannot be read is one error with its file and its number.
"""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from configparser import ConfigParser
from configparser import Error as IniError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from reid_training.errors import DataError
from tracker.runtime.safe_paths import leaves_folder

FloatArray = NDArray[np.float64]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PERSON_NAMES = ("person", "pedestrian", "people")  # of the person's class, in COCO and VOC
# MOT16 classes: 1 pedestrian; 2 person on vehicle, 7 static person, 8 distractor, 12 reflection are people of a kind
# that neither count nor cost; the others are no people.
MOT_PEDESTRIAN, MOT_IGNORED = 1, (2, 7, 8, 12)
MOT_MIN_VISIBLE = 0.25  # people that are occluded more are ignored: they cannot be recognised


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and what is known of the people in it. Boxes are xyxy in its pixels, inside it."""

    path: Path
    boxes: FloatArray  # (N, 4)
    ignored: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))  # (M, 4)
    outlines: tuple[FloatArray | None, ...] = ()  # for each box (V, 2) x, y, where the labels have them
    mask: Path | None = None  # a picture whose value k + 1 marks the k-th box's person
    weights: FloatArray | None = None  # (N,) in (0, 1], how much each person counts; None: all are certain
    taught: bool = False  # a teacher has looked at it: it shows no other people than these

    def weights_or_ones(self) -> FloatArray:
        return np.ones(len(self.boxes)) if self.weights is None else self.weights


def read_coco(images: Path, labels: Path) -> list[Picture]:
    """`labels`: a JSON file. `iscrowd` boxes are ignored regions."""
    try:
        table = json.loads(_text(labels))
        names = {row["id"]: str(row["name"]).lower() for row in table["categories"]}
        rows = {row["id"]: row for row in table["images"]}
        annotations = list(table["annotations"])
        names_of = {key: str(row["file_name"]) for key, row in rows.items()}
        sized = {key: row for key, row in rows.items() if "width" in row and "height" in row}
        given = {key: (int(row["width"]), int(row["height"])) for key, row in sized.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{labels}: no COCO labels: {error!r}") from None
    people = {key for key, name in names.items() if name in PERSON_NAMES}
    if not people:
        raise DataError(
            f"{labels}: no category is called {' or '.join(PERSON_NAMES)}; there are: {list(names.values())}"
        )
    found: dict[Any, list[tuple[list[float], FloatArray | None, bool]]] = {key: [] for key in rows}
    for number, row in enumerate(annotations):
        where = f"{labels}: annotation {number}"
        if not isinstance(row, dict) or not _is_key(row.get("image_id")) or row["image_id"] not in rows:
            raise DataError(f"{where} belongs to no image")
        if not _is_key(row.get("category_id")) or row["category_id"] not in people:
            continue
        left, top, width, height = _numbers(row.get("bbox", ()), 4, where)
        if width <= 0 or height <= 0:
            continue  # COCO has a few boxes without area
        polygons: Any = row.get("segmentation")
        single = isinstance(polygons, list) and len(polygons) == 1  # in several parts: occluded
        outline = _outline(polygons[0], where) if polygons and single else None
        box = [left, top, left + width, top + height]
        found[row["image_id"]].append((box, outline, bool(row.get("iscrowd", 0))))
    pictures = []
    for key in rows:
        path = _inside(images, names_of[key], labels)
        size = given.get(key) or _size(path)
        counted = [item for item in found[key] if not item[2]]
        pictures.append(
            Picture(
                path,
                _clip([box for box, _, _ in counted], size),
                _clip([box for box, _, crowd in found[key] if crowd], size),
                tuple(outline for _, outline, _ in counted),
            )
        )
    return pictures


def _is_key(value: object) -> bool:
    """Whether COCO can count things so."""
    return isinstance(value, (int, str))


def _outline(values: Any, where: str) -> FloatArray:
    """(V, 2) from x, y, x, y, ..."""
    if not isinstance(values, list) or len(values) < 6 or len(values) % 2:
        raise DataError(f"{where}: an outline takes x, y of three points at least")
    return np.array(_numbers(values, len(values), where)).reshape(-1, 2)


def _inside(images: Path, name: str, labels: Path) -> Path:
    if leaves_folder(name):
        raise DataError(f"{labels}: names a picture outside the folder of pictures, {name!r}")
    return images / name


def read_yolo(images: Path, labels: Path) -> list[Picture]:
    """`labels`: a folder with NAME.txt for NAME.jpg: `class x y width height`, or `class x1 y1 x2 y2 ...` (an outline).

    Shares of the picture's size; class 0 is the person. A picture without a file, or with an empty one, has no people.
    """
    pictures = []
    for path in _images(images):
        file = labels / path.relative_to(images).with_suffix(".txt")
        width, height = size = _size(path)
        boxes, outlines = [], []
        for number, line in enumerate(_text(file).splitlines() if file.exists() else (), start=1):
            words = line.split()
            if not words:
                continue
            where = f"{file}:{number}"
            if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
                raise DataError(f"{where}: expected a class and 4 numbers, or an outline's pairs, found {line!r}")
            kind, *values = _numbers(words, len(words), where)
            if kind != 0:
                continue
            if len(values) == 4:
                x, y, w, h = values
                box, outline = [x - w / 2, y - h / 2, x + w / 2, y + h / 2], None
            else:
                outline = np.array(values).reshape(-1, 2) * size
                box = [min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])]
            if not (box[2] > box[0] and box[3] > box[1]):
                raise DataError(f"{where}: a box without area: {line!r}")
            if max(abs(value - 0.5) for value in box) > 1.0:  # a little outside is rounding, or a person cut off
                raise DataError(f"{where}: expected shares of the picture's size in [0, 1], found {line!r}")
            boxes.append([box[0] * width, box[1] * height, box[2] * width, box[3] * height])
            outlines.append(outline)
        pictures.append(Picture(path, _clip(boxes, size), outlines=tuple(outlines)))
    return pictures


def read_voc(images: Path, labels: Path) -> list[Picture]:
    """`labels`: a folder of NAME.xml. `difficult` people are ignored. Coordinates count from 1."""
    pictures = []
    for file in sorted(labels.glob("*.xml")):
        try:
            root = ET.fromstring(_text(file))
        except ET.ParseError as error:
            raise DataError(f"{file}:{error.position[0]}: no XML: {error}") from None
        path = _inside(images, root.findtext("filename") or f"{file.stem}.jpg", file)
        boxes: list[list[float]] = []
        ignored: list[list[float]] = []
        for number, row in enumerate(root.iter("object")):
            if (row.findtext("name") or "").strip().lower() not in PERSON_NAMES:
                continue
            where = f"{file}: object {number}"
            corners = [row.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = _numbers(corners, 4, where)
            if right <= left or bottom <= top:
                raise DataError(f"{where}: a box without area: {corners}")
            (ignored if row.findtext("difficult") == "1" else boxes).append([left - 1, top - 1, right, bottom])
        size = _size(path)
        pictures.append(Picture(path, _clip(boxes, size), _clip(ignored, size)))
    return pictures


def read_penn_fudan(images: Path, labels: Path) -> list[Picture]:
    """`images`: PNGImages; `labels`: Annotation, beside which lies PedMasks."""
    pictures = []
    for file in sorted(labels.glob("*.txt")):
        boxes = []
        for number, line in enumerate(_text(file).splitlines(), start=1):
            if not line.startswith("Bounding box"):
                continue
            match = re.search(r": \((\d+), (\d+)\) - \((\d+), (\d+)\)\s*$", line)
            if match is None:
                raise DataError(f"{file}:{number}: expected ... : (Xmin, Ymin) - (Xmax, Ymax), found {line!r}")
            left, top, right, bottom = map(int, match.groups())
            boxes.append([left - 1, top - 1, right, bottom])
        path = images / f"{file.stem}.png"
        mask = labels.parent / "PedMasks" / f"{file.stem}_mask.png"
        pictures.append(Picture(path, _clip(boxes, _size(path)), mask=mask if mask.exists() else None))
    return pictures


def read_mot(images: Path, labels: Path) -> list[Picture]:
    """`images`: a folder of MOT16 sequences, each with seqinfo.ini, img1/ and gt/gt.txt; `labels` is not used.

    The columns `consider`, class and visibility say which people count. Read MOT16 only to train on what is not scored.
    """
    sequences = sorted(file.parent for file in images.rglob("seqinfo.ini"))
    if not sequences:
        raise DataError(f"{images}: no MOT sequence in it (no seqinfo.ini)")
    return [picture for sequence in sequences for picture in _read_mot_sequence(sequence)]


def _read_mot_sequence(sequence: Path) -> list[Picture]:
    ini = ConfigParser(interpolation=None)
    try:
        ini.read_string(_text(sequence / "seqinfo.ini"))
        info = ini["Sequence"]
        size = (int(info["imWidth"]), int(info["imHeight"]))
        name, suffix = info.get("imDir", "img1").strip(), info.get("imExt", ".jpg").strip()
    except (IniError, KeyError, ValueError) as error:
        raise DataError(f"{sequence / 'seqinfo.ini'}: {error!r}") from None
    if leaves_folder(name):
        raise DataError(f"{sequence / 'seqinfo.ini'}: imDir must be a folder inside the sequence's, got {name!r}")
    file = sequence / "gt" / "gt.txt"
    boxes: dict[int, list[list[float]]] = {}
    ignored: dict[int, list[list[float]]] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split(",")
        if len(words) not in (9, 10):
            raise DataError(f"{file}:{number}: expected 9 columns (MOT16), found {len(words)}: {line!r}")
        frame, _, left, top, width, height, consider, kind, visible = _numbers(words[:9], 9, f"{file}:{number}")
        counts = consider != 0 and kind == MOT_PEDESTRIAN and visible >= MOT_MIN_VISIBLE
        if counts or kind in (MOT_PEDESTRIAN, *MOT_IGNORED):
            rows = boxes if counts else ignored
            rows.setdefault(int(frame), []).append([left - 1, top - 1, left - 1 + width, top - 1 + height])
    return [
        Picture(path, _clip(boxes.get(int(path.stem), []), size), _clip(ignored.get(int(path.stem), []), size))
        for path in sorted((sequence / name).glob("*.*"))
        if path.suffix == suffix and path.stem.isdecimal()
    ]


def read_no_people(images: Path, labels: Path) -> list[Picture]:
    """Pictures without people."""
    return [Picture(path, np.zeros((0, 4))) for path in _images(images)]


READERS: dict[str, Callable[[Path, Path], list[Picture]]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "penn_fudan": read_penn_fudan,
    "mot": read_mot,
    "no_people": read_no_people,
    "unlabelled": read_no_people,  # with `complete = false`; a teacher says what they show
}


def read(kind: str, images: Path, labels: Path) -> list[Picture]:
    """All pictures of a source, in the order of their names. Raises DataError where there is none."""
    if kind not in READERS:
        raise DataError(f"unknown label format {kind!r}; there are: {', '.join(READERS)}")
    if not images.is_dir():
        raise DataError(f"no folder {images}")
    if kind not in ("mot", "no_people", "unlabelled") and not labels.exists():
        raise DataError(f"no labels {labels}")
    pictures = READERS[kind](images, labels)
    if not pictures:
        raise DataError(f"{labels if kind in ('coco', 'voc', 'penn_fudan') else images}: no pictures")
    return sorted(pictures, key=lambda picture: str(picture.path))


def _numbers(words: Any, n: int, where: str) -> list[float]:
    try:
        values = [float(word) for word in words]
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != n or not all(map(math.isfinite, values)):
        raise DataError(f"{where}: expected {n} numbers, found {words!r}")
    return values


def _clip(boxes: Iterable[Sequence[float]], size: tuple[int, int]) -> FloatArray:
    """To the picture; what is left of a box must be a box."""
    width, height = size
    array = np.array(list(boxes), dtype=np.float64).reshape(-1, 4)
    return np.clip(array, 0, [width, height, width, height])


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from None


def _size(path: Path) -> tuple[int, int]:
    """(width, height). The whole picture is decoded: a broken one shows here, by name."""
    image = cv2.imread(str(path))
    if image is None:
        raise DataError(f"cannot read picture {path}")
    return image.shape[1], image.shape[0]
