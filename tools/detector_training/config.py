"""Settings of a training run: frozen, checked once, saved inside every checkpoint and as TOML beside it."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from reid_training.errors import ConfigError
from tracker.settings import from_table, require

COARSEST = 32  # stride: every input is a multiple of it
# Longer side of a detector's input where no other one is asked for.
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
        require(self.format != "unlabelled" or not self.complete, "a source without labels needs complete = false")
        require(self.weight >= 0, f"weight of a source must be >= 0, got {self.weight}")
        require(0 <= self.held_out <= 1, f"held_out of a source must be in [0, 1], got {self.held_out}")
        require(self.widen >= 1, f"widen of a source must be >= 1, got {self.widen}")


@dataclass(frozen=True, slots=True)
class ScenesConfig:
    """How training pictures are made: pieces of photographs side by side, and people cut out and pasted."""

    # Canvases, one for each batch: (height, width) pairs, and how often each is drawn. People fill all of them, so that
    # the largest ones are for those near the camera.
    heights: tuple[int, ...] = (256, 384, 640, 1088)
    widths: tuple[int, ...] = (320, 512, 800, 1280)
    chances: tuple[float, ...] = (0.5, 0.3, 0.17, 0.03)
    cached_side: int = 640  # pictures are kept no larger than this
    grids: tuple[float, ...] = (0.3, 0.2, 0.35, 0.15)  # chance of 1, 2, 4, 9 pictures in one
    # Height of the person that sets a piece's scale, log-uniform up to `beyond` times the height of the piece.
    person_px: tuple[float, float] = (13.0, 1300.0)
    beyond: float = 1.25
    max_zoom: float = 3.0  # pictures are not enlarged further: there is nothing to be seen
    stretch: float = 0.15  # of the width against the height, 1 - s .. 1 + s
    min_px: float = 5.0  # the shorter side of a box; smaller people are ignored
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
    motion_blur: float = 0.12
    video: float = 0.15  # compressed as video is: colours at half the resolution, few bits
    night: float = 0.08  # infrared grey or low light, with its noise

    def __post_init__(self) -> None:
        for name in ("heights", "widths"):
            sizes = getattr(self, name)
            right = all(size > 0 and size % COARSEST == 0 for size in sizes)
            require(right, f"scenes.{name} must be multiples of {COARSEST}, got {sizes}")
        same = len(self.heights) == len(self.widths) == len(self.chances) > 0 and sum(self.chances) > 0
        require(same, "scenes.heights, widths and chances need a number for each canvas")
        require(len(self.grids) == 4 and sum(self.grids) > 0, f"scenes.grids needs four chances, got {self.grids}")
        low, high = self.person_px
        require(0 < low <= high, f"scenes.person_px must be two heights, the smaller first, got {self.person_px}")
        for name in (
            "flip",
            "paste",
            "grey",
            "blur",
            "low_resolution",
            "noise",
            "jpeg",
            "motion_blur",
            "video",
            "night",
            "min_visible",
        ):
            value = getattr(self, name)
            require(0 <= value <= 1, f"scenes.{name} must be in [0, 1], got {value}")
        for name in ("stretch", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < 1, f"scenes.{name} must be in [0, 1), got {value}")


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """Boxes of another detector, added to the labels; see teacher.py."""

    file: str = ""  # what `label` wrote, relative to the data; none: the labels alone
    person_score: float = 0.5  # a box with less is no person where labels are missing
    ignore_score: float = 0.25  # nor background, with more than this
    full_score: float = 0.65  # from here on it counts like a label; below by its share

    def __post_init__(self) -> None:
        right = 0 < self.ignore_score <= self.person_score <= 1 and 0 < self.full_score <= 1
        require(right, "teacher: scores must be in (0, 1], ignore_score no larger than person_score")


@dataclass(frozen=True, slots=True)
class NetConfig:
    """The defaults: 0.9 M parameters, 0.3 G multiply-adds at 416 x 256. onnxruntime is fastest with multiples of 16."""

    channels: tuple[int, ...] = (16, 32, 64, 112, 224, 224)  # at strides 2, 4, 8, 16, 32, 64
    blocks: tuple[int, ...] = (1, 3, 8, 3, 1)  # at strides 4, 8, 16, 32, 64
    width: int = 64  # channels of the pyramid and the head
    kernel: int = 5  # of the depthwise convolutions
    head_depth: int = 2

    def __post_init__(self) -> None:
        require(len(self.channels) == 6, f"net.channels needs six numbers, got {self.channels}")
        require(len(self.blocks) == 5, f"net.blocks needs five numbers, got {self.blocks}")
        require(min(self.channels) >= 1, f"net.channels must be >= 1, got {self.channels}")
        require(min(self.blocks) >= 0, f"net.blocks must be >= 0, got {self.blocks}")
        for name in ("width", "head_depth"):
            require(getattr(self, name) >= 1, f"net.{name} must be >= 1, got {getattr(self, name)}")
        require(self.kernel in (3, 5, 7), f"net.kernel must be 3, 5 or 7, got {self.kernel}")


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
    """AdamW, linear warm-up, a constant rate, cosine to zero in the last epochs; an average of the weights (EMA).

    The rate is constant until the last `decay_epochs`, so that a run can be made longer before they begin.
    """

    epochs: int = 60
    decay_epochs: int = 12
    steps_per_epoch: int = 500
    batch_pixels: int = 1310720  # pictures of a batch: so many that they have about this many pixels, 16 of 256 x 320
    warmup_epochs: float = 1.0
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.9995
    clip_norm: float = 10.0  # of the gradient
    plain_epochs: int = 3  # last epochs without grids and pasting: the network ends on pictures as they are
    validate_every: int = 1  # epochs
    validate_sides: tuple[int, ...] = (416,)  # the longer side of held-out pictures, as the network gets them
    calibrate_side: int = 416
    precision: str = "fp32"  # bf16 is for GPUs and CPUs with AMX
    device: str = "auto"
    threads: int = 2
    loaders: int = 1  # processes that make scenes; 0 makes them in the training process

    PRECISIONS: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    DEVICES: ClassVar[tuple[str, ...]] = ("auto", "cpu", "cuda")

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_pixels", "validate_every", "calibrate_side", "threads"):
            require(getattr(self, name) >= 1, f"schedule.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "decay_epochs", "plain_epochs", "loaders", "weight_decay"):
            require(getattr(self, name) >= 0, f"schedule.{name} must be >= 0, got {getattr(self, name)}")
        require(self.learning_rate > 0, f"schedule.learning_rate must be > 0, got {self.learning_rate}")
        require(0 <= self.ema_decay < 1, f"schedule.ema_decay must be in [0, 1), got {self.ema_decay}")
        for name, allowed in (("precision", self.PRECISIONS), ("device", self.DEVICES)):
            value = getattr(self, name)
            require(value in allowed, f"schedule.{name} must be one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that, with the pictures, decides the trained weights."""

    seed: int = 0
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), got {self.seed}")


SECTIONS: dict[str, type[Any]] = {
    "scenes": ScenesConfig,
    "teacher": TeacherConfig,
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


def override(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """`settings` are SECTION.KEY=VALUE, sources.NAME.KEY=VALUE or seed=N, with values as in TOML."""
    table = to_dict(config)
    for setting in settings:
        try:
            change = tomllib.loads(setting)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--set {setting}: {error}") from None
        _merge(table, change)
    return from_dict(table, "--set")


def _merge(table: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


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
