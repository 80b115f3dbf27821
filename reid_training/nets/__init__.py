"""Networks: normalised crops in, features out."""

from __future__ import annotations

from torch import nn

from reid_training.config import NetConfig
from reid_training.nets.osnet import OSNet

NETS = {"osnet": OSNet}  # the same names as NetConfig.NAMES


def build(config: NetConfig) -> nn.Module:
    return NETS[config.name](config)
