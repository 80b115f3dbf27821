"""The registry of training methods: name -> class and settings. A new method is one file and one line here.

A method of your own is registered by `register_method`, or named as `module:NAME`; `base` says what it must have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from reid_training.config import FUNCTION, NetConfig, imported
from reid_training.errors import ConfigError
from reid_training.methods.abe import ABE, ABEConfig
from reid_training.methods.base import Method
from reid_training.methods.bier import BIER, BIERConfig
from reid_training.methods.cosine_constraint import CosineConstraint, CosineConstraintConfig
from reid_training.methods.dreml import Dreml, DremlConfig
from reid_training.methods.hdml import HDML, HDMLConfig
from reid_training.methods.large_margin_few_shot import LargeMarginFewShot, LargeMarginFewShotConfig
from reid_training.methods.meta_metric import MetaMetric, MetaMetricConfig
from reid_training.methods.siamese import Siamese, SiameseConfig
from reid_training.methods.triplet_vae import TripletVAE, TripletVAEConfig
from tracker.settings import Settings, override

METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "siamese": (Siamese, SiameseConfig),
    "cosine_constraint": (CosineConstraint, CosineConstraintConfig),
    "hdml": (HDML, HDMLConfig),
    "triplet_vae": (TripletVAE, TripletVAEConfig),
    "dreml": (Dreml, DremlConfig),
    "abe": (ABE, ABEConfig),
    "bier": (BIER, BIERConfig),
    "large_margin_few_shot": (LargeMarginFewShot, LargeMarginFewShotConfig),
    "meta_metric": (MetaMetric, MetaMetricConfig),
}


def register_method(name: str, method: type[Method], settings: type[Settings]) -> None:
    """Makes `method.name = name` mean this class and its settings, in this process.

    A run by such a name can be loaded only where it is registered. `module:NAME`, where NAME is the pair (method,
    settings), needs no registration. Raises ConfigError for a name that is taken or has a colon.
    """
    if name in METHODS or ":" in name:
        raise ConfigError(f"a method cannot be registered as {name!r}: the name is taken, or has a colon")
    METHODS[name] = (method, settings)


def method_of(name: str) -> tuple[type[Any], type[Any]]:
    """The class and the settings of a method: bundled, registered, or the pair that `module:NAME` is."""
    if name in METHODS:
        return METHODS[name]
    if FUNCTION.fullmatch(name) is None:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, or module:NAME, got {name!r}")
    pair = imported(name, "method.name")
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, type) for part in pair)):
        raise ConfigError(f"method.name = {name} must be a pair (method, settings) of classes, got {pair!r}")
    return pair


def settings_of(options: Mapping[str, Any]) -> Any:
    """The checked settings of the method that `options`, a run's table of that name, are for."""
    _, settings = method_of(options["name"])
    return override(settings(), {key: value for key, value in options.items() if key != "name"}, "method.")


def create(options: Mapping[str, Any], build_net: Callable[[NetConfig], nn.Module], net_config: NetConfig) -> Method:
    """`build_net` makes a network of its own at every call; `net_config` is that of the run."""
    settings = settings_of(options)
    method, _ = method_of(options["name"])
    if method.many_nets:
        made: Method = method(lambda size: build_net(dataclasses.replace(net_config, embedding_size=size)), settings)
    else:
        made = method(build_net(net_config), net_config.embedding_size, settings)
    return made
