"""Four convolutions: the standard network of few-shot learning, for small pictures.

Matching Networks for One Shot Learning. Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. NIPS 2016,
https://arxiv.org/abs/1606.04080, section 4.1: four blocks of a 3x3 convolution with 64 filters, BN, ReLU, 2x2 pooling.

Where `conv4` differs: the last block does not pool, and its mean over the picture is mapped linearly, as in our other
networks (the paper flattens 1x1 maps of 28x28 pictures). `conv4_flat` is the paper's, for experiments of few shots.
"""

from __future__ import annotations

from torch import nn

from reid_training.config import NetConfig
from reid_training.nets.layers import PooledNet, Pooling, conv_bn, round_channels

CHANNELS = 64  # at width 1.0, the paper's


def conv4(config: NetConfig) -> PooledNet:
    n = round_channels(CHANNELS * config.width)
    layers: list[nn.Module] = []
    for n_in in (3, n, n):
        layers.append(nn.Sequential(conv_bn(n_in, n, 3), nn.MaxPool2d(2)))
    return PooledNet(
        nn.Sequential(*layers, conv_bn(n, n, 3)), n, config.embedding_size, Pooling(config.pooling, config.parts)
    )


def conv4_flat(n_channels: int = 1, n_filters: int = CHANNELS) -> nn.Sequential:
    """Pictures (B, n_channels, H, W), H and W at least 16, to (B, n_filters * (H // 16) * (W // 16)): 64 for 28x28."""
    layers: list[nn.Module] = []
    for n_in in (n_channels, n_filters, n_filters, n_filters):
        # ReLU behind the pooling gives the same, for a quarter of the values.
        layers += [conv_bn(n_in, n_filters, 3, activation=None), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten())
