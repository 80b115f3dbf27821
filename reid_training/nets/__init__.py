"""Networks: normalised crops in, features out. The bundled ones are in `config.NETS`, which needs no torch.

Any `nn.Module` that gives (B, F) for images (B, 3, H, W) is a network: registered by `register_net`, or a function that
`net.name` names as `module:function`. A linear map without a bias from F to `net.embedding_size` is put behind it,
unless it has `pooled(images)`, (B, F), and `project`, an `nn.Linear`, of its own. `abe` cuts the network in two and
needs a `PooledNet(nn.Sequential(...), n_features, embedding_size)`, whose layers give (B, n_features, h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from torch import nn

from reid_training.config import LIBRARIES, NETS, REGISTERED_NETS, NetConfig, imported
from reid_training.errors import ConfigError
from reid_training.nets.layers import PooledNet
from reid_training.nets.projected import ProjectedNet, with_projection


def register_net(name: str, build: Callable[[NetConfig], nn.Module]) -> None:
    """Makes `net.name = name` mean `build(config)`, in this process; see above for what it returns.

    A run by such a name can be loaded only where it is registered; one by `module:function` needs no registration.
    Raises ConfigError for a name that is taken or has another meaning.
    """
    if name in NETS or name in REGISTERED_NETS or ":" in name or "/" in name:
        raise ConfigError(f"a network cannot be registered as {name!r}: the name is taken, or has a colon or a slash")
    REGISTERED_NETS[name] = build


def build(config: NetConfig, *, start: bool = False, size: tuple[int, int] = (128, 64)) -> ProjectedNet:
    """The network that a config names.

    start: with the weights that `config.start` names, to be trained; else with random ones, to be overwritten.
    size: height and width of the pictures, for networks that are not bundled.
    """
    net = _bundled(config, start) if config.name in NETS else _foreign(config, start, size)
    if isinstance(net, PooledNet):
        net.freeze(config.frozen)
        if config.cached:
            net.drop_frozen()
    elif config.frozen:
        raise ConfigError(f"net.frozen counts the layers of a PooledNet, and {config.name} is none")
    return net


def _bundled(config: NetConfig, start: bool) -> PooledNet:
    module, function = NETS[config.name].function.split(":")
    net: PooledNet = getattr(import_module(f"{__name__}.{module}"), function)(config)
    if start and config.start == "imagenet":
        from reid_training.nets.efficientnet import start_from_imagenet

        start_from_imagenet(net)
    return net


def _foreign(config: NetConfig, start: bool, size: tuple[int, int]) -> ProjectedNet:
    weights = Path(config.start) if start and config.start != "random" else None
    library, _, name = config.name.partition("/")
    if library in LIBRARIES and name:
        from reid_training.nets import libraries

        module = (libraries.timm_net if library == "timm" else libraries.torchvision_net)(name, weights)
    else:
        make = REGISTERED_NETS.get(config.name) or imported(config.name, "net.name")
        module = make(config)
        if not isinstance(module, nn.Module):
            raise ConfigError(f"net.name = {config.name} must give an nn.Module, it gives a {type(module).__name__}")
        if weights is not None:
            from reid_training.nets.libraries import load_weights

            load_weights(module, weights)
    return with_projection(module, config.embedding_size, size, config.name)
