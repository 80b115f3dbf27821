"""Networks: normalised crops in, features out."""

from __future__ import annotations

from collections.abc import Callable

from reid_training.config import NetConfig
from reid_training.nets.conv4 import conv4
from reid_training.nets.efficientnet import efficientnet_lite0, start_from_imagenet
from reid_training.nets.layers import PooledNet
from reid_training.nets.mobilenet import mobilenetv2
from reid_training.nets.osnet import OSNet
from reid_training.nets.resnet import resnet

# The same names as `config.NETS`.
NETS: dict[str, Callable[[NetConfig], PooledNet]] = {
    "osnet": OSNet,
    "resnet18": resnet,
    "resnet50": resnet,
    "mobilenetv2": mobilenetv2,
    "efficientnet_lite0": efficientnet_lite0,
    "conv4": conv4,
}


def build(config: NetConfig, *, start: bool = False) -> PooledNet:
    """`start`: with the weights that `config.start` names, to be trained; else random, to be filled."""
    net = NETS[config.name](config)
    if start and config.start == "imagenet":
        start_from_imagenet(net)
    net.freeze(config.frozen)
    return net
