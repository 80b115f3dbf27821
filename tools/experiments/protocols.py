"""Protocols of the comparisons: data, settings, and queries of identities that are not used in training.

Two splits are scored. `validation` chooses constants, `test` is what is reported; no identity is in two of training,
validation and test. The choice of identities is fixed: it belongs to the protocol, the seed of a run does not touch it.

Human-level concept learning through probabilistic program induction. Lake, Salakhutdinov, Tenenbaum. Science 2015:
Omniglot, 1623 characters of 50 alphabets, each drawn by 20 people.
Learning Multiple Layers of Features from Tiny Images. Krizhevsky. 2009: CIFAR-100, 32x32 pixels, 600 of each class.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from reid_training.data import market1501, retrieval_sets
from reid_training.data.base import ByteArray, Dataset, IntArray, Samples, unpack
from reid_training.data.synthetic import write_market_folder
from reid_training.errors import DataError
from reid_training.evaluate import FloatArray, Ranking, rank, rank_held_out

SPLITS = ("test", "validation")
PARTS = ("train", "validation", "test")
Settings = Mapping[str, Mapping[str, Any]]
# One thread and fp32: parallel runs do not compete, and every run is repeatable to the bit.
ALONE = {"precision": "fp32", "device": "cpu", "threads": 1, "checkpoint_every": 1}


@dataclass(frozen=True, slots=True)
class TrunkInput:
    """How a protocol's images go through a network from ImageNet (see `trunk`)."""

    height_px: int
    width_px: int
    views: int  # of each training image: one as it is, the others augmented
    augment: Mapping[str, float]
    epochs: Mapping[str, int]  # of training, for each of the ways to use the network


