"""Residual networks with 18 and 50 layers.

Deep Residual Learning for Image Recognition. Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. CVPR 2016,
https://arxiv.org/abs/1512.03385: table 1 (stages), figure 5 (the two kinds of block).
Bag of Tricks and a Strong Baseline for Deep Person Re-Identification. Luo et al. CVPR Workshops 2019,
https://arxiv.org/abs/1903.07071: section 3.5 (stride 1 in the last stage).

Where we differ: the bottleneck strides in its 3x3 convolution instead of its first 1x1, which would ignore three of
four pixels; every width can be scaled; a linear map to the embedding takes the place of the classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reid_training.config import NetConfig
from reid_training.nets.layers import PooledNet, Pooling, conv_bn, round_channels

STAGES = (64, 128, 256, 512)  # table 1
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
EXPANSION = 4  # of a bottleneck


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)); the shortcut is a projection where the shape changes (option B of the paper)."""

    def __init__(self, branch: nn.Module, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        same_shape = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same_shape else conv_bn(n_in, n_out, stride=stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:  # (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)
        return torch.relu_(self.branch(x) + self.shortcut(x))


def basic(n_in: int, channels: int, stride: int) -> tuple[Residual, int]:
    branch = nn.Sequential(conv_bn(n_in, channels, 3, stride), conv_bn(channels, channels, 3, activation=None))
    return Residual(branch, n_in, channels, stride), channels


def bottleneck(n_in: int, channels: int, stride: int) -> tuple[Residual, int]:
    n_out = EXPANSION * channels
    branch = nn.Sequential(
        conv_bn(n_in, channels), conv_bn(channels, channels, 3, stride), conv_bn(channels, n_out, activation=None)
    )
    return Residual(branch, n_in, n_out, stride), n_out


def resnet(config: NetConfig) -> PooledNet:
    """`config.last_stride` 1 keeps the last stage at a sixteenth of the crop; 2 is the paper's."""
    make_block = basic if config.name == "resnet18" else bottleneck
    n_in = round_channels(STAGES[0] * config.width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)]
    for channels, n_blocks, stride in zip(STAGES, BLOCKS[config.name], (1, 2, 2, config.last_stride), strict=True):
        for depth in range(n_blocks):
            block, n_in = make_block(n_in, round_channels(channels * config.width), stride if depth == 0 else 1)
            layers.append(block)
    return PooledNet(nn.Sequential(*layers), n_in, config.embedding_size, Pooling(config.pooling, config.parts))
