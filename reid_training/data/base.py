"""The table of samples, one row per image, and reading their pixels."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from reid_training.errors import DataError
from tracker.runtime.safe_paths import leaves_folder

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
HalfArray = npt.NDArray[np.float16]


PNG = b"\x89PNG\r\n\x1a\n"
MOST_PX = 1 << 28  # of a PNG


class Picture(Protocol):
    """A picture of a data set in Python, in the place of a file."""

    def read(self) -> ByteArray:
        """RGB (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Images with their person and camera. N may be 0."""

    paths: tuple[Path | Picture, ...]  # (N,)
    pids: IntArray  # (N,)  person; -1 = junk, 0 = distractor where the data set has them
    camids: IntArray  # (N,)  negative = unknown, another number for every image
    # (N, V, C, h, w) float16: what the frozen layers of a network give for V views of each image, the first of them
    # not augmented; for a network that begins behind these layers (`net.cached`). None: images are read from `paths`.
    maps: HalfArray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: IntArray) -> Samples:
        maps = None if self.maps is None else self.maps[rows]
        return Samples(tuple(self.paths[i] for i in rows), self.pids[rows], self.camids[rows], maps)


NO_SAMPLES = Samples((), np.empty(0, np.int64), np.empty(0, np.int64))


def unlabelled_samples(paths: Sequence[Path | Picture]) -> Samples:
    """Pictures of unknown people: each is a person of its own, by an unknown camera."""
    rows = np.arange(len(paths), dtype=np.int64)
    return Samples(tuple(paths), rows, -1 - rows)


def chain_samples(*parts: Samples) -> Samples:
    """One after another, those of no images left out. Their identities are not told apart."""
    full = [part for part in parts if len(part)]
    maps = None if any(part.maps is None for part in full) else np.concatenate([part.maps for part in full])
    pids, camids = (np.concatenate([getattr(part, name) for part in full]) for name in ("pids", "camids"))
    return Samples(tuple(path for part in full for path in part.paths), pids, camids, maps)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The three parts of a re-identification data set.

    `train` shares no person with the other two, unless the data set has no parts: then all three are the whole.
    """

    name: str
    licence: str
    train: Samples
    query: Samples
    gallery: Samples


def undivided(name: str, licence: str, samples: Samples) -> Dataset:
    """A set without parts: all images are for training and the gallery, the first by each person and camera a query."""
    _, first = np.unique(np.stack([samples.pids, samples.camids], axis=1), axis=0, return_index=True)
    return Dataset(name, licence, samples, samples.take(first), samples)


def combine(datasets: Sequence[Dataset]) -> Dataset:
    """One set to train on: the training parts of all, no identity and no camera of two of them the same.

    The licences are joined. Query and gallery are empty: evaluation is on one set, whose cameras are known to overlap.
    Raises DataError for a file that is in two sets, where it would be two identities, and for sets of computed maps.
    """
    if not datasets:
        raise DataError("no data sets to combine")
    pids, camids = list[IntArray](), list[IntArray]()
    paths: list[Path | Picture] = []
    set_of: dict[Path, int] = {}
    n_pids = n_cameras = 0
    for index, dataset in enumerate(datasets):
        samples = dataset.train
        if samples.maps is not None:
            raise DataError(f"{dataset.name}: holds the output of frozen layers; such a set cannot be combined")
        for path in samples.paths:
            if isinstance(path, Path) and set_of.setdefault(path.resolve(), index) != index:
                other = datasets[set_of[path.resolve()]].name
                raise DataError(f"{path} is in {other} and in {dataset.name}: it would be of two identities")
        people, identity = np.unique(samples.pids, return_inverse=True)
        cameras, camera = np.unique(samples.camids[samples.camids >= 0], return_inverse=True)
        numbered = -1 - len(paths) - np.arange(len(samples), dtype=np.int64)  # unknown: one for each image
        numbered[samples.camids >= 0] = 1 + n_cameras + camera
        pids.append(1 + n_pids + identity)
        camids.append(numbered)
        paths += samples.paths
        n_pids, n_cameras = n_pids + len(people), n_cameras + len(cameras)
    train = Samples(tuple(paths), np.concatenate(pids), np.concatenate(camids))
    nothing = train.take(np.empty(0, np.int64))
    licences = dict.fromkeys(dataset.licence for dataset in datasets)
    return Dataset(" + ".join(dataset.name for dataset in datasets), "; ".join(licences), train, nothing, nothing)


def split_identities(samples: Samples, val_fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Training and held-out samples; no person is in both. The same seed gives the same people."""
    people = np.unique(samples.pids)
    n_held = round(len(people) * val_fraction)
    held = np.random.default_rng([seed, 1]).permutation(people)[:n_held]
    is_held = np.isin(samples.pids, held)
    return samples.take(np.flatnonzero(~is_held)), samples.take(np.flatnonzero(is_held))


def check_trainable(samples: Samples, where: str) -> None:
    """Metric learning compares: it needs two people, and someone seen twice."""
    if len(samples) == 0:
        raise DataError(f"{where}: no images")
    if len(np.unique(samples.pids)) < 2:
        raise DataError(f"{where}: all {len(samples)} images show one identity; at least 2 are needed")
    if not has_pairs(samples):
        raise DataError(f"{where}: every identity has one image; at least one identity needs 2")


def has_pairs(samples: Samples) -> bool:
    """Whether some person has two images."""
    return len(np.unique(samples.pids)) < len(samples)


def check_rankable(dataset: Dataset) -> None:
    """Ranking asks for the same person by another camera: every image needs its camera, or none has one."""
    for name, samples in (("query", dataset.query), ("gallery", dataset.gallery)):
        if len(samples) == 0:
            raise DataError(f"{dataset.name}: no {name} images; evaluation needs query and gallery")
    if not has_cameras(dataset):
        return
    for name, samples in (("query", dataset.query), ("gallery", dataset.gallery)):
        unknown = np.flatnonzero(samples.camids < 0)
        if len(unknown):
            raise DataError(
                f"{dataset.name}: evaluation needs the camera of every image, or of none; {len(unknown)} of "
                f"{len(samples)} {name} images have none, the first is {samples.paths[unknown[0]]}"
            )


def has_cameras(dataset: Dataset) -> bool:
    """Whether the camera of some query or gallery image is known."""
    return bool((dataset.query.camids >= 0).any() or (dataset.gallery.camids >= 0).any())


def ranking_cameras(samples: Samples) -> IntArray:
    """The cameras for ranking inside one set.

    The same-camera rule leaves no match where no person is seen by two cameras (crops of one video, cameras
    unknown): then every image counts as a camera of its own, and an image only does not find itself.
    """
    pairs = np.unique(np.stack([samples.pids, samples.camids], axis=1), axis=0)
    if len(pairs) > len(np.unique(samples.pids)):
        return samples.camids
    return np.arange(len(samples), dtype=np.int64)


# What zipfile raises: RuntimeError where a password is needed, ValueError and IndexError for numbers out of range.
_DAMAGE = (
    zipfile.BadZipFile, EOFError, RuntimeError, ValueError, IndexError, struct.error, zlib.error, lzma.LZMAError,
)  # fmt: skip


def unpack(archive: Path, folder: Path) -> None:
    """All files of a zip. Raises DataError, and writes none of them, if one of them would lie outside the folder."""
    try:
        with zipfile.ZipFile(archive) as packed:
            outside = next((name for name in packed.namelist() if leaves_folder(name)), None)
            if outside is not None:
                raise DataError(f"{archive}: names a file outside its folder, {outside!r}; nothing was unpacked")
            packed.extractall(folder)
    except OSError as error:  # damage, too: a file and a folder of one name, a name too long
        raise DataError(f"{archive}: cannot be unpacked to {folder}: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise DataError(f"{archive} is damaged, or packed in a way that is not read here: {error}") from None


def decode(path: Path) -> ByteArray:
    """One image as OpenCV gives it: BGR (H, W, 3)."""
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size and not _claims_too_much(raw) else None
    if image is None:
        raise DataError(f"{path} is not an image, or it is damaged")
    return np.asarray(image, dtype=np.uint8)


def _claims_too_much(raw: ByteArray) -> bool:
    """Whether a PNG, or a part of it, is larger by its own words than can be: OpenCV takes the memory first."""
    at = len(PNG)
    if bytes(raw[:at]) != PNG:
        return False
    while at + 12 <= len(raw):
        length, name = int.from_bytes(raw[at : at + 4], "big"), bytes(raw[at + 4 : at + 8])
        width, height = (int.from_bytes(raw[start : start + 4], "big") for start in (at + 8, at + 12))
        if at + 12 + length > len(raw) or (name == b"IHDR" and width * height > MOST_PX):
            return True
        if name == b"IEND":
            return False
        at += 12 + length
    return True  # no end


def read_image(path: Path | Picture, height: int, width: int) -> ByteArray:
    """One image as RGB (height, width, 3): all of it, stretched by plain bilinear interpolation, as at run time."""
    image: npt.NDArray[Any] = decode(path) if isinstance(path, Path) else path.read()
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if isinstance(path, Path) else image, dtype=np.uint8)


def read_inputs(samples: Samples, height: int, width: int) -> npt.NDArray[Any]:
    """What a network sees of all samples without augmentation: images (N, height, width, 3), or maps (N, C, h, w)."""
    return read_images(samples, height, width) if samples.maps is None else samples.maps[:, 0]


def read_images(samples: Samples, height: int, width: int) -> ByteArray:
    """All images, decoded once: (N, height, width, 3) uint8. Market-1501's training set at 128x64 takes 0.3 GB."""
    images = np.empty((len(samples), height, width, 3), np.uint8)
    n_threads = 4 if all(isinstance(path, Path) for path in samples.paths) else 1  # Python data sets expect one
    with ThreadPoolExecutor(n_threads) as pool:
        for row, image in enumerate(pool.map(lambda path: read_image(path, height, width), samples.paths)):
            images[row] = image
    return images
