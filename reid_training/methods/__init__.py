"""The registry of training methods: name -> class and settings. A new method is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from reid_training.config import NetConfig
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
from tracker.settings import override

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


def settings_of(options: Mapping[str, Any]) -> Any:
    """The checked settings of the method that `options`, a run's table of that name, are for."""
    name = options["name"]
    if name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, got {name!r}")
    return override(METHODS[name][1](), {key: value for key, value in options.items() if key != "name"}, "method.")


def create(options: Mapping[str, Any], build_net: Callable[[NetConfig], nn.Module], net_config: NetConfig) -> Method:
    """`build_net` makes a network of its own at every call; `net_config` is that of the run."""
    settings = settings_of(options)
    method = METHODS[options["name"]][0]
    if method.many_nets:
        made: Method = method(lambda size: build_net(dataclasses.replace(net_config, embedding_size=size)), settings)
    else:
        made = method(build_net(net_config), net_config.embedding_size, settings)
    return made
