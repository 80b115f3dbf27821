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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid_training.data.base import IntArray
from reid_training.errors import DataError
from reid_training.nets.layers import PooledNet

WHERE = "clinc/data_full.json and clinc/domains.json in --data, from the folder data/ of github.com/clinc/oos-eval"
PARTS = {"train": slice(6), "validation": slice(6, 8), "test": slice(8, None)}  # domains, in the file's order
LABELLED = ("train", "val", "test")  # lists of the file; its others are of no intent
# Tried on the validation domains, seed 0: the matching network, not adapted, mean of the three measures in per cent.
# Words 47.0 / 50.5 / 50.2 / 48.6 at a scale of 1 / 2 / 4 / 8, words and pairs of them 39.7 at 4, words and their 3- and
# 4-grams of letters 50.6 at 4. At 1 the best rates of plain fine-tuning were the largest ones on offer; hence 4.
# With words at 4: 2000 tasks 51.3, dropout of 0.3 48.8, learning rate 0.0003 / 0.003 46.7 / 47.5. A network of twice
# the width, which takes twice the time to adapt, was better still: words 51.7, with n-grams at a scale of 8 56.2.
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


def texts_of(domains: Mapping[str, Mapping[str, Sequence[str]]], first: int = 0) -> Texts:
    """Sentences by domain and intent; intents are numbered from `first`."""
    sentences: list[list[str]] = []
    classes: list[int] = []
    members = []
    for intents in domains.values():
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


def generated() -> dict[str, Texts]:
    """Intents with two words of their own each, among four of ten that all share."""
    rng = np.random.default_rng(0)

    def sentence(intent: int) -> str:
        said = rng.permutation([f"own{intent}a", f"own{intent}b", *(f"any{i}" for i in rng.integers(0, 10, 4))])
        return " ".join(said)

    def part(n_domains: int, first: int) -> Texts:
        numbers = np.arange(first, first + 5 * n_domains).reshape(n_domains, 5)
        drawn = {str(row): {str(i): [sentence(i) for _ in range(8)] for i in row} for row in numbers}
        return texts_of(drawn, first)

    return {"train": part(4, 0), "validation": part(2, 20), "test": part(2, 30)}


def constants() -> tuple[object, ...]:
    """What decides the content of a result, beside the experiment's setting."""
    parts = [(part, where.start, where.stop) for part, where in PARTS.items()]
    return parts, N_HASHES, N_FEATURES, SCALE


def read(folder: Path) -> dict[str, Texts]:
    """Domains to train, to validate, and to test on."""
    domains: dict[str, list[str]] = _open(folder / "domains.json")
    lists: dict[str, list[tuple[str, str]]] = _open(folder / "data_full.json")
    try:
        said: dict[str, list[str]] = {intent: [] for intents in domains.values() for intent in intents}
        for name in LABELLED:
            for text, intent in lists[name]:
                said[intent].append(text)
        if silent := [intent for intent, found in said.items() if not found]:
            raise ValueError(f"no sentence of {silent[0]}")
        if len(domains) <= PARTS["test"].start:
            raise ValueError(f"{len(domains)} domains are too few")
        by_domain = [(domain, {intent: said[intent] for intent in intents}) for domain, intents in domains.items()]
        first = 0
        parts = {}
        for part, where in PARTS.items():
            parts[part] = texts_of(dict(by_domain[where]), first)
            first = int(parts[part].classes.max()) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is not CLINC150 in the layout expected, or it is damaged: {error!r}") from None
    return parts


def _open(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no file {file}; texts are read from {WHERE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
