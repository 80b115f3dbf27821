"""Losses and miners of pytorch-metric-learning by name: `pml:` and the name of a class.

A Metric Learning Reality Check. Kevin Musgrave, Serge Belongie, Ser-Nam Lim. ECCV 2020,
https://arxiv.org/abs/2003.08505; https://github.com/KevinMusgrave/pytorch-metric-learning (MIT).
Cross-Batch Memory for Embedding Learning. Xun Wang, Haozhi Zhang, Weilin Huang, Matthew Scott. CVPR 2020,
https://arxiv.org/abs/1912.06798.

The package is optional and is imported only where such a name is used. What a run adds to it: sizes are filled in,
options are checked before the training starts, random numbers come from the run's generator, and the place in the
cross-batch memory is part of the checkpoint.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training.errors import ConfigError

PREFIX = "pml:"
PACKAGE = "pytorch_metric_learning"
BASES = {  # module -> the base of its classes, and classes that are only bases of others
    "losses": ("BaseMetricLossFunction", {"GenericPairLoss"}),
    "miners": ("BaseMiner", set[str]()),
    "distances": ("BaseDistance", set[str]()),
    "reducers": ("BaseReducer", {"MultipleReducers"}),
}
PARTS = {"distance": "distances", "reducer": "reducers"}  # options that are objects: given by the name of their class


def is_named(name: str) -> bool:
    """Whether the name of a loss or miner is one of the package: `pml:...`."""
    return name.startswith(PREFIX)


def check(setting: str, name: str, module: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError where `name` is no class of losses or miners, or an option is none of its arguments.

    setting: for messages, with its section: "method.pair_loss". Values are tried out later, by `PackageLoss`.
    """
    found = _class(setting, name, module)
    known = sorted(_arguments(found).keys() - _sizes(0, 0).keys())
    for option in options:
        if option not in known:
            meant = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {meant[0]}?)" if meant else ""
            raise ConfigError(f"{setting} = {name} has no option {option}{hint}; there are: {', '.join(known)}")


def check_memory(setting: str, name: str) -> None:
    """Raises ConfigError where the loss cannot compare a batch with a memory."""
    supported = import_module(f"{PACKAGE}.losses").CrossBatchMemory.supported_losses()
    if name.removeprefix(PREFIX) not in supported:
        raise ConfigError(f"{setting} does not go with {name}; it goes with {', '.join(supported)}")


class PackageLoss(nn.Module):
    """A loss of the package, with its miner and its cross-batch memory where wanted.

    memory: embeddings of earlier batches that each batch is compared with too; 0 = none. n_classes, size: identities
    of the training and D. Raises ConfigError for options whose values the class cannot take.
    """

    place: Tensor  # (2,) int64: where the next embedding goes in the memory, and whether that is full

    def __init__(
        self,
        loss: str,
        loss_options: Mapping[str, Any],
        miner: str | None,
        miner_options: Mapping[str, Any],
        memory: int,
        n_classes: int,
        size: int,
    ) -> None:
        super().__init__()
        self.name = loss.removeprefix(PREFIX)
        self.loss = _made("method.pair_loss", loss, "losses", loss_options, _sizes(n_classes, size))
        self.miner: Any = _made("method.miner", miner, "miners", miner_options, {}) if miner else None
        self.memory: Any = None
        if memory:
            losses = import_module(f"{PACKAGE}.losses")
            self.memory = losses.CrossBatchMemory(self.loss, size, memory, self.miner)
            # Plain attributes in the package, which a checkpoint would not hold.
            self.register_buffer("place", torch.zeros(2, dtype=torch.int64))
        self._try_out(size, " with ".join(name for name in (loss, miner) if name))

    def forward(self, unit: Tensor, labels: Tensor, rng: np.random.Generator | None) -> Tensor:
        """unit (B, D), rows of unit length; labels (B,) in 0 .. n_classes - 1. Returns a scalar."""
        if rng is None:
            raise ValueError("losses and miners of the package may draw at random: loss() needs an rng")
        # The package draws from torch's own generator. A resumed run must draw the same.
        with torch.random.fork_rng(devices=[unit.device] if unit.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**63)))
            if self.memory is None:
                value: Tensor = self.loss(unit, labels, self.miner(unit, labels) if self.miner else None)
                return value
            return self._against_memory(unit, labels)

    def _against_memory(self, unit: Tensor, labels: Tensor) -> Tensor:
        if len(unit) > self.memory.memory_size:
            raise ConfigError(
                f"method.memory = {self.memory.memory_size} is smaller than a batch of {len(unit)} images"
            )
        self.memory.queue_idx, self.memory.has_been_filled = int(self.place[0]), bool(self.place[1])
        value: Tensor = self.memory(unit, labels)
        self.place.copy_(torch.tensor([self.memory.queue_idx, self.memory.has_been_filled]))
        return value

    def _try_out(self, size: int, title: str) -> None:
        """One batch of two people, on a copy: what the class cannot do is found before the training."""
        generator = torch.Generator().manual_seed(0)
        batch = F.normalize(torch.randn(4, size, generator=generator)), torch.tensor([0, 0, 1, 1])
        try:
            copy.deepcopy(self)(*batch, np.random.default_rng(0))
        except ConfigError:
            raise
        except Exception as error:  # whatever foreign code raises on a value that it does not expect
            raise ConfigError(f"{title} does not work with these options: {_line(error)}") from None


def _sizes(n_classes: int, size: int) -> dict[str, int]:
    """What a run knows, by the names of the arguments that classes have for it."""
    return {"num_classes": n_classes, "embedding_size": size, "descriptors_dim": size, "l": size}


def _class(setting: str, name: str, module: str) -> Any:
    try:
        package = import_module(f"{PACKAGE}.{module}")
    except ModuleNotFoundError:
        text = f"{setting} = {name} needs pytorch-metric-learning; in the source folder: pip install '.[losses]'"
        raise ConfigError(text) from None
    base, left_out = getattr(package, BASES[module][0]), BASES[module][1]
    known = {
        key: value
        for key, value in vars(package).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base and key not in left_out
    }
    wanted = name.removeprefix(PREFIX)
    if wanted not in known:
        meant = difflib.get_close_matches(wanted, known, n=1)
        hint = f" (did you mean {meant[0]}?)" if meant else ""
        raise ConfigError(f"{setting} = {name} is not in {PACKAGE}.{module}{hint}; there are: {', '.join(known)}")
    return known[wanted]


def _arguments(found: Any) -> dict[str, bool]:
    """The arguments of a class and of the bases that it passes them on to: name -> whether it must be given."""
    inits = [cls for cls in inspect.getmro(found) if "__init__" in vars(cls) and cls.__module__.startswith(PACKAGE)]
    parameters = [parameter for cls in inits for parameter in inspect.signature(cls).parameters.values()]
    return {p.name: p.default is p.empty for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def _made(setting: str, name: str, module: str, options: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    found = _class(setting, name, module)
    needed = _arguments(found)
    known = {key: value for key, value in sizes.items() if needed.get(key, False)}
    parts = {
        key: _made(f"{setting}, option {key}", str(options[key]), of, {}, {})
        for key, of in PARTS.items()
        if key in options
    }
    try:
        return found(**{**options, **parts, **known})
    except Exception as error:  # as above
        raise ConfigError(f"{setting} = {name} cannot be made from its options: {_line(error)}") from None


def _line(error: Exception) -> str:
    """What an exception says, on one line; its kind, where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
