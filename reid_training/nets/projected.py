"""The contract of every network: images to features, and a linear map from these to the embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from reid_training.errors import ConfigError


class ProjectedNet(nn.Module, ABC):
    """Images (B, 3, H, W), normalised, to (B, embedding_size), not normalised: `project` of `pooled`.

    Methods that look behind the embedding take the features: `pooled(images)` (B, F) and `project.in_features`, F.
    """

    project: nn.Linear  # without a bias

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, F): what `project` maps to the embedding."""

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.project(self.pooled(images))
        return features


class Projected(ProjectedNet):
    """Any module that gives (B, n_features), with a linear map behind it.

    Where the module gives `embedding_size` features already, the map begins as the identity: the network begins as the
    module that was given.
    """

    def __init__(self, module: nn.Module, n_features: int, embedding_size: int) -> None:
        super().__init__()
        self.module = module
        self.project = nn.Linear(n_features, embedding_size, bias=False)
        if n_features == embedding_size:
            nn.init.eye_(self.project.weight)
        else:
            nn.init.normal_(self.project.weight, std=n_features**-0.5)

    def pooled(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.module(images)
        return pooled


def has_projection(module: nn.Module) -> bool:
    """Whether a module has both parts of a `ProjectedNet`; it need not be one."""
    return callable(getattr(module, "pooled", None)) and isinstance(getattr(module, "project", None), nn.Linear)


def projected_nets(module: nn.Module) -> list[ProjectedNet]:
    """All networks with a projection inside a module, such as a method."""
    return [cast(ProjectedNet, net) for net in module.modules() if has_projection(net)]


def with_projection(module: nn.Module, embedding_size: int, size: tuple[int, int], name: str) -> ProjectedNet:
    """The module itself if it has `pooled` and `project`, else with a map behind it.

    size: height and width in pixels of a picture that is tried. name: of the network, for messages. Raises ConfigError
    for a module that does not take such pictures, or does not give (B, F).
    """
    shape = (2, 3, *size)
    was_training = module.training
    try:
        with torch.no_grad():
            made = module.eval()(torch.zeros(shape))
    except Exception as error:  # a module may raise whatever it likes
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"the network {name} does not take images {shape} of data.height and width: {reason}"
        ) from None
    module.train(was_training)
    found = f"{tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
    if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != 2:
        raise ConfigError(f"the network {name} must give features (2, F) for images {shape}, it gives {found}")
    if not has_projection(module):
        return Projected(module, made.shape[1], embedding_size)
    if made.shape[1] != embedding_size:
        raise ConfigError(f"the network {name} must give net.embedding_size values, {embedding_size}; it gives {found}")
    return cast(ProjectedNet, module)