@dataclass(frozen=True, slots=True)
class Protocol(ABC):
    """Its fields are the choice of the data; together with `settings` they name its runs."""

    trunk_input: ClassVar[TrunkInput | None] = None  # None: its images are not for a network from ImageNet
    fixed: ClassVar[Settings] = {}  # of every run, after those of the experiment

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """Of every run, before those of the experiment."""

    @abstractmethod
    def prepare(self, data: Path, folder: Path) -> Path:
        """Returns where the images lie: in `data`, the user's folder, or in `folder`, written before the first run."""

    @abstractmethod
    def read(self, root: Path) -> dict[str, Samples]:
        """The three parts, from where `prepare` says."""

    def rank(self, embeddings: FloatArray, samples: Samples) -> Ranking:
        """Retrieval inside a part: embeddings (N, D), unit rows."""
        return rank_held_out(embeddings, samples)

    def untrained(self, root: Path, part: str) -> FloatArray | None:
        """Unit rows (N, F) of a part by the network that training starts from; None where that is random."""
        return None

    def key(self) -> str:
        facts = {"protocol": self.name, **asdict(self)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Omniglot(Protocol):
    """Characters of the background alphabets to train and validate, of the evaluation alphabets to test.

    Every image is a query, and all other images of its part are the gallery.
    """

    n_train: int = 150
    n_validation: int = 100
    n_test: int = 200
    side_px: int = 32

    name: ClassVar[str] = "omniglot"
    settings: ClassVar[Settings] = {
        "data": {"val_fraction": 0.0, "height": 32, "width": 32, "n_ids": 16, "n_per_id": 4},
        # Colour, mirroring and occlusion do not apply to characters.
        "augment": {
            **{"flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "erase": 0.0},
            **{"zoom": 0.1, "shift": 0.06},
        },
        "net": {"name": "conv4", "width": 0.5, "embedding_size": 64},
        # 46 batches an epoch: 598 steps. The average covers about the last 50 of them. Learning rate: one run each of
        # the triplet baseline on validation, R@1 / mAP 87.6 / 71.6 at 3e-3, 89.1 / 75.2 at 6e-3, 88.3 / 75.4 at 1e-2;
        # at 5e-4 and 1e-3 it had not left its first plateau after half of the steps, and was stopped.
        "schedule": {**ALONE, "epochs": 13, "warmup_epochs": 1, "learning_rate": 6e-3, "ema_decay": 0.98},
    }

    def prepare(self, data: Path, folder: Path) -> Path:
        source = data / "omniglot" / "omniglot_105.npz"
        return write_whole(folder, lambda draft: self._write(source, draft))

    def read(self, root: Path) -> dict[str, Samples]:
        return {part: market1501.read_folder(root / part) for part in PARTS}

    def _write(self, source: Path, folder: Path) -> None:
        """PNG files with names like Market-1501's: the character is the person, the drawer is the camera."""
        try:
            with np.load(source, allow_pickle=False) as arrays:
                packed, drawers = arrays["packed"], arrays["drawer"]
                characters, background = arrays["char"].astype(np.int64), arrays["background"]
                height, width = (int(n) for n in arrays["shape"])
        except FileNotFoundError:
            raise DataError(f"no file {source}; --data names the folder that omniglot/ lies in") from None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{source} is not Omniglot in the layout expected, or it is damaged: {error}") from None
        learned = chosen(np.unique(characters[background]), self.n_train + self.n_validation, str(source))
        tested = chosen(np.unique(characters[~background]), self.n_test, str(source))
        parts = {"train": learned[: self.n_train], "validation": learned[self.n_train :], "test": tested}
        for part, members in parts.items():
            (folder / part).mkdir()
            for row in np.flatnonzero(np.isin(characters, members)):
                ink = np.unpackbits(packed[row])[: height * width].reshape(height, width)
                name = f"{characters[row] + 1:04d}_c{drawers[row]}.png"  # person 0 would be a distractor
                cv2.imwrite(str(folder / part / name), self._picture(ink))

    def _picture(self, ink: ByteArray) -> ByteArray:
        """ink (H, W), 1 where it is. Returns (side_px, side_px), dark on light."""
        size = (self.side_px, self.side_px)
        return np.asarray(cv2.resize(255 * (1 - ink), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Market(Protocol):
    """People of Market-1501's training part alone; its test part stays untouched.

    The first image of each person by each camera is a query; the same person by the same camera does not count.
    """

    n_train: int = 150
    n_validation: int = 100
    n_test: int = 200

    name: ClassVar[str] = "market"
    trunk_input: ClassVar[TrunkInput] = TrunkInput(
        128, 64, 4, {"flip": 0.5, "zoom": 0.125, "shift": 0.06}, {"frozen": 20, "tuned": 20}
    )
    settings: ClassVar[Settings] = {
        "data": {"val_fraction": 0.0, "height": 64, "width": 32, "n_ids": 16, "n_per_id": 4},
        "augment": {"zoom": 0.1, "shift": 0.05, "erase": 0.0},
        "net": {
            **{"name": "osnet", "width": 1.0, "embedding_size": 64, "channels": [16, 32, 48, 64]},
            **{"last_channels": 64, "blocks": 1, "scales": 2},
        },
        # 38 batches an epoch: 988 steps, about a minute. Learning rate: at 2e-3 the triplet baseline stayed on its
        # first plateau to the end (R@1 14.6 on validation; contrastive 21.4); at 6e-3 its loss was lower after 9 epochs
        # than there after 26. One run each; 6e-3 has not been scored.
        "schedule": {**ALONE, "epochs": 26, "warmup_epochs": 1, "learning_rate": 6e-3, "ema_decay": 0.98},
    }

    def prepare(self, data: Path, folder: Path) -> Path:
        """`data`: a folder with Market-1501, or with its training part as market1501_train.zip."""
        archive = data / "market1501_train.zip"
        if archive.is_file():
            data = write_whole(folder, lambda draft: unpack(archive, draft))
        return market1501.find_root(data) / "bounding_box_train"

    def read(self, root: Path) -> dict[str, Samples]:
        return split_people(self, root)


@dataclass(frozen=True, slots=True)
class Cifar100(Protocol):
    """Classes of CIFAR-100, of its training part: data/cifar100/train/CLASS/*.png. Every image is a query.

    No class is in two parts. Some are among ImageNet's, as birds and cars are: a network from ImageNet has seen their
    like, but none of these images.
    """

    n_train: int = 60
    n_validation: int = 20
    n_test: int = 20
    n_images: int = 300  # of each class

    name: ClassVar[str] = "cifar100"
    settings: ClassVar[Settings] = {}
    trunk_input: ClassVar[TrunkInput] = TrunkInput(
        96, 96, 4, {"flip": 0.5, "zoom": 0.2, "shift": 0.08}, {"frozen": 4, "tuned": 2}
    )

    def prepare(self, data: Path, folder: Path) -> Path:
        root = data / "cifar100" / "train"
        if not root.is_dir():
            raise DataError(f"no folder {root}; --data names the folder that cifar100/train/CLASS/*.png lie in")
        return root

    def read(self, root: Path) -> dict[str, Samples]:
        classes = sorted(path for path in root.iterdir() if path.is_dir())
        found = [sorted(path.glob("*.png"))[: self.n_images] for path in classes]
        paths = [path for images in found for path in images]
        pids = np.repeat(np.arange(1, len(classes) + 1), [len(images) for images in found])
        return split_three(Samples(tuple(paths), pids, retrieval_sets.unknown_cameras(len(paths))), self, str(root))


@dataclass(frozen=True, slots=True)
class PaperSplit(Protocol):
    """The test classes of the papers; the last fifth of their training classes is for validation."""

    settings: ClassVar[Settings] = {}
    trunk_input: ClassVar[TrunkInput] = TrunkInput(
        128, 128, 4, {"flip": 0.5, "zoom": 0.2, "shift": 0.08}, {"frozen": 12, "tuned": 12}
    )

    @abstractmethod
    def dataset(self, folder: Path) -> Dataset:
        """The user's copy."""

    def prepare(self, data: Path, folder: Path) -> Path:
        self.dataset(data)
        return data

    def read(self, root: Path) -> dict[str, Samples]:
        dataset = self.dataset(root)
        classes = np.unique(dataset.train.pids)
        held = classes[-max(1, len(classes) // 5) :]
        is_held = np.isin(dataset.train.pids, held)
        parts = {"train": np.flatnonzero(~is_held), "validation": np.flatnonzero(is_held)}
        return {**{part: dataset.train.take(rows) for part, rows in parts.items()}, "test": self.test_part(dataset)}

    def test_part(self, dataset: Dataset) -> Samples:
        return dataset.gallery


@dataclass(frozen=True, slots=True)
class Cub(PaperSplit):
    name: ClassVar[str] = "cub"

    def dataset(self, folder: Path) -> Dataset:
        return retrieval_sets.read_cub(folder)


@dataclass(frozen=True, slots=True)
class Cars(PaperSplit):
    name: ClassVar[str] = "cars"

    def dataset(self, folder: Path) -> Dataset:
        return retrieval_sets.read_cars(folder)


# Ten times as many images: fewer views and epochs.
LARGE = TrunkInput(128, 128, 2, PaperSplit.trunk_input.augment, {"frozen": 4, "tuned": 4})


@dataclass(frozen=True, slots=True)
class Sop(PaperSplit):
    name: ClassVar[str] = "sop"
    trunk_input: ClassVar[TrunkInput] = LARGE

    def dataset(self, folder: Path) -> Dataset:
        return retrieval_sets.read_sop(folder)


@dataclass(frozen=True, slots=True)
class InShop(PaperSplit):
    """Queries and gallery of the test part are apart, as in the paper."""

    name: ClassVar[str] = "inshop"
    trunk_input: ClassVar[TrunkInput] = LARGE

    def dataset(self, folder: Path) -> Dataset:
        return retrieval_sets.read_inshop(folder)

    def test_part(self, dataset: Dataset) -> Samples:
        both = (dataset.query, dataset.gallery)
        pids, camids = (np.concatenate([getattr(part, name) for part in both]) for name in ("pids", "camids"))
        return Samples(dataset.query.paths + dataset.gallery.paths, pids, camids)

    def rank(self, embeddings: FloatArray, samples: Samples) -> Ranking:
        if (samples.camids < 0).all():  # validation, of training classes
            return rank_held_out(embeddings, samples)
        query, gallery = (np.flatnonzero(samples.camids == n) for n in (retrieval_sets.QUERY, retrieval_sets.GALLERY))
        sides = [(embeddings[rows], samples.pids[rows], samples.camids[rows]) for rows in (query, gallery)]
        return rank(*sides[0], *sides[1])


@dataclass(frozen=True, slots=True)
class Drawn(Protocol):
    """Drawn people and a tiny network: shows in seconds that everything works, and nothing about any method."""

    n_train: int = 30  # random meta-classes need as many
    n_validation: int = 6
    n_test: int = 8

    name: ClassVar[str] = "drawn"
    trunk_input: ClassVar[TrunkInput] = TrunkInput(64, 32, 2, {}, {"frozen": 2, "tuned": 2})
    settings: ClassVar[Settings] = {
        "data": {"val_fraction": 0.0, "height": 32, "width": 16, "n_ids": 4, "n_per_id": 4},
        "augment": {"erase": 0.0},
        "net": {"name": "conv4", "width": 0.25, "embedding_size": 16},
    }
    # Few steps, whatever an experiment wants.
    fixed: ClassVar[Settings] = {
        "schedule": {**ALONE, "epochs": 2, "warmup_epochs": 1, "learning_rate": 2e-3, "ema_decay": 0.9}
    }

    def prepare(self, data: Path, folder: Path) -> Path:
        n = self.n_train + self.n_validation + self.n_test
        size = (self.settings["data"]["height"], self.settings["data"]["width"])
        root = write_whole(
            folder, lambda draft: write_market_folder(draft, n_train=n, n_test=0, n_distractors=0, size=size)
        )
        return root / "bounding_box_train"

    def read(self, root: Path) -> dict[str, Samples]:
        return split_people(self, root)


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (Omniglot(), Market(), Cifar100(), Cub(), Cars(), Sop(), InShop())
}


def split_people(protocol: Market | Drawn, folder: Path) -> dict[str, Samples]:
    """Three parts of one folder with names like Market-1501's."""
    return split_three(market1501.read_people(folder), protocol, str(folder))


def split_three(everyone: Samples, protocol: Market | Drawn | Cifar100, where: str) -> dict[str, Samples]:
    """Identities of all three parts in random order, always the same."""
    n = [protocol.n_train, protocol.n_validation, protocol.n_test]
    people = np.split(chosen(np.unique(everyone.pids), sum(n), where), np.cumsum(n[:2]))
    rows = [np.flatnonzero(np.isin(everyone.pids, members)) for members in people]
    return {part: everyone.take(found) for part, found in zip(PARTS, rows, strict=True)}


def chosen(identities: IntArray, n: int, where: str) -> IntArray:
    """`n` of them, always the same ones, in random order."""
    if len(identities) < n:
        raise DataError(f"{where} has {len(identities)} identities, the protocol needs {n}")
    return np.random.default_rng(0).permutation(np.sort(identities))[:n]


def write_whole(folder: Path, write: Callable[[Path], object]) -> Path:
    """Write a folder completely or not at all. An existing folder is kept."""
    if folder.is_dir():
        return folder
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        write(draft)
        draft.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
