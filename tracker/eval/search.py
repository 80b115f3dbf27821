"""Search for settings: coordinate descent over lists of values, and how much of what it finds holds on other videos.

One setting after the other is tried at all its values with the rest left as they are; the best value stays if it gains
enough, and passes over all settings go on until one changes nothing. That is a plain method, but each change can be
told in one line, and a default stays where the data do not speak against it. Leave one out: for every video, the same
search without it, then its score; what is gained there is what to expect of a video that nobody has seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tracker.config import TrackerConfig
from tracker.errors import ConfigError

Space: TypeAlias = Mapping[str, Sequence[Any]]  # setting -> values to try
# The objective of every configuration, all of them at once so that they can be made side by side.
Objective: TypeAlias = Callable[[Sequence[TrackerConfig]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Found:
    """A point of the search."""

    config: TrackerConfig
    score: float
    change: str  # the setting changed last, "" at the start


class TrialsSpentError(Exception):
    """The search may not try any more configurations."""


def descend(start: TrackerConfig, space: Space, objective: Objective, min_gain: float, seed: int) -> Iterator[Found]:
    """The start, and every better point as it is found; the last one is the result.

    Settings come in a new random order in every pass. A change must gain more than min_gain; of values that are
    equally good the first in the list is taken. Combinations that the configuration forbids are passed over.
    """
    rng = np.random.default_rng(seed)
    names = list(space)
    best = Found(start, objective([start])[0], "")
    yield best
    changed = True
    while changed:
        changed = False
        for at in rng.permutation(len(names)):
            name = names[at]
            candidates = [c for c in variants(best.config, name, space[name]) if c != best.config]
            scores = objective(candidates)
            if not candidates or max(scores) <= best.score + min_gain:
                continue
            top = int(np.argmax(scores))
            best = Found(candidates[top], scores[top], name)
            changed = True
            yield best


def variants(config: TrackerConfig, name: str, values: Sequence[Any]) -> list[TrackerConfig]:
    """The configuration with each value of one setting, where that is possible beside the others."""
    possible = []
    for value in values:
        try:
            possible.append(config.override({name: value}))
        except ConfigError:
            continue
    return possible


def changes(config: TrackerConfig, base: TrackerConfig) -> dict[str, Any]:
    """Settings that differ from the base, as {"section.name": value}, in the order of the configuration."""
    flat, before = flattened(config), flattened(base)
    return {name: value for name, value in flat.items() if value != before[name]}


def flattened(config: TrackerConfig) -> dict[str, Any]:
    """All settings as {"section.name": value}."""
    flat: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{part.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
        else:
            flat[part.name] = value
    return flat
