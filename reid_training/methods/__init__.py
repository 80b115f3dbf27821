"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from reid_training.config import NetConfig, from_table
from reid_training.errors import ConfigError
from reid_training.methods.base import Method
from reid_training.methods.cosine_constraint import CosineConstraint, CosineConstraintConfig
from reid_training.methods.hdml import HDML, HDMLConfig
from reid_training.methods.siamese import Siamese, SiameseConfig
from reid_training.methods.triplet_vae import TripletVAE, TripletVAEConfig

METHODS: dict[str, tuple[Callable[..., Method], type[Any]]] = {
    "siamese": (Siamese, SiameseConfig),
    "cosine_constraint": (CosineConstraint, CosineConstraintConfig),
    "hdml": (HDML, HDMLConfig),
    "triplet_vae": (TripletVAE, TripletVAEConfig),
}


def create(options: Mapping[str, Any], net: nn.Module, net_config: NetConfig) -> Method:
    name = options["name"]
    if name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, got {name!r}")
    method, config = METHODS[name]
    rest = {key: value for key, value in options.items() if key != "name"}
    return method(net, net_config.embedding_size, from_table(config, rest, "method"))
