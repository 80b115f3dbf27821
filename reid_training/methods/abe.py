"""Attention-based ensemble: M learners share one network and differ in their attention masks.

Attention-based Ensemble for Deep Metric Learning. Wonsik Kim, Bhavya Goyal, Kunal Chawla, Jungmin Lee, Keunjoo Kwon.
ECCV 2018, https://arxiv.org/abs/1804.00382.

What we take:
(1) Learner m is B_m(x) = G(S(x) * A_m(S(x))). S: the first layers; A_m: a mask over channels and positions; G: the
    remaining layers with their projection, shared by all learners.
(2) Sigmoid masks.
(3) A contrastive loss for each learner, with its hinge on the squared distance of unit vectors.
(4) The divergence loss, which separates the learners of the *same* image and never compares two images.
(5) The embedding is the concatenation of the learners' unit vectors.
Where we differ:
(1) The networks are ours, split in the middle by default. The batch norm of G takes its statistics over all learners.
(2) The attention is one 3x3 convolution for all learners and a 1x1 convolution for each. The paper's module is five
    inception blocks and a 1x1 convolution; the masks must cost little on a CPU. Public code also shares all but the
    last 1x1 convolution.
(3, 4) All terms are means: over the learners, over positives and negatives separately (the paper's batch has as many
    of each), over the images and the pairs of learners. So lambda_div means the same for any number of either.
The paper's comparison, M heads without attention: each learner has a G of its own, all from the same first weights but
for their rows of the projection, as with a network from ImageNet.
Optional, for re-identification: identity classification behind a BN-neck over all learners.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import distances, losses
from reid_training.methods.base import IdentityMethod, Loss, check_batch
from reid_training.nets.heads import unit_blocks
from reid_training.nets.layers import PooledNet, conv_bn
from tracker.settings import BelowOne, Count, NotNegative, Range, Settings, Whole, require


@dataclass(frozen=True, slots=True)
class ABEConfig(Settings):
    """Settings of `ABE`."""

    learners: Count = 4  # M; net.embedding_size must be a multiple. The paper goes up to 8, for 512 dimensions
    split: Whole = 0  # layers of the network that see no mask; 0 = half of them, see `split_of`
    margin: Annotated[float, Range("(0, 4]")] = 1.0  # m_c: squared distance of unit vectors; the paper's
    # Of the divergence loss. The paper's value is not known to us. With means, 0.05 had no effect in our first trials;
    # 0.2 and 1 are equal on Omniglot (validation characters; tools/experiments/configs/abe.toml).
    lambda_div: NotNegative = 1.0
    # False is the paper's comparison of M heads: each learner has layers of its own after the split, and no mask.
    attention: bool = True
    # M_div, as m_c: learners are driven to a cosine of 1 - m_div / 2; the paper's.
    margin_div: Annotated[float, Range("(0, 4]")] = 1.0
    id_weight: NotNegative = 0.0  # identity softmax behind a BN-neck; the paper has none
    label_smoothing: BelowOne = 0.1  # of the identity softmax; as in the shipped recipe


def divergence_loss(learners: Tensor, margin: float = 1.0) -> Tensor:
    """Mean over images and pairs p < q of learners of max(0, margin - |B_p(x) - B_q(x)|^2).

    learners (B, M, D): what M learners make of B images, rows of unit length. Never compares two images. 0 for M = 1;
    its gradient is 0 where all learners are at least sqrt(margin) apart.

    References: Kim et al. 2018, L_div; a sum there.
    """
    first, second = torch.triu_indices(learners.shape[1], learners.shape[1], 1, device=learners.device)
    if len(first) == 0:
        return learners.sum() * 0.0
    squared = (learners[:, first] - learners[:, second]).pow(2).sum(2)  # (B, M (M - 1) / 2)
    return (margin - squared).clamp_min(0.0).mean()


def learner_cosine(learners: Tensor) -> Tensor:
    """Mean cosine between two learners of the same image; learners (B, M, D), unit rows, M >= 2."""
    n = learners.shape[1]
    table = learners @ learners.mT  # (B, M, M)
    return (table.sum((1, 2)).mean() - n) / (n * (n - 1))


class Attention(nn.Module):
    """One mask in (0, 1) for each learner, as large as the map of features: channels, rows and columns."""

    def __init__(self, channels: int, learners: int) -> None:
        super().__init__()
        self.learners = learners
        self.look = conv_bn(channels, channels, 3)
        self.branch = nn.Conv2d(channels, learners * channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)  # the paper's choice for new layers

    def forward(self, features: Tensor) -> Tensor:  # (B, C, h, w) -> (B, M, C, h, w)
        masks = torch.sigmoid(self.branch(self.look(features)))
        return torch.unflatten(masks, 1, (self.learners, -1))


def split_of(net: PooledNet, split: int = 0) -> int:
    """How many layers of the body come before the masks: `split`, or half of the body.

    Half of osnet are its stem and first stage, half of resnet50 its stem and two stages, half of conv4 two blocks. The
    map is then a quarter (conv4) to a sixteenth (mobilenetv2; GoogLeNet in the paper) of the picture's side.
    """
    n_layers = len(net.body)
    require(n_layers > 1, f"abe needs two layers to put its masks between, the network has {n_layers} to train")
    require(split < n_layers, f"method.split must be below {n_layers}, the layers of the network, got {split}")
    return split or n_layers // 2


class ABE(IdentityMethod):
    """Embedding: M unit vectors of size D / M, times 1 / sqrt(M), concatenated."""

    net: PooledNet

    def __init__(self, net: PooledNet, size: int, config: ABEConfig) -> None:
        super().__init__(net, size, config.id_weight, config.label_smoothing)
        self.config = config
        require(
            isinstance(net, PooledNet),
            "abe cuts the network in two and needs its layers: PooledNet(nn.Sequential(...), n_features, "
            f"embedding_size), whose layers give (B, n_features, h, w); it got a {type(net).__name__}",
        )
        require(
            size % config.learners == 0,
            f"net.embedding_size must be a multiple of method.learners, got {size} and {config.learners}",
        )
        self.split = split_of(net, config.split)
        self.sizes = (size // config.learners,) * config.learners
        # The rows of the projection that the network came with: one block for each head.
        blocks = torch.split_with_sizes(net.project.weight.data, list(self.sizes))
        net.project = projection(blocks[0])
        self.attention: Attention | None = None
        self.heads = nn.ModuleList()  # of the learners after the first
        if config.attention:
            self.attention = Attention(channels_into(net.body[self.split :]), config.learners)
        else:
            self.heads.extend(head_of(net, self.split, block) for block in blocks[1:])

    def features(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W). Returns (B, D): the M learners concatenated, not normalised."""
        seen = self.net.body[: self.split](images)  # (B, C, h, w)
        if self.attention is None:
            return torch.cat([self._first(seen), *(head(seen) for head in self.heads)], 1).float()
        masked = seen[:, None] * self.attention(seen)  # (B, M, C, h, w)
        return self._first(masked.flatten(0, 1)).reshape(-1, self.size).float()

    def _first(self, seen: Tensor) -> Tensor:
        """The network after the split, (N, C, h, w) to (N, D / M)."""
        features: Tensor = self.net.project(self.net.pool(self.net.body[self.split :](seen)))
        return features

    def embed(self, images: Tensor) -> Tensor:
        return unit_blocks(self.neck(self.features(images)), self.sizes)

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("abe", images, labels)
        features = self.features(images)
        with torch.autocast(features.device.type, enabled=False):  # as in the Siamese network: distances need fp32
            return self._loss(features, labels)

    def _loss(self, features: Tensor, labels: Tensor) -> Loss:
        config = self.config
        learners = F.normalize(torch.unflatten(features, 1, (config.learners, -1)), dim=2, eps=1e-12)  # (B, M, D / M)
        contrastive = torch.stack([self._contrastive(unit, labels) for unit in learners.unbind(1)]).mean()
        parts = {"contrastive": float(contrastive.detach())}
        total = contrastive
        if config.learners > 1:
            divergence = divergence_loss(learners, config.margin_div)
            total = total + config.lambda_div * divergence
            parts["divergence"] = float(divergence.detach())
            parts["learner_cosine"] = float(learner_cosine(learners.detach()))
        necked = self.neck(features)
        total = total + self.identity_loss(necked, labels, parts)
        return Loss(total, parts, unit_blocks(necked, self.sizes))

    def _contrastive(self, unit: Tensor, labels: Tensor) -> Tensor:
        return losses.squared_contrastive_loss(distances.squared_euclidean(unit, unit), labels, self.config.margin)


def channels_into(layers: nn.Module) -> int:
    """Channels of the maps that these layers take."""
    return next(module.in_channels for module in layers.modules() if isinstance(module, nn.Conv2d))


def projection(weight: Tensor) -> nn.Linear:
    """A linear map without a bias, with a copy of this weight (D, F)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    return linear


def head_of(net: PooledNet, split: int, weight: Tensor) -> PooledNet:
    """The layers after the split as a network of their own, with the same weights before this projection (D, F)."""
    top = nn.Sequential(*list(net.body)[split:])
    n_features = weight.shape[1] // net.pool.parts
    # With random weights.
    head = PooledNet(copy.deepcopy(top), n_features, weight.shape[0], copy.deepcopy(net.pool))
    head.body.load_state_dict(top.state_dict())
    head.project.weight.data.copy_(weight)
    head.freeze(max(0, net.n_frozen - split))
    return head
