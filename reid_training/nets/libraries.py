"""Networks of timm and torchvision by their names there, without their classifiers. Nothing is downloaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reid_training.errors import ConfigError, ModelError


def timm_net(name: str, weights: Path | None) -> nn.Module:
    """timm/NAME: (B, 3, H, W) to (B, F). weights: a file of timm, as its cache holds it; None: random."""
    timm = _library("timm", f"timm/{name}")
    if not timm.is_model(name):
        alike = ", ".join(timm.list_models(f"*{name}*")[:5])
        raise ConfigError(f"timm has no network {name!r}" + (f"; there are {alike}" if alike else ""))
    net = timm.create_model(name, pretrained=False)
    if weights is not None:
        try:
            timm.models.load_checkpoint(net, str(weights))
        except Exception as error:  # of a file that is missing, damaged, or of another network
            raise _not_loaded(weights, error) from None
    net.reset_classifier(0)
    made: nn.Module = net
    return made


def torchvision_net(name: str, weights: Path | None) -> nn.Module:
    """torchvision/NAME: (B, 3, H, W) to (B, F), the input of its last linear layer. weights: a file of torchvision."""
    models = _library("torchvision", f"torchvision/{name}").models
    try:
        net = models.get_model(name, weights=None)
    except ValueError:
        alike = ", ".join(models.list_models(module=models, include=f"*{name}*")[:5])
        raise ConfigError(f"torchvision has no network {name!r}" + (f"; there are {alike}" if alike else "")) from None
    if weights is not None:
        load_weights(net, weights)
    if hasattr(net, "aux_logits"):
        net.aux_logits = False  # else GoogLeNet and Inception give three results in training
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        parent, _, leaf = linear[-1].rpartition(".")
        setattr(net.get_submodule(parent), leaf, nn.Identity())
    made: nn.Module = net
    return made


def load_weights(net: nn.Module, path: Path) -> None:
    """The state of the whole network from a file of `torch.save`. Raises ModelError where it does not fit."""
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of a file that is missing, damaged, or of another network
        raise _not_loaded(path, error) from None


def _library(name: str, network: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"net.name = {network} needs the package {name}: pip install '.[timm]'") from None
    except RuntimeError as error:  # torchvision of another torch
        raise ConfigError(f"net.name = {network}: {name} cannot be loaded with this torch: {error}") from None


def _not_loaded(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(f"net.start = {path} holds no weights of this network: {reason}")
