"""Randomised ensemble: each member classifies random meta-classes of people; all logits together are the embedding.

Deep Randomized Ensembles for Metric Learning. Hong Xuan, Richard Souvenir, Robert Pless. ECCV 2018, pp. 723-734,
https://arxiv.org/abs/1808.04469. Authors' code: https://github.com/littleredxh/DREML.

What we take, as in the authors' code:
(1) The ID matrix: for each member a random balanced map from the people to a few meta-classes, drawn once.
(2) A member is a small network whose meta-class logits *are* its embedding, trained by softmax cross-entropy.
(3) Members share no weights, optimisers or batches; `member` selects one of them, to be trained alone.
(4) The logits of each member are scaled to unit length and concatenated: a cosine is the mean of the members' cosines.
Where we differ:
(2) The networks are ours, where the paper has ResNet-18 and Inception from ImageNet weights. The linear layer before
    the logits has no bias.
(3) PK batches, AdamW and averaged weights, as for all methods here, where the paper has plain shuffling, SGD, and the
    epoch of the best training accuracy. `shared` (ours) computes the logits of all members by one network in one pass,
    for run time. Distillation into one network (`distil`) is the other way to a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training.methods.base import Loss, Method, check_batch
from tracker.settings import Count, Settings, Whole, require


@dataclass(frozen=True, slots=True)
class DremlConfig(Settings):
    """A member's embedding is as long as it has meta-classes: `net.embedding_size` is not used."""

    # L. Ours: recall rises with L, and so does the time for a crop; see tools/experiments/configs/dreml.toml.
    members: Count = 8
    # M, at most the number of people; 0 = each person a class of its own: the ordinary softmax. Ours: on drawn glyphs 4
    # were too coarse.
    meta_classes: Whole = 12
    member: int = -1  # one member alone, 0 .. L - 1; -1 = the whole ensemble
    shared: bool = False  # one network with the logits of all members; not the paper's

    def check_together(self) -> None:
        require(self.meta_classes != 1, "method.meta_classes must be 0 or >= 2, got 1")
        require(
            -1 <= self.member < self.members,
            f"method.member must be in [-1, members - 1] = [-1, {self.members - 1}], got {self.member}",
        )
        require(
            not self.shared or self.member == -1,
            f"method.member must be -1 with method.shared, where no member is alone, got {self.member}",
        )

    @property
    def n_apart(self) -> int:
        """Members that are to be trained as runs of their own; 0: this is one run."""
        return 0 if self.shared or self.member >= 0 else self.members


def id_matrix(n_classes: int, n_meta: int, n_members: int, generator: torch.Generator | None = None) -> Tensor:
    """The meta-class of every class for every member: (N, L) int64 in 0 .. n_meta - 1.

    In a column the meta-classes have equally many classes, to one; every such column is equally likely. Without a
    generator the draws are torch's own, which a run seeds.
    """
    n_copies = -(-n_classes // n_meta)

    def column() -> Tensor:
        copies = [torch.randperm(n_meta, generator=generator) for _ in range(n_copies)]
        return torch.cat(copies)[:n_classes][torch.randperm(n_classes, generator=generator)]

    return torch.stack([column() for _ in range(n_members)], dim=1)


def meta_class_losses(logits: Tensor, labels: Tensor, meta_of: Tensor) -> Tensor:
    """The mean cross-entropy of every member on its own meta-classes: (L,).

    logits (B, L, M), labels (B,) in 0 .. N - 1, meta_of (N, L) as `id_matrix` gives it. The paper's proxies are the
    rows of the identity matrix, and the product of logits and proxies the logits themselves.
    """
    targets = meta_of[labels]  # (B, L)
    return torch.stack([F.cross_entropy(logits[:, i], targets[:, i]) for i in range(logits.shape[1])])


def concatenate(logits: Tensor) -> Tensor:
    """logits (B, L, M) to unit rows (B, L * M), each member's part a unit row times 1 / sqrt(L)."""
    unit: Tensor = F.normalize(logits, dim=2, eps=1e-12)
    return (unit / math.sqrt(logits.shape[1])).flatten(1)


class Dreml(Method):
    """The ensemble, one member of it, or its members on one network."""

    many_nets: ClassVar[bool] = True

    def __init__(self, new_net: Callable[[int], nn.Module], config: DremlConfig) -> None:
        super().__init__()
        self.config = config
        self.new_net = new_net
        self.n_members = 1 if config.member >= 0 else config.members

    def prepare(self, n_classes: int) -> None:
        most = self.config.meta_classes
        require(most <= n_classes, f"method.meta_classes must be at most {n_classes}, the people here, got {most}")
        self.n_meta = most or n_classes
        self.sizes = (self.n_meta,) * self.n_members
        self.size = sum(self.sizes)
        n_nets = 1 if self.config.shared else self.n_members
        self.nets = nn.ModuleList(self.new_net(self.size // n_nets) for _ in range(n_nets))
        self.meta_of: Tensor  # (N, L)
        self.register_buffer("meta_of", id_matrix(n_classes, self.n_meta, self.n_members))

    def embed(self, images: Tensor) -> Tensor:
        return concatenate(self.logits(images))

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, L, M)."""
        features = torch.cat([net(images).float() for net in self.nets], dim=1)  # (B, L * M)
        return features.reshape(-1, self.n_members, self.n_meta)

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("dreml", images, labels)
        logits = self.logits(images)
        with torch.autocast(logits.device.type, enabled=False):
            each = meta_class_losses(logits, labels, self.meta_of)
            correct = logits.detach().argmax(2) == self.meta_of[labels]  # (B, L)
            parts = {"meta": float(each.detach().mean()), "meta_accuracy": float(correct.float().mean())}
            # A sum: no member's step depends on how many others there are.
            return Loss(each.sum(), parts, concatenate(logits))


def joined(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state of the ensemble from the states of its members, each trained alone."""
    state = {"meta_of": torch.cat([member["meta_of"] for member in members], dim=1)}
    for index, member in enumerate(members):
        for name, value in member.items():
            if name != "meta_of":
                state[name.replace("nets.0.", f"nets.{index}.", 1)] = value
    return state
