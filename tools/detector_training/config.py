"""Settings of a training run: frozen, checked once, saved inside every checkpoint and as TOML beside it."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from reid_training.errors import ConfigError
from tracker.settings import from_table, require

COARSEST = 32  # stride: every input is a multiple of it
# Longer side of a detector's input where nobody asks for another one. A person as high as a 16:9 picture has 288 pixels
# there, hardly more than the tallest of the training (person_px): a larger input finds smaller people, and loses these.
SIZE_PX = 512


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One set of labelled pictures. Paths are relative to the folder given as --data."""

    format: str  # see labels.READERS
    images: str  # folder
    labels: str = ""  # file or folder; none for pictures without people
    weight: float = 1.0  # how often a picture of it is drawn, beside one of a source with weight 1
    held_out: float = 0.1  # share that validates instead
    # Pictures of one scene, which must not be on both sides: the first group of this regular expression, on the name.
    group: str = ""
    # False: people are missing among the labels, so what is outside the labelled boxes says nothing.
    complete: bool = True
    # Pictures that were squeezed to a square: their width is drawn from 1 to this many times what it is.
    widen: float = 1.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight of a source must be >= 0, got {self.weight}")
        require(0 <= self.held_out <= 1, f"held_out of a source must be in [0, 1], got {self.held_out}")
        require(self.widen >= 1, f"widen of a source must be >= 1, got {self.widen}")


@dataclass(frozen=True, slots=True)
class ScenesConfig:
    """How training pictures are made: pieces of photographs side by side, and people cut out and pasted."""

    height: int = 320  # 4:3, as most surveillance cameras; the network takes any multiple of 32
    width: int = 416
    cached_side: int = 512  # pictures are kept no larger than this
    grids: tuple[float, ...] = (0.3, 0.2, 0.35, 0.15)  # chance of 1, 2, 4, 9 pictures in one
    person_px: tuple[float, float] = (16.0, 300.0)  # height of the person that sets a piece's scale, log-uniform
    max_zoom: float = 2.0  # pictures are not enlarged further: there is nothing to be seen
    stretch: float = 0.15  # of the width against the height, 1 - s .. 1 + s
    min_px: float = 8.0  # the shorter side of a box; smaller people are ignored
    min_visible: float = 0.3  # share of a box inside its piece; less is ignored
    flip: float = 0.5
    paste: float = 0.4  # probability that people are pasted
    max_pasted: int = 6
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 0.03  # turns of the colour circle
    grey: float = 0.08
    blur: float = 0.1
    low_resolution: float = 0.1
    noise: float = 0.1
    jpeg: float = 0.15

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            size = getattr(self, name)
            require(size > 0 and size % COARSEST == 0, f"scenes.{name} must be a multiple of {COARSEST}, got {size}")
        require(len(self.grids) == 4 and sum(self.grids) > 0, f"scenes.grids needs four chances, got {self.grids}")
        low, high = self.person_px
        require(0 < low <= high, f"scenes.person_px must be two heights, the smaller first, got {self.person_px}")
        for name in ("flip", "paste", "grey", "blur", "low_resolution", "noise", "jpeg", "min_visible"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"scenes.{name} must be in [0, 1], got {value}")
        for name in ("stretch", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < 1, f"scenes.{name} must be in [0, 1), got {value}")


@dataclass(frozen=True, slots=True)
class NetConfig:
    width: int = 80  # channels of the pyramid and the head
    kernel: int = 5
    head_depth: int = 2
    coarse_channels: int = 160  # of the stage with stride 32
    coarse_blocks: int = 2
    coarse_expansion: int = 3
    start: str = "imagenet"  # or "random"
    frozen: int = 2  # layers of Lite0: the stem and the first block see edges, at the two largest resolutions

    STARTS: ClassVar[tuple[str, ...]] = ("imagenet", "random")

    def __post_init__(self) -> None:
        for name in ("width", "head_depth", "coarse_channels", "coarse_blocks", "coarse_expansion"):
            require(getattr(self, name) >= 1, f"net.{name} must be >= 1, got {getattr(self, name)}")
        require(self.kernel in (3, 5, 7), f"net.kernel must be 3, 5 or 7, got {self.kernel}")
        require(self.start in self.STARTS, f"net.start must be {' or '.join(self.STARTS)}, got {self.start!r}")
        require(0 <= self.frozen <= 12, f"net.frozen must be in [0, 12], got {self.frozen}")
        require(self.start == "imagenet" or self.frozen == 0, "net.frozen needs net.start = imagenet")


