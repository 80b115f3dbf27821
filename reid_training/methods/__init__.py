"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from reid_training.config import NetConfig, from_table
from reid_training.errors import ConfigError
from reid_training.methods.abe import ABE, ABEConfig
from reid_training.methods.base import Method
from reid_training.methods.bier import BIER, BIERConfig
from reid_training.methods.siamese import Siamese, SiameseConfig

METHODS: dict[str, tuple[type[Method], type[Any]]] = {
    "siamese": (Siamese, SiameseConfig),
    "abe": (ABE, ABEConfig),
    "bier": (BIER, BIERConfig),
}


def create(options: Mapping[str, Any], net: nn.Module, net_config: NetConfig) -> Method:
    name = options["name"]
    if name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, got {name!r}")
    method, config = METHODS[name]
    rest = {key: value for key, value in options.items() if key != "name"}
    return method(net, net_config.embedding_size, from_table(config, rest, "method"))
