"""Intent texts as domains: short sentences of CLINC150, hashed words, and a small network that reads them.

An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction. Larson et al. EMNLP 2019,
https://www.aclweb.org/anthology/D19-1131. Ten domains (banking, travel, ...) of 15 intents with 150 sentences each. The
user has the two files: https://github.com/clinc/oos-eval, CC BY 3.0; none of it is here.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid_training.data.base import IntArray
from reid_training.errors import DataError
from reid_training.nets.layers import PooledNet
from tools.experiments.picture_domains import Parts

WHERE = "clinc/data_full.json and clinc/domains.json in --data, from the folder data/ of github.com/clinc/oos-eval"
N_TRAINED, N_VALIDATED = 6, 2  # of the ten domains, which a seed draws; the others are tested
HELD_OUT = 3  # one of so many intents of a training domain is not trained on
LABELLED = ("train", "val", "test")  # lists of the file; its others are of no intent
# Chosen when similarities were dot products: words at this scale were no worse than at 1, 2 and 8, and better than with
# pairs of them; n-grams of letters gained little.
N_HASHES = 2**13
N_FEATURES = 128  # of a network of width 1
SCALE = 4.0  # of the mean of the vectors


@dataclass(frozen=True, slots=True)
class Texts:
    """Sentences of the intents of some domains."""

    words: IntArray  # (N, L) of `hashed`, then zeros
    shortened: IntArray  # (N, L) the same sentences without a word
    classes: IntArray  # (N,)
    members: tuple[IntArray, ...]  # rows of each domain

    @property
    def collections(self) -> tuple[str, ...]:
        return ("texts",) * len(self.members)

    def inputs(self, rows: IntArray) -> Tensor:
        return torch.from_numpy(self.words[rows])

    def copies(self, rows: IntArray) -> Tensor:
        return torch.from_numpy(self.shortened[rows])

    def network(self, width: float, embedding_size: int) -> PooledNet:
        return TextNet(int(N_FEATURES * width), embedding_size)


class TextNet(PooledNet):
    """Words (B, L), 0 where there is none, to features (B, embedding_size): the mean of their vectors, ReLU, linear."""

    def __init__(self, n_features: int, embedding_size: int) -> None:
        bag = nn.EmbeddingBag(N_HASHES, n_features, mode="mean", padding_idx=0)
        super().__init__(nn.Sequential(bag, nn.ReLU()), n_features, embedding_size)

    def pooled(self, images: Tensor) -> Tensor:
        pooled: Tensor = SCALE * self.body(images)
        return pooled


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def shortened(words: list[str]) -> list[str]:
    """Without the one in the middle, unless it is the only one."""
    middle = len(words) // 2
    return words[:middle] + words[middle + 1 :] if len(words) > 1 else words


def hashed(words: list[str]) -> list[int]:
    """Numbers in 1 .. N_HASHES - 1, the same on every machine."""
    return [1 + zlib.crc32(word.encode()) % (N_HASHES - 1) for word in words]


def texts_of(domains: Sequence[Mapping[str, Sequence[str]]]) -> Texts:
    """Sentences of each intent of each domain."""
    sentences: list[list[str]] = []
    classes: list[int] = []
    members = []
    first = 0
    for intents in domains:
        start = len(sentences)
        for found in intents.values():
            sentences += [words_of(text) for text in found]
            classes += [first] * len(found)
            first += 1
        members.append(np.arange(start, len(sentences)))
    longest = max(len(words) for words in sentences)
    numbers, short = np.zeros((2, len(sentences), longest), np.int64)
    for row, words in enumerate(sentences):
        for table, kept in ((numbers, words), (short, shortened(words))):
            table[row, : len(kept)] = hashed(kept)
    return Texts(numbers, short, np.array(classes), tuple(members))


def split(domains: Mapping[str, Mapping[str, Sequence[str]]], seed: int) -> Parts:
    """Which domains and intents are trained on, validated and tested with a seed."""
    rng = np.random.default_rng([seed, 8])
    order = [domains[name] for name in rng.permutation(sorted(domains))]
    kept, left = [], []
    for intents in order[:N_TRAINED]:
        names = rng.permutation(sorted(intents))
        cut = len(names) // HELD_OUT
        left.append({name: intents[name] for name in names[:cut]})
        kept.append({name: intents[name] for name in names[cut:]})
    validation = texts_of(order[N_TRAINED : N_TRAINED + N_VALIDATED])
    tests = {"new intents": texts_of(left), "new domains": texts_of(order[N_TRAINED + N_VALIDATED :])}
    return Parts(texts_of(kept), {name: (validation, test) for name, test in tests.items()})


def generated(seed: int) -> Parts:
    """Intents with two words of their own each, among four of ten that all share."""
    rng = np.random.default_rng(0)

    def sentence(intent: str) -> str:
        said = rng.permutation([f"own{intent}a", f"own{intent}b", *(f"any{i}" for i in rng.integers(0, 10, 4))])
        return " ".join(said)

    names = {f"domain {d}": [f"{d}x{i}" for i in range(6)] for d in range(10)}
    domains = {
        domain: {intent: [sentence(intent) for _ in range(8)] for intent in intents}
        for domain, intents in names.items()
    }
    return split(domains, seed)


def constants() -> tuple[object, ...]:
    """What decides the content of a result, beside the experiment's setting."""
    return N_TRAINED, N_VALIDATED, HELD_OUT, N_HASHES, N_FEATURES, SCALE


def read(folder: Path, seed: int) -> Parts:
    return split(_read_once(folder), seed)


@cache  # of a process that has several runs
def _read_once(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The sentences of each intent of each domain."""
    domains: dict[str, list[str]] = _open(folder / "domains.json")
    lists: dict[str, list[tuple[str, str]]] = _open(folder / "data_full.json")
    try:
        said: dict[str, list[str]] = {intent: [] for intents in domains.values() for intent in intents}
        for name in LABELLED:
            for text, intent in lists[name]:
                said[intent].append(text)
        if silent := [intent for intent, found in said.items() if not found]:
            raise ValueError(f"no sentence of {silent[0]}")
        if len(domains) <= N_TRAINED + N_VALIDATED:
            raise ValueError(f"{len(domains)} domains are too few")
        return {domain: {intent: said[intent] for intent in intents} for domain, intents in domains.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is not CLINC150 in the layout expected, or it is damaged: {error!r}") from None


def _open(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no file {file}; texts are read from {WHERE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
