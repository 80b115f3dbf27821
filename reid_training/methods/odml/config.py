"""Settings of online metric layers: the paper's values where it gives them, else ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from reid_training.methods.odml.layers import ACTIVATIONS, LAYERS
from tracker.settings import Count, OneOf, Settings, Share, Whole, require

STRATEGIES = ("forward", "backward", "both")
STEPS = ("paper", "exact")


@dataclass(frozen=True, slots=True)
class OdmlConfig(Settings):
    """Settings of `ODML`, which checks them when it learns."""

    n_layers: Count = 1  # the paper stacks 3 and 5; with ReLU on zero-mean rows our own runs got worse beyond 1
    layer: Annotated[str, OneOf(tuple(LAYERS))] = "moml"  # the online learner of each layer
    gamma: Share = 0.01  # the paper cross-validates around it
    # "paper": gamma; "exact": the proximal step, which stops where the triplet has no loss left.
    step: Annotated[str, OneOf(STEPS)] = "paper"
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "relu"  # the paper also names sigmoid and tanh
    strategy: Annotated[str, OneOf(STRATEGIES)] = "forward"  # the paper's main one
    backward_rate: Share = 0.01  # of the gradient steps; ours, not tuned
    penalty: Share = 0.0  # lambda / 2 of |L|^2 in the gradient steps; the paper's value is not known to us
    n_scans: Count = 1  # of `fit`: 1 = online; the paper's tables of UCI sets use 20
    random_state: Whole = 0  # order of the scans after the first

    def check_together(self) -> None:
        require(
            self.layer == "moml" or self.step == "paper", "odml: the exact step is one of the layer moml, not of opml"
        )
