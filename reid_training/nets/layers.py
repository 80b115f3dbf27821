"""Layers that several networks share."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from reid_training.errors import ConfigError
from reid_training.nets.projected import ProjectedNet

SMALLEST = 1e-6  # of a map's value under the logarithm of the generalised mean


def round_channels(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8: CPU kernels work in blocks of 8 or 16 channels."""
    return max(8, int(channels / 8 + 0.5) * 8)


def conv_bn(
    n_in: int,
    n_out: int,
    size: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: type[nn.ReLU | nn.ReLU6 | nn.Hardswish] | None = nn.ReLU,
    instance: bool = False,
) -> nn.Sequential:
    """Convolution without a bias (the norm has one), batch norm, activation; keeps the size of the picture / stride.

    instance: each channel of each picture is normalised alone, in place of batch norm.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.InstanceNorm2d(n_out, affine=True) if instance else nn.BatchNorm2d(n_out),
    ]
    return nn.Sequential(*layers, activation(inplace=True)) if activation else nn.Sequential(*layers)


def initialise(net: nn.Module, project: nn.Linear) -> None:
    """Random weights for a training from scratch: the variance of the signal stays the same from layer to layer."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(project.weight, std=project.in_features**-0.5)


class Pooling(nn.Module):
    """Maps (B, C, h, w) to (B, C * parts): one number of each channel and stripe.

    kind: the mean over the picture, its maximum, or the generalised mean (mean x^p)^(1/p), whose p >= 1 is learned from
    3 on: 1 is the mean, large ones near the maximum. It needs maps >= 0, such as those after a ReLU. parts: horizontal
    stripes of the map, as even as its rows allow, pooled apart and concatenated from top to bottom.

    References: GeM: Fine-tuning CNN Image Retrieval with No Human Annotation. Radenovic, Tolias, Chum. TPAMI 2018,
        https://arxiv.org/abs/1711.02512, section 3.2. Stripes: Beyond Part Models. Sun et al. ECCV 2018,
        https://arxiv.org/abs/1711.09349 (PCB), section 3.1; there each has a classifier of its own, here they share
        the projection and the losses.
    """

    exponent: nn.Parameter | None

    def __init__(self, kind: str = "mean", parts: int = 1) -> None:
        super().__init__()
        self.kind, self.parts = kind, parts
        self.exponent = nn.Parameter(torch.tensor([3.0])) if kind == "gem" else None

    def forward(self, maps: Tensor) -> Tensor:
        if self.parts == 1:
            return self._pooled(maps)
        height = int(maps.shape[2])
        if height < self.parts:
            raise ConfigError(
                f"net.parts = {self.parts}, but the last map of the network is {height} high; a larger data.height "
                "makes it higher"
            )
        ends = [height * part // self.parts for part in range(self.parts + 1)]
        stripes = [maps[:, :, start:end] for start, end in pairwise(ends)]
        return torch.cat([self._pooled(stripe) for stripe in stripes], 1)

    def _pooled(self, maps: Tensor) -> Tensor:
        if self.kind == "max":
            return maps.amax((2, 3))
        if self.exponent is None:
            return maps.mean((2, 3))
        # By logarithms: x^p and its root would leave float32 where p grows.
        p = self.exponent.clamp_min(1.0)
        logs = p * maps.float().clamp_min(SMALLEST).log()
        n = maps.shape[2] * maps.shape[3]
        pooled: Tensor = ((torch.logsumexp(logs.flatten(2), 2) - math.log(n)) / p).exp()
        return pooled


class PooledNet(ProjectedNet):
    """Crops (B, 3, H, W), normalised, to features (B, embedding_size), not normalised; H and W multiples of 16.

    `body` gives (B, n_features, h, w); what `pool` makes of it, by default its mean over the picture, is mapped
    linearly.
    """

    n_in: int = 3  # channels of what `body` takes

    def __init__(self, body: nn.Sequential, n_features: int, embedding_size: int, pool: Pooling | None = None) -> None:
        super().__init__()
        self.body = body
        self.pool = pool or Pooling()
        self.project = nn.Linear(n_features * self.pool.parts, embedding_size, bias=False)
        self.n_frozen = 0
        initialise(self, self.project)

    def freeze(self, n_layers: int) -> None:
        """The first `n_layers` of the body keep their weights and their BN statistics."""
        if n_layers > len(self.body):
            raise ConfigError(f"net.frozen must be at most {len(self.body)}, the layers of the network, got {n_layers}")
        self.n_frozen = n_layers
        self.body[:n_layers].requires_grad_(False)

    @torch.no_grad()
    def drop_frozen(self) -> None:
        """From here on the network takes what the frozen layers give, (B, n_in, h, w), in place of crops."""
        frozen = self.body[: self.n_frozen].eval()
        self.n_in = int(frozen(torch.zeros(1, self.n_in, 32, 32)).shape[1])
        self.body = nn.Sequential(*list(self.body)[self.n_frozen :])
        self.n_frozen = 0

    def train(self, mode: bool = True) -> PooledNet:
        super().train(mode)
        self.body[: self.n_frozen].eval()
        return self

    def pooled(self, images: Tensor) -> Tensor:
        """(B, n_features * parts): what `project` maps to the features."""
        pooled: Tensor = self.pool(self.body(images))
        return pooled