@dataclass(frozen=True, slots=True)
class LossConfig:
    """See loss.py. The exponents and weights are TOOD's, but for top_k: a person fills fewer cells than a bus."""

    top_k: int = 10
    score_power: float = 1.0
    iou_power: float = 6.0
    score_weight: float = 1.0
    box_weight: float = 2.0
    beta: float = 2.0  # of the quality focal loss

    def __post_init__(self) -> None:
        require(self.top_k >= 1, f"loss.top_k must be >= 1, got {self.top_k}")
        for name in ("score_power", "iou_power", "score_weight", "box_weight", "beta"):
            require(getattr(self, name) >= 0, f"loss.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """AdamW, linear warm-up, cosine to zero, and an average of the weights over time (EMA)."""

    epochs: int = 30
    scenes_per_epoch: int = 3200
    batch: int = 16
    warmup_epochs: float = 1.0
    learning_rate: float = 1.5e-3
    body_factor: float = 0.3  # of the learning rate, for what starts from ImageNet
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    clip_norm: float = 10.0  # of the gradient
    plain_epochs: int = 3  # last epochs without grids and pasting: the network ends on pictures as they are
    validate_every: int = 1  # epochs
    validate_side: int = 416  # the longer side of held-out pictures, as the network gets them
    precision: str = "bf16"
    device: str = "auto"
    threads: int = 2
    loaders: int = 1  # processes that make scenes; 0 makes them in the training process

    PRECISIONS: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    DEVICES: ClassVar[tuple[str, ...]] = ("auto", "cpu", "cuda")

    def __post_init__(self) -> None:
        for name in ("epochs", "scenes_per_epoch", "batch", "validate_every", "validate_side", "threads"):
            require(getattr(self, name) >= 1, f"schedule.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "plain_epochs", "loaders", "weight_decay"):
            require(getattr(self, name) >= 0, f"schedule.{name} must be >= 0, got {getattr(self, name)}")
        require(self.learning_rate > 0, f"schedule.learning_rate must be > 0, got {self.learning_rate}")
        require(0 <= self.ema_decay < 1, f"schedule.ema_decay must be in [0, 1), got {self.ema_decay}")
        require(
            self.scenes_per_epoch >= self.batch,
            f"schedule.scenes_per_epoch must be at least a batch ({self.batch}), got {self.scenes_per_epoch}",
        )
        for name, allowed in (("precision", self.PRECISIONS), ("device", self.DEVICES)):
            value = getattr(self, name)
            require(value in allowed, f"schedule.{name} must be one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that, with the pictures, decides the trained weights."""

    seed: int = 0
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), got {self.seed}")


SECTIONS: dict[str, type[Any]] = {
    "scenes": ScenesConfig,
    "net": NetConfig,
    "loss": LossConfig,
    "schedule": ScheduleConfig,
}


def from_dict(table: Mapping[str, Any], where: str = "config") -> RunConfig:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "seed":
            require(isinstance(value, int) and not isinstance(value, bool), f"{where}: seed must be an int")
            values[key] = value
        elif key == "sources" and isinstance(value, Mapping):
            values[key] = {name: _source(name, source, where) for name, source in value.items()}
        elif key in SECTIONS and isinstance(value, Mapping):
            values[key] = from_table(SECTIONS[key], value, f"{where}: {key}")
        else:
            raise ConfigError(f"{where}: {key} is unknown; known: seed, {', '.join(SECTIONS)}, sources")
    return RunConfig(**values)


def _source(name: str, table: Any, where: str) -> SourceConfig:
    place = f"{where}: sources.{name}"
    require(isinstance(table, Mapping), f"{place} must be a table")
    for key in ("format", "images"):
        require(key in table, f"{place}.{key} is missing")
    source: SourceConfig = from_table(SourceConfig, table, place)
    return source


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values only, so that `torch.load(weights_only=True)` can read a checkpoint's config."""
    plain: dict[str, Any] = {"seed": config.seed}
    for name in SECTIONS:
        plain[name] = _plain(getattr(config, name))
    plain["sources"] = {name: _plain(source) for name, source in config.sources.items()}
    return plain


def _plain(section: Any) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(section).items()
    }


def to_toml(config: RunConfig) -> str:
    plain = to_dict(config)
    sources = plain.pop("sources")
    lines = [f"seed = {plain.pop('seed')}"]
    for name, section in (*plain.items(), *((f"sources.{name}", source) for name, source in sources.items())):
        # JSON writes numbers, strings, booleans and lists the way TOML does.
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def read_toml(source: str) -> RunConfig:
    """`source` is a path, or the name of a config that comes with the tool (`person`)."""
    path = Path(source)
    packaged = resources.files("tools.detector_training.configs") / f"{source}.toml"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        raise ConfigError(f"no config file {source}")
    try:
        return from_dict(tomllib.loads(text), source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from None
