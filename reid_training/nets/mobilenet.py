"""A network of inverted residuals with a width argument.

MobileNetV2: Inverted Residuals and Linear Bottlenecks. Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov,
Liang-Chieh Chen. CVPR 2018, https://arxiv.org/abs/1801.04381: table 1 (a block), table 2 (stages), section 3.

Where we differ: the last stride is an option (crops of people are small); widths are rounded to the nearest multiple of
8; a linear map to the embedding takes the place of the classifier.
"""

from __future__ import annotations

from torch import Tensor, nn

from reid_training.config import NetConfig
from reid_training.nets.layers import PooledNet, Pooling, conv_bn, round_channels

STEM = 32
# Table 2: expansion, channels, blocks, stride of the first block; None: config.last_stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, None),
    (6, 320, 1, 1),
)
LAST = 1280  # not narrowed below width 1 in the paper; here it is scaled with the rest, most of the cost is there


class InvertedResidual(nn.Module):
    """Widen by a pointwise convolution, filter by a depthwise one, narrow by a linear pointwise one."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int, kernel: int = 3) -> None:
        super().__init__()
        middle = expansion * n_in
        widen = [conv_bn(n_in, middle, activation=nn.ReLU6)] if expansion > 1 else []
        self.branch = nn.Sequential(
            *widen,
            conv_bn(middle, middle, kernel, stride, groups=middle, activation=nn.ReLU6),
            conv_bn(middle, n_out, activation=None),
        )
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:  # (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)
        changed: Tensor = self.branch(x)
        return x + changed if self.adds else changed


def mobilenetv2(config: NetConfig) -> PooledNet:
    n_in = round_channels(STEM * config.width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 3, stride=2, activation=nn.ReLU6)]
    for expansion, channels, n_blocks, stride in STAGES:
        n_out = round_channels(channels * config.width)
        for depth in range(n_blocks):
            first_stride = config.last_stride if stride is None else stride
            layers.append(InvertedResidual(n_in, n_out, first_stride if depth == 0 else 1, expansion))
            n_in = n_out
    n_last = round_channels(LAST * config.width)
    layers.append(conv_bn(n_in, n_last, activation=nn.ReLU6))
    return PooledNet(nn.Sequential(*layers), n_last, config.embedding_size, Pooling(config.pooling, config.parts))
