"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reid_training.errors import ConfigError
from reid_training.nets.projected import ProjectedNet


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
) -> nn.Sequential:
    """Convolution without a bias (the norm has one), batch norm, activation; keeps the size of the picture / stride."""
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
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


class PooledNet(ProjectedNet):
    """Crops (B, 3, H, W), normalised, to features (B, embedding_size), not normalised; H and W multiples of 16.

    `body` gives (B, n_features, h, w); its mean over the picture is mapped linearly.
    """

    n_in: int = 3  # channels of what `body` takes

    def __init__(self, body: nn.Sequential, n_features: int, embedding_size: int) -> None:
        super().__init__()
        self.body = body
        self.project = nn.Linear(n_features, embedding_size, bias=False)
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
        """(B, n_features): what `project` maps to the features."""
        pooled: Tensor = self.body(images).mean((2, 3))
        return pooled
