"""A CSV table of crops: `image,id,camera[,split]`, one row per image.

The first line names the columns; further columns are passed over. `image` is a path below the folder of the table.
`id` and `camera` are any text. `camera` may be left out or empty: training does without, evaluation does not. `split`
is train, query or gallery; without it all images are all three, and each person's first image by each camera is a
query. `frame`, the number of the picture in its video, is read for evaluation inside videos alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reid_training.data.base import Dataset, IntArray, Samples, undivided
from reid_training.errors import DataError
from tracker.runtime.safe_paths import leaves_folder

REQUIRED = ("image", "id")
SPLITS = ("train", "query", "gallery")
LICENCE = "not stated: that of the user's own images"


@dataclass(frozen=True, slots=True)
class Row:
    line: int  # of the file, from 1
    image: Path
    person: str
    camera: str  # "" = unknown
    split: str  # "" = the table has no such column
    frame: str | None  # None = the table has no such column


def read(path: Path) -> Dataset:
    rows = _checked_rows(path)
    samples = _to_samples(rows)
    if rows[0].split:
        parts = np.array([row.split for row in rows])
        train, query, gallery = (samples.take(np.flatnonzero(parts == split)) for split in SPLITS)
        return Dataset(path.name, LICENCE, train, query, gallery)
    return undivided(path.name, LICENCE, samples)


def read_videos(path: Path) -> tuple[Samples, IntArray]:
    """Every image that is not for training, once, its camera the video; and the frames (N,). Both must be known."""
    rows = list({row.image: row for row in _checked_rows(path) if row.split != "train"}.values())
    if not rows:
        raise DataError(f"{path}: all images are for training; there is nothing to evaluate")
    return _to_samples(rows), np.array([_frame_of(path, row) for row in rows], dtype=np.int64)


def _frame_of(path: Path, row: Row) -> int:
    if row.frame is None:
        raise DataError(f"{path}: no column frame; evaluation inside videos needs it, as `reid crops` writes it")
    if not row.camera:
        raise DataError(f"{path}, line {row.line}: no camera; evaluation inside videos needs the video of every image")
    if not (row.frame.isdecimal() and len(row.frame) <= 18):  # what fits into 64 bits
        raise DataError(f"{path}, line {row.line}: frame must be a whole number, got {row.frame!r}")
    return int(row.frame)


def _checked_rows(path: Path) -> list[Row]:
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path}: no images; the table has a header and nothing below it")
    _check_parts(path, rows)
    return rows


def _to_samples(rows: list[Row]) -> Samples:
    pids, camids = number([row.person for row in rows]), number([row.camera for row in rows])
    # An unknown camera is different from all others: -1, -2, ...; the same for an image that is query and gallery.
    camids = np.where([row.camera == "" for row in rows], -number([str(row.image) for row in rows]), camids)
    return Samples(tuple(row.image for row in rows), pids, camids)


def number(texts: list[str]) -> IntArray:
    """Every text as its place among all different ones in the order of their characters, from 1.

    The order of the rows changes nothing. 0 and -1 stay free: they have a meaning in Market-1501.
    """
    _, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return places.astype(np.int64) + 1


def read_rows(path: Path) -> Iterator[Row]:
    """The rows in the order of the file; every mistake is named with its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns = _read_header(path, next(reader, []))
            for fields in reader:
                if fields:  # an empty line is no row
                    yield _parse_row(path, reader.line_num, columns, fields)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a table in UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None


def _read_header(path: Path, fields: list[str]) -> list[str]:
    columns = [field.strip().lower() for field in fields]
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        found = ",".join(fields) or "nothing"
        raise DataError(
            f"{path}, line 1: no column {' and no column '.join(missing)}; "
            f"the first line must be image,id,camera and may have split, found {found[:80]!r}"
        )
    double = sorted({name for name in columns if name and columns.count(name) > 1})
    if double:
        raise DataError(f"{path}, line 1: the column {double[0]} is there twice")
    return columns


def _parse_row(path: Path, line: int, columns: list[str], fields: list[str]) -> Row:
    where = f"{path}, line {line}"
    if len(fields) != len(columns):
        raise DataError(f"{where}: {len(fields)} fields, but the header has {len(columns)}")
    values = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    for name in REQUIRED:
        if not values[name]:
            raise DataError(f"{where}: {name} is empty")
    split = values.get("split", "").lower()
    if "split" in values and split not in SPLITS:
        raise DataError(f"{where}: split must be {', '.join(SPLITS)}, got {values['split']!r}")
    if leaves_folder(values["image"]):
        raise DataError(
            f"{where}: {values['image']!r} leads out of the folder of the table; put the table above its images"
        )
    image = path.parent / values["image"]
    if not image.is_file():
        raise DataError(f"{where}: no file {image}")
    return Row(line, image, values["id"], values.get("camera", ""), split, values.get("frame"))


def _check_parts(path: Path, rows: list[Row]) -> None:
    """Rejects an image of two people, and people in both the training and the test part."""
    shown: dict[Path, Row] = {}
    trained: dict[str, bool] = {}
    for row in rows:
        first = shown.setdefault(row.image, row)
        if first.person != row.person:
            raise DataError(
                f"{path}, line {row.line}: {row.image} shows {row.person!r}, but in line {first.line} {first.person!r}"
            )
        if trained.setdefault(row.person, row.split == "train") != (row.split == "train"):
            raise DataError(
                f"{path}, line {row.line}: {row.person!r} is in train and in query or gallery; "
                f"no person may be both trained on and scored"
            )
