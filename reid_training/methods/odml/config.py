"""What may be set of online metric layers: the paper's values where it names them, and where it does not, ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reid_training.config import require
from reid_training.methods.odml.layers import ACTIVATIONS

STRATEGIES = ("forward", "backward", "both")
STEPS = ("paper", "exact")


@dataclass(frozen=True, slots=True)
class OdmlConfig:
    """Settings of `ODML`, which checks them when it learns."""

    n_layers: int = 1  # the paper stacks 3 and 5; with ReLU on zero-mean rows our own runs got worse beyond 1
    gamma: float = 0.01  # the paper cross-validates around it
    step: str = "paper"  # "paper": gamma; "exact": the proximal step, which stops where the triplet has no loss left
    activation: str = "relu"  # the paper also names sigmoid and tanh
    strategy: str = "forward"  # the paper's main one
    backward_rate: float = 0.01  # of the gradient steps; ours, not tuned
    penalty: float = 0.0  # lambda / 2 of |L|^2 in the gradient steps; the paper's value is not known to us
    n_scans: int = 1  # of `fit`: 1 = online; the paper's tables of UCI sets use 20
    random_state: int = 0  # order of the scans after the first

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_scans"):
            value = getattr(self, name)
            require(_whole(value) and value >= 1, f"odml: {name} must be a whole number >= 1, got {value!r}")
        for name in ("gamma", "backward_rate", "penalty"):
            value = getattr(self, name)
            require(_number(value) and 0 <= value <= 1, f"odml: {name} must be a number in [0, 1], got {value!r}")
        for name, allowed in (("step", STEPS), ("activation", tuple(ACTIVATIONS)), ("strategy", STRATEGIES)):
            value = getattr(self, name)
            require(value in allowed, f"odml: {name} must be one of {', '.join(allowed)}, got {value!r}")
        state = self.random_state
        require(_whole(state) and state >= 0, f"odml: random_state must be a whole number >= 0, got {state!r}")


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
