"""Market-1501 in its own folder layout: bounding_box_train, query, bounding_box_test.

Scalable Person Re-identification: A Benchmark. Liang Zheng et al. ICCV 2015.
A name like 0002_c1s1_000451_03.jpg holds the person (0002), the camera (1), the sequence, the frame and the box.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reid_training.data.base import Dataset, Samples
from reid_training.errors import DataError

NAME = re.compile(r"(?P<pid>-1|\d{1,18})_c(?P<camid>\d{1,18})(?!\d)")  # numbers that fit into 64 bits
SUFFIXES = {".jpg", ".jpeg", ".png"}
LICENCE = "Market-1501: research only"
JUNK = -1  # part of a person, or a bad box: neither a hit nor a miss
DISTRACTOR = 0  # not one of the queries: always a miss


def parse_name(path: Path) -> tuple[int, int]:
    """Person and camera."""
    match = NAME.match(path.name)
    if match is None:
        raise DataError(f"{path} is not named like 0002_c1s1_000451_03.jpg (person, camera)")
    return int(match["pid"]), int(match["camid"])


def read_folder(folder: Path) -> Samples:
    """Every image of the folder, sorted by name; other files (Thumbs.db) are ignored."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; Market-1501 has bounding_box_train, query and bounding_box_test")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: no images (jpg or png)")
    parsed = np.array([parse_name(path) for path in paths], dtype=np.int64)  # (N, 2)
    return Samples(tuple(paths), parsed[:, 0], parsed[:, 1])


def find_root(folder: Path) -> Path:
    """The folder itself, or the one that the official archive unpacks to."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    for root in (folder, folder / "Market-1501-v15.09.15"):
        if (root / "bounding_box_train").is_dir():
            return root
    raise DataError(f"{folder} is not Market-1501: it has no bounding_box_train")


def read(folder: Path) -> Dataset:
    root = find_root(folder)
    return Dataset(
        name="Market-1501",
        licence=LICENCE,
        train=read_people(root / "bounding_box_train"),
        query=read_people(root / "query"),
        gallery=read_folder(root / "bounding_box_test"),
    )


def read_people(folder: Path) -> Samples:
    """Training and query images: only those that show a known person."""
    samples = read_folder(folder)
    return samples.take(np.flatnonzero(samples.pids > DISTRACTOR))
