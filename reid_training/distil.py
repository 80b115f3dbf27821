"""Distillation: the student's embedding of an augmented crop must match the teacher's of the clean crop.

Relational Knowledge Distillation. Wonpyo Park, Dongju Kim, Yan Lu, Minsu Cho. CVPR 2019,
https://arxiv.org/abs/1904.05068.
Similarity-Preserving Knowledge Distillation. Frederick Tung, Greg Mori. ICCV 2019, https://arxiv.org/abs/1907.09682:
equations 2 to 4.
FitNets: Hints for Thin Deep Nets. Adriana Romero et al. ICLR 2015, https://arxiv.org/abs/1412.6550: a learned map
between layers of unlike widths.

What we take: (1) The relational target: the table of similarities within a batch, and the mean squared error to the
teacher's. (2) The direct target: a linear map of the student's embedding, which serves the training alone, points the
way of the teacher's. Neither needs labels, so the crops need none.
Where we differ: (1) The similarities are the cosines of the embeddings, because it is they that the tracker compares,
not rows of activations scaled one by one; an image's similarity to itself, always 1, is left out. (2) The target is the
mean of the teacher's embeddings of the crop and of its mirror image, computed once: a teacher may be as slow as it
likes, and what augmentation hides from the student is to be guessed from what is left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from tqdm import tqdm

from reid_training.config import DistilConfig
from reid_training.data.base import IntArray, Samples
from reid_training.embedders import Embedder, FloatArray, embed_samples
from reid_training.errors import ModelError
from reid_training.runs import replace_file
from reid_training.teachers import open_teacher

logger = logging.getLogger(__name__)

TARGETS = "teacher.npz"  # in the run folder
CHUNK = 256  # crops between two steps of the progress bar


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs i != j of (cos(s_i, s_j) - cos(t_i, t_j))^2.

    student (B, D), teacher (B, E): rows of unit length for the same images; D and E need not be equal.

    References: Tung, Mori 2019, equation 4, with cosines for the rows of activations.
    """
    n = len(student)
    if n < 2:
        return student.sum() * 0.0
    difference = student @ student.T - teacher @ teacher.T
    return difference.fill_diagonal_(0.0).pow(2).sum() / (n * (n - 1))


def direct_loss(mapped: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos(m_i, t_i). mapped (B, E) of any length, teacher (B, E) of unit length. In [0, 2]."""
    return 1.0 - F.cosine_similarity(mapped, teacher, dim=1).mean()


class Distillation:
    """The teacher's embeddings of all crops of a run, and the losses against them.

    `map` (size -> E) is trained with the student and belongs to the run's state; it is no part of the exported network.
    """

    def __init__(self, config: DistilConfig, targets: FloatArray, size: int, device: torch.device) -> None:
        """targets (N, E), rows of unit length; size: D of the student. Draws the map's first weights."""
        self.config = config
        self.targets = torch.from_numpy(targets).to(device)
        self.map = nn.Linear(size, targets.shape[1], bias=False)
        nn.init.normal_(self.map.weight, std=size**-0.5)
        self.map.to(device)

    def loss(self, embeddings: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, float]]:
        """embeddings (B, D), rows of unit length of the crops `rows` (B,). The loss, and its parts for the log."""
        targets = self.targets[rows]
        with torch.autocast(embeddings.device.type, enabled=False):  # the networks may use it, the losses may not
            relation = relation_loss(embeddings, targets)
            direct = direct_loss(self.map(embeddings), targets)
        total = self.config.weight * relation + self.config.direct_weight * direct
        return total, {"relation": float(relation.detach()), "direct": float(direct.detach())}


def crop_batches(n: int, size: int, n_batches: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """`n_batches` batches of `size` of n crops; each crop once before any of them comes again. Yields rows (size,)."""
    n_rounds = -(-n_batches * size // n)
    order = np.concatenate([rng.permutation(n) for _ in range(n_rounds)])
    for at in range(n_batches):
        yield order[at * size : (at + 1) * size]


def read_targets(
    config: DistilConfig, crops: Samples, out: Path, device: torch.device, threads: int, *, resume: bool
) -> FloatArray:
    """The teacher's embeddings (N, E) of the crops, from the file in the run folder `out`, or computed and kept there.

    Raises ModelError where a run is resumed with another teacher, or with other crops.
    """
    embedder, digest = open_teacher(config, device, threads)
    key = hashlib.sha256("\n".join([digest, *map(str, crops.paths)]).encode()).hexdigest()
    kept = _read_kept(out / TARGETS)
    if kept is not None and str(kept["key"]) == key:
        return np.asarray(kept["targets"], dtype=np.float32)
    if kept is not None and resume:
        raise ModelError(f"{out / TARGETS} is of another teacher, or of other crops; resume needs the same")
    logger.info("%s embeds %d crops and their mirror images, once", config.teacher, len(crops))
    targets = embed_clean(embedder, crops)
    replace_file(out / TARGETS, lambda stream: np.savez(stream, key=np.array(key), targets=targets))
    return targets


def _read_kept(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {"key": kept["key"], "targets": kept["targets"]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise ModelError(f"{path} is damaged; delete it, and the teacher embeds the crops again") from None


def embed_clean(embedder: Embedder, crops: Samples) -> FloatArray:
    """The mean of the embeddings of each crop and of its mirror image, at unit length: (N, E)."""
    mirrored = embedder if crops.maps is not None else WithMirror(embedder)  # a map is no picture to be turned
    chunks = [np.arange(at, min(at + CHUNK, len(crops))) for at in range(0, len(crops), CHUNK)]
    with tqdm(chunks, desc="teacher", unit_scale=CHUNK, unit=" crops", leave=False, disable=None) as bar:
        found = np.concatenate([embed_samples(mirrored, crops.take(rows)) for rows in bar])
    if not np.isfinite(found).all():
        raise ModelError("the teacher gives embeddings that are not finite")
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class WithMirror:
    """An embedder that takes the mean with the mirror image."""

    embedder: Embedder

    @property
    def height(self) -> int:
        return self.embedder.height

    @property
    def width(self) -> int:
        return self.embedder.width

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        both = self.embedder(images) + self.embedder(np.ascontiguousarray(images[:, :, ::-1]))
        found: FloatArray = both / np.linalg.norm(both, axis=1, keepdims=True).clip(1e-12)
        return found
