"""Relational distillation: the student copies the similarities that a larger teacher gives the images of a batch.

Similarity-Preserving Knowledge Distillation. Frederick Tung, Greg Mori. ICCV 2019, https://arxiv.org/abs/1907.09682:
equations 2 to 4. Relational Knowledge Distillation. Park, Kim, Lu, Cho. CVPR 2019, https://arxiv.org/abs/1904.05068.

What we take: (1) the table of similarities within the batch as the thing that is handed down, which asks for nothing of
the two networks' sizes, (2) its mean squared error beside the student's own losses.
Where we differ: the similarities are the cosines of the two embeddings, because it is they that the tracker compares,
not rows of activations scaled one by one; an image's similarity to itself, always 1, is left out. The teacher sees the
student's augmented images, enlarged to its own input size, and so has an opinion of occlusions and blur as well.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from reid_training.config import DistilConfig
from reid_training.methods.base import Loss
from reid_training.runs import load_method


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


class Teacher:
    """A trained network, used for inference only; neither changed nor saved with the student."""

    def __init__(self, distil: DistilConfig, device: torch.device) -> None:
        """`distil.teacher` is a run folder or checkpoint of `reid train`."""
        self.method, config, _ = load_method(Path(distil.teacher))
        self.method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.requires_grad_(False)
        self.size = None if config.net.cached else (config.data.height, config.data.width)
        self.weight, self.every = distil.weight, distil.every

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) of any size, or the student's maps. Returns (B, E) rows of unit length."""
        if self.size is not None and images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        embeddings: Tensor = self.method.embed(images)
        return embeddings

    def add_to(self, loss: Loss, images: Tensor) -> Loss:
        """The student's loss on `images` plus the relation loss."""
        seen = slice(None, None, self.every)  # a batch is grouped by person: people stay, with fewer images each
        targets = self.embed(images[seen])
        with torch.autocast(images.device.type, enabled=False):  # the teacher may use autocast, the loss may not
            copying = relation_loss(loss.embeddings[seen], targets)
        # Its gradient goes where that of the embeddings goes; the other objectives of the method stay as they are.
        return dataclasses.replace(
            loss,
            total=loss.total + self.weight * copying,
            parts={**loss.parts, "relation": float(copying.detach())},
        )
