"""Networks: normalised crops in, features out. Their registry is `config.NETS`, which needs no torch."""

from __future__ import annotations

from importlib import import_module

from reid_training.config import NETS, NetConfig
from reid_training.nets.layers import PooledNet


def build(config: NetConfig, *, start: bool = False) -> PooledNet:
    """start: with the weights that `config.start` names, to be trained; else with random ones, to be overwritten."""
    module, function = NETS[config.name].function.split(":")
    net: PooledNet = getattr(import_module(f"{__name__}.{module}"), function)(config)
    if start and config.start == "imagenet":
        from reid_training.nets.efficientnet import start_from_imagenet

        start_from_imagenet(net)
    net.freeze(config.frozen)
    if config.cached:
        net.drop_frozen()
    return net
