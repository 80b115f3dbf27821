"""A small multi-scale network for person crops, of the OSNet family.

Omni-Scale Feature Learning for Person Re-Identification. Kaiyang Zhou, Yongxin Yang, Andrea Cavallaro, Tao Xiang.
ICCV 2019, https://arxiv.org/abs/1905.00953

What we take: (1) a 3x3 convolution split into a pointwise and a depthwise one, (2) a residual block that mixes
receptive fields of several sizes, (3) one small gate, shared by all sizes, that weighs each channel by the image.
Where we differ: the paper gives each of its four sizes a chain of its own (1 + 2 + 3 + 4 = 10 light convolutions per
block). Here the four sizes are the four depths of ONE chain (4 light convolutions per block), so that a block of equal
width costs less than half; the channels that this frees go into the first stage and the last one. Code is our own.
Optional: instance normalisation of the picture and after the first convolution, as in Frustratingly Easy Person
Re-Identification: Generalizing Person Re-ID in Practice. Jia, Ruan, Hospedales. BMVC 2019,
https://arxiv.org/abs/1905.03422, for cameras that were not trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reid_training.config import NetConfig
from reid_training.nets.layers import PooledNet, Pooling, conv_bn, round_channels


class LightConv(nn.Module):
    """A 3x3 convolution at a ninth of the cost: pointwise (no activation), then depthwise, BN, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.spread = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        return torch.relu_(self.norm(self.spread(self.mix(x))))


class Gate(nn.Module):
    """Channel weights in (0, 1) computed from the image-wide mean; one instance serves all scales of a block."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        weight = self.excite(torch.relu_(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(weight)


class OmniScaleBlock(nn.Module):
    """Residual block; its branch is the gated sum of `n_scales` receptive fields: 3, 5, 7, 9 pixels for four."""

    def __init__(self, n_in: int, n_out: int, n_scales: int) -> None:
        super().__init__()
        middle = round_channels(n_out / 4)
        self.reduce = conv_bn(n_in, middle)
        self.chain = nn.ModuleList(LightConv(middle) for _ in range(n_scales))
        self.gate = Gate(middle)
        self.expand = conv_bn(middle, n_out, activation=None)
        self.shortcut = nn.Identity() if n_in == n_out else conv_bn(n_in, n_out, activation=None)

    def forward(self, x: Tensor) -> Tensor:  # (B, n_in, H, W) -> (B, n_out, H, W)
        scale = self.reduce(x)
        mixed: Tensor | None = None
        for step in self.chain:
            scale = step(scale)
            gated = self.gate(scale)
            mixed = gated if mixed is None else mixed + gated
        assert mixed is not None
        return torch.relu_(self.expand(mixed) + self.shortcut(x))


class OSNet(PooledNet):
    """The network. Its widths at 1.0 are the paper's: 64, 256, 384, 512."""

    def __init__(self, config: NetConfig) -> None:
        stem, *stages = [round_channels(c * config.width) for c in config.channels]
        depths = config.stage_blocks or (config.blocks,) * len(stages)
        normed = config.instance_norm
        layers: list[nn.Module] = [nn.InstanceNorm2d(3, affine=True)] if normed else []
        layers += [conv_bn(3, stem, 7, stride=2, instance=normed), nn.MaxPool2d(3, stride=2, padding=1)]
        n_in = stem
        for index, (n_out, n_blocks) in enumerate(zip(stages, depths, strict=True)):
            for depth in range(n_blocks):
                layers.append(OmniScaleBlock(n_in if depth == 0 else n_out, n_out, config.scales))
            if index < len(stages) - 1:
                layers += [conv_bn(n_out, n_out), nn.AvgPool2d(2)]
            n_in = n_out
        n_last = round_channels(config.last_channels * config.width)
        layers.append(conv_bn(n_in, n_last))
        super().__init__(nn.Sequential(*layers), n_last, config.embedding_size, Pooling(config.pooling, config.parts))
