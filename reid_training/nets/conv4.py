"""Four convolutions: the network that few-shot learning compares its methods with, for small pictures.

Matching Networks for One Shot Learning. Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. NIPS 2016,
https://arxiv.org/abs/1606.04080, section 4.1: four blocks of a 3x3 convolution with 64 filters, BN, ReLU, 2x2 pooling.

Where we differ: the last block does not pool, and its mean over the picture is mapped linearly, as in our other
networks (the paper flattens 1x1 maps of 28x28 pictures).
"""

from __future__ import annotations

from torch import nn

from reid_training.config import NetConfig
from reid_training.nets.layers import PooledNet, conv_bn, round_channels

CHANNELS = 64  # at width 1.0, the paper's


def conv4(config: NetConfig) -> PooledNet:
    n = round_channels(CHANNELS * config.width)
    layers: list[nn.Module] = []
    for n_in in (3, n, n):
        layers.append(nn.Sequential(conv_bn(n_in, n, 3), nn.MaxPool2d(2)))
    return PooledNet(nn.Sequential(*layers, conv_bn(n, n, 3)), n, config.embedding_size)
