"""Domains of pictures that differ: alphabets of Omniglot, digits, clothes, and superclasses of CIFAR-100, at 32x32.

One network reads them all: grey pictures are repeated in three channels, and keep their own ink and background. A
collection with many domains leaves some of them out of the training, one with many classes in a domain leaves out
classes. Which ones a seed decides, except that the test alphabets are Omniglot's evaluation set.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from reid_training.config import NetConfig
from reid_training.data.base import ByteArray, IntArray
from reid_training.data.transforms import normalise
from reid_training.errors import DataError
from reid_training.nets import build
from reid_training.nets.projected import ProjectedNet
from tools.experiments import cifar100, mnist

N_PER_CLASS = 600  # pictures of digits and clothes: as many as CIFAR-100 has
N_VALIDATED = {"alphabets": 5, "superclasses": 3}  # domains
N_TESTED = {"superclasses": 5}
HELD_OUT = 4  # one of so many characters of a training alphabet is not trained on
N_CLASSES = (4, 3)  # of the ten digits, and of the ten clothes: to train and to validate; the other three are tested
TURN_DEGREES = 12.0


class Domains(Protocol):
    """Items of the classes of some domains."""

    @property
    def classes(self) -> IntArray: ...  # (N,)

    @property
    def members(self) -> tuple[IntArray, ...]: ...  # rows of each domain

    @property
    def collections(self) -> tuple[str, ...]: ...  # of each domain

    def inputs(self, rows: IntArray) -> Tensor: ...  # what the network takes

    def copies(self, rows: IntArray) -> Tensor: ...  # the same of copies, which differ a little

    def network(self, width: float, embedding_size: int) -> ProjectedNet: ...


@dataclass(frozen=True, slots=True)
class Parts:
    train: Domains
    tests: Mapping[str, tuple[Domains, Domains]]  # validation and test of a kind; no class of them is in `train`


@dataclass(frozen=True, slots=True)
class Pictures:
    pixels: ByteArray  # (N, 3, side, side)
    classes: IntArray  # (N,)
    members: tuple[IntArray, ...]
    collections: tuple[str, ...]

    def inputs(self, rows: IntArray) -> Tensor:
        return to_input(self.pixels[rows])

    def copies(self, rows: IntArray) -> Tensor:
        return to_input(turned(self.pixels[rows]))

    def network(self, width: float, embedding_size: int) -> ProjectedNet:
        return build(NetConfig(name="conv4", width=width, embedding_size=embedding_size))


Domain = Mapping[str, ByteArray]  # class -> its pictures, (n, side, side) or (n, 3, side, side)
Collection = Mapping[str, Domain]


def joined(domains: Sequence[tuple[str, Domain]]) -> Pictures:
    """One table of all pictures. Domains with the name of their collection; a class is one where its name is."""
    names = sorted({name for _, domain in domains for name in domain})
    number = {name: i for i, name in enumerate(names)}
    pixels, classes, members, first = [], [], [], 0
    for _, domain in domains:
        for name, pictures in domain.items():
            colour = pictures if pictures.ndim == 4 else pictures[:, None].repeat(3, 1)
            pixels.append(colour)
            classes.append(np.full(len(colour), number[name]))
        n = sum(len(pictures) for pictures in domain.values())
        members.append(np.arange(first, first + n))
        first += n
    return Pictures(np.concatenate(pixels), np.concatenate(classes), tuple(members), tuple(name for name, _ in domains))


def to_input(pixels: ByteArray) -> Tensor:
    """(N, 3, H, W) bytes to what the network takes, of the same shape."""
    return normalise(torch.from_numpy(pixels).float() / 255.0)


def turned(pixels: ByteArray) -> ByteArray:
    """Rotated by TURN_DEGREES: (N, 3, H, W)."""
    height, width = pixels.shape[2:]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), TURN_DEGREES, 1.0)
    copies = [
        cv2.warpAffine(one.transpose(1, 2, 0), turn, (width, height), borderMode=cv2.BORDER_REPLICATE) for one in pixels
    ]
    return np.stack(copies).astype(np.uint8).transpose(0, 3, 1, 2)


def split(
    background: Collection, evaluation: Collection, digits: Domain, clothes: Domain, superclasses: Collection, seed: int
) -> Parts:
    """Which domains and classes are trained on, validated and tested with a seed."""
    rng = np.random.default_rng([seed, 7])
    first = N_VALIDATED["alphabets"]
    alphabets = rng.permutation(sorted(background))
    validated = [("characters", background[name]) for name in alphabets[:first]]
    trained, characters = [], []
    for name in alphabets[first:]:
        left, kept = _divided(background[name], rng, max(2, len(background[name]) // HELD_OUT))
        trained.append(("characters", kept))
        characters.append(("characters", left))
    alphabet_validation = joined(validated)
    tests = {
        "new characters": (alphabet_validation, joined(characters)),
        "new alphabets": (alphabet_validation, joined([("characters", domain) for domain in evaluation.values()])),
    }
    for name, domain in (("digits", digits), ("clothes", clothes)):
        kept, validation, test = _divided(domain, rng, *N_CLASSES)
        trained.append((name, kept))
        tests[f"new {name}"] = (joined([(name, validation)]), joined([(name, test)]))
    names = rng.permutation(sorted(superclasses))
    n_validated, n_tested = N_VALIDATED["superclasses"], N_TESTED["superclasses"]
    of_class = [("superclasses", superclasses[name]) for name in names]
    trained += of_class[n_validated + n_tested :]
    tests["new superclasses"] = (
        joined(of_class[:n_validated]),
        joined(of_class[n_validated : n_validated + n_tested]),
    )
    return Parts(joined(trained), tests)


def _divided(domain: Domain, rng: np.random.Generator, *counts: int) -> list[Domain]:
    """As many classes as `counts` say, then the rest."""
    parts = np.split(rng.permutation(sorted(domain)), np.cumsum(counts))
    return [{name: domain[name] for name in names} for names in parts]


def generated(side_px: int, seed: int) -> Parts:
    """Coarse patterns, one for each class, with eight pictures that differ by noise."""
    rng = np.random.default_rng(0)

    def domain(name: str, n_classes: int) -> Domain:
        def pictures() -> ByteArray:
            ink = rng.integers(0, 2, (4, 4), dtype=np.uint8).repeat(side_px // 4, 0).repeat(side_px // 4, 1)
            return 255 - 155 * ink - rng.integers(0, 100, (8, side_px, side_px), dtype=np.uint8)

        return {f"{name} {i}": pictures() for i in range(n_classes)}

    def collection(name: str, n_domains: int) -> Collection:
        return {f"{name} {i}": domain(f"{name} {i}", 5) for i in range(n_domains)}

    single = (domain("digit", 10), domain("garment", 10))
    return split(collection("known", 8), collection("new", 2), *single, collection("super", 11), seed)


def read(data: Path, side_px: int, seed: int) -> Parts:
    """The folders omniglot, mnist, fashion-mnist and cifar100 of `data`."""
    return split(*_read_once(data, side_px), seed)


@functools.cache  # of a process that has several runs
def _read_once(data: Path, side_px: int) -> tuple[Collection, Collection, Domain, Domain, Collection]:
    digits, clothes = (
        _by_class(name, mnist.read(data, name, "test")[0], side_px) for name in (mnist.MNIST, mnist.FASHION)
    )
    pictures = dict(zip(cifar100.CLASSES, cifar100.read(data / "cifar100"), strict=True))
    superclasses = {
        name: {one: _resized(pictures[one], side_px) for one in members}
        for name, members in cifar100.SUPERCLASSES.items()
    }
    return *_alphabets(data / "omniglot" / "omniglot_105.npz", side_px), digits, clothes, superclasses


def _by_class(name: str, images: mnist.Digits, side_px: int) -> Domain:
    """The first N_PER_CLASS of each class."""
    return {
        f"{name} {label}": _resized(
            images.pixels[np.flatnonzero(images.labels == label)[:N_PER_CLASS]].reshape(-1, 28, 28), side_px
        )
        for label in np.unique(images.labels)
    }


def _resized(pictures: ByteArray, side_px: int) -> ByteArray:
    if pictures.shape[-1] == side_px:
        return pictures
    size, way = (side_px, side_px), cv2.INTER_AREA if pictures.shape[-1] > side_px else cv2.INTER_LINEAR
    planes = pictures.reshape(-1, *pictures.shape[-2:])
    small = np.stack([cv2.resize(one, size, interpolation=way) for one in planes]).astype(np.uint8)
    return small.reshape(*pictures.shape[:-2], side_px, side_px)


def _alphabets(source: Path, side_px: int) -> tuple[Collection, Collection]:
    """The background alphabets and the evaluation alphabets, dark on light."""
    arrays = _open(source)
    height, width = (int(n) for n in arrays["shape"])
    found: tuple[dict[str, Domain], dict[str, Domain]] = ({}, {})
    for alphabet in np.unique(arrays["alphabet"]):
        rows = np.flatnonzero(arrays["alphabet"] == alphabet)
        ink = np.unpackbits(arrays["packed"][rows], axis=1)[:, : height * width].reshape(-1, height, width)
        pictures, characters = _resized(255 * (1 - ink), side_px), arrays["char"][rows]
        domain = {f"character {char}": pictures[characters == char] for char in np.unique(characters)}
        found[0 if arrays["background"][rows[0]] else 1][f"alphabet {alphabet}"] = domain
    return found


def _open(source: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(source, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("packed", "shape", "char", "alphabet", "background")}
    except FileNotFoundError:
        raise DataError(f"no file {source}; --data names the folder that omniglot/ lies in") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is not Omniglot in the layout expected, or it is damaged: {error}") from None


def constants() -> tuple[object, ...]:
    """What decides the content of a result, beside the experiment's setting."""
    return N_PER_CLASS, N_VALIDATED, N_TESTED, HELD_OUT, N_CLASSES, TURN_DEGREES
