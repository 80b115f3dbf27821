"""Settings of a training run: frozen, checked once, saved inside every checkpoint and as TOML beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from tracker import settings
from tracker.errors import ConfigError
from tracker.settings import BelowOne, Count, NotNegative, OneOf, Positive, Range, Settings, Share, Whole, require

COARSEST = 32  # stride: every input is a multiple of it
# Longer side of a detector's input where no other one is asked for.
SIZE_PX = 512
Heights = tuple[Positive, Positive]
SixCounts = tuple[Count, Count, Count, Count, Count, Count]
FiveCounts = tuple[Whole, Whole, Whole, Whole, Whole]
Score = Annotated[float, Range("(0, 1]")]
FourChances = tuple[NotNegative, NotNegative, NotNegative, NotNegative]


@dataclass(frozen=True, slots=True)
class SourceConfig(Settings):
    """One set of labelled pictures. Paths are relative to the folder given as --data."""

    format: str  # see labels.READERS
    images: str  # folder
    labels: str = ""  # file or folder; none for pictures without people
    weight: NotNegative = 1.0  # how often a picture of it is drawn, beside one of a source with weight 1
    held_out: Share = 0.1  # share that validates instead
    # Pictures of one scene, which must not be on both sides: the first group of this regular expression, on the name.
    group: str = ""
    # False: people are missing among the labels, so what is outside the labelled boxes says nothing.
    complete: bool = True
    # Pictures that were squeezed to a square: their width is drawn from 1 to this many times what it is.
    widen: Annotated[float, Range("[1, inf)")] = 1.0

    def check_together(self) -> None:
        require(self.format != "unlabelled" or not self.complete, "a source without labels needs complete = false")


@dataclass(frozen=True, slots=True)
class ScenesConfig(Settings):
    """How training pictures are made: pieces of photographs side by side, and people cut out and pasted."""

    # Canvases, one for each batch: (height, width) pairs, and how often each is drawn. People fill all of them, so that
    # the largest ones are for those near the camera.
    heights: tuple[Count, ...] = (256, 384, 640, 1088)
    widths: tuple[Count, ...] = (320, 512, 800, 1280)
    chances: tuple[NotNegative, ...] = (0.5, 0.3, 0.17, 0.03)
    cached_side: Count = 640  # pictures are kept no larger than this
    grids: FourChances = (0.3, 0.2, 0.35, 0.15)  # chance of 1, 2, 4, 9 pictures in one
    # Height of the person that sets a piece's scale, log-uniform up to `beyond` times the height of the piece.
    person_px: Heights = (13.0, 1300.0)
    beyond: Positive = 1.25
    max_zoom: Positive = 3.0  # pictures are not enlarged further: there is nothing to be seen
    stretch: BelowOne = 0.15  # of the width against the height, 1 - s .. 1 + s
    min_px: NotNegative = 5.0  # the shorter side of a box; smaller people are ignored
    min_visible: Share = 0.3  # share of a box inside its piece; less is ignored
    flip: Share = 0.5
    paste: Share = 0.4  # probability that people are pasted
    max_pasted: Whole = 6
    posts: Share = 0.0  # probability that boards, signs and bollards are drawn, see `posts`
    brightness: BelowOne = 0.3
    contrast: BelowOne = 0.3
    saturation: BelowOne = 0.4
    hue: float = 0.03  # turns of the colour circle
    grey: Share = 0.08
    blur: Share = 0.1
    low_resolution: Share = 0.1
    noise: Share = 0.1
    jpeg: Share = 0.15
    motion_blur: Share = 0.12
    video: Share = 0.15  # compressed as video is: colours at half the resolution, few bits
    night: Share = 0.08  # infrared grey or low light, with its noise

    def check_together(self) -> None:
        for name in ("heights", "widths"):
            sizes = getattr(self, name)
            right = all(size % COARSEST == 0 for size in sizes)
            require(right, f"scenes.{name} must be multiples of {COARSEST}, got {list(sizes)}")
        same = len(self.heights) == len(self.widths) == len(self.chances) > 0 and sum(self.chances) > 0
        require(same, "scenes.heights, widths and chances need a number for each canvas")
        require(sum(self.grids) > 0, f"scenes.grids needs a chance above 0, got {list(self.grids)}")
        low, high = self.person_px
        require(low <= high, f"scenes.person_px must be two heights, the smaller first, got {[low, high]}")


@dataclass(frozen=True, slots=True)
class TeacherConfig(Settings):
    """Another detector: its boxes, added to the labels, see teacher.py; its features, to be imitated, see imitation.py.

    Files are relative to the folder given as --data.
    """

    file: str = ""  # what `label` wrote; none: the labels alone
    person_score: Score = 0.5  # a box with less is no person where labels are missing
    ignore_score: Score = 0.25  # nor background, with more than this
    full_score: Score = 0.65  # from here on it counts like a label; below by its share
    network: str = ""  # ONNX, pictures as RTMDet's; none: nothing is imitated
    features: tuple[str, ...] = ()  # names of its tensors at strides 8, 16, ...
    feature_weight: NotNegative = 6.0  # of the imitation in the loss; PKD's

    def check_together(self) -> None:
        require(
            self.ignore_score <= self.person_score,
            f"teacher.ignore_score must be <= teacher.person_score ({self.person_score}), got {self.ignore_score}",
        )
        require(bool(self.network) == bool(self.features), "teacher.network and teacher.features go together")


@dataclass(frozen=True, slots=True)
class NetConfig(Settings):
    """The defaults: 0.9 M parameters, 0.3 G multiply-adds at 416 x 256. onnxruntime is fastest with multiples of 16."""

    channels: SixCounts = (16, 32, 64, 112, 224, 224)  # at strides 2, 4, 8, 16, 32, 64
    blocks: FiveCounts = (1, 3, 8, 3, 1)  # at strides 4, 8, 16, 32, 64
    width: Count = 64  # channels of the pyramid and the head
    kernel: Annotated[int, OneOf((3, 5, 7))] = 5  # of the depthwise convolutions
    head_depth: Count = 2


@dataclass(frozen=True, slots=True)
class LossConfig(Settings):
    """See loss.py. The exponents and weights are TOOD's, but for top_k: a person fills fewer cells than a bus."""

    top_k: Count = 10
    score_power: NotNegative = 1.0
    iou_power: NotNegative = 6.0
    score_weight: NotNegative = 1.0
    box_weight: NotNegative = 2.0
    beta: NotNegative = 2.0  # of the quality focal loss


