"""Networks: normalised crops in, features out."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from reid_training.config import NetConfig
from reid_training.nets.mobilenet import mobilenetv2
from reid_training.nets.osnet import OSNet
from reid_training.nets.resnet import resnet

# The same names as NetConfig.NAMES.
NETS: dict[str, Callable[[NetConfig], nn.Module]] = {
    "osnet": OSNet,
    "resnet18": resnet,
    "resnet50": resnet,
    "mobilenetv2": mobilenetv2,
}


def build(config: NetConfig) -> nn.Module:
    return NETS[config.name](config)