@dataclass(frozen=True, slots=True)
class ScheduleConfig(Settings):
    """AdamW, linear warm-up, a constant rate, cosine to zero in the last epochs; an average of the weights (EMA).

    The rate is constant until the last `decay_epochs`, so that a run can be made longer before they begin.
    """

    epochs: Count = 60
    decay_epochs: Whole = 12
    steps_per_epoch: Count = 500
    batch_pixels: Count = 1310720  # pictures of a batch: so many that they have about this many pixels, 16 of 256 x 320
    warmup_epochs: NotNegative = 1.0
    learning_rate: Positive = 1.2e-3
    weight_decay: NotNegative = 0.05
    ema_decay: BelowOne = 0.9995
    # Epochs in which batch norms take the statistics of the batch. Those of canvases of other sizes differ, and what is
    # exported has one set of them: afterwards they are measured once, on all canvases, and the network learns with
    # these. None: all epochs.
    batch_norm_epochs: Count | None = None
    clip_norm: Positive = 10.0  # of the gradient
    plain_epochs: Whole = 3  # last epochs without grids and pasting: the network ends on pictures as they are
    validate_every: Count = 1  # epochs
    validate_sides: tuple[Count, ...] = (416,)  # the longer side of held-out pictures, as the network gets them
    calibrate_side: Count = 416
    precision: Annotated[str, OneOf(("fp32", "bf16"))] = "fp32"  # bf16 is for GPUs and CPUs with AMX
    device: Annotated[str, OneOf(("auto", "cpu", "cuda"))] = "auto"
    threads: Count = 2
    loaders: Whole = 1  # processes that make scenes; 0 makes them in the training process


@dataclass(frozen=True, slots=True)
class RunConfig(Settings):
    """Everything that, with the pictures, decides the trained weights."""

    seed: Annotated[int, Range("[0, 4294967296)")] = 0
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)


def from_dict(table: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Settings from plain values, as a checkpoint or a TOML file has them; `where` for messages."""
    with settings.naming(where):
        return settings.from_table(RunConfig, table)


def override(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """A copy with SECTION.NAME=VALUE, sources.NAME.KEY=VALUE or seed=N changed."""
    table = settings.to_dict(config)
    sources = table.pop("sources")
    given = settings.pairs(changes)
    for name, text in [(name, text) for name, text in given.items() if name.startswith("sources.")]:
        _, source, key = (*name.split(".", 2), "")[:3]
        require(source in sources, f"unknown source {source}; there are: {', '.join(sources)}")
        require(bool(key), f"--set takes sources.NAME.KEY=VALUE, got {name}={text}")
        changed = settings.override(config.sources[source], {key: text}, f"sources.{source}.")
        sources[source] = settings.to_dict(changed)
        del given[name]
    return settings.override(from_dict({**table, "sources": sources}, "--set"), given)


def read_toml(source: str) -> RunConfig:
    """`source` is a path, or the name of a config that comes with the tool (`person`)."""
    path = Path(source)
    packaged = Path(str(resources.files("tools.detector_training.configs") / f"{source}.toml"))
    if not path.is_file() and not packaged.is_file():
        raise ConfigError(f"no config file {source}")
    return settings.load(RunConfig, path if path.is_file() else packaged)
